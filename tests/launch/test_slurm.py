"""launch.slurm without a cluster: what it writes and what a user reads. On a cluster: tests/slurm."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from launch.slurm.__main__ import main
from launch.slurm.cli import parse_request
from launch.slurm.run_record import copy_code, new_stamp
from launch.slurm.sweep import expand_sweep
from trireme.config.override_line import quote_text

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = ("model.vocab_size=8000", "data.train=[{paths:[/data/wiki]}]", "run_name=first")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a command left on the terminal."""

    returncode: int
    stdout: str
    stderr: str


Launch = Callable[..., Ended]
Render = Callable[..., str]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Launch:
    """The command, in this process, which has its modules already."""

    def run(*arguments: str) -> Ended:
        monkeypatch.chdir(REPOSITORY)
        monkeypatch.setattr(sys, "argv", ["launch.slurm", *arguments])
        code = main()
        captured = capsys.readouterr()
        return Ended(returncode=code, stdout=captured.out, stderr=captured.err)

    return run


@pytest.fixture
def render(launch: Launch, tmp_path: Path) -> Render:
    """The script of a dry run, which bash can read."""

    def run(*overrides: str) -> str:
        done = launch(*GOOD, f"output_dir='{tmp_path}'", "dry_run=true", *overrides)
        assert done.returncode == 0, done.stderr
        assert list(tmp_path.iterdir()) == [], "a dry run writes nothing"
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
        return done.stdout

    return run


def start(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command as users start it."""
    return subprocess.run(
        [sys.executable, "-m", "launch.slurm", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_every_problem_is_printed_and_nothing_is_submitted(launch: Launch, tmp_path: Path) -> None:
    done = launch(
        "--dry",
        "action=stopp",
        "chain=0",
        "dry_run=yes",
        "folow=true",
        f"output_dir={tmp_path}",
        "cluster.num_nodes=0",
        "parallel.data_parallel_size=2",
        "cluster.slurm.time_limit=long",
        "cluster.slurm.partitoin=gpu",
        "cluster.slurm.cpus_per_task=0",
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line.split(". ", 1)[1] for line in done.stderr.splitlines()[1:]]
    assert [line.partition(": ")[0] for line in lines] == [
        "--dry",
        "folow",
        "action",
        "dry_run",
        "chain",
        "cluster.slurm.partitoin",
        "cluster.num_nodes",
        "cluster.slurm.cpus_per_task",
        "model.vocab_size",
        "data.train",
        "cluster.slurm.time_limit",
    ]
    assert lines[2] == "action: no such action (got stopp). Did you mean stop? Use submit, status, stop or logs."
    assert list(tmp_path.iterdir()) == []


def test_processes_that_nodes_cannot_share_are_refused(launch: Launch) -> None:
    done = launch(*GOOD, "dry_run=true", "cluster.num_nodes=3", "parallel=dp2_pp2", "training.global_batch_size=16")
    assert done.returncode == 2
    assert (
        "cluster.num_nodes: must divide the 4 processes of the layout: every node starts the same number (got 3)."
        " Use 1, 2 or 4, or set cluster.gpus_per_node." in done.stderr
    )


def test_the_script_asks_for_what_the_configuration_says(render: Render, tmp_path: Path) -> None:
    script = render(
        *("cluster=h100", "cluster.num_nodes=4", "training.global_batch_size=64", "cluster.slurm.partition=gpu"),
        *("cluster.slurm.account='a b'", "cluster.slurm.qos=long", "cluster.slurm.constraint='h100&ib'"),
        *("cluster.slurm.exclude='n[7-9]'", "cluster.slurm.gpu_type=h100", "cluster.slurm.cpus_per_task=96"),
        *("cluster.slurm.memory='0'", "cluster.slurm.exclusive=true", "cluster.slurm.mail_type=[FAIL,END]"),
        *("cluster.slurm.time_limit=1-12", "cluster.slurm.warn_seconds=600"),
        "cluster.slurm.options={comment: my run, no-kill: null}",
    )
    found = directives(script)
    stamp = found[1].rpartition("/slurm/")[2].partition("/")[0]
    assert found == [
        "job-name=trireme-first",
        f"output={tmp_path}/first/slurm/{stamp}/%j.out",
        "open-mode=append",
        "nodes=4",
        "ntasks-per-node=1",
        "cpus-per-task=96",
        "gpus-per-node=h100:8",
        "mem=0",
        "partition=gpu",
        "account='a b'",
        "qos=long",
        "constraint='h100&ib'",
        "exclude='n[7-9]'",
        "time=1-12",
        "signal=B:USR1@600",
        "mail-type=FAIL,END",
        "requeue",
        "exclusive",
        "comment='my run'",
        "no-kill",
    ]
    assert '--nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 8' in script
    assert "srun --kill-on-bad-exit=1 --cpus-per-task=96 " in script
    assert "--shutdown-timeout 480" in script


def test_directories_that_a_script_cannot_name_are_refused(launch: Launch, tmp_path: Path) -> None:
    for name, what in {"a:b": "PYTHONPATH", "a\\\\b": "sbatch's --output", "a\nb": "must be a single line"}.items():
        done = launch(*GOOD, "dry_run=true", f"output_dir='{tmp_path}/{name}'")
        assert done.returncode == 2, name
        assert "output_dir: " in done.stderr and what in done.stderr, done.stderr
    image = "cluster.slurm.container.image=/images/trireme.sqsh"
    done = launch(*GOOD, "dry_run=true", f"output_dir='{tmp_path}/a,b'", image)
    assert "must not contain ',', which is invalid in the container's mounts" in done.stderr
    done = launch(*GOOD, "dry_run=true", image, "cluster.slurm.container.mounts=['/a,b:/b']")
    assert "cluster.slurm.container.mounts[0]: must not contain a comma" in done.stderr


def test_surroundings_of_the_run(render: Render) -> None:
    script = render(
        *("cluster.slurm.modules=[cuda/12.8,'my module']", r"cluster.slurm.setup=['ulimit -l \${LOCKED}']"),
        "cluster.slurm.network_interface=ib0",
        'cluster.slurm.environment={GLOO_SOCKET_IFNAME: eth0, NCCL_DEBUG: INFO, WORDS: "it\'s here", FLAG: true}',
        "cluster.slurm.python=/opt/python",
    )
    lines = script.splitlines()
    start = lines.index("module load cuda/12.8 || exit")
    assert lines[start : start + 8] == [
        "module load cuda/12.8 || exit",
        "module load 'my module' || exit",
        "ulimit -l ${LOCKED}",
        "export NCCL_SOCKET_IFNAME=ib0",
        "export GLOO_SOCKET_IFNAME=eth0",
        "export NCCL_DEBUG=INFO",
        "export WORDS='it'\"'\"'s here'",
        "export FLAG=true",
    ]
    assert "/opt/python -m trainer.torchrun" in script


def test_values_of_variables_extend_what_a_node_has(render: Render) -> None:
    values = {
        "LIBRARIES": r"/opt/my lib:\${LIBRARIES}",
        "FURTHER": r"/a\${FURTHER:+:\${FURTHER}}",
        "UNSET": r'<\${UNSET}|\${UNSET:-a"`b`$c}>',
        "PLAIN": "$HOME `x`",
    }
    script = render(
        f"cluster.slurm.environment={{{','.join(f'{name}: {quote_text(v)}' for name, v in values.items())}}}"
    )
    exports = [line for line in script.splitlines() if line.startswith("export ")][: len(values)]
    show = "".join(f'echo "${name}"; ' for name in values)
    node = {"LIBRARIES": "/usr/lib", "FURTHER": "/b  c"}
    done = subprocess.run(["bash", "-uc", "\n".join([*exports, show])], env=node, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["/opt/my lib:/usr/lib", "/a:/b  c", '<|a"`b`$c>', "$HOME `x`"]


def test_srun_is_given_further_options_and_a_port(render: Render) -> None:
    script = render("cluster.slurm.srun_options={mpi: none, label: null, cpu-bind: 'map_cpu:0 1'}")
    assert "srun --kill-on-bad-exit=1 --cpus-per-task=1 --mpi=none --label --cpu-bind='map_cpu:0 1' " in script
    ports = re.findall(r"port=\$\(\((.*)\)\)", script)
    for job in (0, 11_999, 7_654_321):
        given = int(subprocess.check_output(["bash", "-c", f"SLURM_JOB_ID={job}; echo $(({ports[0]}))"]))
        further = int(subprocess.check_output(["bash", "-c", f"port={given}; echo $(({ports[1]}))"]))
        assert {given, further} <= set(range(20_000, 32_000)) and given != further, "clients' begin at 32768"
    assert "port=29500\n" in render("cluster.slurm.rendezvous_port=29500")


GPU_NODES = """\
NodeName=a1 CPUTot=128 CPUEfctv=120 Gres=gpu:h100:8(S:0-1) Partitions=gpu
NodeName=a2 CPUTot=64 CPUEfctv=64 Gres=gpu:h100:4,shard:64 Partitions=gpu
NodeName=a3 CPUTot=16 CPUEfctv=16 Gres=gpu:t4:8 Partitions=gpu
"""
PARTITIONS = """\
PartitionName=cpu Default=YES MaxCPUsPerNode=UNLIMITED JobDefaults=(null) Nodes=c[1-9]
PartitionName=gpu Default=NO MaxCPUsPerNode={most} JobDefaults={defaults} Nodes=a[1-3]
"""


@pytest.mark.parametrize(
    ("overrides", "most", "defaults", "cpus"),
    [
        (("cluster.gpus_per_node=4", "cluster.slurm.gpu_type=h100"), "UNLIMITED", "(null)", 60),
        (("cluster.gpus_per_node=8", "cluster.slurm.gpu_type=h100"), "UNLIMITED", "(null)", 120),
        (("cluster.gpus_per_node=4", "cluster.slurm.gpu_type=h100"), "56", "(null)", 28),
        (("cluster.gpus_per_node=4",), "UNLIMITED", "(null)", 8),
        (("cluster.gpus_per_node=4",), "UNLIMITED", "DefCpuPerGPU=7", None),
        (("cluster.gpus_per_node=4", "cluster.slurm.exclusive=true"), "UNLIMITED", "(null)", None),
        (("cluster.gpus_per_node=4", "cluster.slurm.cpus_per_gpu=6"), "UNLIMITED", "(null)", None),
        (("cluster.gpus_per_node=4", "cluster.slurm.cpus_per_task=3"), "UNLIMITED", "(null)", 3),
        (("parallel=dp2_pp2",), "UNLIMITED", "(null)", 4),
    ],
)
def test_a_task_gets_its_devices_share_of_the_cpus(
    render: Render,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    overrides: tuple[str, ...],
    most: str,
    defaults: str,
    cpus: int | None,
) -> None:
    programs = tmp_path_factory.mktemp("bin")
    (programs / "partition").write_text(PARTITIONS.format(most=most, defaults=defaults))
    (programs / "node").write_text(GPU_NODES)
    # What scontrol prints, with the fields that matter.
    (programs / "scontrol").write_text(f'#!/bin/sh\nexec cat "{programs}/$3"\n')
    (programs / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    script = render("cluster.slurm.partition=gpu", *overrides)
    asked = [line for line in directives(script) if line.startswith("cpus-per-task")]
    assert asked == ([] if cpus is None else [f"cpus-per-task={cpus}"])
    assert (f"srun --kill-on-bad-exit=1 --cpus-per-task={cpus} " in script) == (cpus is not None)
    assert ("cpus-per-gpu=6" in directives(script)) == ("cluster.slurm.cpus_per_gpu=6" in overrides)


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_containers(render: Render, tmp_path: Path, runtime: str) -> None:
    script = render(
        "cluster=h100",
        "training.global_batch_size=16",
        f"cluster.slurm.container.runtime={runtime}",
        "cluster.slurm.container.image=/images/my trireme.sqsh",
        "cluster.slurm.container.mounts=['/data:/data:ro']",
    )
    here = f"{REPOSITORY}:{REPOSITORY}"
    if runtime == "pyxis":
        assert (
            "srun --kill-on-bad-exit=1 --cpus-per-task=8 --container-image='/images/my trireme.sqsh'"
            f" --container-mounts={here},{tmp_path}:{tmp_path},/data:/data:ro --container-workdir={REPOSITORY}"
            ' --container-env="$container_variables" \\\n  bash -c "$run_node" "$codes" python3 -m trainer.torchrun'
            in script
        )
    else:
        assert (
            'srun --kill-on-bad-exit=1 --cpus-per-task=8 \\\n  bash -c "$run_node" "$codes" apptainer exec --nv'
            f" --bind {here} --bind {tmp_path}:{tmp_path} --bind /data:/data:ro --pwd {REPOSITORY}"
            " '/images/my trireme.sqsh' python3" in script
        )


def test_a_sweep_of_like_runs_is_one_array_and_unlike_ones_are_jobs(render: Render, tmp_path: Path) -> None:
    script = render("-m", "optimizer.lr=1e-3,3e-4", "training.seed=1,2", "cluster.slurm.max_running=2")
    assert "array=0-3%2" in directives(script)
    names = ("lr_0.001_seed_1", "lr_0.001_seed_2", "lr_0.0003_seed_1", "lr_0.0003_seed_2")
    assert "run_directories=(\n" + "".join(f"  {tmp_path}/first_{name}\n" for name in names) + ")\n" in script
    scripts = render("-m", "parallel=dp2,dp2_pp2", "cluster.num_nodes=1")
    assert [line for line in directives(scripts) if line.startswith("array")] == []
    assert "--nproc-per-node 2 " in scripts and "--nproc-per-node 4 " in scripts


def test_a_sweep_names_what_is_wrong_with_every_run(launch: Launch) -> None:
    done = launch(
        *GOOD,
        "dry_run=true",
        "-m",
        "optimizer.lr=1e-3,fast,1e-3",
        "training.seed=interval(0,1)",
        "optimizer.clip_grad=1,choice(2,3)",
    )
    assert done.returncode == 2
    assert "optimizer.lr: several runs would have the same suffix, 0.001 (got 1e-3,fast,1e-3)" in done.stderr
    assert "training.seed: invalid sweep" in done.stderr
    assert "optimizer.clip_grad: invalid sweep" in done.stderr
    assert done.stderr.startswith("3 errors; "), "and no word of what follows from them"
    done = launch(*GOOD, "dry_run=true", "-m", "optimizer.lr=1e-3,fast,-1", "model.num_layers=4,7", "parallel=dp2_pp2")
    assert "optimizer.lr: expected a number, got a string (fast)" in done.stderr
    assert "optimizer.lr: must be more than 0 (got -1.0)" in done.stderr
    assert done.stderr.count("model.num_layers: must be a multiple") == 1, "once, however many runs have it"
    assert "-m: requires an override with several values" in launch(*GOOD, "dry_run=true", "-m").stderr


def test_choices_are_those_of_hydra() -> None:
    def values(*overrides: str) -> list[tuple[str, ...]]:
        return [choice.overrides for choice in expand_sweep(overrides).choices]

    assert values("a=1,2", "b=x") == [("a=1", "b=x"), ("a=2", "b=x")]
    assert values("a=range(1,4)") == [("a=1",), ("a=2",), ("a=3",)]
    assert values("model=glob(llama*)") == [("model=llama_1b",), ("model=llama_70b",), ("model=llama_8b",)]
    assert values("output_dir=/größe/a,/größe/b")[1] == ('output_dir="/größe/b"',)
    assert values("data.train=[{paths:[a,b]}]", "a=choice(1,2)")[1] == ("data.train=[{paths:[a,b]}]", "a=2")


def test_names_of_runs_tell_paths_with_one_end_apart() -> None:
    names = [choice.name for choice in expand_sweep(["x.lr=1", "a.lr=1e-3,2", "b.lr='p q',r/s"]).choices]
    assert names == ["a.lr_0.001_b.lr_p-q", "a.lr_0.001_b.lr_r-s", "a.lr_2_b.lr_p-q", "a.lr_2_b.lr_r-s"]
    assert [choice.name for choice in expand_sweep(["run_name=a,b", "x=1,2"]).choices] == [None] * 4


def test_own_words_are_taken_out_of_the_overrides() -> None:
    request = parse_request(["action=logs", "follow=true", "model=x", "chain=3", "--multirun", "dry_run=true"])
    assert (request.action, request.follow, request.chain, request.is_sweep) == ("logs", True, 3, True)
    assert request.dry_run
    assert request.overrides == ("model=x",)
    assert request.problems == ()


def test_without_slurm_it_says_so_and_leaves_nothing_behind(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    done = launch(*GOOD, f"output_dir={tmp_path}")
    assert done.returncode == 1
    assert (
        done.stderr == "Slurm error:\n  sbatch is not installed on this host; submit from a login node of the cluster\n"
    )
    assert list(tmp_path.glob("first/slurm/*")) == []
    idle = launch(*GOOD, f"output_dir={tmp_path}", "action=status")
    assert idle.returncode == 2
    assert f"run_name: this run was never submitted: {tmp_path}/first has no record of a job" in idle.stderr


def test_data_is_prepared_by_the_same_command(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a note")
    sources = f"data_prep.sources=[{{name:notes,kind:text,paths:['{tmp_path}/*.txt']}}]"
    done = start("dry_run=true", sources, f"data_prep.output_dir={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#SBATCH --job-name=trireme-data-") == 4
    done = launch("data_prep=custom", "action=stop", "chain=2", "-m")
    assert done.returncode == 2
    assert [line.split(". ", 1)[1].partition(": ")[0] for line in done.stderr.splitlines()[1:]] == [
        "action",
        "chain",
        "-m",
    ]


def test_the_copy_of_the_code_stands_alone(tmp_path: Path) -> None:
    copy_code(tmp_path / "code")
    # Nothing of it comes from this directory: -P, and a place that has no project.
    show = "import trireme.config.compose as c; print(c.__file__, c.CONF_DIR)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", show],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "code")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "code/trireme/config/compose.py"), str(tmp_path / "code/conf")]


def test_stamps_of_one_second_differ(tmp_path: Path) -> None:
    now = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    stamps = []
    for _ in range(3):
        stamps.append(new_stamp(tmp_path, now=now))
        (tmp_path / "slurm" / stamps[-1]).mkdir(parents=True)
    assert stamps == ["20260131-235959", "20260131-235959-2", "20260131-235959-3"]


def test_help_and_no_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = sys.argv[2:]; from launch.slurm.__main__ import main; code = main();"
        " heavy = {'torch', 'megatron', 'deepspeed', 'numpy'} & set(sys.modules); assert not heavy, heavy;"
        " sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--", *GOOD, "dry_run=true"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    done = start("--help")
    assert done.returncode == 0
    assert "usage: trireme slurm" in done.stdout


def test_a_container_gets_the_variables_of_the_job(render: Render, tmp_path: Path) -> None:
    """Pyxis would otherwise let those of the image win; the script's own lines find what setup has set."""
    script = render(
        "cluster=h100",
        "training.global_batch_size=16",
        "cluster.slurm.container.image=/images/trireme.sqsh",
        "cluster.slurm.environment={MY_OWN: 1}",
        "cluster.slurm.setup=['export FI_PROVIDER=efa NCCL_NET=gIB OTHER=1']",
    )
    begin = script.index("container_variables=$(")
    lines = script[begin : script.index("\n\n", begin)]
    setup = "export FI_PROVIDER=efa NCCL_NET=gIB OTHER=1"
    printed = subprocess.run(
        ["bash", "-c", f'{setup}\n{lines}\necho "$container_variables"'], capture_output=True, text=True, check=True
    )
    names = printed.stdout.strip().split(",")
    assert {"FI_PROVIDER", "NCCL_NET", "MY_OWN", "OMP_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF"} <= set(names)
    assert "OTHER" not in names


def test_launchers_meet_in_the_fast_network(render: Render) -> None:
    script = render("cluster.num_nodes=2", "parallel=dp2", "cluster.slurm.rendezvous_host_suffix=i")
    assert "\nfirst_node+=i\n" in script and '--rdzv-endpoint "$first_node:$port"' in script
    assert "\nexport PET_RDZV_CONF=is_host=$((SLURM_NODEID == 0)) PET_LOCAL_ADDR=${SLURMD_NODENAME}i\n" in script
    assert "first_node+=" not in render("cluster.num_nodes=2", "parallel=dp2")


def test_gpus_get_the_variables_that_libraries_ask_for(render: Render, tmp_path: Path) -> None:
    hard = str(tmp_path / """a 'b' "c" $HOME `d` {e} (f)""")
    script = render(
        "cluster=h100",
        "parallel=tp8",
        "model=llama_8b",
        "training.global_batch_size=16",
        "run_name=first",
        f"output_dir={quote_text(hard)}",
        "cluster.slurm.environment={TORCH_NCCL_TRACE_BUFFER_SIZE: 0}",
    )
    assert '\nexport CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"\n' in script
    assert '="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"\n' in script
    (line,) = (line for line in script.splitlines() if "DEBUG_INFO_TEMP_FILE" in line)
    (directory,) = (line for line in script.splitlines() if line.startswith("run_directory="))
    shell = ["bash", "-c", f'{directory}; {line}; echo "$TORCH_NCCL_DEBUG_INFO_TEMP_FILE"']
    told = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    assert told == f"{hard}/first/logs/nccl_trace_rank_\n"
    assert "\nexport TORCH_NCCL_TRACE_BUFFER_SIZE=0\n" in script, "the user's own value stands"
    assert "CUDA_DEVICE_MAX_CONNECTIONS=" not in render("cluster=h100", "training.global_batch_size=16")
