"""The played schedules against the times that their papers give."""

import itertools

import pytest

from launch.plan.timeline import play_schedule


@pytest.mark.parametrize(
    ("num_stages", "num_chunks", "num_microbatches"), [(1, 1, 3), (4, 1, 8), (4, 1, 3), (2, 2, 4), (4, 2, 8), (4, 4, 8)]
)
def test_a_step_takes_work_and_bubble(num_stages, num_chunks, num_microbatches):
    forward, backward = 1.0, 2.0
    done = play_schedule(
        [forward] * num_stages, [backward] * num_stages, num_chunks=num_chunks, num_microbatches=num_microbatches
    )
    # Narayanan et al. 2021: (p - 1) / v of a micro batch's time, and one after the other else.
    expected = (num_microbatches + (num_stages - 1) / num_chunks) * (forward + backward)
    assert max(work.end for work in done) == pytest.approx(expected)
    assert len(done) == 2 * num_stages * num_chunks * num_microbatches


def test_passes_of_a_stage_do_not_overlap_and_follow_what_they_need():
    done = play_schedule([1.0, 1.5, 1.0], [2.0, 3.0, 2.5], num_chunks=2, num_microbatches=6)
    ends = {(work.stage, work.chunk, work.micro_batch, work.is_backward): work.end for work in done}
    for work in done:
        if not work.is_backward and work.stage:
            assert work.start >= ends[work.stage - 1, work.chunk, work.micro_batch, False]
        if work.is_backward and work.stage < 2:
            assert work.start >= ends[work.stage + 1, work.chunk, work.micro_batch, True]
    for stage in range(3):
        own = [work for work in done if work.stage == stage]
        assert all(later.start >= earlier.end for earlier, later in itertools.pairwise(own))
