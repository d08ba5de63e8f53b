"""What stops a preparation: wrong settings and inputs, kills, interrupts. Nothing half done, nothing hangs."""

import fcntl
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests import warm
from tests.data_tools.commands import LIMIT_SECONDS, start_command, wait_until
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import hash_files, make_text, run_prepare, sources_override, write_jsonl


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes; multiprocessing's own helpers are none."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a dead one that nobody has asked about yet
            if child.ppid() != pid:  # a child of the server that workers are forked from
                found.append(child)
    return found


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def has_open(process: psutil.Process, path: Path) -> bool:
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(entry) == str(path):
                return True
    return False


class Stuck:
    """A preparation whose second input is a named pipe: it stands still at a known place, for ever."""

    def __init__(self, directory: Path, tokenizer: Path) -> None:
        self.pipe, self.output = directory / "second.jsonl", directory / "data"
        os.mkfifo(self.pipe)
        # Whoever opens the pipe to read from it may do so, and gets nothing.
        self._writer = os.open(self.pipe, os.O_RDWR)
        first = write_jsonl(directory / "first.jsonl", ({"text": make_text(seed)} for seed in range(20)))
        self.overrides = (
            sources_override(("jsonl", [first, self.pipe])),
            f"data_prep.output_dir={self.output}",
            f"data_prep.tokenizer.path={tokenizer}",
            "data_prep.num_workers=2",
        )
        # A shell that starts the tests in the background has it ignored, and processes inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = start_command("data_tools.prepare", *self.overrides)
        wait_until(lambda: self._spooled() and len(workers_of(self.process.pid)) == 2)
        self.workers = workers_of(self.process.pid)
        wait_until(lambda: any(has_open(worker, self.pipe) for worker in self.workers))
        # The one that is at the pipe comes last.
        self.workers.sort(key=lambda worker: has_open(worker, self.pipe))

    def finish(self) -> tuple[int, str]:
        """Exit code and stderr; fails when the command hangs."""
        _, stderr = self.process.communicate(timeout=LIMIT_SECONDS)
        return self.process.returncode, stderr

    def close(self) -> None:
        """End what a failed test has left."""
        os.close(self._writer)
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def _spooled(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        return any(file.stat().st_size for file in self.output.glob(".preparing/read-*/*.spool"))


@pytest.fixture
def stuck(prepared: Prepared, tmp_path: Path) -> Iterator[Stuck]:
    made = Stuck(tmp_path, prepared.output / "tokenizer.model")
    yield made
    made.close()


def test_the_input_at_which_a_worker_is_killed_twice_is_named(stuck: Stuck) -> None:
    stuck.workers[1].kill()
    known = {worker.pid for worker in stuck.workers}
    wait_until(lambda: any(worker.pid not in known for worker in workers_of(stuck.process.pid)))
    # The one that was idle takes the file over, as soon as the new one is started.
    wait_until(lambda: has_open(stuck.workers[0], stuck.pipe))
    everyone = [*stuck.workers, *workers_of(stuck.process.pid)]
    stuck.workers[0].kill()
    code, stderr = stuck.finish()
    assert code == 1
    for worker, more in ((stuck.workers[1], "Retrying on a new worker."), (stuck.workers[0], "the second attempt.")):
        killed = f"(pid {worker.pid}) was killed (SIGKILL) while processing {stuck.pipe}; probably out of memory: "
        assert any(killed in line and line.endswith(more) for line in stderr.splitlines()), stderr
    assert "Traceback" not in stderr
    assert not any(map(is_alive, everyone))
    assert [path.name for path in stuck.output.iterdir()] == [".preparing"]


def test_after_a_killed_run_the_next_one_gives_the_same_bytes(stuck: Stuck, tmp_path: Path) -> None:
    stuck.process.kill()
    stuck.finish()
    wait_until(lambda: not any(map(is_alive, stuck.workers)))
    assert [path.name for path in stuck.output.iterdir()] == [".preparing"]
    stuck.pipe.unlink()
    write_jsonl(stuck.pipe, ({"text": make_text(seed)} for seed in range(20, 40)))
    again = run_prepare(*stuck.overrides)
    assert again.returncode == 0, again.stderr
    fresh = run_prepare(*stuck.overrides, f"data_prep.output_dir={tmp_path / 'fresh'}")
    assert fresh.returncode == 0, fresh.stderr
    assert hash_files(stuck.output) == hash_files(tmp_path / "fresh")


def test_an_interrupt_leaves_no_output(stuck: Stuck) -> None:
    os.killpg(stuck.process.pid, signal.SIGINT)
    code, stderr = stuck.finish()
    assert code == 130
    assert "Interrupted. Partial results are in " in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in stuck.output.iterdir()] == [".preparing"]


def test_a_signal_to_everyone_leaves_the_work(stuck: Stuck) -> None:
    os.killpg(stuck.process.pid, signal.SIGTERM)
    code, _ = stuck.finish()
    assert code == -signal.SIGTERM
    wait_until(lambda: not any(map(is_alive, stuck.workers)))
    assert [path.name for path in stuck.output.iterdir()] == [".preparing"]


def test_a_second_preparation_in_the_same_directory_is_refused(prepared: Prepared) -> None:
    descriptor = os.open(prepared.output, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        done = run_prepare(*prepared.overrides, f"data_prep.output_dir={prepared.output}")
    finally:
        os.close(descriptor)
    assert done.returncode == 2
    assert "another preparation is writing to this directory" in done.stderr


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    done = run_prepare(
        sources_override(("jsonl", [tmp_path / "missing.jsonl"]), ("text", [tmp_path / "*.txt"])),
        f"data_prep.output_dir={tmp_path / 'data'}",
        "data_prep.num_worker=2",
        "data_prep.tokenizer.vocab_size=1000",
        "data_prep.tokenizer.model_type=unigramm",
        "data_prep.split.validation_fraction=1.5",
        "data_prep.cleaning.min_characters=many",
        "num_workers=3",
    )
    assert done.returncode == 2
    assert done.stdout == ""
    problems = done.stderr.splitlines()
    assert problems[0] == "8 errors; nothing was started:"
    for expected in (
        "data_prep.num_worker: unknown field of data_prep (got 2). Did you mean data_prep.num_workers?",
        "data_prep.tokenizer.model_type: unknown value 'unigramm'. Did you mean unigram? Choose unigram or bpe.",
        "data_prep.cleaning.min_characters: expected an integer, got a string (many)",
        " num_workers: unknown field (got 3). Did you mean data_prep.num_workers?",
        "data_prep.tokenizer.vocab_size: must be a multiple of data_prep.tokenizer.vocab_multiple=128 (got 1000)",
        "data_prep.split.validation_fraction: must be at least 0 and less than 1 (got 1.5). Use less than 1.",
        f"data_prep.sources[0].paths[0]: no such file (got {tmp_path / 'missing.jsonl'})",
        f"data_prep.sources[1].paths[0]: no file matches (got {tmp_path / '*.txt'})",
    ):
        assert sum(expected in problem for problem in problems) == 1, (expected, done.stderr)
    assert not (tmp_path / "data").exists()


def test_settings_that_do_not_suit_each_other(tmp_path: Path) -> None:
    (tmp_path / "broken.model").write_text("no model")
    (tmp_path / "file").write_text("")
    done = run_prepare(
        "data_prep.sources=[{name:a b,kind:text,paths:[no]},{name:x,kind:text,paths:[]},{name:x,kind:text,paths:[]}]",
        f"data_prep.output_dir={tmp_path / 'file' / 'data'}",
        f"data_prep.tokenizer.path={tmp_path / 'broken.model'}",
        "data_prep.tokenizer.special_tokens=['<s>']",
        "data_prep.cleaning.min_characters=9",
        "data_prep.cleaning.max_characters=8",
    )
    assert done.returncode == 2
    for expected in (
        "data_prep.sources[0].name: must consist of letters, digits, ",
        "(got 'a b'). Use a-b.",
        "data_prep.sources[1].name: used by more than one source (got x)",
        "data_prep.sources[2].paths: no input listed",
        f"data_prep.output_dir: cannot create the directory: {tmp_path / 'file'} is a file",
        "tokenizer.path: must be a SentencePiece model",
        "an existing tokenizer gets no new tokens",
        "every trained tokenizer already has this token",
        "data_prep.cleaning.min_characters: must be at most data_prep.cleaning.max_characters=8",
    ):
        assert expected in done.stderr, (expected, done.stderr)
    assert "Traceback" not in done.stderr


def test_without_arguments_it_says_what_is_missing_and_shows_a_command_that_works(
    tmp_path: Path,
) -> None:
    done = run_prepare()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("data_prep.sources: no input configured.")
    usage = run_prepare("--help")
    assert usage.returncode == 0 and "usage: trireme prepare" in usage.stdout
    program, verb, *overrides = shlex.split(done.stderr[done.stderr.index("trireme prepare") :].split("\n\n")[0])
    assert (program, verb) == ("trireme", "prepare")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text(make_text(0), encoding="utf-8")
    works = warm.run([sys.executable, "-m", "data_tools.prepare", *overrides], cwd=tmp_path, env=os.environ)
    assert works.returncode == 0, works.stderr
    assert (tmp_path / "outputs" / "data" / "train.idx").is_file()


def test_too_little_text_is_explained(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "texts.jsonl", ({"text": make_text(seed)} for seed in range(5)))
    common = (
        sources_override(("jsonl", [file])),
        f"data_prep.output_dir={tmp_path / 'data'}",
        "data_prep.num_workers=1",
    )
    large = run_prepare(*common, "data_prep.tokenizer.vocab_size=8192", "data_prep.tokenizer.vocab_multiple=8")
    assert large.returncode == 1
    assert "data_prep.tokenizer.vocab_size: too large for the text, which yields at most" in large.stderr
    nothing = run_prepare(*common, "data_prep.cleaning.min_characters=1000000", "data_prep.tokenizer.vocab_size=384")
    assert nothing.returncode == 2
    assert "No document was kept (5 records read): too_short 5" in nothing.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".preparing"]


def test_foreign_files_are_not_replaced(prepared: Prepared, tmp_path: Path) -> None:
    output = tmp_path / "data"
    output.mkdir()
    (output / "train.bin").write_text("mine")
    done = run_prepare(*prepared.overrides, f"data_prep.output_dir={output}")
    assert done.returncode == 2
    assert "the directory contains train.bin, but no finished preparation" in done.stderr
    assert (output / "train.bin").read_text() == "mine"
