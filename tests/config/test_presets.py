"""Every preset in conf/ is valid on its own."""

import pytest

from trainer.config.derived import count_processes
from trainer.config.load import group_options, load_config
from trainer.config.validate import validate
from trireme.project import CONF_DIR

DATA = ("data.train=[{paths:[/data/wiki],weight:1}]", "tokenizer.path=null")


@pytest.mark.parametrize("model", group_options()["model"])
def test_models(model: str) -> None:
    overrides = [f"model={model}", *DATA]
    config = load_config(overrides)
    if config.model.vocab_size is None:
        overrides.append("model.vocab_size=8192")
    if config.model.attention_mask == "bidirectional":
        overrides += ["data.mask_prob=0.15", "data.mask_token_id=1"]
    config = load_config(overrides)
    assert validate(config, world_size=1) == []


@pytest.mark.parametrize("parallel", group_options()["parallel"])
def test_layouts(parallel: str) -> None:
    model = "gpt3_175b" if parallel.startswith("tp8") else "gpt2_124m"
    config = load_config([f"model={model}", f"parallel={parallel}", *DATA])
    assert validate(config, world_size=count_processes(config)) == []


@pytest.mark.parametrize(
    ("model", "parallel", "num_nodes"),
    [("llama_8b", "tp8", 1), ("llama_70b", "tp8_pp4", 4), ("gpt3_175b", "tp8_pp8_vp3", 8), ("llama_1b", "single", 2)],
)
def test_models_on_clusters(model: str, parallel: str, num_nodes: int) -> None:
    for cluster in ("h100", "a100"):
        groups = [f"model={model}", f"parallel={parallel}", f"cluster={cluster}", "precision=bf16"]
        config = load_config([*groups, *DATA, f"cluster.num_nodes={num_nodes}"])
        assert count_processes(config) == 8 * num_nodes
        assert validate(config, world_size=8 * num_nodes) == []


@pytest.mark.parametrize("group", ["engine", "precision", "optimizer", "lr_schedule", "checkpoint", "logging"])
def test_other_groups(group: str) -> None:
    for option in group_options()[group]:
        assert validate(load_config(["model=gpt2_124m", *DATA, f"{group}={option}"]), world_size=1) == []


def test_quickstart_fits_small_layouts() -> None:
    for parallel in ("single", "dp2", "tp2", "pp2", "tp2_pp2", "dp2_pp2", "dp2_tp2_pp2"):
        overrides = ["experiment=quickstart", f"parallel={parallel}", "tokenizer.path=null", "model.vocab_size=8192"]
        config = load_config(overrides)
        assert validate(config, world_size=count_processes(config)) == []
    virtual = "parallel.virtual_pipeline_model_parallel_size=2"
    assert validate(load_config([*overrides, virtual, "training.global_batch_size=32"]), world_size=8) == []


@pytest.mark.parametrize("name", group_options()["experiment"])
def test_recipes_need_nothing_but_their_files(name: str) -> None:
    """Without them the recipe's settings are valid, apart from the model's, which comes with the checkpoint."""
    config = load_config([f"experiment={name}"])
    assert config.run_name == name
    if config.finetune.task is not None:
        assert config.pretrained_checkpoint in ("outputs/smollm2", "outputs/minilm")
        (train,), (validation,) = config.data.train, config.data.validation
        assert [f"{path}.validation" for path in train.paths] == validation.paths
        assert config.training.eval_iters is None


def test_every_option_says_what_it_is() -> None:
    for group, options in group_options().items():
        for option in options:
            lines = (CONF_DIR / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
            assert next(line for line in lines if not line.startswith("# @package")).startswith("# ")
