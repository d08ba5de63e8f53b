"""The executor slurm on a real cluster: the same bytes as local, whatever becomes of its jobs on the way."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_tools.stages.read_state import BatchResult
from data_tools.work.journal import read_journals
from tests.data_tools.sample_inputs import (
    REPOSITORY,
    hash_files,
    make_text,
    prepare_command,
    run_prepare,
    sources_override,
    write_dump,
    write_jsonl,
    write_warc,
)
from tests.slurm.cluster import SlurmCluster, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.long]

MARK = "Here the step waits."
STAGES = ("read", "decide", "tokenize", "assemble")
SLURM = (
    "data_prep.executor.kind=slurm",
    "data_prep.executor.num_shares=3",
    "data_prep.executor.slurm.max_array_size=2",
    "data_prep.executor.slurm.cpus_per_task=1",
    "data_prep.executor.slurm.time_limit='10:00'",
    # Every share on a node of its own.
    "data_prep.executor.slurm.options={exclusive:null}",
)


@dataclass(frozen=True, kw_only=True)
class Local:
    """A preparation by the local executor."""

    overrides: tuple[str, ...]
    gate: Path
    """While this file exists, reading waits at the last documents of each input file."""
    hashes: dict[str, str]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    inputs = tmp_path_factory.mktemp("inputs")
    gate = inputs / "gate"
    # Three files of about the same size: one for each share.
    texts = [[make_text(100 * number + seed) for seed in range(30)] for number in range(3)]
    for part in texts:
        part[-1] += f" {MARK}"
    overrides = (
        sources_override(
            ("warc", [write_warc(inputs / "pages.warc.gz", texts[0])]),
            ("wikipedia", [write_dump(inputs / "wiki-pages-articles.xml.bz2", texts[1])]),
            ("jsonl", [write_jsonl(inputs / "records.jsonl", ({"text": text} for text in texts[2]))]),
        ),
        f"data_prep.custom_filters=[{{_target_:tests.slurm.steps.WaitAt,mark:'{MARK}',gate:'{gate}'}}]",
        "data_prep.split.validation_fraction=0.15",
        "data_prep.tokenizer.vocab_size=512",
        "data_prep.tokenizer.num_threads=1",
        # Several batches of each file, so that there is something to go on from.
        "data_prep.batch_bytes=2048",
    )
    done = run_prepare(*overrides, f"data_prep.output_dir={inputs.parent / 'local'}", "data_prep.num_workers=1")
    assert done.returncode == 0, done.stderr
    return Local(overrides=overrides, gate=gate, hashes=hash_files(inputs.parent / "local"))


@pytest.fixture
def closed_gate(local: Local) -> Iterator[Path]:
    local.gate.touch()
    yield local.gate
    local.gate.unlink(missing_ok=True)


@dataclass(frozen=True)
class Chain:
    """The jobs of a preparation."""

    cluster: SlurmCluster
    jobs: dict[str, list[str]]
    """By stage."""

    def states(self) -> dict[str, set[str]]:
        return {stage: set(self.cluster.states(*jobs)) for stage, jobs in self.jobs.items()}


def submit(cluster: SlurmCluster, *overrides: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command on a node from which jobs can be submitted."""
    variables = {} if path is None else {"PATH": path}
    return subprocess.run(
        prepare_command(*overrides, *SLURM),
        cwd=REPOSITORY,
        env=cluster.environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def submit_chain(cluster: SlurmCluster, *overrides: str) -> Chain:
    done = submit(cluster, *overrides)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[: len(STAGES)]]
    return Chain(cluster, {stage: jobs for stage, *jobs in lines})


def batches_read(output: Path) -> Counter[tuple[str, int | None]]:
    """How often each batch of each file was read to its end; None is the end of a file."""
    (directory,) = output.glob(".preparing/read-*")
    return Counter(
        (entry.file_key, entry.result.header.number if isinstance(entry.result, BatchResult) else None)
        for entry in read_journals(directory)
    )


def test_it_gives_the_same_bytes_as_local_and_several_nodes_take_part(
    cluster: SlurmCluster, local: Local, tmp_path: Path
) -> None:
    output = tmp_path / "my %j data"
    overrides = (*local.overrides, f"data_prep.output_dir='{output}'")
    chain = submit_chain(cluster, *overrides)
    assert {stage: len(jobs) for stage, jobs in chain.jobs.items()} == dict(zip(STAGES, (2, 1, 2, 1), strict=True))
    cluster.wait_for(chain.jobs["assemble"][0], "COMPLETED", seconds=240)
    assert chain.states() == {stage: {"COMPLETED"} for stage in STAGES}
    assert hash_files(output) == local.hashes
    nodes = {record["NodeList"] for job in chain.jobs["read"] for record in cluster.show(job)}
    assert len(nodes) == 3, "each share has a node"
    again = submit(cluster, *overrides)
    assert again.returncode == 0, again.stderr
    assert "Already up to date (same inputs and settings)." in again.stdout


def test_requeued_and_killed_shares_go_on_and_a_second_submission_waits_for_the_first(
    cluster: SlurmCluster, local: Local, closed_gate: Path, tmp_path: Path
) -> None:
    output = tmp_path / "data"
    overrides = (*local.overrides, f"data_prep.output_dir={output}")
    chain = submit_chain(cluster, *overrides)
    pair, single = chain.jobs["read"]
    for job in (pair, single):
        cluster.wait_for(job, "RUNNING")
    wait_until(lambda: len({key for key, _ in batches_read(output)}) == 3, what="batches of all shares", seconds=120)
    refused = submit(cluster, *overrides)
    assert refused.returncode == 1
    assert "Jobs of this preparation are still active" in refused.stderr
    assert "Traceback" not in refused.stderr

    cluster.ask("scontrol", "requeue", f"{pair}_0")
    cluster.ask("scancel", "--full", "--signal=KILL", f"{pair}_1", single)
    cluster.wait_for(single, "FAILED", "CANCELLED")
    cluster.wait_for(chain.jobs["decide"][0], "CANCELLED")
    cluster.wait_for(f"{pair}_0", "RUNNING")
    # All that is left is an element, which has not the number that sbatch gave.
    refused = submit(cluster, *overrides)
    assert refused.returncode == 1, refused.stdout
    assert f"Jobs of this preparation are still active: {pair}" in refused.stderr

    closed_gate.unlink()
    cluster.wait_for(f"{pair}_0", "COMPLETED")
    assert cluster.show(f"{pair}_0")[0]["Restarts"] == "1"
    done_before = batches_read(output)
    chain = submit_chain(cluster, *overrides)
    for job in chain.jobs["read"]:
        cluster.wait_for(job, "COMPLETED")
    after = batches_read(output)
    cluster.wait_for(chain.jobs["assemble"][0], "COMPLETED", seconds=240)
    assert hash_files(output) == local.hashes
    assert set(after.values()) == {1} and done_before < after, "nothing is read twice"


def test_a_rejected_submission_leaves_no_job(cluster: SlurmCluster, local: Local, tmp_path: Path) -> None:
    overrides = (*local.overrides, f"data_prep.output_dir={tmp_path / 'data'}")
    refused = submit(cluster, *overrides, "data_prep.executor.slurm.partition=none")
    assert refused.returncode == 1
    assert "invalid partition specified: none" in refused.stderr
    assert "Traceback" not in refused.stderr

    # The cluster is closed while the chain is being submitted.
    programs = tmp_path / "bin"
    programs.mkdir()
    real = shutil.which("sbatch")
    (programs / "sbatch").write_text(f'#!/bin/sh\n{real} "$@" && scontrol update PartitionName=main State=DRAIN\n')
    (programs / "sbatch").chmod(0o755)
    try:
        refused = submit(cluster, *overrides, path=f"{programs}{os.pathsep}{os.environ['PATH']}")
    finally:
        cluster.ask("scontrol", "update", "PartitionName=main", "State=UP")
    assert refused.returncode == 1, refused.stdout
    assert re.search(r"sbatch .* failed \(exit code 1\): .*partition", refused.stderr)
    assert "Traceback" not in refused.stderr
    assert [job["job_state"] for job in cluster.squeue() if job["name"] == "trireme-data-read"][-1] == "CANCELLED"
