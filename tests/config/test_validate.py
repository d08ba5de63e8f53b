"""Rules between fields: each is broken once, and the fixes that its message proposes are applied."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config import rule_cases
from tests.config.evaluation_rule_cases import EVALUATION_CASES
from tests.config.finetune_rule_cases import FINETUNE_CASES
from tests.config.head_rule_cases import HEAD_CASES
from tests.config.health_rule_cases import HEALTH_CASES
from tests.config.lora_rule_cases import LORA_CASES
from tests.config.model_rule_cases import MODEL_CASES
from tests.config.moe_rule_cases import MOE_CASES
from tests.config.recovery_rule_cases import RECOVERY_CASES
from tests.config.slurm_rule_cases import MAPPING_CASES, SLURM_CASES
from trainer.config.derived import derive_config
from trainer.config.load import load_config
from trainer.config.rules.ranges import RANGES
from trainer.config.rules.rule import Rule
from trainer.config.schema import TrainConfig
from trainer.config.validate import RULES, validate
from trireme.config.fields import leaf_paths, union_members
from trireme.errors import Violation

CASES = [
    *rule_cases.CASES,
    *SLURM_CASES,
    *MOE_CASES,
    *MODEL_CASES,
    *RECOVERY_CASES,
    *HEALTH_CASES,
    *FINETUNE_CASES,
    *HEAD_CASES,
    *LORA_CASES,
    *EVALUATION_CASES,
]
GOOD = ("model.vocab_size=8000", "data.train=[{paths:[/data/wiki]}]")


@functools.cache
def configure(*overrides: str) -> TrainConfig:
    """Load each case once, for the test of its rule and for that of all rules."""
    return load_config([*GOOD, *overrides])


def check(*overrides: str, world_size: int | None = None) -> list[str]:
    return [str(violation) for violation in validate(configure(*overrides), world_size=world_size)]


def test_a_good_configuration_breaks_no_rule() -> None:
    assert check() == []
    assert check("experiment=quickstart", "tokenizer.path=null", world_size=4) == []
    assert check("parallel=dp2_tp2_pp2", world_size=8) == []
    assert check("parallel=tp2_pp2", "training.global_batch_size=18", world_size=12) == []


@pytest.mark.parametrize(("overrides", "world_size", "message", "remedies"), CASES)
def test_rule(overrides: list[str], world_size: int | None, message: str, remedies: list[str | int]) -> None:
    assert check(*overrides, world_size=world_size) == [message]
    assert remedies
    for remedy in remedies:
        if isinstance(remedy, int):
            assert check(*overrides, world_size=remedy) == []
        else:
            assert message not in check(*overrides, remedy, world_size=world_size)


@pytest.mark.parametrize(("bad", "message", "good"), MAPPING_CASES)
def test_rule_about_a_mapping(bad: str, message: str, good: str) -> None:
    assert check(bad) == [message]
    assert check(good) == []


def test_heads_that_tensor_parallelism_cannot_share() -> None:
    # Query groups divide heads, so a size that does not divide the heads does not divide the groups either.
    overrides = ["model.num_attention_heads=6", "model.num_query_groups=2", "model.kv_channels=32"]
    assert check(*overrides, "parallel.tensor_model_parallel_size=4") == [
        "parallel.tensor_model_parallel_size: must divide model.num_attention_heads=6 (got 4). Use 1 or 2, or set"
        " model.num_attention_heads to 4 or 8.",
        "parallel.tensor_model_parallel_size: must divide model.num_query_groups=2 (got 4). Use 1 or 2, or set"
        " model.num_query_groups to 4.",
    ]
    assert check(*overrides, "parallel.tensor_model_parallel_size=2") == []


def test_vocabulary_of_an_unknown_tokenizer_is_checked_by_its_padding(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.touch()
    overrides = ["model.vocab_size=null", f"tokenizer.path={tokenizer}", "parallel.tensor_model_parallel_size=4"]
    assert check(*overrides) == []
    (message,) = check(*overrides, "model.make_vocab_size_divisible_by=10")
    assert message == (
        "parallel.tensor_model_parallel_size: must divide model.make_vocab_size_divisible_by=10: the vocabulary is"
        " padded to a multiple of that, and cut into equal parts (got 4). Use 1 or 2, or set"
        " model.make_vocab_size_divisible_by to 8 or 12."
    )


def test_a_directory_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # For root every directory is writable, so the answer is patched.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    (message,) = check(f"output_dir='{tmp_path}/runs'")
    assert f"no permission to write to {tmp_path} (got {tmp_path}/runs). Set it to a directory that you" in message


def test_all_rules_at_once_and_none_about_numbers_that_are_wrong_by_themselves() -> None:
    messages = check(
        "parallel.tensor_model_parallel_size=3",
        "parallel.pipeline_model_parallel_size=0",
        "training.micro_batch_size=-1",
        "training.stop_after_step=2000",
        "run_name=.hidden",
        world_size=8,
    )
    assert [message.partition(":")[0] for message in messages] == [
        "training.micro_batch_size",
        "parallel.pipeline_model_parallel_size",
        *["parallel.tensor_model_parallel_size"] * 3,
        "training.stop_after_step",
        "run_name",
    ]


def test_every_number_of_the_schema_has_a_range() -> None:
    numbers = {path for path, annotation in leaf_paths(TrainConfig) if {int, float} & {*union_members(annotation)}}
    assert numbers == set(RANGES)


class _Recorder:
    """Wrap a configuration and record which fields are read."""

    def __init__(self, target: Any, path: str, seen: set[str]) -> None:
        self._target, self._path, self._seen = target, path, seen

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(type(self._target), name, None)
        if isinstance(attribute, property):
            assert attribute.fget is not None
            return attribute.fget(self)
        value, path = getattr(self._target, name), f"{self._path}.{name}".lstrip(".")
        if dataclasses.is_dataclass(value):
            return _Recorder(value, path, self._seen)
        self._seen.add(path)
        return value


def read_by(rule: Rule, config: TrainConfig, world_size: int | None) -> set[str]:
    seen: set[str] = set()
    recorder: Any = _Recorder(config, "", seen)
    list(rule.check(recorder, world_size))
    return seen


def test_every_rule_reads_just_the_fields_it_declares() -> None:
    read: dict[int, set[str]] = {number: set() for number in range(len(RULES))}
    for overrides, world_size, _, remedies in CASES:
        for remedy in (None, *remedies):
            config = configure(*overrides, *([remedy] if isinstance(remedy, str) else []))
            for number, rule in enumerate(RULES):
                read[number] |= read_by(rule, config, world_size)
    assert [sorted(read[number]) for number in read] == [sorted(set(rule.reads)) for rule in RULES]


@pytest.fixture(scope="module")
def base() -> TrainConfig:
    return load_config(GOOD)


sizes = st.sampled_from([1, 2, 3, 4, 6, 8])


@given(st.data())
def test_no_configuration_breaks_validation_and_a_valid_one_has_whole_numbers(
    base: TrainConfig, data: st.DataObject
) -> None:
    draw = data.draw
    model = dataclasses.replace(
        base.model,
        num_layers=draw(sizes | st.just(24)),
        num_attention_heads=draw(sizes | st.just(24)),
        num_query_groups=draw(sizes | st.just(24)),
        hidden_size=draw(st.sampled_from([48, 96, 100])),
        seq_length=draw(st.sampled_from([12, 48, 64, 65])),
        make_vocab_size_divisible_by=draw(st.sampled_from([1, 48, 128])),
    )
    parallel = dataclasses.replace(
        base.parallel,
        tensor_model_parallel_size=draw(sizes | st.just(0)),
        pipeline_model_parallel_size=draw(sizes),
        virtual_pipeline_model_parallel_size=draw(st.none() | sizes),
        context_parallel_size=draw(sizes),
        data_parallel_size=draw(st.none() | sizes),
        sequence_parallel=draw(st.booleans()),
    )
    training = dataclasses.replace(
        base.training, global_batch_size=draw(st.integers(1, 48)), micro_batch_size=draw(st.integers(-1, 4))
    )
    config = dataclasses.replace(base, model=model, parallel=parallel, training=training)
    world_size = draw(st.sampled_from([1, 2, 4, 6, 8, 12, 16, 24, 48]))
    violations = validate(config, world_size=world_size)
    assert all(isinstance(violation, Violation) and violation.fix for violation in violations)
    if violations:
        return
    derived = derive_config(config, world_size=world_size, vocab_size=8000)
    tp_size = parallel.tensor_model_parallel_size
    chunks = parallel.pipeline_model_parallel_size * (parallel.virtual_pipeline_model_parallel_size or 1)
    assert derived.dp_size * derived.model_parallel_size == world_size
    assert derived.num_microbatches * training.micro_batch_size * derived.dp_size == training.global_batch_size
    assert derived.padded_vocab_size % tp_size == 0
    assert model.num_query_groups % tp_size == model.num_attention_heads % model.num_query_groups == 0
    assert model.num_layers % chunks == 0
