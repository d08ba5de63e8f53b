"""The batch script: slurm/train.sbatch, filled in for one or several runs that need the same kind of job."""

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launch.cli import processes_per_node
from launch.environment import device_variables
from launch.slurm.cpus import cpus_per_task
from launch.slurm.run_record import PROJECT_ROOT, describe_code
from trainer.config.rules.slurm import REFERENCE
from trainer.config.schema import TrainConfig
from trainer.config.slurm import ContainerConfig
from trireme.errors import Violation
from trireme.slurm import array_range, is_one_line, literal_path, render_directives

_FIRST_PORT, _NUM_PORTS = 20000, 12000
"""Below the ports that systems give to clients: Linux's begin at 32768."""
_LEAVING_SHARE = 0.8
"""Of the time between warning and end, what processes get to save before they are ended; the rest is for requeueing."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Runs that one job, or one job array, takes."""

    configs: Sequence[TrainConfig]
    """One per run; they differ in nothing that Slurm is told."""
    stamp: str
    """Name of the submission."""
    folder: Path
    """Holds the script and the code; absolute."""
    title: str
    """Name of the run or of the sweep."""
    name: str = "job"
    """Of the script in the folder, without its ending."""
    chain: int = 1
    """How often it is submitted, each behind the one before."""
    bad_nodes: Sequence[str] = ()
    """Nodes to avoid, by Slurm's names."""
    max_running: int | None = None
    """Of its runs, so many at a time; None sets no limit."""

    @property
    def script_path(self) -> Path:
        """Where the script is written."""
        return self.folder / f"{self.name}.sbatch"

    @property
    def chain_path(self) -> Path:
        """Where the numbers of a chain's jobs are written."""
        return self.folder / f"{self.name}.chain"

    @property
    def output(self) -> Path:
        """Where the jobs write, with Slurm's %j, %A and %a."""
        return self.folder / ("%A_%a.out" if len(self.configs) > 1 else "%j.out")


def directory_of(config: TrainConfig) -> Path:
    """The run directory, absolute: nodes start elsewhere."""
    return Path(config.output_dir, config.run_name).absolute()


def check_paths(config: TrainConfig) -> Iterator[Violation]:
    """Name directories that a batch script, or a container's list of mounts, has no way to write."""
    has_container = config.cluster.slurm.container.image is not None
    output = directory_of(config).parent
    for path, directory in (("output_dir", output), ("working directory", Path.cwd())):
        reasons = {}
        if path == "output_dir":
            # Slurm takes a name with a backslash as it is: all jobs would write to one file %j.out.
            reasons = {"\\": "sbatch's --output", ":": "PYTHONPATH"}
        if has_container:
            reasons |= dict.fromkeys(":,", "the container's mounts")
        text = str(directory)
        what = [
            f"holds {letter!r}, which cannot stand in {reason}" for letter, reason in reasons.items() if letter in text
        ]
        if not is_one_line(text) or not _is_utf8(text):
            what.append("is no single line of UTF-8")
        if what:
            fix = "use another directory" if path == "output_dir" else "submit from another directory"
            yield Violation(path=path, value=repr(text), message=", and ".join(what), fix=fix)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # what Python makes of other bytes in a file's name
        return False
    return True


def rendezvous_port(config: TrainConfig) -> str:
    """The port as a shell works it out on the nodes: jobs that share a node meet at different ones."""
    return str(config.cluster.slurm.rendezvous_port or f"$(({_FIRST_PORT} + SLURM_JOB_ID % {_NUM_PORTS}))")


def render_job(job: Job, *, command: Sequence[str]) -> str:
    """The script's text.

    Args:
        command: the command line that asked for it, to stand in the script.
    """
    config = job.configs[0]
    slurm = config.cluster.slurm
    cpus = cpus_per_task(config)
    code = describe_code()
    names = [one.run_name for one in job.configs]
    what = f"run {names[0]}" if len(names) == 1 else f"{len(names)} runs: {', '.join(names)}"
    environment = Environment(
        loader=FileSystemLoader(PROJECT_ROOT / "slurm"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # {# stands in shell scripts.
        comment_start_string="<#",
        comment_end_string="#>",
    )
    return environment.get_template("train.sbatch").render(
        title=f"Train {what}" + (f" ({code})" if code else ""),
        command=shlex.join(command).replace("\n", " "),
        directives=job_directives(job, cpus=cpus),
        code=shlex.quote(str(job.folder / "code")),
        run_directories=[shlex.quote(str(directory_of(one))) for one in job.configs],
        stamp=job.stamp,
        modules=[shlex.quote(module) for module in slurm.modules],
        setup=slurm.setup,
        environment=environment_of(config),
        working_directory=shlex.quote(str(Path.cwd())),
        processes_per_node=processes_per_node(config),
        exclude=shlex.quote(slurm.exclude) if slurm.exclude else None,
        max_fruitless=slurm.max_restarts_without_progress,
        warn_seconds=slurm.warn_seconds,
        srun_options=srun_options(config, cpus=cpus),
        container=container_prefix(config),
        is_pyxis=bool(slurm.container.image) and slurm.container.runtime == "pyxis",
        variables=" ".join(environment_of(config)),
        rendezvous_host_suffix=slurm.rendezvous_host_suffix or "",
        python=shlex.quote(python_on_nodes(config)),
        port=rendezvous_port(config),
        next_port=None if slurm.rendezvous_port else f"$(({_FIRST_PORT} + (port + 1 - {_FIRST_PORT}) % {_NUM_PORTS}))",
        shutdown_seconds=max(1, int(slurm.warn_seconds * _LEAVING_SHARE)),
        chain=job.chain,
        chain_file=shlex.quote(str(job.chain_path)),
    )


def job_directives(job: Job, *, cpus: int | None) -> list[str]:
    """The #SBATCH lines.

    Args:
        cpus: of `cpus_per_task`.
    """
    config, size = job.configs[0], len(job.configs)
    slurm = config.cluster.slurm
    options = {
        "job-name": f"trireme-{job.title}",
        "output": literal_path(job.output.parent) + f"/{job.output.name}",
        "open-mode": "append",
        "array": array_range(size, job.max_running) if size > 1 else None,
        **placement_options(config, cpus=cpus, bad_nodes=job.bad_nodes),
        "time": slurm.time_limit,
        "signal": f"B:USR1@{slurm.warn_seconds}",
        "mail-user": slurm.mail_user,
        "mail-type": ",".join(slurm.mail_type) or None,
    }
    flags = ["requeue", *(["exclusive"] if slurm.exclusive else [])]
    return list(render_directives(options, further={**dict.fromkeys(flags), **slurm.options}))


def placement_options(config: TrainConfig, *, cpus: int | None, bad_nodes: Sequence[str] = ()) -> dict[str, object]:
    """Where and how large a job is: options of sbatch and srun by their long names; None leaves one out.

    Args:
        cpus: of `cpus_per_task`.
    """
    slurm = config.cluster.slurm
    gpus = config.cluster.gpus_per_node if slurm.gpu_option != "none" else None
    wanted = None if gpus is None else ":".join(word for word in (slurm.gpu_type, str(gpus)) if word)
    exclude = [*([slurm.exclude] if slurm.exclude else []), *bad_nodes]
    return {
        "nodes": config.cluster.num_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cpus,
        "cpus-per-gpu": slurm.cpus_per_gpu,
        "gpus-per-node": wanted if slurm.gpu_option == "gpus-per-node" else None,
        "gres": f"gpu:{wanted}" if wanted and slurm.gpu_option == "gres" else None,
        "mem": slurm.memory,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "reservation": slurm.reservation,
        "exclude": ",".join(exclude) or None,
    }


def python_on_nodes(config: TrainConfig) -> str:
    """The interpreter of the run's processes."""
    slurm = config.cluster.slurm
    return slurm.python or ("python3" if slurm.container.image else sys.executable)


def environment_of(config: TrainConfig) -> dict[str, str]:
    """Variables of the run, as a shell sets them: of devices and network first, so that others can say otherwise."""
    slurm = config.cluster.slurm
    network = slurm.network_interface
    variables = dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), network) if network else {}
    given = {
        name: str(value).lower() if isinstance(value, bool) else value for name, value in slurm.environment.items()
    }
    quoted = {name: _quote_value(str(value)) for name, value in {**variables, **given}.items()}
    # Those of whoever submits win. The script knows the directory, which runs of an array do not share.
    devices = {
        name: f'"${{{name}:-{value}}}"'
        for name, value in device_variables(config, run_directory=PurePosixPath("$run_directory")).items()
        if name not in quoted
    }
    return {**devices, **quoted}


def _quote_value(text: str) -> str:
    """Quote a value for a shell that puts in the variables that it refers to; one that is not set is empty there."""
    quoted, position = "", 0
    for match in REFERENCE.finditer(text):
        before = text[position : match.start()]
        otherwise = re.sub(r"([\\\"`]|\$(?!\{))", r"\\\1", match["text"] or "")
        otherwise = re.sub(r"\$\{(\w+)\}", r"${\1:-}", otherwise)
        quoted += shlex.quote(before) if before else ""
        quoted += f'"${{{match["name"]}{match["operator"] or ":-"}{otherwise}}}"'
        position = match.end()
    rest = text[position:]
    return quoted + (shlex.quote(rest) if rest or not quoted else "")


def srun_options(config: TrainConfig, *, cpus: int | None) -> list[str]:
    """Options of the srun that starts one launcher on each node, quoted for a shell.

    Args:
        cpus: of `cpus_per_task`.
    """
    slurm = config.cluster.slurm
    options = ["--kill-on-bad-exit=1"]
    if cpus is not None:
        # From 22.05 on srun does not take it over from sbatch.
        options.append(f"--cpus-per-task={cpus}")
    if slurm.container.image and slurm.container.runtime == "pyxis":
        options += [
            f"--container-image={shlex.quote(slurm.container.image)}",
            f"--container-mounts={shlex.quote(','.join(_mounts(slurm.container, config)))}",
            f"--container-workdir={shlex.quote(str(Path.cwd()))}",
            # Else those of the image win over the job's.
            '--container-env="$container_variables"',
        ]
    for name, value in slurm.srun_options.items():
        options.append(f"--{name}" + ("" if value is None else f"={shlex.quote(str(value))}"))
    return options


def container_prefix(config: TrainConfig) -> str:
    """What stands before the command of a task that runs in Apptainer."""
    container = config.cluster.slurm.container
    if not container.image or container.runtime != "apptainer":
        return ""
    gpus = ["--nv"] if config.cluster.gpus_per_node is not None else []
    binds = [word for mount in _mounts(container, config) for word in ("--bind", mount)]
    return shlex.join(["apptainer", "exec", *gpus, *binds, "--pwd", str(Path.cwd()), container.image]) + " "


def _mounts(container: ContainerConfig, config: TrainConfig) -> list[str]:
    places = dict.fromkeys((str(Path.cwd()), str(Path(config.output_dir).absolute())))
    return [*(f"{place}:{place}" for place in places), *container.mounts]
