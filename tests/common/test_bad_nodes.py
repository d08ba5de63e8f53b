from pathlib import Path

from trainer.common.bad_nodes import BAD_NODES_NAME, note_bad_nodes, read_bad_nodes, read_suspect_steps


def test_what_is_noted_is_read_by_short_name(tmp_path: Path) -> None:
    assert read_bad_nodes(tmp_path) == []
    note_bad_nodes(tmp_path, ["n7.cluster", "n3"], reason="slow")
    note_bad_nodes(tmp_path, {"n3"}, reason='says "no"')
    assert read_bad_nodes(tmp_path) == ["n3", "n7"]
    assert (tmp_path / BAD_NODES_NAME).read_text().splitlines()[0] == '{"host": "n3", "reason": "slow"}'


def test_a_line_that_was_written_by_hand_and_is_wrong_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / BAD_NODES_NAME).write_text('n1\n{"host": "n2"}\n{"node": "n4"}\n[]\n')
    assert read_bad_nodes(tmp_path) == ["n2"]


def test_steps_in_which_a_host_held_the_others_up_are_remembered(tmp_path: Path) -> None:
    note_bad_nodes(tmp_path, ["n3"], reason="its copy is odd")
    note_bad_nodes(tmp_path, ["n4"], reason="holds the others up", step=7)
    assert read_suspect_steps(tmp_path) == {7}
    assert read_bad_nodes(tmp_path) == ["n3", "n4"]
