"""A Slurm cluster of several nodes on this machine, from the daemons of the distribution's packages.

Each node is a tree of processes with its own host name, process ids, and view of /etc/hosts (Linux namespaces), so that
nodes find each other by name, and ending the tree is what a power cut is to a real node. Everything lies in one
temporary directory and listens on free ports: no system file is touched, and other clusters are not disturbed.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launch.slurm.render import NUM_PORTS

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "setpriv")
# Daemons lie in directories that are not on everyone's PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
FREEZER = Path("/sys/fs/cgroup/freezer")
"""Where Slurm keeps a job's processes under cgroup v1."""
CPUS_PER_NODE = 4
GPUS_PER_NODE = 2
MEGABYTES_PER_NODE = 4096
JOBS_PER_CLUSTER = 500
"""More than the tests of this folder submit."""
RUNNING_STATES = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "PENDING", "REQUEUED", "SUSPENDED", "STOPPED"})

_CONF = """\
ClusterName=trireme
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
FirstJobId={first_job}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired; 5 s is the least, 120 s the default.
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdSpoolDir={directory}/%n/spool
SlurmdPidFile={directory}/%n/slurmd.pid
SlurmdLogFile={directory}/%n.log
PlugStackConfig={directory}/plugstack.conf
Prolog={directory}/prolog
MpiDefault=none
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# Nodes claim more CPUs and memory than this machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=256
GresTypes=gpu
SchedulerParameters=sched_min_interval=0,sched_interval=2,batch_sched_delay=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# What --signal asks for is also sent to a job before it is preempted.
SlurmctldParameters=preempt_send_user_signal
# Jobs stay visible: there is no accounting to ask.
MinJobAge=86400
KillWait=5
# A node on a busy machine is slow, not dead.
SlurmdTimeout=120
ReturnToService=2
MessageTimeout=60
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=30 MaxTime=60
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=off MaxTime=60
{settings}
"""
_NODE = (
    "NodeName={name} NodeAddr={address} NodeHostname={name} Port={port} CPUs={cpus} RealMemory={memory}"
    " Gres=gpu:{gpus} State=UNKNOWN"
)
# Runs as the first process of a node; what is left without a parent becomes its child, and bash takes leave of it.
_NODE_INIT = """\
set -e
mount --bind "$1/hosts" /etc/hosts
hostname "$2"
"$3" -D -N "$2" -f "$1/slurm.conf" &
wait
"""


class SlurmUnavailableError(Exception):
    """Why no cluster can be started here."""


@dataclass(frozen=True)
class Node:
    """A node that is or was up."""

    name: str
    address: str
    port: int


class SlurmCluster:
    """A controller and its nodes; `with SlurmCluster(num_nodes=2) as cluster` starts them and leaves nothing behind.

    Args:
        proctrack: how a node knows which processes belong to a job: by their ancestry, or their control group. Under
            the latter `scancel --signal` reaches only the first process of each task.
        settings: further ones of slurm.conf; `{directory}` in them is the cluster's own.
    """

    def __init__(
        self,
        *,
        num_nodes: int,
        proctrack: Literal["linuxproc", "cgroup"] = "linuxproc",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._num_nodes = num_nodes
        self._proctrack = proctrack
        self._settings = dict(settings or {})
        self._stack = ExitStack()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "SlurmCluster":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the daemons, and wait until all nodes serve jobs.

        Raises:
            SlurmUnavailableError: no cluster can be started here.
        """
        check_available()
        if self._proctrack == "cgroup" and not FREEZER.is_dir():
            raise SlurmUnavailableError(f"proctrack/cgroup needs {FREEZER}, or systemd under cgroup v2")
        with ExitStack() as stack:
            # Not in pytest's directory, which others may not enter, as munged demands; and sockets want a short path.
            self.directory = Path(tempfile.mkdtemp(prefix="slurm-"))
            stack.callback(shutil.rmtree, self.directory)
            stack.callback(self._end_daemons)
            self.directory.chmod(0o755)
            first_job = stack.enter_context(job_numbers())
            controller_port, *ports = find_free_ports(1 + self._num_nodes)
            self.nodes = [Node(f"n{i}", f"127.0.0.{10 + i}", port) for i, port in enumerate(ports, start=1)]
            self._write_files(controller_port, first_job=first_job)
            self._start_daemons()
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """End all jobs and daemons, and remove their files."""
        self._stack.close()

    def _start_daemons(self) -> None:
        kinds = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = [f"--{option}={self.directory}/munge.{suffix}" for option, suffix in kinds.items()]
        self._start_daemon("munged", find_program("munged"), "--foreground", *munge)
        wait_until((self.directory / "munge.socket").exists, what="munged", seconds=10, explain=self.read_logs)
        self._start_daemon("slurmctld", find_program("slurmctld"), "-D", "-f", f"{self.directory}/slurm.conf")
        for node in self.nodes:
            self.start_node(node.name)
        wait_until(self._is_idle, what="the nodes", seconds=60, explain=self.read_logs)

    def _write_files(self, controller_port: int, *, first_job: int) -> None:
        directory = self.directory
        nodes = [
            _NODE.format(
                name=node.name,
                address=node.address,
                port=node.port,
                cpus=CPUS_PER_NODE,
                memory=MEGABYTES_PER_NODE,
                gpus=GPUS_PER_NODE,
            )
            for node in self.nodes
        ]
        conf = _CONF.format(
            directory=directory,
            controller_port=controller_port,
            first_job=first_job,
            proctrack=self._proctrack,
            nodes="\n".join(nodes),
            settings="\n".join(f"{name}={value.format(directory=directory)}" for name, value in self._settings.items()),
        )
        (directory / "cgroup.conf").write_text("CgroupAutomount=no\nCgroupPlugin=cgroup/v1\n")
        (directory / "slurm.conf").write_text(conf)
        (directory / "plugstack.conf").touch()
        (directory / "prolog").write_text(f"#!/bin/sh\nwhile [ -e {directory}/hold ]; do sleep 0.1; done\n")
        (directory / "prolog").chmod(0o755)
        (directory / "gres.conf").write_text(f"Name=gpu File={directory}/gpu[0-{GPUS_PER_NODE - 1}]\n")
        for number in range(GPUS_PER_NODE):
            # Slurm wants a device.
            (directory / f"gpu{number}").symlink_to("/dev/null")
        for folder in ("state", *(node.name for node in self.nodes)):
            (directory / folder).mkdir(mode=0o755)
        names = "".join(f"{node.address} {node.name}\n" for node in self.nodes)
        (directory / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (directory / "munge.key").touch(mode=0o600)
        (directory / "munge.key").write_bytes(os.urandom(1024))

    def _start_daemon(self, name: str, *command: str) -> None:
        with open(self.directory / f"{name}.out", "ab") as output:
            self._daemons[name] = subprocess.Popen(
                # A test run that is killed takes its daemons with it.
                [find_program("setpriv"), "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                start_new_session=True,
            )

    def start_node(self, name: str) -> None:
        """Start a node's daemon; the node serves jobs when the controller says so (`wait_for_node`)."""
        spaces = ("--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        init = ("bash", "-c", _NODE_INIT, "init", str(self.directory), name, find_program("slurmd"))
        self._start_daemon(name, find_program("unshare"), *spaces, *init)

    def crash_node(self, name: str) -> None:
        """End all processes of a node at once, as when its power is cut; tell the controller with `take_down_node`."""
        end_process(self._daemons.pop(name), signal.SIGKILL)

    def take_down_node(self, name: str) -> None:
        """Tell the controller that a node is dead, as an operator does who need not wait for SlurmdTimeout."""
        self.ask("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=test")

    def bring_back_node(self, name: str) -> None:
        """Start a node that has crashed, and wait until it serves jobs."""
        self.start_node(name)
        self.ask("scontrol", "update", f"NodeName={name}", "State=RESUME")
        self.wait_for_node(name, "IDLE", "ALLOCATED", "MIXED")

    @contextmanager
    def held_prologs(self) -> Iterator[None]:
        """Keep jobs that get their nodes meanwhile in the prolog, as a slow check of the nodes does."""
        hold = self.directory / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def _end_daemons(self) -> None:
        for node in self.nodes:
            if node.name in self._daemons:
                self.crash_node(node.name)
        for daemon in reversed(self._daemons.values()):
            end_process(daemon, signal.SIGTERM)
        self._daemons.clear()
        if self._proctrack == "cgroup":
            for node in self.nodes:
                for group, _, _ in os.walk(FREEZER / f"slurm_{node.name}", topdown=False):
                    os.rmdir(group)

    def environment(self, **changes: str) -> dict[str, str]:
        """Variables for commands that are to find this cluster, and no other that this process may be a job of."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        return {**own, "SLURM_CONF": str(self.directory / "slurm.conf"), **changes}

    def ask(self, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """Run a command of Slurm and return what it printed."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, cwd=cwd, env=env or self.environment()
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{self.read_logs()}"
        return done.stdout

    def submit(self, *arguments: str, cwd: Path | None = None, **variables: str) -> str:
        """Submit a batch job with the options and the script of sbatch; its number."""
        printed = self.ask("sbatch", "--parsable", *arguments, cwd=cwd, env=self.environment(**variables))
        return printed.strip().partition(";")[0]

    def show(self, job: str) -> list[dict[str, str]]:
        """What the controller knows of a job: one record, or one for each element of an array."""
        lines = self.ask("scontrol", "show", "job", "--oneliner", job).splitlines()
        return [dict(field.partition("=")[::2] for field in line.split()) for line in lines if line]

    def states(self, *jobs: str) -> list[str]:
        """The state of each job and element, such as RUNNING."""
        return [record["JobState"] for job in jobs for record in self.show(job)]

    def wait_for(self, job: str, *states: str, seconds: float = 120) -> None:
        """Wait until a job, all elements of an array, is in one of the states."""

        def is_there() -> bool:
            found = self.states(job)
            assert set(found) <= RUNNING_STATES | set(states), f"job {job} is {found}{self.read_logs()}"
            return set(found) <= set(states)

        wait_until(is_there, what=f"job {job} to be {' or '.join(states)}", seconds=seconds, explain=self.read_logs)

    def wait_for_node(self, name: str, *states: str, seconds: float = 60) -> None:
        """Wait until a node is in one of the states, such as IDLE or DOWN."""
        wait_until(lambda: self.node_states()[name] in states, what=f"node {name}", seconds=seconds)

    def node_states(self) -> dict[str, str]:
        """Each node's state without its flags."""
        lines = self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T").splitlines()
        return {name: state.rstrip("*~#!%$@^-").upper() for name, state in map(str.split, lines)}

    def squeue(self) -> list[dict[str, Any]]:
        """The jobs as `squeue --json` lists them."""
        jobs: list[dict[str, Any]] = json.loads(self.ask("squeue", "--json"))["jobs"]
        return jobs

    def cancel_all(self) -> None:
        """End all jobs, and wait until the nodes are free again."""
        self.ask("scancel", "--user=root")
        wait_until(self._is_idle, what="the nodes to be free", seconds=60, explain=self.read_logs)

    def read_logs(self) -> str:
        """The ends of all daemons' logs, for failures."""
        # What a daemon says before it opens its log is in the other file.
        paths = {path.stem: path for suffix in ("out", "log") for path in self.directory.glob(f"*.{suffix}")}
        ends = {name: path.read_text(errors="replace")[-3000:] for name, path in sorted(paths.items())}
        return "".join(f"\n--- {name}\n{end}" for name, end in ends.items())

    def _is_idle(self) -> bool:
        for name, daemon in self._daemons.items():
            assert daemon.poll() is None, f"{name} has ended{self.read_logs()}"
        asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, env=self.environment(), check=False)
        return asked.returncode == 0 and set(self.node_states().values()) == {"IDLE"}


def check_available() -> None:
    """Raise unless a cluster can be started here.

    Raises:
        SlurmUnavailableError: with the reason.
    """
    if os.geteuid():
        raise SlurmUnavailableError("only root can start Slurm's daemons and nodes")
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCH_PATH) is None]
    if missing:
        raise SlurmUnavailableError(f"{missing[0]} is not installed: apt-get install slurm-wlm munge")
    spaces = ("--mount", "--uts", "--pid", "--fork", "--mount-proc")
    tried = subprocess.run(
        [find_program("unshare"), *spaces, "mount", "--bind", "/etc/hosts", "/etc/hosts"],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        raise SlurmUnavailableError(f"nodes need namespaces of their own: {tried.stderr.strip()}")


def find_program(name: str) -> str:
    """The path of a program of `PROGRAMS`."""
    path = shutil.which(name, path=SEARCH_PATH)
    assert path is not None
    return path


def find_free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def job_numbers() -> Iterator[int]:
    """Reserve JOBS_PER_CLUSTER numbers of jobs, which no other cluster on this host uses; the first of them.

    A job's number decides on the port that its nodes meet at, and the nodes of all clusters share this host's network:
    clusters of several test processes that counted from 1 would meet each other's jobs, and hold each other's ports.
    """
    for block in range(NUM_PORTS // JOBS_PER_CLUSTER):
        with socket.socket(socket.AF_UNIX) as lock:
            try:
                lock.bind(f"\0trireme-test-slurm-{block}")  # abstract: it is gone with the process, whatever ends it
            except OSError:
                continue
            yield block * JOBS_PER_CLUSTER + 1
            return
    raise SlurmUnavailableError("too many clusters run on this host")


def end_process(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal, and SIGKILL if that does not end the process."""
    process.send_signal(number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    if process.poll() is None:
        process.kill()
        process.wait()


def wait_until(
    is_done: Callable[[], bool], *, what: str, seconds: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Ask until it is so.

    Raises:
        AssertionError: it is not so after that many seconds.
    """
    end = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}{explain()}"
        time.sleep(0.1)
