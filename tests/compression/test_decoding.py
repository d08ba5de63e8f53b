"""The speed of decoding counts the tokens of each step; it is printed and kept, and withdrawn with the output."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer import prune, quantize
from trainer.compression import prune_run, quantize_run
from trainer.compression.decoding import NUM_TEXTS, DecodingSpeed, measure_decoding
from trainer.compression.whole_model import one_process
from trainer.inference.loading import load_model
from trainer.inference.options import ModelOptions

FIGURES = {"one_text", "eight_texts", "prompt"}


def test_tokens_are_counted_by_step(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps of the model as the clock, a text has one token a tick, and a batch one for each text."""
    options = ModelOptions(path=run_directory, max_batch_size=NUM_TEXTS)
    with one_process() as world:
        models = {name: load_model(options, world=world) for name in ("first", "second")}
        order: list[str] = []
        for name, model in models.items():

            def run(steps: Any, *, name: str = name, inner: Callable[[Any], Any] = model.runner.run) -> Any:
                order.append(name)
                return inner(steps)

            monkeypatch.setattr(model.runner, "run", run)
        speeds = measure_decoding(models, num_rounds=2, clock=lambda: float(len(order)))
    # 128 tokens of the prompt in one step, which an earlier round's cache would shorten.
    assert speeds["first"] == speeds["second"] == DecodingSpeed(one_text=1.0, eight_texts=8.0, prompt=128.0)
    changes = [name for name, former in zip(order, [None, *order], strict=False) if name != former]
    # Both warm up, then each round measures both, in an order that reverses.
    assert changes == ["first", "second", "first", "second", "first"]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def run(module: Any, *arguments: object) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
        assert module.run(module._parse()) == 0
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        return record

    return run


def test_results_hold_both_speeds(
    command: Callable[..., dict[str, Any]],
    run_directory: Path,
    shard: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    record = command(quantize, run_directory, tmp_path / "int8", "--bits", 8, "--decoding-rounds", 1)
    assert json.loads((tmp_path / "int8" / "compression.json").read_text()) == record
    kinds = {name: set(speeds) for name, speeds in record["decoding"].items()}
    assert kinds == {"before": {"fp32", "bf16"}, "after": {"bf16"}}
    lines = [one.getMessage() for one in caplog.records]
    assert len(set(lines)) == len(lines) and not any(", step " in line for line in lines)
    rows = ("--data", shard, "--rows", 2, "--row-length", 32, "--validation-rows", 2)
    pruned = command(prune, run_directory, tmp_path / "pruned", "--layers", 2, *rows, "--decoding-rounds", 1)
    assert json.loads((tmp_path / "pruned" / "compression.json").read_text()) == pruned
    assert pruned["decoding"].keys() == {"before", "after"}
    speeds = [*record["decoding"]["before"].values(), *pruned["decoding"]["after"].values()]
    assert all(speed.keys() == FIGURES and min(speed.values()) > 0 for speed in speeds)


@pytest.mark.parametrize("place", [quantize_run, prune_run])
def test_an_interrupted_measurement_withdraws_the_output(
    place: Any, run_directory: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        assert (tmp_path / "run" / "checkpoints").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(place, "compare_decoding", interrupt)
    module, arguments = {
        quantize_run: (quantize, ("--bits", "8")),
        prune_run: (prune, ("--layers", "1", "--data", str(shard), "--row-length", "16")),
    }[place]
    monkeypatch.setattr("sys.argv", ["command", str(run_directory), str(tmp_path / "run"), *arguments])
    with pytest.raises(KeyboardInterrupt):
        module.run(module._parse())
    assert not (tmp_path / "run").exists()
