"""Bugs that change a loss by little are found and named, and what is right beside them passes."""

from functools import partial

import pytest

from tests.certify.broken_jobs import run_broken_jobs
from tests.certify.conftest import Issue, Issued, run_warm

ROTARY = "llama cp2"
NORMS = "llama tp2.sp"
TIED = "gpt2 pp2"
DROPPED = "llama pp2 stages=Ettt|tL"
RIGHT = ["llama dp2", "llama tp2", "llama pp2"]


@pytest.fixture(scope="module")
def broken(issue: Issue) -> Issued:
    return issue([ROTARY, NORMS, TIED, DROPPED, *RIGHT], run_command=partial(run_warm, run_jobs=run_broken_jobs))


def test_layouts_without_the_planted_bug_pass(broken: Issued) -> None:
    assert broken.exit_code == 1
    assert {layout["name"] for layout in broken.record["layouts"] if layout["is_passed"]} == set(RIGHT)


@pytest.mark.parametrize(
    ("layout", "direction", "name", "ranks"),
    [
        (ROTARY, "forward", "layer 1 attention query", [1]),
        (NORMS, "gradient", "decoder.final_layernorm.weight", [0, 1]),
        (TIED, "gradient", "embedding.word_embeddings.weight", [0, 1]),
        # Seen before anything is computed.
        (DROPPED, "initial", "layer 3 self_attention.linear_qkv.layer_norm_weight", []),
    ],
)
def test_a_bug_is_named(broken: Issued, layout: str, direction: str, name: str, ranks: list[int]) -> None:
    culprit = broken.layout(layout)["culprit"]
    assert (culprit["step"], culprit["direction"], culprit["name"], culprit["ranks"]) == (0, direction, name, ranks)
    assert broken.layout(layout)["culprit_text"] in broken.page.replace("&gt;", ">")


def test_a_dropped_layer_is_missing_as_a_whole(broken: Issued) -> None:
    culprit = broken.layout(DROPPED)["culprit"]
    assert culprit["is_missing"]
    assert culprit["also"] and all(name.startswith("initial: layer 3 ") for name in culprit["also"])
    assert "is missing on all ranks" in broken.layout(DROPPED)["culprit_text"]


def test_all_that_a_missing_sum_touches_is_listed(broken: Issued) -> None:
    also = broken.layout(NORMS)["culprit"]["also"]
    assert all("norm" in name for name in also if name.startswith("gradient"))
    assert not [name for name in also if name.startswith(("forward", "backward"))]
    # A norm that both ranks hold is wrong on both, and its bound is far below.
    assert broken.layout(NORMS)["culprit"]["difference"] > 1000 * broken.layout(NORMS)["culprit"]["bound"]


def test_a_comparison_of_losses_alone_would_not_see_the_rotary_bug(broken: Issued) -> None:
    assert broken.layout(ROTARY)["loss"]["differences"][0] < 1e-5
