"""Compare a distilled model with its teacher on the validation set, when the run ends."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from trainer.data.micro_batch import PADDING, MicroBatch
from trainer.data.validation import ValidationLoader
from trainer.scores.perplexities import Comparison, Interval, compare_perplexities
from trireme.files import write_whole
from trireme.strict_json import to_json

RESULT_NAME = "distillation.json"
"""File of the run directory."""
_LOGGER = logging.getLogger(__name__)

Evaluate = Callable[..., tuple[float, float]]
"""As `Engine.evaluate`."""


@dataclass(frozen=True, kw_only=True)
class TeacherComparison:
    """Hold a distillation's teacher and what it is compared on; all ranks have one."""

    evaluate: Evaluate
    """Of the teacher."""
    teacher: str
    """Its checkpoint."""
    num_parameters: tuple[int, int]
    """Of the teacher and of the model."""
    is_collecting: bool
    """Whether this rank's losses count: False where another rank has copies of them."""
    path: Path | None
    """Of the result; None on every rank but the main one."""

    def is_done(self, step: int) -> bool:
        """Return whether the result of a step is in the file, the same on every rank; all ranks call this."""
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, self.path is not None and _read_step(self.path) == step)
        return any(gathered)

    def run(
        self,
        loader: ValidationLoader,
        *,
        step: int,
        evaluate: Evaluate,
        read: Callable[[Callable[[], list[MicroBatch]]], list[MicroBatch]],
    ) -> Comparison | None:
        """Compute both perplexities on the windows of a validation, log them and write them; all ranks call this.

        Args:
            evaluate: of the model.
            read: gets each step's micro batches by calling its argument; an exception ends the comparison.
        Returns:
            The teacher as `before` and the model as `after`, the same on every rank; None without target tokens.
        """
        sums = {
            name: self._sum_windows(loader, evaluate=one, read=read)
            for name, one in (("teacher", self.evaluate), ("model", evaluate))
        }
        used = sums["model"][:, 1] > 0
        if not used.any():
            return None
        found = compare_perplexities(
            sums["teacher"][used, 0], sums["model"][used, 0], num_tokens=sums["model"][used, 1]
        )
        if self.path is not None:
            self._report(found, step=step)
        return found

    def _sum_windows(
        self,
        loader: ValidationLoader,
        *,
        evaluate: Evaluate,
        read: Callable[[Callable[[], list[MicroBatch]]], list[MicroBatch]],
    ) -> np.ndarray:
        """Return losses and target tokens of each window: [n, 2] fp64."""
        sums = np.zeros((loader.num_windows, 2))

        def observe(losses: torch.Tensor, batch: MicroBatch) -> None:
            # With context parallelism, this rank has a part of each window.
            if not self.is_collecting:
                return
            losses = torch.where(batch.loss_mask > 0, losses.double() * batch.loss_mask, 0.0)
            values = torch.stack([losses.sum(dim=1), batch.loss_mask.double().sum(dim=1)], dim=1).cpu().numpy()
            for sample, value in zip(batch.sample_ids, values, strict=True):
                if sample != PADDING:
                    sums[sample] += value

        steps = loader.steps()
        for _ in range(loader.num_steps):
            evaluate(read(steps.__next__), observe=observe)
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, sums)
        return np.sum(gathered, axis=0)

    def _report(self, found: Comparison, *, step: int) -> None:
        teacher, model = self.num_parameters
        _LOGGER.info(
            "Perplexity on %d windows of validation: teacher %s (%s parameters), this model %s (%s parameters);"
            " ratio %s. In parentheses: 95 %% intervals.",
            found.num_rows,
            _describe(found.before),
            f"{teacher:,}",
            _describe(found.after),
            f"{model:,}",
            _describe(found.ratio, digits=3),
        )
        record = {
            "step": step,
            "teacher": {"checkpoint": self.teacher, "num_parameters": teacher, "perplexity": asdict(found.before)},
            "model": {"num_parameters": model, "perplexity": asdict(found.after)},
            "perplexity_ratio": asdict(found.ratio),
            "num_windows": found.num_rows,
            "num_tokens": found.num_tokens,
        }
        assert self.path is not None
        try:
            write_whole(self.path, to_json(record, indent=1) + "\n")
        except OSError as error:
            _LOGGER.warning("Failed to write %s: %s", self.path, error.strerror)


def _read_step(path: Path) -> int | None:
    """Return the step of the result in a file; None if there is none."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _describe(figure: Interval, *, digits: int = 2) -> str:
    ends = (
        "" if figure.low is None or figure.high is None else f" ({figure.low:.{digits}f} to {figure.high:.{digits}f})"
    )
    return f"{figure.value:.{digits}f}{ends}"
