"""The coefficients of the memory model, resolved for each job."""

from dataclasses import dataclass

from launch.plan.arrays import Number


@dataclass(frozen=True, kw_only=True)
class MemoryRates:
    """A few factors; one number per field, or one per job."""

    activations: Number
    """Activations that a framework keeps, over those that the formulas count."""
    logits: Number
    """Bytes per logit, over those that are expected of the framework."""
    reserve: Number
    """Fragments, as a share of memory that comes and goes: activations, logits, gathered weights."""
    buffer_gib: Number
    """Buffers of collectives."""
    context_gib: Number
    """Driver, kernels, libraries: what a measurement of the whole device sees, and one of the allocator does not."""
