"""Define and load the settings of the certificate: the `certify` group."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from trireme.config.compose import ConfigRoot, compose_config
from trireme.config.fields import is_inside
from trireme.config.path_text import PathText
from trireme.config.ranges import Range, find_out_of_range
from trireme.errors import Violation

MAX_PERTURBED_RUNS = 64


@dataclass(frozen=True, kw_only=True)
class CertifyConfig:
    """Which layouts are compared, for how many steps, and the allowed differences."""

    layouts: list[Any] = field(default_factory=list)
    """Each a text such as `tp2.sp.pp2 megatron recompute=full`, or a mapping of overrides
    (docs/training/layout_equivalence.md). Without layouts, the layout of the configuration itself is compared."""
    reference: str = "single deepspeed zero1"
    """The layout that all layouts are compared with, in the same form; single is one process."""
    shapes: dict[str, Any] = field(default_factory=dict)
    """Model shapes: names for lists of overrides, to be used in layouts."""
    overrides: list[str] = field(default_factory=list)
    """Overrides of the training configuration, applied before those of the command line."""
    num_steps: int = 10
    """Optimizer steps of every run."""
    num_perturbed_runs: int = 8
    """Runs of the reference with random rounding errors; their spread determines the bounds."""
    false_alarm_rate: float = 0.01
    """Probability that a certificate fails without an error; a lower rate widens the bounds."""
    max_loss_difference: float | None = 1e-6
    """Upper limit of a loss's relative difference in fp32, in addition to the estimated bounds; null sets no limit."""
    max_grad_norm_difference: float | None = 1e-5
    """The same for gradient norms."""
    output_dir: PathText = "outputs/certificate"
    """Directory of certificate.json, certificate.html and the logs."""
    timeout_seconds: int = 300
    """Time limit of a layout, after which it has failed."""


@dataclass(frozen=True, kw_only=True)
class CertifyRoot:
    """conf/certify.yaml."""

    certify: CertifyConfig = field(default_factory=CertifyConfig)
    """The certificate's settings."""


ROOT = ConfigRoot(name="certify", schema=CertifyRoot)

RANGES = {
    "certify.num_steps": Range(minimum=1),
    "certify.num_perturbed_runs": Range(minimum=2, maximum=MAX_PERTURBED_RUNS),
    "certify.false_alarm_rate": Range(minimum=0, maximum=1, is_minimum_excluded=True, is_maximum_excluded=True),
    "certify.max_loss_difference": Range(minimum=0, is_minimum_excluded=True),
    "certify.max_grad_norm_difference": Range(minimum=0, is_minimum_excluded=True),
    "certify.timeout_seconds": Range(minimum=1),
}


def load_settings(overrides: Sequence[str]) -> tuple[CertifyConfig, list[Violation]]:
    """Compose conf/certify.yaml with `certify=OPTION` and `certify.FIELD=VALUE`.

    Returns:
        The settings, and the errors of their values.
    Raises:
        ConfigError: they do not have the right form.
    """
    root = compose_config(ROOT, overrides, validate=_check)
    return root.certify, _check(root, ())


def _check(root: CertifyRoot, ignore: Collection[str]) -> list[Violation]:
    config = root.certify
    found = list(find_out_of_range(root, RANGES))
    for name, overrides in config.shapes.items():
        if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
            message, fix = (
                "must be a list of overrides",
                "Use a list such as [model.num_layers=4, model.hidden_size=64].",
            )
            found.append(Violation(path=f"certify.shapes.{name}", value=overrides, message=message, fix=fix))
    return [violation for violation in found if not any(is_inside(violation.path, path) for path in ignore)]
