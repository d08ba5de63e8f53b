"""Run references, their perturbed runs and layouts, compare them, and find the first deviation of one that fails."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.certificate.bounds import Estimator, relative_differences, root_mean_square
from trainer.certificate.compare import Difference, compare_traces, open_traces
from trainer.certificate.culprit import MAX_NAMED, find_culprit
from trainer.certificate.job import Job, JobResult, read_result
from trainer.certificate.processes import Starter
from trainer.certificate.request import Request, RequestedLayout, Run, write_synthetic_data
from trainer.certificate.trace_file import Direction
from trainer.certificate.verdict import Culprit, Estimate, LayoutVerdict, Series, TensorVerdict, judge_tensors
from trainer.config.load import dump_config
from trireme.progress import format_duration, format_number

_LOGGER = logging.getLogger(__name__)

LIMITED_STEPS = 10
"""Number of steps for which the limits of fp32 hold; rounding errors grow with the steps."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Hold the results of all layouts."""

    request: Request
    estimates: Sequence[Estimate]
    layouts: Sequence[LayoutVerdict]

    @property
    def is_passed(self) -> bool:
        """Whether every layout matches its reference."""
        return all(layout.is_passed for layout in self.layouts)


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """Hold a reference, its perturbed runs, and the layouts that are compared with it."""

    name: str
    run: Run
    job: Job
    perturbed: list[Job]
    layouts: list[tuple[RequestedLayout, Job]] = field(default_factory=list)


class Certifier:
    """Issue one certificate.

    Args:
        folder: for the output of the runs; the caller removes it.
    """

    def __init__(self, request: Request, *, starter: Starter, folder: Path) -> None:
        self._request, self._settings = request, request.settings
        self._starter, self._folder = starter, folder
        self._num_jobs = 0

    def issue(self) -> Certificate:
        """Run and compare everything."""
        references = self._plan()
        jobs = [job for reference in references for job in (reference.job, *reference.perturbed)]
        jobs += [job for reference in references for _, job in reference.layouts]
        failures = self._run(jobs)
        estimates, verdicts = [], {}
        estimator = self._estimator(references, failures)
        for reference in references:
            broken = next((job for job in (reference.job, *reference.perturbed) if job in failures), None)
            if broken is not None:
                reason = f"The reference failed: {broken.title}\n{failures[broken]}"
                verdicts.update({layout.name: _failed(layout, job, reason) for layout, job in reference.layouts})
                continue
            estimate = self._estimate(reference, estimator)
            estimates.append(estimate)
            judged = [
                _failed(layout, job, failures[job])
                if job in failures
                else self._judge(layout, job, reference, estimate)
                for layout, job in reference.layouts
            ]
            for verdict in self._explain(reference, judged, estimator):
                verdicts[verdict.name] = verdict
        layouts = [verdicts[layout.name] for layout in self._request.layouts]
        return Certificate(request=self._request, estimates=estimates, layouts=layouts)

    def _plan(self) -> list[_Reference]:
        references: dict[str, _Reference] = {}
        for layout in self._request.layouts:
            key = dump_config(layout.reference.config)
            if key not in references:
                name = layout.subject or "the configuration"
                plain = self._job(layout.reference, title=f"reference of {name}")
                seeds = range(1, self._settings.num_perturbed_runs + 1)
                perturbed = [
                    replace(
                        plain, title=f"{name} with rounding errors {seed}", folder=self._new_folder(), noise_seed=seed
                    )
                    for seed in seeds
                ]
                references[key] = _Reference(name=name, run=layout.reference, job=plain, perturbed=perturbed)
            references[key].layouts.append((layout, self._job(layout.run, title=layout.name)))
        return list(references.values())

    def _job(self, run: Run, *, title: str) -> Job:
        folder = self._new_folder()
        config = replace(
            run.config, cluster=replace(run.config.cluster, timeout_seconds=self._settings.timeout_seconds)
        )
        if run.is_synthetic:
            data = write_synthetic_data(run, folder=self._folder, num_steps=self._settings.num_steps)
            config = replace(config, data=data)
        config_file = Path(folder, "config.yaml")
        config_file.write_text(dump_config(config))
        return Job(
            title=title,
            folder=folder,
            config_file=str(config_file),
            vocab_size=run.vocab_size,
            tokenizer_eod_id=run.tokenizer_eod_id,
            num_processes=run.num_processes,
            num_steps=self._settings.num_steps,
            varies_lengths=run.is_synthetic,
        )

    def _new_folder(self) -> str:
        folder = self._folder / f"run_{self._num_jobs:04d}"
        folder.mkdir()
        self._num_jobs += 1
        return str(folder)

    def _run(self, jobs: Sequence[Job]) -> dict[Job, str]:
        num_done = 0

        def report(job: Job, answer: JobResult | str) -> None:
            nonlocal num_done
            num_done += 1
            word = "failed" if isinstance(answer, str) else format_duration(answer.seconds)
            count = f"[{num_done:{len(str(len(jobs)))}d}/{len(jobs)}]"
            _LOGGER.info("%s %s, %s: %s", count, job.title, format_number(job.num_processes, "process"), word)

        return self._starter.run(jobs, on_done=report)

    def _estimator(self, references: Sequence[_Reference], failures: Mapping[Job, str]) -> Estimator:
        """Build the estimator; its bounds widen with the number of comparisons."""
        count = 0
        for reference in references:
            if reference.job not in failures:
                with open_traces(Path(reference.job.folder), num_ranks=reference.job.num_processes) as traces:
                    num_weights = sum(tensor.direction == "final" for tensor in traces.tensors())
                count += len(reference.layouts) * (2 * self._settings.num_steps + num_weights)
        return Estimator(
            num_runs=self._settings.num_perturbed_runs,
            num_comparisons=max(count, 1),
            false_alarm_rate=self._settings.false_alarm_rate,
        )

    def _estimate(self, reference: _Reference, estimator: Estimator) -> Estimate:
        expected = _result(reference.job)
        results = [_result(job) for job in reference.perturbed]
        losses = [relative_differences(result.losses, expected.losses) for result in results]
        grad_norms = [relative_differences(result.grad_norms, expected.grad_norms) for result in results]
        is_fp32 = reference.run.config.precision.params_dtype == "fp32"
        loss_limit = self._settings.max_loss_difference if is_fp32 else None
        grad_norm_limit = self._settings.max_grad_norm_difference if is_fp32 else None
        return Estimate(
            name=reference.name,
            losses=expected.losses,
            grad_norms=expected.grad_norms,
            loss_bounds=_limited(estimator.bounds(losses), loss_limit),
            grad_norm_bounds=_limited(estimator.bounds(grad_norms), grad_norm_limit),
            loss_spread=[root_mean_square(step) for step in zip(*losses, strict=True)],
            grad_norm_spread=[root_mean_square(step) for step in zip(*grad_norms, strict=True)],
            factor=estimator.factor,
            weight_bounds=tensor_bounds(
                reference.job, reference.perturbed, estimator=estimator, step=None, beta1=_beta1(reference)
            ),
            device=expected.device,
        )

    def _judge(self, layout: RequestedLayout, job: Job, reference: _Reference, estimate: Estimate) -> LayoutVerdict:
        result, expected = _result(job), _result(reference.job)
        loss = Series(differences=relative_differences(result.losses, expected.losses), bounds=estimate.loss_bounds)
        grad_norm = Series(
            differences=relative_differences(result.grad_norms, expected.grad_norms), bounds=estimate.grad_norm_bounds
        )
        weights = judge_tensors(compare_jobs(reference.job, job, step=None), estimate.weight_bounds)
        bad_initial = [weight for weight in weights if weight.direction == "initial" and not weight.is_good]
        trained = [weight for weight in weights if weight.direction == "final"]
        is_good = all(weight.is_good for weight in weights) and result.skipped_steps == expected.skipped_steps
        return replace(
            _unjudged(layout, job),
            reference=estimate.name,
            seconds=result.seconds,
            loss=loss,
            grad_norm=grad_norm,
            parameter=max(trained, key=_nearness),
            is_passed=is_good and loss.first_bad_step is None and grad_norm.first_bad_step is None,
            culprit=_initial_culprit(bad_initial) if bad_initial else None,
        )

    def _explain(
        self, reference: _Reference, verdicts: Sequence[LayoutVerdict], estimator: Estimator
    ) -> list[LayoutVerdict]:
        """Run failed layouts again, and trace every tensor up to the first step that deviates."""
        jobs = {layout.name: job for layout, job in reference.layouts}
        last_steps = {verdict.name: _first_bad_step(verdict) for verdict in verdicts if _is_unexplained(verdict)}
        if not last_steps:
            return list(verdicts)
        num_steps = max(last_steps.values()) + 1
        _LOGGER.info("looking for where %s went wrong", ", ".join(last_steps))
        traced = [self._traced(job, num_steps) for job in (reference.job, *reference.perturbed)]
        traced_layouts = {name: self._traced(jobs[name], step + 1) for name, step in last_steps.items()}
        failures = self._run([*traced, *traced_layouts.values()])
        if any(job in failures for job in traced):
            return list(verdicts)
        explained = []
        for verdict in verdicts:
            job = traced_layouts.get(verdict.name)
            if job is not None and job not in failures:
                culprit = self._culprit(verdict, job, reference, traced, estimator)
                verdict = replace(verdict, culprit=culprit)
            explained.append(verdict)
        return explained

    def _culprit(
        self, verdict: LayoutVerdict, job: Job, reference: _Reference, traced: Sequence[Job], estimator: Estimator
    ) -> Culprit:
        expected, *perturbed = traced
        for step in range(job.num_traced_steps):
            bounds = tensor_bounds(expected, perturbed, estimator=estimator, step=step, beta1=_beta1(reference))
            culprit = find_culprit(
                compare_jobs(expected, job, step=step), bounds=bounds, step=step, grad_norm=verdict.grad_norm
            )
            if culprit is not None:
                return culprit
        return Culprit(
            step=job.num_traced_steps - 1,
            direction=None,
            name="no single tensor exceeds its bound, only scalars that are computed from them",
            difference=math.nan,
            bound=math.nan,
            ranks=(),
            also=(),
        )

    def _traced(self, job: Job, num_steps: int) -> Job:
        return replace(
            job,
            title=f"{job.title}, traced",
            folder=self._new_folder(),
            num_steps=num_steps,
            num_traced_steps=num_steps,
        )


def compare_jobs(reference: Job, job: Job, *, step: int | None) -> list[Difference]:
    """Compare the tensors of two runs, of a traced step or (None) of their weights."""
    with (
        open_traces(Path(reference.folder), num_ranks=reference.num_processes, step=step) as expected,
        open_traces(Path(job.folder), num_ranks=job.num_processes, step=step) as found,
    ):
        return compare_traces(expected, found)


def tensor_bounds(
    reference: Job, perturbed: Sequence[Job], *, estimator: Estimator, step: int | None, beta1: float
) -> dict[tuple[Direction, str], float]:
    """Return the bound of every tensor; initial weights must be bit-identical."""
    found: dict[tuple[Direction, str], list[Difference]] = {}
    for job in perturbed:
        for difference in compare_jobs(reference, job, step=step):
            found.setdefault((difference.tensor.direction, difference.tensor.name), []).append(difference)
    return {key: _tensor_bound(differences, estimator, beta1) for key, differences in found.items()}


def _tensor_bound(differences: Sequence[Difference], estimator: Estimator, beta1: float) -> float:
    direction, resolution = differences[0].tensor.direction, differences[0].resolution
    if direction == "initial":
        return 0.0
    if direction == "gradient":  # the difference of two first moments, whose rounding errors it magnifies
        resolution *= (1 + beta1) / (1 - beta1)
    return max(resolution, estimator.bound([difference.relative for difference in differences]))


def _beta1(reference: _Reference) -> float:
    return reference.run.config.optimizer.adam_beta1


def _result(job: Job) -> JobResult:
    result = read_result(job)
    assert result is not None, f"{job.title} wrote no result"
    return result


def _limited(bounds: Sequence[float], limit: float | None) -> list[float]:
    return [min(bound, limit) if limit and step < LIMITED_STEPS else bound for step, bound in enumerate(bounds)]


def _nearness(weight: TensorVerdict) -> float:
    return weight.difference / weight.bound if weight.bound else math.inf


def _first_bad_step(verdict: LayoutVerdict) -> int:
    """Return the first step whose loss or gradient norm deviates; the last if only the weights do."""
    assert verdict.loss is not None and verdict.grad_norm is not None
    shown = [s.first_bad_step for s in (verdict.loss, verdict.grad_norm) if s.first_bad_step is not None]
    return min(shown, default=len(verdict.loss.bounds) - 1)


def _is_unexplained(verdict: LayoutVerdict) -> bool:
    return not verdict.is_passed and verdict.error is None and verdict.culprit is None


def _initial_culprit(weights: Sequence[TensorVerdict]) -> Culprit:
    """Return the deviation of initial weights."""
    first, *others = weights
    return Culprit(
        step=0,
        direction="initial",
        name=first.name,
        difference=first.difference,
        bound=first.bound,
        ranks=(),
        also=[f"initial: {weight.name}" for weight in others[:MAX_NAMED]],
        is_missing=first.is_missing,
    )


def _unjudged(layout: RequestedLayout, job: Job) -> LayoutVerdict:
    config = layout.run.config
    return LayoutVerdict(
        name=layout.name,
        num_processes=job.num_processes,
        precision=config.precision.params_dtype,
        engine=config.engine.name,
        reference=layout.subject or "the configuration",
        seconds=None,
        error=None,
        loss=None,
        grad_norm=None,
        parameter=None,
        is_passed=False,
        culprit=None,
    )


def _failed(layout: RequestedLayout, job: Job, reason: str) -> LayoutVerdict:
    return replace(_unjudged(layout, job), error=reason)
