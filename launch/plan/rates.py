"""The coefficients of the time model, resolved for each job."""

from dataclasses import dataclass

from launch.plan.arrays import Number


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of data sheet rates, and a few constants; one number per field, or one per job."""

    gemm: Number
    """Share of peak that large matrix products reach, in the format of the job."""
    gemm_16bit: Number
    """The same in 16 bits, for what fp8 jobs keep there."""
    attention: Number
    """Share of the 16-bit peak that fused attention reaches, forward."""
    attention_kernel: Number
    """Rate of an older kernel of fused attention, over that of today's."""
    memory: Number
    """Share of the memory's rate that passes over activations reach."""
    link: Number
    """Share of the link's rate that collectives within a domain reach."""
    network: Number
    """Share of the network's rate that collectives between domains reach."""
    framework: Number
    """Time of computing in a framework, over what its work alone would take."""
    expert_gemm: Number
    """Rate of experts' products, over that of dense ones."""
    narrow_width: Number
    """Columns per device at which products take twice as long as their operations say."""
    small_area: Number
    """Tokens times columns per device at which they do, for want of tiles."""
    launch_seconds: Number
    """Per layer and pass: kernels that are too small to be counted, and gaps between them."""
    expert_launch_seconds: Number
    """The same for a layer of experts, in all three passes: where the device waits for the host, it is this long."""
    step_seconds: Number
    """Per step."""
    straggling: Number
    """Growth of collectives between domains with each doubling of their number."""
    rank_seconds: Number
    """Per rank and step, where each rank broadcasts its own weights."""
