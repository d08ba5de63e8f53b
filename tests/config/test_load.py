"""Loading overrides: one configuration, or all errors at once."""

import dataclasses
import itertools
import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.load import dump_config, group_options, load_config, load_config_file
from trainer.config.run import DatasetConfig
from trainer.config.schema import TrainConfig
from trireme.config.convert import to_dataclass
from trireme.config.override_line import quote_text
from trireme.errors import ConfigError

DATA = "data.train=[{paths:[/data/wiki],weight:1}]"


def problems_of(*overrides: str, world_size: int | None = None) -> dict[str, str]:
    """Return the violations that loading reports, by path, for overrides of a valid configuration."""
    with pytest.raises(ConfigError) as caught:
        load_config(["model.vocab_size=1000", DATA, *overrides], world_size=world_size)
    problems = {violation.path: str(violation) for violation in caught.value.violations}
    assert len(problems) == len(caught.value.violations), [str(violation) for violation in caught.value.violations]
    return problems


def test_defaults_are_those_of_the_dataclasses_where_no_preset_says_otherwise() -> None:
    config = load_config([])
    assert config.model.hidden_size == 256
    assert config.training.stop_after_step is None
    assert config.logging.wandb.project is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.run_name = "other"  # type: ignore[misc]


def test_options_values_and_recipes() -> None:
    config = load_config(
        [
            "experiment=quickstart",
            "model=gpt2_124m",
            "training.stop_after_step=7",
            "optimizer.lr=1",
            "run_name=a",
            "run_name=b",
            "tokenizer.path=null",
            "logging.wandb.tags=[x,'1 2']",
            DATA,
        ]
    )
    assert config.model.num_layers == 12
    assert config.parallel.tensor_model_parallel_size == 2, "the recipe's choice"
    assert config.training.stop_after_step == 7, "a field that no YAML file names"
    assert config.optimizer.lr == 1.0
    assert isinstance(config.optimizer.lr, float)
    assert config.run_name == "b", "the last of several counts"
    assert config.tokenizer.path is None
    assert config.logging.wandb.tags == ["x", "1 2"]
    assert config.data.train == [DatasetConfig(paths=["/data/wiki"], weight=1.0)]


def test_command_line_wins_over_the_recipe_s_options() -> None:
    assert load_config(["experiment=quickstart", "parallel=single"]).parallel.tensor_model_parallel_size == 1
    assert load_config(["parallel=single", "experiment=quickstart"]).parallel.tensor_model_parallel_size == 1
    assert load_config(["+experiment=quickstart", "++training.seed=5"]).training.seed == 5
    assert load_config(["experiment=quickstart", "experiment=null"]).run_name == "default"
    assert load_config(["experiment=quickstart", DATA, "data.train.0.weight=3"]).data.train[0].weight == 3.0
    assert load_config(["logging={log_interval: 3}"]).logging.log_interval == 3


def test_references_to_fields_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIREME_TEST_SCRATCH", "/scratch/me")
    config = load_config(
        ["checkpoint.save_interval=${training.eval_interval}", "output_dir=${oc.env:TRIREME_TEST_SCRATCH}/runs"]
    )
    assert config.checkpoint.save_interval == config.training.eval_interval
    assert config.output_dir == "/scratch/me/runs"


def test_every_error_of_form_at_once() -> None:
    problems = problems_of(
        "+model.foo=1",
        "model.hiden_size=3",
        "model.num_layers=4.5",
        "hidden_size=4",
        "training.train_iters='4'",
        "training.micro_batch_size=true",
        "training.eval_interval=null",
        "logging.wandb.mode=onlin",
        "logging.wandb.proj=x",
        "parallel.sequence_parallel=1",
        "run_name=5",
        "engine.reduce_bucket_size=5e8",
        "output_dir=${nowhere.here}",
        "data.validation=[{path:[a]}]",
        "data.train.3.weight=2",
        "parallel=tp2_p2",
        "tokenizer=[none]",
        "hydra.run.dir=x",
    )
    expected = {
        "model.foo": "model.foo: unknown field of model (got 1). Use one of num_layers, hidden_size",
        "model.hiden_size": "unknown field of model (got 3). Did you mean model.hidden_size?",
        "model.num_layers": "model.num_layers: expected an integer, got a decimal number (4.5). Use 4 or 5.",
        "hidden_size": "hidden_size: unknown field (got 4). Did you mean model.hidden_size?",
        "training.train_iters": "training.train_iters: expected an integer, got a string (4). Use an integer.",
        "training.micro_batch_size": "training.micro_batch_size: expected an integer, got a boolean (true).",
        "training.eval_interval": "training.eval_interval: expected an integer, got null. Use an integer, or remove",
        "logging.wandb.mode": "unknown value 'onlin'. Did you mean online? Choose online, offline or disabled.",
        "logging.wandb.proj": "Did you mean logging.wandb.project?",
        "parallel.sequence_parallel": "expected true or false, got an integer (1). Use true or false.",
        "run_name": "Quote it: 'run_name=\"5\"'",
        "engine.reduce_bucket_size": "Use 500000000.",
        "output_dir": "cannot be resolved: Interpolation key 'nowhere.here' not found (got ${nowhere.here}).",
        "data.validation[0].paths": "required field is missing. Set data.validation[0].paths to a list",
        "data.validation[0].path": "Did you mean data.validation[0].paths or tokenizer.path?",
        "data.train.3.weight": "cannot be set: list index out of range",
        "parallel": "parallel: no such preset 'tp2_p2'. Did you mean tp2_pp2?",
        "tokenizer": "tokenizer: no such preset '[none]'. Did you mean none?",
        "hydra": "hydra: unknown field (got {run: {dir: x}}).",
    }
    assert set(problems) == set(expected)
    for path, text in expected.items():
        assert text in problems[path]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("data.train=[{", "override: not a valid override: "),
        ("run_name=a=b", "Quote it: 'run_name=\"a=b\"'"),
        ("data.train=[{paths:[/a=b,/c]}]", "Quote it: 'data.train=[{paths:[\"/a=b\",/c]}]'"),
        ("logging.wandb.tags=[x,5]", "Quote it: 'logging.wandb.tags=[\"5\"]'"),
        ("data.train=[{paths:[7]}]", "Quote it: 'data.train=[{paths:[\"7\"]}]'"),
        (
            "~training.seed",
            "override: fields can be set, but not deleted (got ~training.seed). Write training.seed=VALUE",
        ),
        ("model@optimizer=gpt2_124m", "a group cannot be moved to @optimizer"),
        ("logging.wandb.tags=a,b", "must be a single value (got a,b). For a list write logging.wandb.tags=[a,b]"),
        ("training.seed=range(1,3)", "training.seed: must be a single value (got range(1,3))."),
        ("hydra.searchpath=[/no/such/directory]", "hydra.searchpath: no such directory: /no/such/directory"),
        ("run_name=${run_name}", "run_name: cannot be resolved"),
        ("training.train_iters.foo=1", "training.train_iters: expected an integer, got a mapping ({foo: 1})."),
        ("training=3", "training: expected a mapping with train_iters, "),
        (
            "data.train=/data/wiki",
            "data.train: expected a list; each item: a mapping with paths, weight, got a string (/data/wiki).",
        ),
        ("=3", "unknown field (got 3)"),
    ],
)
def test_one_bad_override(line: str, text: str) -> None:
    (problem,) = problems_of(line).values()
    assert text in problem


def test_broken_rules_are_reported_together_with_errors_of_form() -> None:
    layout = ("parallel.pipeline_model_parallel_size=3", "model.num_layers=9", "optimizer.adam_beta1=2")
    problems = problems_of("trainig.seed=1", "model.num_attention_heads=x", *layout, world_size=4)
    assert set(problems) == {"trainig", "model.num_attention_heads", "optimizer.adam_beta1", "world_size"}
    assert "Start 3 or 6 processes" in problems["world_size"]


def test_doubtful_values_raise_no_second_error() -> None:
    # With its default instead, each misspelled or mistyped value would break the rule about 7 processes as well.
    for line, path in [
        ("parallel.tensor_model_parallel_sze=3", "parallel.tensor_model_parallel_sze"),
        ("parallel.tensor_model_parallel_size=abc", "parallel.tensor_model_parallel_size"),
        ("parallel.tensor_model_parallel_size=[", "override"),
        ("parallel=tp3", "parallel"),
        ("parralel.tensor_model_parallel_size=7", "parralel"),
        ("experiment=quikstart", "experiment"),
    ]:
        assert set(problems_of("parallel.pipeline_model_parallel_size=2", line, world_size=7)) == {path}
    problems = problems_of("parallel.pipeline_model_parallel_size=2", "seedd=1", world_size=7)
    assert set(problems) == {"seedd", "world_size"}


def test_missing_required_field_of_an_own_preset(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = "num_layers: 2\nhidden_size: 64\nffn_hidden_size: 128\nnum_attention_heads: ???\nnum_query_groups: 2\n"
    (tmp_path / "model" / "mine.yaml").write_text(text + "seq_length: 32\n")
    search_path = f"hydra.searchpath=['{tmp_path}']"
    assert "mine" in problems_of(search_path, "model=min")["model"]
    problems = problems_of(search_path, "model=mine")
    assert problems["model.num_attention_heads"] == (
        "model.num_attention_heads: required field is missing. Set model.num_attention_heads to an integer."
    )
    config = load_config([search_path, "model=mine", "model.num_attention_heads=4"])
    assert config.model.head_size == 16


def test_broken_yaml_of_an_own_preset_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("num_layers: [1\n")
    problems = problems_of(f"hydra.searchpath=['{tmp_path}']", "model=mine", "run_nam=3")
    assert "mine.yaml" in problems["override"]


def test_empty_and_quoted_text_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for line in (
        "run_name='001'",
        "run_name='1e5'",
        "run_name='null'",
        "run_name='yes'",
        "engine=megatron",
    ):
        config = load_config([line])
        file.write_text(dump_config(config))
        assert load_config_file(file) == config


@settings(max_examples=40)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="$", exclude_categories=["Cc", "Cs"])),
    tags=st.lists(st.text("abc 01:#'\"{}[]-", max_size=6), max_size=3),
    lr=st.floats(allow_nan=False),
    seed=st.integers(min_value=-(2**63), max_value=2**63 - 1),
)
def test_dump_and_load_give_an_equal_configuration(
    recipe: TrainConfig, config_file: Path, name: str, tags: list[str], lr: float, seed: int
) -> None:
    wandb = dataclasses.replace(recipe.logging.wandb, tags=tags)
    config = dataclasses.replace(
        recipe,
        run_name=name,
        optimizer=dataclasses.replace(recipe.optimizer, lr=lr),
        training=dataclasses.replace(recipe.training, seed=seed),
        logging=dataclasses.replace(recipe.logging, wandb=wandb),
    )
    config_file.write_text(dump_config(config), encoding="utf-8")
    assert load_config_file(config_file) == config


@pytest.fixture(scope="module")
def recipe() -> TrainConfig:
    return load_config(["experiment=quickstart"])


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round_trip") / "config.yaml"


def test_file_errors(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match=r"cannot be read: No such file or directory"):
        load_config_file(file)
    file.write_text("model: [")
    with pytest.raises(ConfigError, match="must be YAML"):
        load_config_file(file)
    file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="must contain a mapping"):
        load_config_file(file)
    text = (
        dump_config(load_config([])).replace("hidden_size: 256", "hidden_sizes: 256").replace("seed: 1234", "seed: x")
    )
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config_file(file)
    assert {violation.path for violation in caught.value.violations} == {
        f"{file}: model.hidden_size",
        f"{file}: model.hidden_sizes",
        f"{file}: training.seed",
    }


def test_infinity_is_read_and_refused_by_the_rules_not_the_loader() -> None:
    assert math.isinf(load_config(["optimizer.clip_grad=inf"]).optimizer.clip_grad)


def test_every_option_loads() -> None:
    # An option of each group at a time: a composition costs 0.1 s.
    groups = group_options()
    for chosen in itertools.zip_longest(*groups.values()):
        options = [f"{group}={option}" for group, option in zip(groups, chosen, strict=True) if option is not None]
        assert isinstance(load_config(options), TrainConfig), options


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FirstEngine:
    name: Literal["first"] = "first"
    zero_stage: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _SecondEngine:
    name: Literal["second"] = "second"
    overlap: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TwoEngines:
    engine: Annotated[_FirstEngine | _SecondEngine, pydantic.Discriminator("name")] = field(
        default_factory=_FirstEngine
    )


def test_a_union_of_engines_is_told_apart_by_name() -> None:
    assert to_dataclass(_TwoEngines, {"engine": {"name": "second", "overlap": True}}).config == _TwoEngines(
        engine=_SecondEngine(overlap=True)
    )
    conversion = to_dataclass(_TwoEngines, {"engine": {"name": "second", "overlp": True, "zero_stage": 1}})
    assert [str(violation) for violation in conversion.violations] == [
        "engine.overlp: unknown field of engine (got true). Did you mean engine.overlap?",
        "engine.zero_stage: unknown field of engine=second (got 1). Remove it, or use engine=first; engine=second has"
        " name, overlap.",
    ]
    (violation,) = to_dataclass(_TwoEngines, {"engine": {"name": "secnd"}}).violations
    assert str(violation) == "engine.name: unknown value 'secnd'. Did you mean second? Choose first or second."


def test_a_saved_configuration_can_be_started_from(tmp_path: Path) -> None:
    saved = load_config(
        ["model=llama_1b", "engine=megatron", DATA, r"cluster.slurm.setup=['export A=\${HOME}/a b']", "run_name=a"]
    )
    assert saved.cluster.slurm.setup == ["export A=${HOME}/a b"], "what stands in it is not for us to resolve"
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(saved))
    assert load_config([f"config_file={file}"]) == saved == load_config_file(file)
    changed = load_config([f"config_file={file}", "training.seed=5", "run_name=b"])
    assert changed == dataclasses.replace(saved, run_name="b", training=dataclasses.replace(saved.training, seed=5)), (
        "values win over the file"
    )
    problems = problems_of(f"config_file={file}", "model=llama_8b", "optimizer.lr=fast")
    assert problems["model"] == (
        f"model: presets cannot be combined with config_file={file} (got llama_8b). Set single values, or remove"
        " config_file."
    )
    assert set(problems) == {"model", "optimizer.lr"}


@pytest.mark.parametrize(
    "name", ["größe", "it's", 'a"b', "a=b,c", "[1]", "{x:1}", "(2)", "a;b#c&d!", " a  b ", "$HOME"]
)
def test_a_file_is_named_as_it_is_whatever_its_name_means_to_hydra(tmp_path: Path, name: str) -> None:
    saved = load_config(["experiment=quickstart", "training.seed=7"])
    (tmp_path / name).mkdir()
    file = tmp_path / name / "config.yaml"
    file.write_text(dump_config(saved))
    assert load_config([f"config_file={file}"]) == saved
    assert load_config([f"config_file={quote_text(str(file))}"]) == saved, "quoted for Hydra, as users may write it"


def test_a_saved_configuration_that_cannot_be_used_is_the_only_complaint(tmp_path: Path) -> None:
    message = "config_file: no such file (got /nowhere). Set it to the config.yaml of a run directory."
    assert problems_of("config_file=/nowhere") == {"config_file": message}
    file = tmp_path / "config.yaml"
    for text in ("[1, 2]", "a: ["):
        file.write_text(text)
        assert set(problems_of(f"config_file={file}")) == {"config_file"}
    file.write_text("model: {hidden_sise: 3}")
    assert "model.hidden_sise" in problems_of(f"config_file={file}")


def test_a_bad_item_of_a_list_does_not_hide_broken_rules() -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(["experiment=quickstart", DATA, "parallel.recompute_modules=[mlpp]", "engine.overlap_comm=true"])
    paths = [violation.path for violation in refused.value.violations]
    assert "parallel.recompute_modules[0]" in paths and "engine.overlap_comm" in paths
    assert "parallel.recompute_modules" not in paths, "nothing is said of the value that the user did not mean"
