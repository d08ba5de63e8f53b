"""What else launch.slurm does with a real cluster: sweeps, chains, stopping, looking, and giving up in time."""

import json
import re
from pathlib import Path

import pytest

from tests.slurm.cluster import SlurmCluster, wait_until
from tests.slurm.jobs import DEADLINE, NUM_STEPS_ALONE, Runs, launch, wait_for_steps, warn
from tests.train.commands import losses_of
from tests.trireme.small_disk import fill, small_file_system

pytestmark = [pytest.mark.slurm, pytest.mark.long]

SAVES_AND_LEAVES = "trap 'exit 75' TERM; while true; do sleep 0.1; done"
"""Of a run that goes on until it is told to leave."""


def stand_in(place: Path, body: str) -> str:
    """An override for an interpreter that does this instead of training."""
    path = place / "python"
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return f"cluster.slurm.python='{path}'"


def test_a_sweep_is_an_array_of_runs_with_names_of_their_own(cluster: SlurmCluster, runs: Runs) -> None:
    job = runs.submit(cluster, "sweep", "-m", "optimizer.lr=1e-3,3e-4,1e-4", "training.train_iters=5", num_nodes=1)
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert len(cluster.show(job)) == 3
    final = {name: losses_of(runs.directory(f"sweep_lr_{name}"))[5] for name in ("0.001", "0.0003", "0.0001")}
    assert final["0.001"] < final["0.0003"] < final["0.0001"], "small steps learn little in so few"
    done = launch(cluster, *runs.overrides("sweep", "-m", "optimizer.lr=1e-3,3e-4,1e-4", "action=status"))
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines() if line.startswith("job ")] == ["COMPLETED"] * 3
    assert done.stdout.count("step       5 of 5, loss ") == 3


def test_one_run_of_a_sweep_starts_again_alone(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    # An interpreter that fails the last run, whose number is that of the array, too, while the others go on.
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *seed_3*) exit 1 ;; esac\nsleep 10\n')
    python.chmod(0o755)
    further = (f"cluster.slurm.python='{python}'", "cluster.slurm.max_restarts_without_progress=2")
    job = runs.submit(cluster, "uneven", "-m", "training.seed=1,2,3", *further, num_nodes=1)
    cluster.wait_for(job, "COMPLETED", "FAILED")
    found = {record["ArrayTaskId"]: (record["JobState"], record["Restarts"]) for record in cluster.show(job)}
    assert found == {"0": ("COMPLETED", "0"), "1": ("COMPLETED", "0"), "2": ("FAILED", "2")}


def test_a_chain_goes_on_job_by_job_and_ends_with_the_run(cluster: SlurmCluster, runs: Runs) -> None:
    # resume= is for the first of them: the second goes on, and does not begin again.
    first = runs.submit(cluster, "chained", "chain=3", "resume=restart", num_nodes=1)
    second, third = str(int(first) + 1), str(int(first) + 2)
    wait_for_steps(runs.directory("chained"), 3)
    assert cluster.states(second, third) == ["PENDING", "PENDING"]
    warn(cluster, first)
    cluster.wait_for(second, "COMPLETED", seconds=DEADLINE)
    assert list(losses_of(runs.directory("chained"))) == list(range(1, NUM_STEPS_ALONE + 1))
    cluster.wait_for(third, "CANCELLED")
    assert {cluster.show(job)[0]["Restarts"] for job in (first, second)} == {"0"}
    printed = runs.printed("chained")
    assert "the next job of the chain resumes the run" in printed
    assert len(re.findall(rf"step +1/{NUM_STEPS_ALONE} ", printed)) == 1


def test_a_chain_of_a_sweep_ends_run_by_run(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    # The first run is done at once; the second asks to be started again, and is done then.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *seed_1*) exit 0 ;; esac\nmkdir {tmp_path}/begun && exit 75\nexit 0\n')
    python.chmod(0o755)
    sweep = ("-m", "training.seed=1,2", "chain=3", f"cluster.slurm.python='{python}'")
    first = int(runs.submit(cluster, "chained-sweep", *sweep, num_nodes=1))
    for job in range(first, first + 3):
        cluster.wait_for(str(job), "COMPLETED", "CANCELLED")
    found = [
        {record["ArrayTaskId"]: record["JobState"] for record in cluster.show(str(job))}
        for job in range(first, first + 3)
    ]
    assert found[0] == {"0": "COMPLETED", "1": "COMPLETED"}
    assert found[1] == {"0": "CANCELLED", "1": "COMPLETED"}
    assert set(found[2].values()) == {"CANCELLED"}


def test_a_chain_whose_job_fails_ends_with_it(cluster: SlurmCluster, runs: Runs) -> None:
    first = runs.submit(cluster, "broken", "chain=2", "cluster.slurm.setup=['exit 3']", num_nodes=1)
    cluster.wait_for(first, "FAILED")
    cluster.wait_for(str(int(first) + 1), "CANCELLED")


def test_a_run_is_looked_at_and_stopped(cluster: SlurmCluster, runs: Runs) -> None:
    these = ("run_name=watched", f"output_dir='{runs.output}'")
    job = runs.submit(cluster, "watched", num_nodes=1)
    again = launch(cluster, *runs.overrides("watched", num_nodes=1))
    assert again.returncode == 2
    assert f"run_name: job {job} of this run is still pending or running (got watched)" in again.stderr
    wait_for_steps(runs.directory("watched"), 3)
    stopped = launch(cluster, *these, "action=stop")
    assert stopped.stdout.startswith(f"{job}: asked to save a checkpoint and exit")
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert cluster.show(job)[0]["Restarts"] == "0"
    steps = len(losses_of(runs.directory("watched")))
    assert steps < NUM_STEPS_ALONE
    status = launch(cluster, *these, "action=status").stdout
    assert f"job        {job} COMPLETED" in status
    assert f"step       {steps} of {NUM_STEPS_ALONE}, loss " in status
    assert f"step_{steps:08d}" in status
    assert "stopped on request (exit code" in launch(cluster, *these, "action=logs").stdout
    idle = launch(cluster, *these, "action=stop")
    assert idle.returncode == 2
    assert f"run_name: no pending or running job: {job} is COMPLETED (got watched)" in idle.stderr


def test_a_job_is_stopped_before_its_script_begins(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    with cluster.held_prologs():
        # Slurm says that it runs, and nobody is there to be signalled.
        job = runs.submit(cluster, "in-prolog", stand_in(tmp_path, SAVES_AND_LEAVES), num_nodes=1)
        cluster.wait_for(job, "RUNNING")
        stopped = launch(cluster, "run_name=in-prolog", f"output_dir='{runs.output}'", "action=stop")
        assert stopped.returncode == 0, stopped.stderr
    cluster.wait_for(job, "COMPLETED")
    assert cluster.show(job)[0]["Restarts"] == "0"
    assert "stopped on request (before the run started)" in runs.printed("in-prolog")


def test_a_job_is_stopped_while_its_nodes_start(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    # The first node's prolog is over, and the step waits for the other's.
    begun = tmp_path / "begun"
    hold = f"touch {begun}; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"
    setup = f"cluster.slurm.setup=['srun() {{ {hold}; command srun \"$@\"; }}']".replace("$@", "\\${@}")
    job = runs.submit(cluster, "starting", stand_in(tmp_path, SAVES_AND_LEAVES), setup)
    wait_until(begun.exists, what="the step to be asked for", seconds=60)
    launch(cluster, "run_name=starting", f"output_dir='{runs.output}'", "action=stop")
    wait_until(lambda: "asking the run to save" in runs.printed("starting"), what="the signal", seconds=60)
    (tmp_path / "go").touch()
    cluster.wait_for(job, "COMPLETED")
    assert "stopped on request (exit code" in runs.printed("starting")


def test_a_suspended_job_stops_when_it_is_resumed(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    these = ("run_name=suspended", f"output_dir='{runs.output}'", "action=stop")
    job = runs.submit(cluster, "suspended", stand_in(tmp_path, f"echo began; {SAVES_AND_LEAVES}"), num_nodes=1)
    wait_until(lambda: "began" in runs.printed("suspended"), what="its start", seconds=60)
    cluster.ask("scontrol", "suspend", job)
    stopped = launch(cluster, *these)
    assert stopped.stdout.startswith(f"{job}: is SUSPENDED; it will save a checkpoint and exit when it is resumed"), (
        stopped.stderr
    )
    cluster.ask("scontrol", "resume", job)
    cluster.wait_for(job, "COMPLETED")
    assert "stopped on request (exit code 75)" in runs.printed("suspended")


def test_a_sweep_of_which_one_run_is_done_is_stopped(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    sweep = (
        "-m",
        "training.seed=1,2,3",
        stand_in(tmp_path, f'case "$*" in *seed_1/*) exit ;; esac; {SAVES_AND_LEAVES}'),
    )
    job = runs.submit(cluster, "partly", *sweep, "cluster.slurm.max_running=1", num_nodes=1)
    wait_until(lambda: "RUNNING" in cluster.states(f"{job}_1"), what="the second run", seconds=60)
    stopped = launch(cluster, *runs.overrides("partly", *sweep, "action=stop", num_nodes=1))
    assert stopped.returncode == 0, stopped.stderr
    lines = stopped.stdout.splitlines()
    assert lines[0] == f"partly_seed_1: no pending or running job: {job}_0 is COMPLETED"
    assert lines[2].startswith(f"{job}_1: asked to save a checkpoint and exit")
    assert lines[1] == f"{job}_2: cancelled before it started"
    cluster.wait_for(job, "COMPLETED", "CANCELLED")


def test_short_arrays_and_nodes_that_are_being_set_up(runs: Runs, tmp_path: Path) -> None:
    sweep = ("-m", "training.seed=1,2,3,4", stand_in(tmp_path, "exit 0"))
    # In the controller's own prolog a job is CONFIGURING.
    settings = {"MaxArraySize": "3", "PrologSlurmctld": "{directory}/prolog"}
    with SlurmCluster(num_nodes=1, settings=settings) as cluster:
        refused = launch(cluster, *runs.overrides("split", *sweep, "cluster.slurm.max_running=1", num_nodes=1))
        assert refused.returncode == 2
        assert (
            "cluster.slurm.max_running: must be at least 2: these 4 runs need that many job arrays, since Slurm's"
            in refused.stderr
        )
        assert not list(runs.output.glob("split*"))
        done = launch(cluster, *runs.overrides("split", *sweep, "cluster.slurm.max_running=3", num_nodes=1))
        arrays = re.findall(r"^submitted +(\d+): job array of 2 runs", done.stdout, re.MULTILINE)
        assert len(arrays) == 2, done.stdout + done.stderr
        for job in arrays:
            cluster.wait_for(job, "COMPLETED")
            assert len(cluster.show(job)) == 2
        scripts = "".join(path.read_text() for path in sorted(runs.directory("split").glob("slurm/*/*.sbatch")))
        assert re.findall("--array=(.*)", scripts) == ["0-1%2", "0-1%1"]
        with cluster.held_prologs():
            job = runs.submit(cluster, "configuring", stand_in(tmp_path, SAVES_AND_LEAVES), num_nodes=1)
            cluster.wait_for(job, "CONFIGURING", "RUNNING")
            assert cluster.ask("squeue", "--noheader", "--format=%T").strip() == "CONFIGURING"
            stopped = launch(cluster, "run_name=configuring", f"output_dir='{runs.output}'", "action=stop")
            assert stopped.stdout == f"{job}: cancelled before it started\n", stopped.stderr
        cluster.wait_for(job, "CANCELLED")


def test_a_job_without_progress_stops(cluster: SlurmCluster, runs: Runs) -> None:
    # An interpreter that has gone: each start fails at once.
    job = runs.submit(
        cluster, "looping", "cluster.slurm.python=/bin/false", "cluster.slurm.max_restarts_without_progress=2"
    )
    cluster.wait_for(job, "FAILED")
    assert cluster.show(job)[0]["Restarts"] == "2"
    printed = runs.printed("looping")
    assert printed.count("requeueing") == 2
    assert "stopped: 2 starts without a new checkpoint (latest: none). Fix the cause" in printed


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize(("code", "why"), [(2, "the configuration or an input is"), (82, "training diverged")])
def test_final_exit_codes_are_not_requeued(
    cluster: SlurmCluster, runs: Runs, tmp_path: Path, code: int, why: str, node: int
) -> None:
    # The other node's launcher is ended by srun then, and its code is the higher one.
    other = "trap 'exit 143' TERM; while true; do sleep 0.1; done"
    ends = stand_in(tmp_path, f"[ $SLURM_NODEID != {node} ] || {{ sleep 1; exit {code}; }}\n{other}")
    name = f"ends-{code}-{node}"
    job = runs.submit(cluster, name, ends)
    cluster.wait_for(job, "FAILED")
    assert cluster.show(job)[0]["Restarts"] == "0"
    assert cluster.show(job)[0]["ExitCode"] == f"{code}:0"
    assert f"stopped: {why}" in runs.printed(name)


def test_starts_that_slurm_ends_are_no_crash_loop(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    fails = tmp_path / "fails"
    waits = stand_in(tmp_path, f"echo began; {SAVES_AND_LEAVES.replace('sleep', f'[ ! -e {fails} ] || exit 1; sleep')}")
    job = runs.submit(cluster, "requeued", waits, "cluster.slurm.max_restarts_without_progress=1", num_nodes=1)

    def wait_for_starts(number: int) -> None:
        wait_until(lambda: runs.printed("requeued").count("began") == number, what=f"start {number}", seconds=120)

    wait_for_starts(1)
    cluster.ask("scontrol", "requeue", job)
    wait_for_starts(2)
    urgent = cluster.submit("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_for(urgent, "COMPLETED", seconds=DEADLINE)
    wait_for_starts(3)
    cluster.ask("scontrol", "requeue", job)
    wait_for_starts(4)
    fails.touch()
    cluster.wait_for(job, "FAILED")
    assert cluster.show(job)[0]["Restarts"] == "4"
    assert "asking the run to save a checkpoint and exit" in runs.printed("requeued"), (
        "it was warned before it made room"
    )
    assert "stopped: 1 start without a new checkpoint (latest: none)" in runs.printed("requeued")


def test_a_rejected_submission_is_reported_and_leaves_no_files(cluster: SlurmCluster, runs: Runs) -> None:
    refused = launch(cluster, *runs.overrides("refused", "cluster.slurm.partition=none"))
    assert refused.returncode == 1
    assert "Slurm error:" in refused.stderr
    assert "invalid partition specified: none" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(runs.directory("refused").glob("slurm/*")) == []


def test_a_job_that_cannot_be_remembered_is_taken_back(cluster: SlurmCluster, runs: Runs, tmp_path: Path) -> None:
    records = runs.directory("forgotten") / "slurm" / "submissions.jsonl"
    records.parent.mkdir(parents=True)
    with small_file_system(tmp_path / "small", kibibytes=16) as place:
        records.symlink_to(place / "records")
        (place / "records").touch()
        fill(place)
        done = launch(cluster, *runs.overrides("forgotten", stand_in(tmp_path, SAVES_AND_LEAVES), num_nodes=1))
    assert done.returncode == 1
    assert "No space left on device. Nothing was submitted." in done.stderr
    assert "Traceback" not in done.stderr
    wait_until(lambda: not cluster.ask("squeue", "--noheader"), what="the job to be taken back", seconds=30)
    assert list(records.parent.iterdir()) in ([], [records])


def test_nodes_that_are_known_to_be_bad_are_never_asked_for(cluster: SlurmCluster, runs: Runs) -> None:
    directory = runs.directory("avoiding")
    directory.mkdir()
    (directory / "bad_nodes.jsonl").write_text('{"host": "n1", "reason": "preflight"}\n')
    job = runs.submit(cluster, "avoiding", "cluster.slurm.python=/bin/true", "cluster.slurm.exclude=n2", num_nodes=1)
    cluster.wait_for(job, "COMPLETED")
    assert cluster.show(job)[0]["NodeList"] == "n3"


def test_a_bad_node_that_slurm_does_not_know_takes_none_of_the_others_with_it(
    cluster: SlurmCluster, runs: Runs, tmp_path: Path
) -> None:
    bad_nodes = runs.directory("unknown") / "bad_nodes.jsonl"
    bad_nodes.parent.mkdir()
    bad_nodes.write_text('{"host": "gpu-17", "reason": "typed"}\n{"host": "n1.cluster.example", "reason": "slow"}\n')
    note = json.dumps({"host": "gpu-18", "reason": "typed"}) + "\n" + json.dumps({"host": "n3", "reason": "slow"})
    once = stand_in(tmp_path, f"mkdir {tmp_path}/begun || exit 0\necho '{note}' >>'{bad_nodes}'\nexit 1")
    done = launch(cluster, *runs.overrides("unknown", once, "cluster.slurm.exclude=n2", num_nodes=1))
    assert done.returncode == 0, done.stderr
    assert f"warning: {bad_nodes}: Slurm does not know the node gpu-17, so it is not excluded" in done.stderr
    job = done.stdout.split()[1].rstrip(":")
    assert cluster.show(job)[0]["ExcNodeList"] == "n[1-2]"
    wait_until(lambda: cluster.show(job)[0]["ExcNodeList"] != "n[1-2]", what="the nodes to avoid", seconds=60)
    assert sorted(cluster.show(job)[0]["ExcNodeList"].split(",")) == ["n1", "n2", "n3"]
    printed = runs.printed("unknown")
    assert [host for host in ("gpu-17", "gpu-18") if f"Slurm does not know the node {host}" in printed] == [
        "gpu-17",
        "gpu-18",
    ]
    assert f"Correct or remove its line in {bad_nodes}" in printed


def test_gpus_are_asked_for_as_the_cluster_wants_it(cluster: SlurmCluster, runs: Runs) -> None:
    for option, value in {"gpus-per-node": "gres:gpu:2", "gres": "gres:gpu:2", "none": None}.items():
        further = ("cluster.gpus_per_node=2", f"cluster.slurm.gpu_option={option}", "cluster.slurm.python=/bin/true")
        job = runs.submit(cluster, f"gpu-{option}", *further, num_nodes=1)
        cluster.wait_for(job, "COMPLETED")
        assert cluster.show(job)[0].get("TresPerNode") == value, option
