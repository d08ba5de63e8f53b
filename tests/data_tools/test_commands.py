"""Every command in a process of its own: it starts, and its exit code is the one that it decides on."""

import pytest

from tests.data_tools.commands import command_line, run_process

WRONG = {
    "data_tools.crawl": (("gopher://x", "--output", "x.warc.gz"), "START_URL: must be a web address (got gopher://x)"),
    "data_tools.export_shard": (("none", "none", "--format", "datatrove"), "none.idx"),
    "data_tools.export_tokenizer": (("none", "none"), "tokenizer.path: no such file (got none)"),
    "data_tools.inspect": (("none",), "none.idx"),
    "data_tools.merge": (("all", "none"), "none.idx"),
    "data_tools.prepare": (("data_prep.num_workers=-1",), "data_prep.num_workers: must be at least 1 (got -1)"),
    "benchmarks.quality.report": (("--samples", "none"), "--samples: no such directory (got none)"),
    "data_tools.quickstart_inputs": ((), "the following arguments are required: --output"),
    "data_tools.report": (("none",), "preparation.json does not exist"),
    "data_tools.executors.run_share": (("none",), "python -m data_tools.executors.run_share TASK STAGE"),
    "data_tools.tokenizer_report": (("none", "--text", "none"), "TOKENIZER: no such file (got none)"),
}
"""What each of them refuses, and how; there are no files of these names."""


@pytest.mark.parametrize("module", WRONG)
def test_wrong_arguments_end_it_with_2(module: str) -> None:
    arguments, expected = WRONG[module]
    done = run_process(*command_line(module, *arguments))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
