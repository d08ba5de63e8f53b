import re
import shutil
import socket
import time
from pathlib import Path

import pytest

from launch.preflight import host_checks as host
from launch.preflight.finding import Finding, Verdict
from trainer.config.run import CheckpointConfig, WandbConfig
from trainer.config.slurm import ContainerConfig


def only_violation(finding: Finding) -> str:
    assert finding.verdict is Verdict.ERROR
    (violation,) = finding.violations
    return str(violation)


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (CheckpointConfig(save_interval=100, keep_last=3), 4),  # three kept while a fourth is written
        (CheckpointConfig(save_interval=100, keep_last=0), 10),
        (CheckpointConfig(save_interval=300, keep_last=0), 4),  # 300, 600, 900 and the end
        (CheckpointConfig(save_interval=300, keep_last=0, save_at_end=False), 3),
        (CheckpointConfig(save_interval=0, keep_last=3), 1),
        (CheckpointConfig(save_interval=900, keep_last=5), 2),
        (CheckpointConfig(save_interval=100, keep_last=1, keep_best=2), 4),
        (CheckpointConfig(save_interval=100, keep_last=2, keep_interval=500), 5),  # 500 and 1000 stay for ever
    ],
)
def test_checkpoints_on_disk_at_once(checkpoint: CheckpointConfig, expected: int) -> None:
    assert host.count_kept_checkpoints(checkpoint, train_iters=1000) == expected


def test_room_for_checkpoints(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    fits = host.check_disk(
        CheckpointConfig(), run_directory=tmp_path / "new" / "run", num_parameters=1000, train_iters=5000
    )
    assert fits.verdict is Verdict.OK
    assert "4 checkpoints of 12.0 kB need 48.0 kB" in fits.text
    # Two fit, four do not.
    too_large = host.check_disk(
        CheckpointConfig(), run_directory=tmp_path / "run", num_parameters=int(free / 12 / 2.5), train_iters=5000
    )
    text = only_violation(too_large)
    assert text.startswith("output_dir: 4 checkpoints of ") and f"(got {tmp_path})" in text
    assert "Use checkpoint.keep_last=1, or another output_dir." in text
    none_fits = host.check_disk(
        CheckpointConfig(), run_directory=tmp_path / "run", num_parameters=free, train_iters=5000
    )
    assert only_violation(none_fits).endswith("Use another output_dir.")


def test_wandb_needs_a_key_only_online(tmp_path: Path) -> None:
    empty = {"HOME": str(tmp_path)}
    assert host.check_wandb(WandbConfig(mode="offline"), environment=empty).verdict is Verdict.OK
    assert "wandb login" in only_violation(host.check_wandb(WandbConfig(mode="online"), environment=empty))
    assert "wandb login" in only_violation(
        host.check_wandb(WandbConfig(), environment={**empty, "WANDB_MODE": "online"})
    )
    assert host.check_wandb(WandbConfig(mode="online"), environment={**empty, "WANDB_API_KEY": "k"}).text == (
        "API key from WANDB_API_KEY"
    )


def test_wandb_key_of_the_server_that_is_used(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    environment = {"HOME": str(tmp_path)}
    found = host.check_wandb(WandbConfig(mode="online"), environment=environment)
    assert found.verdict is Verdict.OK
    assert "secret" not in found.text
    own_server = {**environment, "WANDB_BASE_URL": "https://wandb.example.org:8080"}
    assert host.check_wandb(WandbConfig(mode="online"), environment=own_server).verdict is Verdict.ERROR


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert only_violation(host.check_port({"MASTER_PORT": port})).startswith(
            "MASTER_PORT: cannot listen on this port"
        )
    assert host.check_port({"MASTER_PORT": port}).verdict is Verdict.OK
    assert host.check_port({}).verdict is Verdict.OK
    assert "(got seven)" in only_violation(host.check_port({"MASTER_PORT": "seven"}))


def test_a_slow_file_system_is_not_reported_as_clock_skew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is dated when it is written, a minute before the disk has it."""
    now = [time.time()]
    monkeypatch.setattr(host.time, "time", lambda: now[0])
    monkeypatch.setattr(host.os, "fsync", lambda descriptor: now.append(now.pop() + 60))
    assert host.check_clock(tmp_path / "run").verdict is Verdict.OK


def test_a_clock_that_is_off_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.check_clock(tmp_path / "run").verdict is Verdict.OK
    true_time = host.time.time
    monkeypatch.setattr(host.time, "time", lambda: true_time() + 90)
    finding = host.check_clock(tmp_path / "run")
    assert finding.verdict is Verdict.WARNING
    assert re.search(r"got \+9\d\.\ds", str(finding.violations[0])), "and what a busy disk takes"


def test_libraries_are_those_that_are_asked_for() -> None:
    assert host.check_libraries().verdict is Verdict.OK
    finding = host.check_libraries(["numpy>=999", "no-such-library>=1", "absent>=1; extra == 'ray'", "pyyaml"])
    assert [violation.path for violation in finding.violations] == ["numpy", "no-such-library"]
    assert "pip install 'numpy>=999'" in str(finding.violations[0])


def test_an_image_that_is_a_file_must_be_there(tmp_path: Path) -> None:
    image = tmp_path / "trireme.sqsh"
    said = only_violation(host.check_container(ContainerConfig(image=str(image))))
    assert said.startswith(f"cluster.slurm.container.image: no such file (got {image}). Set it to an image on a file")
    image.touch()
    assert host.check_container(ContainerConfig(image=str(image))).verdict is Verdict.OK
    for other in ("nvcr.io#nvidia/pytorch:26.01-py3", "docker://nvcr.io/nvidia/pytorch:26.01.sif"):
        assert host.check_container(ContainerConfig(image=other)).verdict is Verdict.SKIPPED
