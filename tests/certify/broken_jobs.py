"""Processes of layouts with bugs in them, each of which only one kind of layout runs into."""

from collections.abc import Sequence
from typing import Any

from trainer.parallel import cpu_shim

cpu_shim.install()

from trainer import build  # noqa: E402 - the shim first
from trainer.certificate import worker  # noqa: E402 - as above
from trainer.certificate.job import Job  # noqa: E402 - as above
from trainer.engine import gradients  # noqa: E402 - as above
from trainer.model import layer_spec  # noqa: E402 - as above
from trainer.model.gpt import GPT  # noqa: E402 - as above


def shift_positions_under_context_parallelism() -> None:
    """Every rank but the first gives its tokens the positions of their neighbours."""
    right = GPT._angles

    def wrong(self: GPT, *arguments: Any, **options: Any) -> Any:
        angles = right(self, *arguments, **options)
        return angles.roll(1, dims=0) if self.pg_collection.cp.rank() > 0 else angles

    GPT._angles = wrong


def forget_gradients_of_norms_under_sequence_parallelism() -> None:
    """Each tensor-parallel rank keeps the gradient of its own part of the sequence."""
    gradients._sum_partial_gradients = lambda *arguments, **options: None


def forget_tied_embedding() -> None:
    """First and last stage keep their own parts of the tied embedding's gradient."""
    gradients._sum_tied_embedding = lambda *arguments, **options: None


def drop_layer_of_uneven_stages() -> None:
    """The first stage builds one layer less than it should where stages differ, and nobody counts them."""
    right = layer_spec.get_num_layers_to_build

    def wrong(config: Any, vp_stage: Any, pp_rank: int) -> int:
        is_uneven = config.pipeline_model_parallel_layout is not None
        return right(config, vp_stage, pp_rank) - (is_uneven and pp_rank == 0)

    layer_spec.get_num_layers_to_build = wrong
    build._check_all_layers_are_built = lambda *arguments, **options: None


def run_broken_jobs(jobs: Sequence[Job]) -> None:
    """Run jobs in this process, with all bugs; it must end afterwards."""
    shift_positions_under_context_parallelism()
    forget_gradients_of_norms_under_sequence_parallelism()
    forget_tied_embedding()
    drop_layer_of_uneven_stages()
    worker.run_jobs(jobs)
