"""The generated reference is the one in docs/, and every option of conf/data_prep loads."""

from pathlib import Path

import pytest

from data_tools.config.schema import ROOT, DataPrepRoot
from data_tools.stages.preparation import load_task
from tests.data_tools.commands import REPOSITORY, command_line, run_process
from trireme.config.fields import leaf_paths
from trireme.errors import ConfigError


def test_docs_are_current_and_complete() -> None:
    done = run_process(*command_line("data_tools.config.reference"))
    assert done.returncode == 0, done.stderr
    text = done.stdout
    written = (REPOSITORY / "docs" / "reference" / "data_prep.md").read_text(encoding="utf-8")
    assert text == written, "run: python -m data_tools.config.reference > docs/reference/data_prep.md"
    for path, _ in leaf_paths(DataPrepRoot):
        assert f"| `{path}` | " in text


@pytest.mark.parametrize("option", ROOT.group_options()["data_prep"])
def test_options_lack_nothing_but_their_input(option: str, tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text("text")
    overrides = [f"data_prep={option}", f"data_prep.output_dir={tmp_path}"]
    with pytest.raises(ConfigError) as caught:
        load_task([*overrides, f"data_prep.sources=[{{name:x,kind:text,paths:[{tmp_path / 'no'}]}}]"])
    assert [violation.path for violation in caught.value.violations] == ["data_prep.sources[0].paths[0]"]
    task = load_task([*overrides, f"data_prep.sources=[{{name:x,kind:text,paths:[{file}]}}]"])
    assert [found.path for found in task.files] == [str(file)]
