"""Random states of one rank, as tensors of bytes: what lets dropout continue where it stopped.

Apart from trainer_state.py, which checks of inputs read before Megatron-Core is imported.
"""

import hashlib

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from trainer.parallel.world import seed_dropout

_TRACKER = "tracker."


def collect_random_states() -> dict[str, torch.Tensor]:
    """Copy the states of torch's generators and of Megatron-Core's tensor-parallel tracker: name -> uint8 [n]."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    for name, state in get_cuda_rng_tracker().get_states().items():
        states[_TRACKER + name] = state
    return {name: state.detach().clone() for name, state in states.items()}


def restore_random_states(states: dict[str, torch.Tensor]) -> None:
    """Restore collected states."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    tracked = {name.removeprefix(_TRACKER): state for name, state in states.items() if name.startswith(_TRACKER)}
    get_cuda_rng_tracker().set_states(tracked)


def reseed(*, seed: int, step: int) -> None:
    """Seed new random streams from the seed and the step, for a layout without saved ones.

    A run that changes its layout at step N draws the same numbers each time it is resumed there.
    """
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=4).digest()
    derived = int.from_bytes(digest, "little") >> 2  # Megatron-Core adds offsets to it, and numpy wants 32 bits
    seed_dropout(derived)
