"""Render the batch script from slurm/train.sbatch, for one run or several that need the same kind of job."""

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
from launch.slurm.run_record import describe_code
from trainer.config.rules.slurm import REFERENCE
from trainer.config.schema import TrainConfig
from trainer.config.slurm import ContainerConfig
from trireme.errors import Violation
from trireme.project import PROJECT_ROOT
from trireme.slurm import array_range, is_one_line, literal_path, render_directives

FIRST_PORT, NUM_PORTS = 20000, 12000
"""Ports for the rendezvous: below the ephemeral ones, which begin at 32768 on Linux."""
_LEAVING_SHARE = 0.8
"""Share of the time between the warning and the end that processes get to save; the rest is for requeueing."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Describe one job or job array, and the runs that it executes."""

    configs: Sequence[TrainConfig]
    """One per run; they have the same Slurm options."""
    stamp: str
    """Name of the submission."""
    folder: Path
    """Contains the script and the code; absolute."""
    title: str
    """Name of the run or of the sweep."""
    name: str = "job"
    """File name of the script in the folder, without its suffix."""
    chain: int = 1
    """Number of dependent submissions."""
    bad_nodes: Sequence[str] = ()
    """Nodes to exclude, by Slurm's names."""
    max_running: int | None = None
    """Maximum number of its runs at a time; None sets no limit."""

    @property
    def script_path(self) -> Path:
        """Return the path of the script."""
        return self.folder / f"{self.name}.sbatch"

    @property
    def chain_path(self) -> Path:
        """Return the path of the file with the job ids of a chain."""
        return self.folder / f"{self.name}.chain"

    @property
    def output(self) -> Path:
        """Return the path of the jobs' output, with Slurm's %j, %A and %a."""
        return self.folder / ("%A_%a.out" if len(self.configs) > 1 else "%j.out")


def directory_of(config: TrainConfig) -> Path:
    """Return the run directory as an absolute path: jobs start in another working directory."""
    return Path(config.output_dir, config.run_name).absolute()


def check_paths(config: TrainConfig) -> Iterator[Violation]:
    """Report directories whose names cannot be written in a batch script or in a list of container mounts."""
    has_container = config.cluster.slurm.container.image is not None
    output = directory_of(config).parent
    for path, directory in (("output_dir", output), ("working directory", Path.cwd())):
        reasons = {}
        if path == "output_dir":
            # Slurm does not expand %j in a name with a backslash: all jobs would write to one file %j.out.
            reasons = {"\\": "sbatch's --output", ":": "PYTHONPATH"}
        if has_container:
            reasons |= dict.fromkeys(":,", "the container's mounts")
        text = str(directory)
        what = [
            f"must not contain {letter!r}, which is invalid in {reason}"
            for letter, reason in reasons.items()
            if letter in text
        ]
        if not is_one_line(text) or not _is_utf8(text):
            what.append("must be a single line of UTF-8")
        if what:
            fix = "Use another directory." if path == "output_dir" else "Submit from another directory."
            yield Violation(path=path, value=repr(text), message=", and ".join(what), fix=fix)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # what Python makes of other bytes in a file's name
        return False
    return True


def rendezvous_port(config: TrainConfig) -> str:
    """Return the port as a shell expression: jobs that share a node use different ones."""
    return str(config.cluster.slurm.rendezvous_port or f"$(({FIRST_PORT} + SLURM_JOB_ID % {NUM_PORTS}))")


def render_job(job: Job, *, command: Sequence[str]) -> str:
    """Return the text of the script.

    Args:
        command: the command line that submits it, for the script's header.
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
        # Shell scripts contain {#.
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
        next_port=None if slurm.rendezvous_port else f"$(({FIRST_PORT} + (port + 1 - {FIRST_PORT}) % {NUM_PORTS}))",
        shutdown_seconds=max(1, int(slurm.warn_seconds * _LEAVING_SHARE)),
        chain=job.chain,
        chain_file=shlex.quote(str(job.chain_path)),
    )


def job_directives(job: Job, *, cpus: int | None) -> list[str]:
    """Return the #SBATCH lines.

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
    """Return a job's size and placement as long options of sbatch and srun; an option with None is omitted.

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
    """Return the Python interpreter of the run's processes."""
    slurm = config.cluster.slurm
    return slurm.python or ("python3" if slurm.container.image else sys.executable)


def environment_of(config: TrainConfig) -> dict[str, str]:
    """Return the run's variables, quoted for a shell: those of devices and network first, so that later ones win."""
    slurm = config.cluster.slurm
    network = slurm.network_interface
    variables = dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), network) if network else {}
    given = {
        name: str(value).lower() if isinstance(value, bool) else value for name, value in slurm.environment.items()
    }
    quoted = {name: _quote_value(str(value)) for name, value in {**variables, **given}.items()}
    # Those of the submitting user win. The script sets the directory, which differs between the runs of an array.
    devices = {
        name: f'"${{{name}:-{value}}}"'
        for name, value in device_variables(config, run_directory=PurePosixPath("$run_directory")).items()
        if name not in quoted
    }
    return {**devices, **quoted}


def _quote_value(text: str) -> str:
    """Quote a value for a shell that expands the variables in it; an unset one becomes empty."""
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
    """Return the options of the srun that starts one launcher on each node, quoted for a shell.

    Args:
        cpus: of `cpus_per_task`.
    """
    slurm = config.cluster.slurm
    options = ["--kill-on-bad-exit=1"]
    if cpus is not None:
        # Since 22.05, srun does not inherit it from sbatch.
        options.append(f"--cpus-per-task={cpus}")
    if slurm.container.image and slurm.container.runtime == "pyxis":
        options += [
            f"--container-image={shlex.quote(slurm.container.image)}",
            f"--container-mounts={shlex.quote(','.join(_mounts(slurm.container, config)))}",
            f"--container-workdir={shlex.quote(str(Path.cwd()))}",
            # Otherwise the image's variables take precedence over the job's.
            '--container-env="$container_variables"',
        ]
    for name, value in slurm.srun_options.items():
        options.append(f"--{name}" + ("" if value is None else f"={shlex.quote(str(value))}"))
    return options


def container_prefix(config: TrainConfig) -> str:
    """Return the command prefix of a task that runs in Apptainer."""
    container = config.cluster.slurm.container
    if not container.image or container.runtime != "apptainer":
        return ""
    gpus = ["--nv"] if config.cluster.gpus_per_node is not None else []
    binds = [word for mount in _mounts(container, config) for word in ("--bind", mount)]
    return shlex.join(["apptainer", "exec", *gpus, *binds, "--pwd", str(Path.cwd()), container.image]) + " "


def _mounts(container: ContainerConfig, config: TrainConfig) -> list[str]:
    places = dict.fromkeys((str(Path.cwd()), str(Path(config.output_dir).absolute())))
    return [*(f"{place}:{place}" for place in places), *container.mounts]
