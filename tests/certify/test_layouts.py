import pytest

from trainer.certificate.layouts import read_layout, read_layouts
from trireme.errors import ConfigError

SHAPES = {"llama": ["model.num_layers=4"], "gpt2": ["model.num_layers=2", "model.activation=gelu"]}


def values(text: str) -> dict[str, str]:
    """What the last override of each path says."""
    spec = read_layout(text, place="layouts[0]", shapes=SHAPES)
    return dict(override.split("=", 1) for override in spec.overrides)


def test_sizes_that_are_not_named_are_one() -> None:
    assert values("tp2.sp.dp3") == {
        "parallel.tensor_model_parallel_size": "2",
        "parallel.pipeline_model_parallel_size": "1",
        "parallel.virtual_pipeline_model_parallel_size": "null",
        "parallel.context_parallel_size": "1",
        "parallel.expert_model_parallel_size": "1",
        "parallel.data_parallel_size": "3",
        "parallel.sequence_parallel": "true",
    }
    assert values("single")["parallel.data_parallel_size"] == "1"


def test_words_come_in_any_order() -> None:
    spec = read_layout("deepspeed zero0 bf16 pp2.vp2 llama", place="layouts[0]", shapes=SHAPES)
    assert spec.name == "deepspeed zero0 bf16 pp2.vp2 llama"
    assert {"engine=deepspeed", "engine.zero_stage=0", "parallel.virtual_pipeline_model_parallel_size=2"} < set(
        spec.how
    )
    assert spec.what == ("precision=bf16", "model.num_layers=4")
    assert spec.subject == "bf16 llama"


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("recompute=full", "parallel.recompute_granularity", "full"),
        ("recompute=mlp,layernorm", "parallel.recompute_modules", "[mlp,layernorm]"),
        ("stages=Et|tttL", "parallel.pipeline_model_parallel_layout", "'Et|tttL'"),
        ("ulysses", "parallel.cp_comm_type", "a2a"),
        ("training.micro_batch_size=1", "training.micro_batch_size", "1"),
    ],
)
def test_words_for_settings(word: str, path: str, value: str) -> None:
    assert values(f"tp2 {word}")[path] == value


def test_words_that_define_the_computation_are_separated_from_the_layout() -> None:
    spec = read_layout("tp2 training.micro_batch_size=1 optimizer.lr=1e-3", place="layouts[0]", shapes=SHAPES)
    assert spec.what == ("optimizer.lr=1e-3",)
    assert "training.micro_batch_size=1" in spec.how


def test_a_layout_as_a_mapping_equals_its_words() -> None:
    layout = {"name": "mine", "parallel.tensor_model_parallel_size": 2, "engine": "deepspeed", "model.num_layers": 3}
    spec = read_layout(layout, place="layouts[0]", shapes=SHAPES)
    assert spec.name == "mine"
    assert spec.what == ("model.num_layers=3",)
    assert spec.how[-2:] == ("parallel.tensor_model_parallel_size=2", "engine=deepspeed")


def test_every_bad_layout_is_named_with_a_reason() -> None:
    specs, violations = read_layouts(["tp2", "tp2.qq lama", 7, "tp2"], shapes=SHAPES)
    assert [spec.name for spec in specs] == ["tp2"]
    assert [violation.path for violation in violations] == [f"certify.layouts[{n}]" for n in (1, 1, 2, 3)]
    assert "unknown word tp2.qq" in str(violations[0])
    assert "Did you mean llama?" in str(violations[1])
    assert "must be a layout" in str(violations[2])
    assert "is the same as certify.layouts[0]" in str(violations[3])


def test_a_bad_reference_is_an_error() -> None:
    with pytest.raises(ConfigError, match="certify.reference: unknown word tp"):
        read_layout("tp", place="certify.reference", shapes=SHAPES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tp2 llama tp4", "parallel.tensor_model_parallel_size=2 and parallel.tensor_model_parallel_size=4"),
        ("pp2.pp2", "parallel.pipeline_model_parallel_size=2 and parallel.pipeline_model_parallel_size=2"),
        ("dp2 deepspeed megatron", "engine=deepspeed and engine=megatron"),
        ("dp2 zero1 zero2", "engine.zero_stage=1 and engine.zero_stage=2"),
    ],
)
def test_repeated_words_are_refused(text: str, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"certify.layouts.0.: sets both {found} \(got {text}\). Remove one of them"):
        read_layout(text, place="certify.layouts[0]", shapes=SHAPES)


def test_an_override_may_change_what_a_shape_says() -> None:
    assert values("llama model.num_layers=6")["model.num_layers"] == "6"
