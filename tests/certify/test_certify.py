"""The command: what passes, what is refused, and what becomes of a layout that gives no answer."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests import warm
from tests.certify.conftest import Issue, Issued, run_warm
from trainer.certificate.request import read_request
from trainer.certify import run
from trireme.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def good(issue: Issue) -> Issued:
    return issue(["llama tp2.sp", "gpt2 bf16 pp2", "llama single zero0"])


def certify(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run(
        [sys.executable, "-m", "trainer.certify", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def test_layouts_and_formats_pass(good: Issued) -> None:
    assert good.exit_code == 0
    assert good.record["is_passed"]
    assert [layout["precision"] for layout in good.record["layouts"]] == ["fp32", "bf16", "fp32"]
    assert [layout["num_processes"] for layout in good.record["layouts"]] == [2, 2, 1]
    assert not [layout["culprit"] for layout in good.record["layouts"] if layout["culprit"]]


def test_bounds_are_estimated_for_each_reference(good: Issued) -> None:
    fp32, bf16 = good.record["estimates"]
    assert (fp32["name"], bf16["name"]) == ("llama", "gpt2 bf16")
    assert all(0 < bound <= 1e-6 for bound in fp32["loss_bounds"])
    assert all(0 < bound <= 1e-5 for bound in fp32["grad_norm_bounds"])
    # 16 bits of the 24 are gone: what reordering does shows it, and nothing limits it.
    assert bf16["loss_spread"][-1] > 100 * fp32["loss_spread"][-1]
    assert max(bf16["loss_bounds"]) > 1e-4
    assert fp32["losses"][-1] < 0.99 * fp32["losses"][0], "something was learned"
    for estimate in (fp32, bf16):
        assert len(estimate["weight_bounds"]) > 20
        for bounds in (estimate["loss_bounds"], estimate["grad_norm_bounds"]):
            assert bounds == sorted(bounds)


def test_layouts_differ_by_rounding_and_no_more(good: Issued) -> None:
    layout = good.layout("llama tp2.sp")
    assert 0 < max(layout["loss"]["differences"]) < 1e-6, "it ran by another order of additions"
    assert 0 < layout["parameter"]["difference"] < 1e-3


def test_page_is_complete_in_itself(good: Issued) -> None:
    assert good.page.startswith("<!DOCTYPE html>")
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", good.page)
    assert good.page.count("<polyline") == 2 * 3
    for layout in good.record["layouts"]:
        assert layout["name"] in good.page
    assert "All 3 layouts match their reference" in good.page


def test_every_bad_layout_is_refused_at_once_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = certify(
        "model=quickstart",
        "model.vocab_size=64",
        "model.hidden_dropout=0.1",
        "certify.num_steps=0",
        f"certify.output_dir={tmp_path / 'file' / 'out'}",
        'layouts=[tp3,"tp2 megatrn","pp2 stages=Et|L",{engine: deepspeed, engine.zero_stage: 7}]',
    )
    assert done.returncode == 2
    assert done.stdout == ""
    message = done.stderr
    assert f"certify.output_dir: cannot be created: {tmp_path / 'file'} is a file" in message
    assert "certify.num_steps: must be at least 1 (got 0)" in message
    assert "certify.layouts[0] (tp3): parallel.tensor_model_parallel_size: must divide" in message
    assert "certify.layouts[1]: unknown word megatrn (got tp2 megatrn). Did you mean" in message
    assert "certify.layouts[2] (pp2 stages=Et|L): parallel.pipeline_model_parallel_layout: " in message
    assert "certify.layouts[3] (engine=deepspeed engine.zero_stage=7): engine.zero_stage: " in message
    # What is wrong with all of them is said once, and not laid to one of them.
    assert message.count("hidden_dropout") == 2
    assert re.search(r"\d\. model.hidden_dropout: must be 0, because dropout masks depend on the layout", message)
    assert "Traceback" not in message


def test_a_bad_reference_does_not_hide_what_else_is_wrong() -> None:
    overrides = ["model=quickstart", "model.vocab_size=64", "certify.reference=blah"]
    with pytest.raises(ConfigError) as refused:
        read_request([*overrides, "layouts=[tp3,foo,dp100000]", "training.global_batch_size=100000"], num_devices=None)
    message = str(refused.value)
    for found in (
        "certify.reference: unknown word blah",
        "(tp3)",
        "unknown word foo",
        "processes: exceeds this host's memory",
    ):
        assert found in message


def test_help_says_how_to_use_it() -> None:
    done = certify("--help")
    assert done.returncode == 0
    assert "layouts=[tp2.sp,pp2 zero0]" in done.stdout


def test_the_layout_of_the_configuration_is_certified_where_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code = run_warm(
        [
            "model=quickstart",
            "model.vocab_size=64",
            "model.seq_length=16",
            "model.hidden_size=32",
            "parallel=dp2",
            "certify.num_steps=2",
            "certify.num_perturbed_runs=4",
            f"certify.output_dir={tmp_path}",
        ]
    )
    assert exit_code == 0
    table = capsys.readouterr().out
    assert re.search(r"^as configured +2 .* pass$", table, re.MULTILINE)
    assert "all 1 layouts pass" in table


def test_a_layout_that_dies_fails_and_the_others_are_judged(issue: Issue) -> None:
    """torchrun starts these processes, as it does those of the command."""
    found = issue(
        ["llama dp2", "llama tp2", "llama pp2"], run_command=partial(run, worker_module="tests.certify.dying_worker")
    )
    assert found.exit_code == 1
    assert [layout["is_passed"] for layout in found.record["layouts"]] == [True, False, True]
    error = found.layout("llama tp2")["error"]
    assert "RuntimeError: this rank gives up" in error
    assert "[rank 1]" in error and "[rank 0]" not in error
    assert "this rank gives up" in found.page
