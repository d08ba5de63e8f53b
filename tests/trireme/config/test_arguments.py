"""Arguments in the style of other command lines: one error each, with the right form."""

import pytest

from trainer.config.load import ROOT, load_config
from trireme.config.arguments import Misplaced, explain, regroup
from trireme.errors import ConfigError

OPTIONS = ("--print", "-m")


def errors_of(*arguments: str) -> list[str]:
    """The errors of arguments for a training configuration; what is valid among them is left out."""
    return [
        str(
            explain(
                each,
                find_settings=ROOT.find_settings,
                is_boolean=ROOT.is_boolean,
                options=OPTIONS,
                words=("top",),
            )
        )
        for each in regroup(arguments, options=OPTIONS)
        if isinstance(each, Misplaced)
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--lr", "1e-3"], "--lr: settings are written without dashes (got 1e-3). Write optimizer.lr=1e-3."),
        (
            ["--optimizer.lr=1e-3"],
            "--optimizer.lr: settings are written without dashes (got 1e-3). Write optimizer.lr=",
        ),
        (["--seq-length", "2048"], "(got 2048). Write model.seq_length=2048."),
        (["--max_steps", "5", "model=llama_8b"], "(got 5). Write training.train_iters=5."),
        (["--sequence-parallel"], "Write parallel.sequence_parallel=true."),
        (["--bf16"], "Write precision=bf16."),
        (["--batch_size", "8"], "Write training.global_batch_size=8 or training.micro_batch_size=8."),
        (["--output_dir", "/a b"], "Write 'output_dir=/a b'."),
        (["--top", "5"], "--top: settings are written without dashes (got 5). Write top=5."),
        (["--prnt", "model=llama_8b"], "--prnt: unknown option. Did you mean --print? Use --print, -m or top=VALUE;"),
        (["--deepspeed", "ds.json"], "--deepspeed: unknown option (got ds.json)."),
        (["lr", "=", "1e-3"], "lr: must be written without spaces around = (got 1e-3). Write optimizer.lr=1e-3."),
        (["optimizer.lr=", "1e-3"], "Write optimizer.lr=1e-3."),
        (["lr", "=1e-3"], "Write optimizer.lr=1e-3."),
        (["lr", "1e-3"], "lr: must be written with = (got 1e-3). Write optimizer.lr=1e-3."),
        (["training.seed"], "training.seed: has no value. Write training.seed=VALUE."),
        (
            ["run_name=my", "first", "run", "model=llama_8b"],
            "first: must be written with = (got run). Write PATH=run, or quote a value with spaces:"
            " 'run_name=my first run'.",
        ),
        (
            ["data.train=[{paths:[/data/a", "b]}]", "model=llama_8b"],
            "data.train: must be quoted, or the shell splits it at its spaces."
            " Write 'data.train=[{paths:[/data/a b]}]'.",
        ),
        (
            ["data.train=[{paths:", "[/a(1)]}]"],
            """Write 'data.train=[{paths: ["/a(1)"]}]'.""",
        ),
        (
            # bash makes these of data.train=[{paths:[/a,/b],weight:1}]
            ["data.train=[paths:[/a]", "data.train=[/b]]", "data.train=[weight:1]"],
            "data.train: its braces must be quoted, or the shell expands them. Quote the whole argument:"
            " 'data.train=[{paths:[/a,/b],weight:1}]'.",
        ),
        (
            # and these of data.train=[{paths:[/a],weight:1},{paths:[/b],weight:2}]
            [
                "data.train=[paths:[/a],paths:[/b]]",
                "data.train=[paths:[/a],weight:2]",
                "data.train=[weight:1,paths:[/b]]",
                "data.train=[weight:1,weight:2]",
            ],
            "Quote the whole argument: 'data.train=[{...}]'.",
        ),
    ],
)
def test_one_error_with_the_right_form(arguments: list[str], error: str) -> None:
    (found,) = errors_of(*arguments)
    assert error in found


def test_valid_arguments_stay_as_they_are_and_in_order() -> None:
    valid = ["--print", "model=llama_8b", "-m", "optimizer.lr=-1", "run_name='a b'", "data.train=[{paths:[a,b]}]", "~x"]
    valid += ["run_name=", "model=gpt2_124m", "+a.b={c: [1, 2]}", 'output_dir="/a[b"', ""]
    assert regroup(valid, options=OPTIONS) == valid


def test_misplaced_arguments_cause_no_further_errors() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(["model", "=", "gpt2_124m", "--seed", "x", "data.train=[{paths:[/a", "b]}]", "optimizer.lr=-1"])
    # Neither the vocabulary of the model, nor the data, nor the seed is missing.
    paths = [violation.path for violation in caught.value.violations]
    assert paths == ["model", "--seed", "data.train", "optimizer.lr"]
