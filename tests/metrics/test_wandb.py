"""The real W&B client: offline files, an unreachable server, a missing key, a client that raises. Never a dead run."""

import json
import logging
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from tests.metrics.records import rollback_record, step_record, validation_record
from tests.metrics.wandb_server import WandbServer
from trainer.config.run import WandbConfig, wandb_of
from trainer.metrics import wandb as wandb_sink
from trainer.metrics.wandb import WandbSink, load_run_id

# W&B keeps process-wide state, so each real run gets a process of its own.
PROGRAM = """
import sys
from pathlib import Path
from tests.metrics.records import step_record, validation_record
from trireme.logging import configure_logging
from trainer.config.run import LoggingConfig, WandbConfig
from trainer.metrics import wandb
from trainer.metrics.recorder import build_recorder

wandb.INIT_TIMEOUT_SECONDS = 3.0
mode, directory, resumed_step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
configure_logging(rank=0)
recorder = build_recorder(
    LoggingConfig(progress="off", wandb=WandbConfig(mode=mode, tags=["test"])),
    run_directory=directory, run_name="demo", run_config={"model": {"num_layers": 2}},
    total_steps=10, resumed_step=resumed_step, is_main_rank=True,
)
for step in range(resumed_step + 1, resumed_step + 6):
    recorder.record_step(step_record(step))
recorder.record_validation(validation_record(resumed_step + 5))
recorder.close()
"""


def _train(
    mode: str, directory: Path, *, resumed_step: int = 0, home: str | None = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    if home is not None:
        inherited["HOME"] = home or str(directory)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, mode, str(directory), str(resumed_step)],
        env={**inherited, **environment},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def _rows(file: Path) -> list[dict[str, Any]]:
    """The records of one part of a run, as `wandb sync` sends them.

    The file is LevelDB's log: blocks of 32 KiB with chunks of a checksum (4 bytes), a length (2), a kind (1: whole, 2:
    first, 3: middle, 4: last) and the data; the first block begins with seven bytes of W&B's own.
    """
    content, place, data, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        data = (b"" if kind in (1, 2) else data) + content[place + 7 : place + 7 + length]
        place += 7 + length
        record = wandb_internal_pb2.Record()
        if kind in (1, 4) and record.ParseFromString(data) and record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            rows.append({key: json.loads(value) for key, value in items.items()})
    return rows


def _num_records(directory: Path) -> int:
    return len((directory / "metrics.jsonl").read_text().splitlines())


def test_offline_writes_a_run_into_the_run_directory_and_a_resume_keeps_its_id(tmp_path: Path) -> None:
    _train("offline", tmp_path)
    done = _train("offline", tmp_path, resumed_step=3)
    run_id = (tmp_path / "wandb" / "run_id").read_text().strip()
    runs = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert len(runs) == 2
    content = runs[0].read_bytes()
    for name in (b"train/loss", b"validation/perplexity", b"train/learning_rate", b"num_layers"):
        assert name in content
    assert "Weights & Biases" not in done.stderr
    assert _num_records(tmp_path) == 3 + 5 + 1
    first, second = (_rows(run) for run in runs)
    assert [(row["_step"], row["step"]) for row in first] == [(step, step) for step in (1, 2, 3, 4, 5)]
    assert [row["_step"] for row in second] == [4, 5, 6, 7, 8], "a part of a run overwrites nothing but what it repeats"
    assert "train/loss" in second[-1] and "validation/loss" in second[-1]


def test_parts_of_an_offline_run_have_distinct_times(tmp_path: Path) -> None:
    taken = time.strftime("%Y%m%d_%H%M%S")
    (tmp_path / f"offline-run-{taken}-abc").mkdir()
    wandb_sink._wait_for_own_second(tmp_path, run_id="abc")
    assert time.strftime("%Y%m%d_%H%M%S") > taken


def test_variables_of_wandb_are_heeded(tmp_path: Path) -> None:
    wanted = {"WANDB_TAGS": "nightly, test", "WANDB_PROJECT": "ours", "WANDB_NAME": "mine", "WANDB_RUN_ID": "given"}
    _train("online", tmp_path, WANDB_MODE="offline", **wanted)
    (run,) = (tmp_path / "wandb").glob("offline-run-*-given/run-given.wandb")
    content = run.read_bytes()
    assert content.count(b"nightly") == 1 and b"ours" in content and b"mine" in content
    assert (tmp_path / "wandb" / "run_id").read_text() == "given\n"
    _train("offline", tmp_path, resumed_step=3)
    assert len(list((tmp_path / "wandb").glob("offline-run-*-given"))) == 2, "the run goes on as what it was"
    _train("offline", tmp_path, resumed_step=3, WANDB_RUN_ID="other")
    assert (tmp_path / "wandb" / "run_id").read_text() == "other\n"


@pytest.mark.parametrize(
    ("mode", "variables", "expected"),
    [
        ("offline", {}, "offline"),
        ("offline", {"WANDB_MODE": "online"}, "online"),
        ("online", {"WANDB_MODE": "dryrun"}, "offline"),
        ("online", {"WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_DISABLED": "TRUE"}, "disabled"),
        ("online", {"WANDB_DISABLED": "false"}, "online"),
        ("online", {"WANDB_MODE": "online", "WANDB_DISABLED": "1"}, "disabled"),
        ("disabled", {"WANDB_MODE": "online"}, "disabled"),
        ("offline", {"WANDB_MODE": "shared"}, "offline"),
    ],
)
def test_the_mode_is_that_of_the_environment(mode: Any, variables: dict[str, str], expected: str) -> None:
    assert wandb_of(WandbConfig(mode=mode), environment=variables).mode == expected


def test_what_the_configuration_names_stays() -> None:
    config = WandbConfig(project="a", entity="b", tags=["c"])
    variables = {"WANDB_PROJECT": "x", "WANDB_ENTITY": "y", "WANDB_TAGS": "c,,z "}
    assert wandb_of(config, environment=variables) == WandbConfig(project="a", entity="b", tags=["c", "z"])
    free = wandb_of(WandbConfig(), environment=variables)
    assert (free.project, free.entity) == ("x", "y")
    assert wandb_of(WandbConfig(), environment={}).project == "trireme"


@pytest.mark.parametrize("home", [None, "/dev/null"])
def test_without_a_home_directory_its_service_is_as_quiet(
    tmp_path: Path, home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    done = _train("offline", tmp_path, home=home)
    assert (done.stdout.count("\n"), done.stderr) == (6, ""), "the steps and the validation, and nothing else"
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert list((tmp_path / "wandb" / "cache").rglob("core-debug-*.log"))


def test_an_unreachable_server_costs_a_warning_and_nothing_else(tmp_path: Path) -> None:
    done = _train("online", tmp_path, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
    assert done.stderr.count("Weights & Biases failed and is disabled for the rest of this run") == 1
    assert _num_records(tmp_path) == 6


def test_a_missing_key_costs_a_warning_and_nothing_else(tmp_path: Path) -> None:
    done = _train("online", tmp_path, WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.stderr.count("Weights & Biases failed and is disabled for the rest of this run") == 1
    assert "API key" in done.stderr
    assert _num_records(tmp_path) == 6


OUTAGE = """
import sys, time
from pathlib import Path
from tests.metrics.records import step_record
from trireme.logging import configure_logging
from trainer.config.run import LoggingConfig, WandbConfig
from trainer.metrics import wandb
from trainer.metrics.recorder import build_recorder

wandb.INIT_TIMEOUT_SECONDS, wandb.FINISH_TIMEOUT_SECONDS = 30.0, 4.0
configure_logging(rank=0)
recorder = build_recorder(
    LoggingConfig(progress="off", wandb=WandbConfig(mode="online")),
    run_directory=Path(sys.argv[1]), run_name="demo", run_config={},
    total_steps=1000, resumed_step=0, is_main_rank=True,
)
for step in range(1, 6):
    recorder.record_step(step_record(step))
print("recorded", flush=True)
sys.stdin.readline()
started, longest = time.monotonic(), 0.0
for step in range(6, 406):
    before = time.monotonic()
    recorder.record_step(step_record(step))
    longest = max(longest, time.monotonic() - before)
before = time.monotonic()
recorder.close()
print(f"longest {longest} close {time.monotonic() - before}", flush=True)
"""


def test_a_server_that_goes_away_under_the_run_neither_stops_nor_slows_it(tmp_path: Path) -> None:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    with (
        WandbServer() as server,
        subprocess.Popen(
            [sys.executable, "-c", OUTAGE, str(tmp_path)],
            env={**inherited, "HOME": str(tmp_path), "WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40},
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        while process.stdout.readline() != "recorded\n":
            assert process.poll() is None, process.communicate()
        assert server.has_run
        server.cut()
        output, errors = process.communicate("go on\n", timeout=120)
    assert process.returncode == 0, errors
    longest, closing = (float(word) for word in output.split("longest ")[1].split(" close "))
    assert longest < 5.0 and closing < 30.0, "the client itself would wait for minutes"
    assert _num_records(tmp_path) == 405
    (directory,) = (tmp_path / "wandb").glob("run-*-*")
    assert errors.count("Weights & Biases did not accept the last records within 4 s") == 1
    assert f"`wandb sync {directory}` uploads them" in errors
    (kept,) = directory.glob("run-*.wandb")
    assert b"train/loss" in kept.read_bytes()


class FakeRun:
    dir = "/nowhere/files"

    def __init__(self, *, failing: str) -> None:
        self.failing = failing
        self.id = "fake"
        self.steps: list[int] = []
        self.logged: list[dict[str, Any]] = []
        self.is_finished = False

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self.logged.append(values)
        self.steps.append(step)
        if self.failing == "log":
            raise RuntimeError("broken\npipe")

    def finish(self) -> None:
        self.is_finished = True
        if self.failing == "finish":
            raise TimeoutError("upload")


class FakeWandb:
    Settings = dict

    def __init__(self, *, failing: str = "") -> None:
        self.run = FakeRun(failing=failing)
        self.failing = failing
        self.options: dict[str, Any] = {}

    def setup(self, settings: Any) -> None:
        pass

    def init(self, **options: Any) -> FakeRun:
        self.options = options
        if self.failing == "init":
            raise SystemExit(1)
        self.run.id = options["id"]
        return self.run


def _sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeWandb, *, mode: Any = "online", resumed_step: int = 0
) -> WandbSink:
    monkeypatch.setattr(wandb_sink, "_import_wandb", lambda: fake)
    return WandbSink(
        WandbConfig(mode=mode), run_directory=tmp_path, run_name="demo", run_config={}, resumed_step=resumed_step
    )


def test_names_are_grouped_and_the_step_is_the_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    sink = _sink(tmp_path, monkeypatch, fake)
    sink.record_step(step_record(7))
    sink.record_validation(validation_record(7))
    sink.close()
    train, validation = fake.run.logged
    assert (train["step"], train["train/loss"]) == (7, pytest.approx(8.3))
    assert "train/step" not in train and "train/mfu" not in train
    assert validation["validation/loss"] == 8.0
    assert fake.run.is_finished


def test_steps_that_are_taken_again_come_behind_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B drops records whose `_step` goes back, and joins the parts of a run by it."""
    fake = FakeWandb()
    sink = _sink(tmp_path, monkeypatch, fake)
    for step in (1, 2, 3, 4):
        sink.record_step(step_record(step))
    sink.record_validation(validation_record(4))
    sink.record_rollback(rollback_record(2, from_step=4))
    for step in (3, 4):
        sink.record_step(step_record(step))
    sink.close()
    assert fake.run.steps == [1, 2, 3, 4, 4, 5, 6, 7]
    assert [record["step"] for record in fake.run.logged] == [1, 2, 3, 4, 4, 2, 3, 4]
    resumed, anew = FakeWandb(), FakeWandb()
    _sink(tmp_path, monkeypatch, resumed, resumed_step=4).record_step(step_record(5))
    assert resumed.run.steps == [8], "later parts of the run go on from there"
    _sink(tmp_path, monkeypatch, anew).record_step(step_record(1))
    assert anew.run.steps == [1]


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_a_raising_client_is_switched_off_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    fake = FakeWandb(failing=failing)
    with caplog.at_level(logging.WARNING):
        sink = _sink(tmp_path, monkeypatch, fake)
        for step in (1, 2, 3):
            sink.record_step(step_record(step))
        sink.close()
        sink.close()
    assert len(caplog.records) == 1
    assert "metrics.jsonl has all records" in caplog.text
    assert len(fake.run.logged) == {"init": 0, "log": 1, "finish": 3}[failing]
    assert not sink.is_active


def test_a_broken_installation_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    sink = WandbSink(WandbConfig(), run_directory=tmp_path, run_name="demo", run_config={}, resumed_step=0)
    sink.record_step(step_record(1))
    assert not sink.is_active
    assert "Weights & Biases failed" in caplog.text


def test_disabled_does_not_even_import_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_sink, "_import_wandb", lambda: pytest.fail("imported"))
    sink = WandbSink(
        WandbConfig(mode="disabled"), run_directory=tmp_path, run_name="demo", run_config={}, resumed_step=0
    )
    sink.record_step(step_record(1))
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_resume_asks_the_server_for_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FakeWandb(), FakeWandb()
    _sink(tmp_path, monkeypatch, first)
    _sink(tmp_path, monkeypatch, second, resumed_step=10)
    assert first.options["id"] == second.options["id"]
    assert second.options["resume"] == "allow"


def test_a_new_start_in_the_same_directory_is_a_new_run(tmp_path: Path) -> None:
    first = load_run_id(tmp_path, is_resumed=False)
    assert load_run_id(tmp_path, is_resumed=True) == first
    assert load_run_id(tmp_path, is_resumed=False) != first
