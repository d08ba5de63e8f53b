"""A pruned checkpoint is the model without the removed parts, of which none could be kept at a lower loss."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, open_world
from tests.inference.models import CAPPED, EXPERTS, GPT2, LLAMA, build
from trainer import prune
from trainer.checkpoint.trainer_state import read_state
from trainer.compression.prune_run import RECORD_NAME, PruneOptions, check_parts
from trainer.compression.pruning import Pruned, collect_tensors, prune_channels, prune_heads, prune_layers, write_pruned
from trainer.compression.rows import row_losses
from trainer.config.model import ModelConfig, find_moe_layers, find_windows
from trainer.config.parallel import ParallelConfig
from trainer.model.gpt import GPT
from trainer.model.sharding import describe_buffers, describe_parameters
from trireme.errors import ConfigError

ROWS = torch.randint(0, PADDED_VOCAB_SIZE, (4, 13), generator=torch.Generator().manual_seed(0))


def reload(folder: Path, tensors: dict[str, torch.Tensor], pruned: Pruned, config: ModelConfig, world: Any) -> GPT:
    """The model that the written checkpoint holds."""
    from trainer.checkpoint.dcp import read_pieces  # noqa: PLC0415 - used here only
    from trainer.checkpoint.pieces import weights_to_load  # noqa: PLC0415 - used here only

    folder.mkdir()
    write_pruned(folder, tensors, pruned, config=config, padded_vocab_size=PADDED_VOCAB_SIZE)
    smaller = build(pruned.model, world)
    read_pieces(folder, weights_to_load([*describe_parameters([smaller]), *describe_buffers([smaller])]))
    return smaller


def loss_of(model: GPT) -> float:
    return float(row_losses(model, ROWS).mean())


@pytest.mark.parametrize("config", [GPT2, LLAMA, CAPPED, EXPERTS], ids=["gpt2", "llama", "capped", "experts"])
def test_no_other_layer_costs_less(config: ModelConfig, tmp_path: Path) -> None:
    with open_world(ParallelConfig()) as world:
        model = build(config, world)
        before, tensors = loss_of(model), collect_tensors(model)
        pruned = prune_layers(model, config, ROWS, num_layers=1)
        (removal,) = pruned.removals
        assert pruned.loss_before == before
        losses = {}
        for layer in range(config.num_layers):
            kept = tuple(other for other in range(config.num_layers) if other != layer)
            experts = [int(find_moe_layers(config)[one]) for one in kept]
            windows = [int(find_windows(config)[one] is not None) for one in kept]
            other = replace(
                pruned,
                kept_layers=kept,
                kept_groups=dict.fromkeys(kept, tuple(range(config.num_query_groups))),
                model=replace(
                    pruned.model,
                    moe_layer_freq=experts if config.num_moe_experts else [1],
                    window_attn_skip_freq=windows if config.window_size else [1],
                ),
            )
            # Written, and loaded into a model that was built with fewer layers.
            losses[layer] = loss_of(reload(tmp_path / str(layer), tensors, other, config, world))
        assert removal.layer == min(losses, key=lambda layer: losses[layer])
        # Different objects, same layers, fp32.
        assert removal.loss == pytest.approx(losses[removal.layer], abs=1e-6)
        smaller = reload(tmp_path / "pruned", tensors, pruned, config, world)
        assert loss_of(smaller) == pytest.approx(removal.loss, abs=1e-6)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_heads_without_output_are_the_smaller_model(config: ModelConfig, tmp_path: Path) -> None:
    sharing = config.num_attention_heads // config.num_query_groups
    width = sharing * config.head_size
    with open_world(ParallelConfig()) as world:
        model = build(config, world)
        tensors, losses = collect_tensors(model), []
        columns = model.decoder.layers[0].self_attention.linear_proj.weight.detach()
        for group in range(config.num_query_groups):
            saved = columns.clone()
            columns[:, group * width : (group + 1) * width] = 0
            losses.append(loss_of(model))
            columns.copy_(saved)
        pruned = prune_heads(model, config, ROWS, num_heads=sharing)
        assert [one.layer for one in pruned.removals] == list(range(config.num_layers))
        first, last = pruned.removals[0], pruned.removals[-1]
        assert first.loss == min(losses) and first.group == losses.index(min(losses))
        assert pruned.model.head_size == config.head_size
        smaller = reload(tmp_path / "checkpoint", tensors, pruned, config, world)
        # Without the rows that computed zeros; fp32 sums in another order.
        assert loss_of(smaller) == pytest.approx(last.loss, abs=1e-6)


@pytest.mark.parametrize("config", [GPT2, LLAMA, CAPPED], ids=["gpt2", "llama", "capped"])
def test_channels_that_write_least_are_removed(config: ModelConfig, tmp_path: Path) -> None:
    with open_world(ParallelConfig()) as world:
        model = build(config, world)
        # The outputs of each channel alone, of which the norm over rows and hidden size is its importance.
        seen: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(model.decoder.layers):
            layer.mlp.linear_fc2.register_forward_pre_hook(
                lambda _, inputs, number=number: seen.__setitem__(number, inputs[0].detach().clone())
            )
        before, tensors = loss_of(model), collect_tensors(model)
        written = {
            number: [
                float(torch.linalg.norm(seen[number][..., channel, None] * column).double())
                for channel, column in enumerate(layer.mlp.linear_fc2.weight.detach().t())
            ]
            for number, layer in enumerate(model.decoder.layers)
        }
        pruned = prune_channels(model, config, ROWS, num_channels=5)
        assert pruned.loss_before == before
        assert pruned.model.ffn_hidden_size == config.ffn_hidden_size - 5
        for number, norms in written.items():
            removed = set(range(config.ffn_hidden_size)) - set(pruned.kept_channels[number])
            assert removed == set(sorted(range(len(norms)), key=lambda channel: norms[channel])[:5])
        assert [(one.layer, one.num_channels) for one in pruned.removals] == [
            (number, 5) for number in range(config.num_layers)
        ]
        smaller = reload(tmp_path / "checkpoint", tensors, pruned, config, world)
        # Without the columns that multiplied zeros; fp32 sums in another order.
        assert loss_of(smaller) == pytest.approx(pruned.removals[-1].loss, abs=1e-6)
        assert pruned.removals[-1].loss != before


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def run(*arguments: object) -> dict[str, Any]:
        rounds = () if "--decoding-rounds" in arguments else ("--decoding-rounds", "0")
        monkeypatch.setattr("sys.argv", ["prune", *map(str, arguments), *rounds])
        assert prune.run(prune._parse()) == 0
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        return record

    return run


def test_the_command_writes_a_run_to_start_from(
    command: Callable[..., dict[str, Any]], run_directory: Path, shard: Path, tmp_path: Path
) -> None:
    options = ("--data", shard, "--rows", 2, "--row-length", 32, "--validation-rows", 4)
    record = command(run_directory, tmp_path / "run", "--layers", 1, *options)
    checkpoint = Path(record["checkpoint"])
    state = read_state(checkpoint)
    assert state.contents == "weights" and state.model_config().num_layers == 3
    assert record["num_parameters"] < record["num_parameters_before"]
    assert json.loads((checkpoint / RECORD_NAME).read_text())["removals"] == record["removals"]
    from trainer.huggingface.exporting import export_model  # noqa: PLC0415 - after the shim
    from trainer.saved_run import open_saved_run  # noqa: PLC0415 - after the shim

    # The gate compares its logits with those of transformers.
    exported = export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "exported")
    assert exported.gate is not None and exported.model_type == "llama"
    heads = command(run_directory, tmp_path / "heads", "--heads", 2, *options)
    assert len(heads["removals"]) == 4
    export_model(open_saved_run(tmp_path / "heads", verify=True), tmp_path / "exported_heads")
    narrow = command(run_directory, tmp_path / "narrow", "--channels", 8, *options)
    assert narrow["num_parameters"] < narrow["num_parameters_before"]
    export_model(open_saved_run(tmp_path / "narrow", verify=True), tmp_path / "exported_narrow")
    with pytest.raises(ConfigError, match="OUTPUT_DIR: already has checkpoints"):
        command(run_directory, tmp_path / "run", "--layers", 1, *options)


@pytest.mark.parametrize(
    ("model", "parts", "message"),
    [
        (MODEL, {"layers": 4}, "--layers: must be between 1 and 3, since the model has 4 layers"),
        (LLAMA, {"heads": 1}, "--heads: must be a multiple of 2, the queries that share a key, and at most 2"),
        (replace(LLAMA, qk_layernorm_width="all"), {"heads": 2}, "--heads: cannot be removed: all heads of this model"),
        (LLAMA, {"channels": 1000}, "--channels: must be between 1 and "),
        (EXPERTS, {"channels": 1}, "--channels: cannot be removed: the model has experts"),
        (
            replace(MODEL, attention_mask="bidirectional", head="mlm"),
            {"layers": 1},
            "PATH: must predict the next token",
        ),
    ],
)
def test_parts_that_cannot_be_removed_are_named(model: ModelConfig, parts: dict[str, int], message: str) -> None:
    (found,) = check_parts(model, PruneOptions(data=Path("x"), **parts))  # type: ignore[arg-type]
    assert str(found).startswith(message)
