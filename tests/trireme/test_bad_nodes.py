import socket
from pathlib import Path

import pytest

from trireme.bad_nodes import BAD_NODES_NAME, note_bad_nodes, note_suspects, read_bad_nodes, this_host


def test_noted_bad_nodes_are_read_back(tmp_path: Path) -> None:
    assert read_bad_nodes(tmp_path) == []
    # Slurm may know a node by its long name only.
    note_bad_nodes(tmp_path, ["n7.cluster", "n3"], reason="slow")
    note_bad_nodes(tmp_path, {"n3"}, reason='says "no"')
    assert read_bad_nodes(tmp_path) == ["n3", "n7.cluster"]
    assert (tmp_path / BAD_NODES_NAME).read_text().splitlines()[0] == '{"host": "n3", "reason": "slow"}'


def test_a_line_that_was_written_by_hand_and_is_wrong_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / BAD_NODES_NAME).write_bytes(b'n1\n{"host": "n2"}\n{"node": "n4"}\n[]\n{"host": null}\n\xe9\n{"host": ')
    assert read_bad_nodes(tmp_path) == ["n2"]


def test_a_host_has_the_name_that_slurm_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "rack1-n3")
    assert this_host() == "rack1-n3"
    monkeypatch.delenv("SLURMD_NODENAME")
    assert this_host() == socket.gethostname().partition(".")[0]


def test_a_step_that_hangs_on_one_host_after_another_is_no_hosts_fault(tmp_path: Path) -> None:
    note_bad_nodes(tmp_path, ["n3"], reason="its copy is odd")
    assert note_suspects(tmp_path, ["n4"], reason="holds the others up", step=7)
    assert not note_suspects(tmp_path, ["n5"], reason="holds the others up", step=7)
    assert note_suspects(tmp_path, ["n6"], reason="holds the others up", step=9)
    assert read_bad_nodes(tmp_path) == ["n3", "n4", "n6"]
