"""One process: what is saved comes back, weights load alone, retention, random states, and what does not fit."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed.checkpoint as dcp
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch import distributed

from tests.checkpoint.fragments import (
    MODEL,
    assert_filled,
    build_chunks,
    flip_bit,
    fragments_of,
    layout_in,
    local_values,
    make_fragments,
    open_world,
    state_of,
)
from trainer.checkpoint import pieces as pieces_module
from trainer.checkpoint.collective import CheckpointError
from trainer.checkpoint.dcp import HashingWriter, read_pieces
from trainer.checkpoint.discovery import find_latest
from trainer.checkpoint.load import load_checkpoint, load_weights
from trainer.checkpoint.pieces import weights_to_load
from trainer.checkpoint.save import save_checkpoint
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.model.sharding import describe_parameters
from trireme.errors import ConfigError

ONE = ParallelConfig()


def _save(run: Path, *, step: int, keep_last: int = 0) -> Path:
    with open_world(ONE) as world:
        fragments = fragments_of(ONE, world, fill=True)
        return save_checkpoint(run, fragments=fragments, state=state_of(step), keep_last=keep_last)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    path = _save(tmp_path, step=10)
    assert path == tmp_path / "checkpoints" / "step_00000010" == find_latest(tmp_path)
    assert sorted(entry.name for entry in path.iterdir()) == [
        ".metadata",
        "__0_0.distcp",
        "manifest.json",
        "trainer_state.json",
    ]
    with open_world(ONE) as world:
        fragments = fragments_of(ONE, world, fill=False)
        state = load_checkpoint(path, fragments=fragments, layout=layout_in(ONE))
        assert_filled(fragments)
    assert state == state_of(10)
    assert state.model_config() == MODEL
    assert "torch" in state.versions


def test_pieces_are_cut_to_the_limit_and_still_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "MAX_SAVED_ELEMENTS", 100)
    path = _save(tmp_path, step=1)
    metadata = dcp.FileSystemReader(path).read_metadata()
    assert (
        max(chunk.sizes.numel() for e in metadata.state_dict_metadata.values() for chunk in e.chunks) > 5000
    )  # random
    weights = [e for key, e in metadata.state_dict_metadata.items() if key.startswith("model.")]
    assert max(chunk.sizes.numel() for entry in weights for chunk in entry.chunks) <= 100
    with open_world(ONE) as world:
        fragments = fragments_of(ONE, world, fill=False)
        load_checkpoint(path, fragments=fragments, layout=layout_in(ONE))
        assert_filled(fragments)


def test_the_files_are_plain_torch_distributed_checkpoint(tmp_path: Path) -> None:
    """Whoever has torch can read the weights, by torch's own default planner."""
    path = _save(tmp_path, step=1)
    values = {"model.embedding.word_embeddings.weight": torch.empty(64, MODEL.hidden_size)}
    dcp.load(values, checkpoint_id=path, no_dist=True)
    with open_world(ONE) as world:
        embedding = describe_parameters(build_chunks(ONE, world))[0]
        assert torch.equal(values[embedding_key(embedding)].view(-1), local_values("param", embedding))


def embedding_key(sharded) -> str:
    return "model." + sharded.blocks[0].key


@pytest.mark.parametrize("params_dtype", ["fp32", "bf16", "fp16"])
def test_weights_load_alone_and_are_cast(tmp_path: Path, params_dtype: Literal["fp32", "bf16", "fp16"]) -> None:
    path = _save(tmp_path, step=3)
    with open_world(ONE) as world:
        chunks = build_chunks(ONE, world, precision=PrecisionConfig(params_dtype=params_dtype), seed=99)
        assert load_weights(path, chunks=chunks).step == 3
        for sharded in describe_parameters(chunks):
            expected = local_values("param", sharded).to(sharded.parameter.dtype)
            assert torch.equal(sharded.parameter.view(-1), expected), sharded.name


def test_reading_needs_no_process_group(tmp_path: Path) -> None:
    path = _save(tmp_path, step=3)
    with open_world(ONE) as world:
        parameters = describe_parameters(build_chunks(ONE, world, seed=99))
    assert not distributed.is_initialized()
    read_pieces(path, weights_to_load(parameters))
    for sharded in parameters:
        assert torch.equal(sharded.parameter.view(-1), local_values("param", sharded))


def test_only_the_last_saved_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        _save(tmp_path, step=step, keep_last=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000003", "step_00000004"]


def test_after_a_rollback_the_newest_is_the_one_saved_last(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        _save(tmp_path, step=step)
    path = _save(tmp_path, step=15, keep_last=3)  # the run went back to step 10 and on from there
    assert find_latest(tmp_path) == path
    assert not (tmp_path / "checkpoints" / "step_00000010").exists()


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    first = _save(tmp_path, step=10)
    old = json.loads((first / "manifest.json").read_text())
    again = _save(tmp_path, step=10)
    assert again == first
    assert json.loads((first / "manifest.json").read_text())["serial"] == old["serial"] + 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000010"]


def test_random_states_go_on_under_the_same_layout(tmp_path: Path) -> None:
    with open_world(ONE) as world:
        fragments = fragments_of(ONE, world, fill=True)
        torch.rand(7)
        path = save_checkpoint(tmp_path, fragments=fragments, state=state_of(1), keep_last=0)
        expected = _draw()
        torch.manual_seed(0)
        load_checkpoint(path, fragments=fragments, layout=layout_in(ONE))
        assert torch.equal(_draw(), expected)


def test_random_states_are_drawn_anew_under_another_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = replace(layout_in(ONE), data_parallel_size=2, world_size=2)
    with open_world(ONE) as world, caplog.at_level(logging.INFO):
        fragments = fragments_of(ONE, world, fill=True)
        path = save_checkpoint(tmp_path, fragments=fragments, state=state_of(1), keep_last=0)
        saved = _draw()
        draws = []
        for _ in range(2):
            load_checkpoint(path, fragments=fragments, layout=other)
            draws.append(_draw())
        assert torch.equal(draws[0], draws[1]), "a function of (seed, step)"
        assert not torch.equal(draws[0], saved)
    assert "layout has changed" in caplog.text


def test_another_engine_keeps_the_random_states(tmp_path: Path) -> None:
    assert replace(layout_in(ONE), engine="megatron").has_random_streams_of(layout_in(ONE))
    assert not replace(layout_in(ONE), device_type="cuda").has_random_streams_of(layout_in(ONE))


def _draw() -> torch.Tensor:
    """From the default generator and from a tracked one."""
    with get_cuda_rng_tracker().fork():
        tracked = torch.rand(3)
    return torch.cat([torch.rand(3), tracked, torch.rand(3)])


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    path = _save(tmp_path, step=1)
    wider = replace(MODEL, ffn_hidden_size=32)
    with open_world(ONE) as world, pytest.raises(ConfigError) as error:
        load_weights(path, chunks=build_chunks(ONE, world, model=wider))
    assert "model.decoder.layers.mlp.linear_fc2.weight: has another shape" in str(error.value)
    assert "(4, 16, 24)" in str(error.value)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = _save(tmp_path, step=1)
    with open_world(ONE) as world, pytest.raises(ConfigError, match=r"model\.output_layer\.weight: is not in the"):
        load_weights(
            path, chunks=build_chunks(ONE, world, model=replace(MODEL, untie_embeddings_and_output_weights=True))
        )


def test_a_gap_is_refused_at_the_save(tmp_path: Path) -> None:
    with open_world(ONE) as world:
        parameters = describe_parameters(build_chunks(ONE, world))
        half = make_fragments(parameters, dp_rank=0, dp_size=2)
        with pytest.raises(CheckpointError, match=r"the ranks hold \d+ of the \d+ elements of "):
            save_checkpoint(tmp_path, fragments=half, state=state_of(1), keep_last=0)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_overlap_is_refused_at_the_save(tmp_path: Path) -> None:
    with open_world(ONE) as world:
        fragments = fragments_of(ONE, world, fill=True)
        with pytest.raises(CheckpointError, match="overlap"):
            save_checkpoint(tmp_path, fragments=[*fragments, fragments[-1]], state=state_of(1), keep_last=0)


def test_a_file_that_turns_out_damaged_while_it_is_read_is_named(tmp_path: Path) -> None:
    """Verification beforehand can be switched off."""
    path = _save(tmp_path, step=1)
    data = path / "__0_0.distcp"
    flip_bit(data, position=data.stat().st_size // 2)
    data.write_bytes(data.read_bytes()[:-2000] + bytes(2000))
    with open_world(ONE) as world, pytest.raises(ConfigError, match=r"__0_0\.distcp: is damaged"):
        load_checkpoint(path, fragments=fragments_of(ONE, world, fill=False), layout=layout_in(ONE))


def test_a_full_disk_is_one_clear_error_and_leaves_older_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, step=1)

    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HashingWriter, "write_data", no_space)
    with pytest.raises(CheckpointError, match=r"saving the checkpoint of step 2: rank 0: OSError: .*No space left"):
        _save(tmp_path, step=2, keep_last=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    monkeypatch.undo()
    assert find_latest(tmp_path) == tmp_path / "checkpoints" / "step_00000001"
    assert _save(tmp_path, step=2).name == "step_00000002"
