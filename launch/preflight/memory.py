"""Whether the planner predicts that the run fits in the device's memory."""

from launch.plan.coefficients import load_coefficients
from launch.plan.from_config import check_setting
from launch.plan.plan import make_plan
from launch.preflight.finding import Finding, judge, skipped, warn
from trainer.config.schema import TrainConfig
from trireme.errors import Violation


def check_memory(config: TrainConfig) -> Finding:
    """Compare the fullest stage's predicted memory with the device's; what is too large comes with what would fit.

    Args:
        config: one that breaks no rule.
    """
    if config.cluster.device is None:
        return skipped("memory", "cluster.device is null: the device's memory is not known")
    problems = list(check_setting(config))
    if problems:
        return warn("memory", problems, otherwise="")
    plan = make_plan(config, load_coefficients(), num_best=0)
    violations = []
    if (refusal := plan.configured_refusal) is not None:
        near = "; ".join(" ".join(candidate.overrides) for candidate in refusal.nearest)
        fix = f"the nearest layouts that fit: {near}" if near else "use more or larger devices; no layout fits"
        violations.append(Violation(path="layout", value=refusal.layout, rule=refusal.reason, fix=fix))
    prediction = plan.prediction
    assert prediction is not None
    need, have = prediction.peak_bytes / 2**30, prediction.device_memory_bytes / 2**30
    return judge("memory", violations, otherwise=f"{need:.1f} GiB of {have:.0f} on the fullest device, predicted")
