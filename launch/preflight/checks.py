"""Checks of the configuration's inputs, layout and memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.input_process import check_files, read_violations
from launch.plan.coefficients import load_coefficients
from launch.plan.from_config import check_planner_input
from launch.plan.plan import make_plan
from launch.preflight.finding import Finding, judge, skipped, warn
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors
from trireme.errors import Violation
from trireme.progress import format_number


def check_inputs(overrides: Sequence[str], *, config: TrainConfig, world_size: int, reads_all: bool) -> Finding:
    """Check that shards, tokenizer and checkpoint exist and are intact, as the trainer does.

    Args:
        overrides: those of the command line.
        config: the configuration that they compose.
        reads_all: compare checksums, too, whatever data.verify is; reads every byte.
    """
    verify = ["data.verify=checksum"] if reads_all and config.data.verify != "full" else []
    done = check_files("--world-size", str(world_size), "--", *overrides, *verify)
    found = read_violations(done)
    if found is None:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        rule = f"failed with exit code {done.returncode}: {last}"
        fix = "Run python -m trainer.check_inputs OVERRIDES to see its full output."
        return judge("inputs", [Violation(path="trainer.check_inputs", value="", message=rule, fix=fix)], otherwise="")
    num_shards = sum(len(dataset.paths) for dataset in (*config.data.train, *config.data.validation))
    depth = "checksums" if reads_all or config.data.verify in ("checksum", "full") else "sizes"
    valid = [f"{format_number(num_shards, 'shard')} ({depth} verified)"]
    valid += ["tokenizer"] if config.tokenizer.path else []
    valid += ["checkpoint"] if (has_checkpoint := _has_checkpoint(config)) else []
    listed = " and ".join(part for part in (", ".join(valid[:-1]), valid[-1]) if part)
    verb = "is" if len(valid) == num_shards == 1 else "are"
    start = "" if has_checkpoint else "; no checkpoint to resume: the run starts at step 0"
    return judge("inputs", found, otherwise=f"{listed} {verb} valid{start}")


def _has_checkpoint(config: TrainConfig) -> bool:
    """Return whether the run resumes from a checkpoint, as far as its files show; the trainer judges their content."""
    if config.resume in ("never", "restart"):
        return False
    own = Path(config.output_dir, config.run_name, "checkpoints").glob("step_*/manifest.json")
    return config.resume != "auto" or any(own)


def check_layout(config: TrainConfig) -> Finding:
    """Check that tensor-parallel groups stay within a host, whose links are about ten times as fast as the network."""
    per_host = config.cluster.gpus_per_node
    if per_host is None:
        return skipped("layout", "cluster.gpus_per_node=null: the number of devices per host is unknown")
    tensor = config.parallel.tensor_model_parallel_size
    good = f"tensor-parallel size {tensor} fits within hosts of {format_number(per_host, 'device')}"
    return judge("layout", _violations(config, per_host), otherwise=good)


def _violations(config: TrainConfig, per_host: int) -> Iterator[Violation]:
    parallel = config.parallel
    sizes = {
        "parallel.tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "parallel.expert_tensor_parallel_size": parallel.expert_tensor_parallel_size or 1,
    }
    inside = ", ".join(map(str, divisors(per_host)))
    for path, size in sizes.items():
        if size > 1 and per_host % size:
            yield Violation(
                path=path,
                value=size,
                message=f"splits a group across hosts of cluster.gpus_per_node={per_host}, whose links are slower",
                fix=f"Use {inside}, or allow=layout if the network between hosts is fast enough.",
            )


def check_memory(config: TrainConfig) -> Finding:
    """Compare the predicted memory of the fullest pipeline stage with the device's, and suggest layouts that fit.

    Args:
        config: a valid one.
    """
    if config.cluster.device is None:
        return skipped("memory", "cluster.device=null: the device's memory is unknown")
    problems = list(check_planner_input(config))
    if problems:
        return warn("memory", problems, otherwise="")
    plan = make_plan(config, load_coefficients(), num_best=0)
    violations = []
    if (refusal := plan.configured_refusal) is not None:
        near = "; ".join(" ".join(candidate.overrides) for candidate in refusal.nearest)
        fix = (
            f"Use one of the nearest layouts that fit: {near}."
            if near
            else "No layout fits: use more or larger devices."
        )
        violations.append(Violation(path="layout", value=refusal.layout, message=refusal.reason, fix=fix))
    prediction = plan.prediction
    assert prediction is not None
    need, have = prediction.peak_bytes / 2**30, prediction.device_memory_bytes / 2**30
    return judge("memory", violations, otherwise=f"predicted peak: {need:.1f} of {have:.0f} GiB on the fullest device")
