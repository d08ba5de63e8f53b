"""Checks of this host and its file systems: disk space, credentials, ports, clock, libraries."""

import netrc
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from launch.plan.predict import CHECKPOINT_BYTES_PER_PARAMETER
from launch.preflight.finding import Finding, found_ok, judge, skipped, warn
from trainer.config.run import CheckpointConfig, WandbConfig, wandb_of
from trainer.config.slurm import ContainerConfig
from trireme.errors import Violation
from trireme.files import nearest_existing_parent
from trireme.progress import format_number

DISTRIBUTION = "trireme"
_WANDB_HOST = "api.wandb.ai"
_IMAGE_FILES = (".sqsh", ".sqfs", ".squashfs", ".sif")
_CLOCK_TOLERANCE_SECONDS = 2.0
"""More than the timestamp granularity of any file system."""


def check_disk(checkpoint: CheckpointConfig, *, run_directory: Path, num_parameters: int, train_iters: int) -> Finding:
    """Check that all retained checkpoints, and the one being written, fit on the disk.

    Args:
        num_parameters: those that are saved, with the padded vocabulary.
        train_iters: steps of the run.
    """
    each = int(CHECKPOINT_BYTES_PER_PARAMETER * num_parameters)
    count = count_kept_checkpoints(checkpoint, train_iters=train_iters)
    place = nearest_existing_parent(run_directory)
    free = shutil.disk_usage(place).free
    needed = each * count
    kept = format_number(count, "checkpoint")
    text = f"{kept} of {_show_bytes(each)} need {_show_bytes(needed)}; {_show_bytes(free)} available"
    violations = []
    if needed > free:
        fitting = max(free // each - 1, 0)
        fix = f"Use checkpoint.keep_last={fitting}, or another output_dir." if fitting else "Use another output_dir."
        if checkpoint.keep_last and fitting >= checkpoint.keep_last:  # others are kept in addition to the newest
            fix = "Lower checkpoint.keep_best or raise checkpoint.keep_interval, or use another output_dir."
        violations.append(
            Violation(
                path="output_dir",
                value=str(run_directory.parent),
                message=f"{kept} of {_show_bytes(each)} need {_show_bytes(needed)}, but {place} has"
                f" {_show_bytes(free)} available",
                fix=fix,
            )
        )
    return judge("disk", violations, otherwise=text)


def count_kept_checkpoints(checkpoint: CheckpointConfig, *, train_iters: int) -> int:
    """Return the largest number of checkpoints that are on disk at once, including the one being written."""
    steps = (
        set(range(checkpoint.save_interval, train_iters + 1, checkpoint.save_interval))
        if checkpoint.save_interval
        else set()
    )
    if checkpoint.save_at_end:
        steps.add(train_iters)
    if not checkpoint.keep_last:
        return max(len(steps), 1)
    for_ever = {step for step in steps if checkpoint.keep_interval and step % checkpoint.keep_interval == 0}
    others = len(steps) - len(for_ever)
    return max(len(for_ever) + min(others, checkpoint.keep_last + checkpoint.keep_best + 1), 1)


def check_wandb(wandb: WandbConfig, *, environment: Mapping[str, str]) -> Finding:
    """Check that a run with online W&B logging has credentials."""
    wandb = wandb_of(wandb, environment=environment)
    if wandb.mode != "online":
        return found_ok("wandb", f"mode {wandb.mode}: no credentials needed")
    source = _find_wandb_key(environment)
    violations = []
    if source is None:
        violations.append(
            Violation(
                path="logging.wandb.mode",
                value="online",
                message="requires an API key, but neither WANDB_API_KEY nor the netrc file contains one",
                fix="Run `wandb login`, or use offline mode and run `wandb sync` later.",
            )
        )
    return judge("wandb", violations, otherwise=f"API key from {source}")


def _find_wandb_key(environment: Mapping[str, str]) -> str | None:
    if environment.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    path = Path(environment.get("NETRC") or Path(environment.get("HOME", "~")).expanduser() / ".netrc")
    host = environment.get("WANDB_BASE_URL", f"https://{_WANDB_HOST}").partition("://")[2].split("/")[0].split(":")[0]
    try:
        return str(path) if netrc.netrc(path).authenticators(host) else None
    except (OSError, netrc.NetrcParseError):
        return None


def check_port(environment: Mapping[str, str]) -> Finding:
    """Check that the rendezvous port of torchrun is free; torchrun chooses one itself unless MASTER_PORT is set."""
    named = environment.get("MASTER_PORT")
    violations = []
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", int(named or 0)))
            probe.listen()
            port = probe.getsockname()[1]
            text = f"port {port} is free" if named else "the launcher chooses a free port"
    except (OSError, ValueError, OverflowError) as error:
        text = ""
        violations.append(
            Violation(
                path="MASTER_PORT",
                value=named or "",
                message=f"cannot listen on this port of {socket.gethostname()}: {error}",
                fix="Unset MASTER_PORT, so that the launcher chooses a free port, or set it to a free one.",
            )
        )
    return judge("port", violations, otherwise=text)


def check_container(container: ContainerConfig) -> Finding:
    """Check that an image file is readable; nodes resolve the images of a registry when the job starts."""
    image = container.image
    if image is None:
        return found_ok("container", "no container configured")
    if "://" in image or not (image.startswith(("/", "./", "../")) or image.endswith(_IMAGE_FILES)):
        return skipped("container", f"{image} is in a registry: nodes resolve it when the job starts")
    violations = []
    if not os.access(image, os.R_OK):
        rule = "cannot read this file" if os.path.exists(image) else "no such file"
        fix = "Set it to an image on a file system that all nodes mount, or in a registry."
        violations.append(Violation(path="cluster.slurm.container.image", value=image, message=rule, fix=fix))
    return judge("container", violations, otherwise=f"{image} exists")


def check_clock(run_directory: Path) -> Finding:
    """Check that this host's clock agrees with the file system's: checkpoints and locks are compared by time."""
    place = nearest_existing_parent(run_directory)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".preflight-") as probe:
            before = time.time()
            probe.write(b"0")
            probe.flush()
            os.fsync(probe.fileno())
            difference = _distance(Path(probe.name).stat().st_mtime, before=before, after=time.time())
    except OSError as error:
        return skipped("clock", f"cannot write a file in {place}: {error.strerror}")
    violations = []
    if abs(difference) > _CLOCK_TOLERANCE_SECONDS:
        violations.append(
            Violation(
                path="clock",
                value=f"{difference:+.1f}s",
                message=f"the clock of {socket.gethostname()} differs from that of the file system of {place}",
                fix="Synchronize both clocks (chrony, ntpd).",
            )
        )
    good = f"within {_CLOCK_TOLERANCE_SECONDS:.0f} s of the file system's clock"
    return warn("clock", violations, otherwise=good)


def _distance(moment: float, *, before: float, after: float) -> float:
    """Return how far this host's clock is ahead of a timestamp taken between two of its readings, in seconds."""
    return after - moment if moment > after else max(0.0, before - moment)


def check_libraries(requirements: list[str] | None = None, *, lacking: Sequence[Violation] = ()) -> Finding:
    """Check that the installed libraries have the versions that this version of Trireme requires.

    Args:
        requirements: as in pyproject.toml; None uses those of the installed distribution.
        lacking: packages that the run requires and this host does not have; the nodes may have them.
    """
    if requirements is None:
        try:
            requirements = metadata.requires(DISTRIBUTION) or []
        except metadata.PackageNotFoundError:
            return skipped("libraries", f"{DISTRIBUTION} is not installed, but runs from its source tree")
    parsed = [Requirement(text) for text in requirements]
    needed = [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]
    violations = []
    for one in needed:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            version = "missing"
        if version == "missing" or not one.specifier.contains(version, prereleases=True):
            fix = f"Run pip install '{one.name}{one.specifier}'."
            rule = f"this version of Trireme requires {one.specifier}"
            violations.append(Violation(path=one.name, value=version, message=rule, fix=fix))
    text = f"{len(needed)} libraries have the required versions"
    if violations:
        return judge("libraries", violations, otherwise=text)
    fix = "If the nodes have it, check them with on_nodes=true; otherwise:"
    return warn("libraries", [replace(one, fix=f"{fix} {one.fix}") for one in lacking], otherwise=text)


def _show_bytes(count: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.1f} kB"
