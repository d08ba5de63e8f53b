"""The quickstart's inputs: what is no directory is refused by name."""

import pytest

from tests.data_tools.commands import run_command


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_named(tmp_path, name):
    (tmp_path / "file").write_text("x")
    done = run_command("data_tools.quickstart_inputs", "--output", tmp_path / name)
    assert done.returncode == 2
    assert f"--output: cannot create the directory: {tmp_path / 'file'} is a file" in done.stderr
    assert "Traceback" not in done.stderr
