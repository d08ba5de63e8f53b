from pathlib import Path

from trainer.common.bad_nodes import BAD_NODES_NAME, note_bad_nodes, note_suspects, read_bad_nodes


def test_what_is_noted_is_read_by_short_name(tmp_path: Path) -> None:
    assert read_bad_nodes(tmp_path) == []
    note_bad_nodes(tmp_path, ["n7.cluster", "n3"], reason="slow")
    note_bad_nodes(tmp_path, {"n3"}, reason='says "no"')
    assert read_bad_nodes(tmp_path) == ["n3", "n7"]
    assert (tmp_path / BAD_NODES_NAME).read_text().splitlines()[0] == '{"host": "n3", "reason": "slow"}'


def test_a_line_that_was_written_by_hand_and_is_wrong_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / BAD_NODES_NAME).write_text('n1\n{"host": "n2"}\n{"node": "n4"}\n[]\n')
    assert read_bad_nodes(tmp_path) == ["n2"]


def test_a_step_that_hangs_on_one_host_after_another_is_no_hosts_fault(tmp_path: Path) -> None:
    note_bad_nodes(tmp_path, ["n3"], reason="its copy is odd")
    assert note_suspects(tmp_path, ["n4"], reason="holds the others up", step=7)
    assert not note_suspects(tmp_path, ["n5"], reason="holds the others up", step=7)
    assert note_suspects(tmp_path, ["n6"], reason="holds the others up", step=9)
    assert read_bad_nodes(tmp_path) == ["n3", "n4", "n6"]
