"""auto, never and paths; damage is named, and the last good checkpoint is used."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoint.fragments import MODEL, PADDED_VOCAB_SIZE, flip_bit, state_of
from tests.trireme.small_disk import fill, small_file_system
from trainer.checkpoint import manifest
from trainer.checkpoint.compatibility import check_resume, describe_changes
from trainer.checkpoint.directory import begin, commit
from trainer.checkpoint.discovery import check_checkpoint, choose_checkpoint, find_latest, resolve
from trainer.checkpoint.manifest import FileRecord, write_durably
from trainer.checkpoint.trainer_state import STATE_NAME, TrainerState, write_state
from trainer.config.model import ModelConfig
from trainer.run_directory.lock import RunLock
from trireme.errors import ConfigError, Violation

SEED = 1234
"""Of `state_of`."""


def make(run: Path, *, step: int, state: TrainerState | None = None) -> Path:
    """A checkpoint without tensors."""
    temporary = begin(run, step=step)
    files = {
        "__0_0.distcp": write_durably(temporary / "__0_0.distcp", "tensors of rank 0" * 100),
        "__1_0.distcp": write_durably(temporary / "__1_0.distcp", "tensors of rank 1" * 100),
        STATE_NAME: write_state(temporary, state or state_of(step)),
    }
    return commit(temporary, step=step, files=files)


def check(
    resume: str, run: Path, *, model: ModelConfig = MODEL, padded_vocab_size: int = PADDED_VOCAB_SIZE, seed: int = SEED
) -> list[Violation]:
    return check_resume(resume, run_directory=run, model=model, padded_vocab_size=padded_vocab_size, seed=seed)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    flip_bit(path, position=40)


DAMAGES = [
    ("__1_0.distcp", _truncate, "is truncated: the manifest records 1700 bytes (got 1699 bytes)"),
    ("__1_0.distcp", Path.unlink, "cannot be read: No such file"),
    ("__1_0.distcp", _flip, "is damaged: the manifest records sha256"),
    (STATE_NAME, _flip, "is damaged: the manifest records sha256"),
    (STATE_NAME, Path.unlink, "cannot be read: No such file"),
    ("manifest.json", _flip, "is damaged: "),
]
SEEN_BY_SIZE = [damage for damage in DAMAGES if damage[1] is not _flip]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_damage_is_named_and_the_last_good_checkpoint_is_used(
    tmp_path: Path, name: str, damage: Callable, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = make(tmp_path, step=10), make(tmp_path, step=20)
    damage(bad / name)
    with caplog.at_level(logging.WARNING):
        assert choose_checkpoint("auto", run_directory=tmp_path, verify=True) == good
    assert str(bad / name) in caplog.text
    assert message in caplog.text
    with pytest.raises(ConfigError) as error:
        choose_checkpoint(str(bad), run_directory=tmp_path / "other", verify=True)
    assert f"{bad / name}: " in str(error.value)
    assert message in str(error.value)


def test_an_unverified_choice_sees_sizes_only(tmp_path: Path) -> None:
    first, second = make(tmp_path, step=10), make(tmp_path, step=20)
    _flip(second / "__0_0.distcp")
    assert choose_checkpoint("auto", run_directory=tmp_path, verify=False) == second == find_latest(tmp_path)
    _truncate(second / "__0_0.distcp")
    assert choose_checkpoint("auto", run_directory=tmp_path, verify=False) == first == find_latest(tmp_path)


def test_a_rollback_takes_the_one_saved_last_at_or_before_a_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def choose(step: int) -> Path | None:
        return choose_checkpoint("auto", run_directory=tmp_path, verify=True, at_or_before_step=step)

    ten, _, thirty = (make(tmp_path, step=step) for step in (10, 20, 30))
    assert choose(30) == thirty
    assert choose(29) == thirty.with_name("step_00000020")
    _flip(thirty.with_name("step_00000020") / "__0_0.distcp")
    with caplog.at_level(logging.WARNING):
        assert choose(25) == ten
    assert "Skipping the damaged checkpoint" in caplog.text and "step_00000020: " in caplog.text
    assert choose(9) is None
    again = make(tmp_path, step=15)
    assert choose(30) == again, "after the run went back to step 10"


def test_every_share_of_the_files_is_looked_at(tmp_path: Path) -> None:
    path = make(tmp_path, step=10)
    for name in ("__0_0.distcp", "__1_0.distcp", STATE_NAME):
        _flip(path / name)
    whole = {str(found) for found in check_checkpoint(path, verify_hashes=True)}
    shares = [str(found) for rank in range(5) for found in check_checkpoint(path, verify_hashes=True, share=(rank, 5))]
    assert len(whole) == 3
    assert sorted(shares) == sorted(whole)


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    assert resolve("auto", run_directory=tmp_path / "none") is None
    assert resolve("never", run_directory=tmp_path) is None
    assert find_latest(tmp_path) is None
    assert check("auto", tmp_path / "none") == []
    assert not (tmp_path / "none").exists(), "a check writes nothing"


def test_all_damaged_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    for step in (10, 20):
        (make(tmp_path, step=step) / "__0_0.distcp").unlink()
    with pytest.raises(ConfigError) as error:
        resolve("auto", run_directory=tmp_path)
    assert len(error.value.violations) == 2
    assert len(check("auto", tmp_path)) == 2


@pytest.mark.parametrize("form", ["", "checkpoints", "checkpoints/step_00000020", "checkpoints/step_00000010"])
def test_a_path_may_be_a_checkpoint_a_run_or_its_checkpoints(tmp_path: Path, form: str) -> None:
    make(tmp_path / "run", step=10)
    newest = make(tmp_path / "run", step=20)
    expected = newest.with_name("step_00000010") if form.endswith("10") else newest
    resume = str(tmp_path / "run" / form)
    assert resolve(resume, run_directory=tmp_path / "new") == expected
    assert check(resume, tmp_path / "new") == []
    assert check(resume, tmp_path / "run") == []


def test_a_path_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    incomplete = make(tmp_path / "run", step=10)
    (incomplete / "manifest.json").unlink()
    for name, rule in [
        ("absent", "does not exist"),
        ("empty", "contains no complete checkpoint"),
        ("file", "contains no complete checkpoint"),
        ("run/checkpoints/step_00000010", "contains no complete checkpoint"),
    ]:
        (violation,) = check(str(tmp_path / name), tmp_path / "new")
        assert (violation.path, violation.value) == ("resume", str(tmp_path / name))
        assert violation.message == rule


def test_an_unreadable_path_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)

    def forbidden(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    (violation,) = check(str(tmp_path / "run"), tmp_path / "new")
    assert "cannot be read: Permission denied" in violation.message


@pytest.mark.parametrize(("name", "damage", "message"), SEEN_BY_SIZE)
def test_a_damaged_path_is_named_before_anything_starts(
    tmp_path: Path, name: str, damage: Callable, message: str
) -> None:
    path = make(tmp_path / "run", step=10)
    damage(path / name)
    (violation,) = check(str(path), tmp_path / "new")
    assert violation.path == str(path / name)
    assert message in str(violation)


def test_an_occupied_run_directory_is_never_started_anew(tmp_path: Path) -> None:
    make(tmp_path / "run", step=10)
    make(tmp_path / "other", step=20)
    for resume in ("never", str(tmp_path / "other")):
        (violation,) = check(resume, tmp_path / "run")
        assert "already has the checkpoint step_00000010" in violation.message
        assert "resume=auto" in violation.fix


def test_a_run_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (violation,) = check("auto", tmp_path / "file" / "run")
    assert violation.path == "output_dir"
    assert "cannot be written: Not a directory" in violation.message
    (violation,) = check("auto", Path("/proc/run"))
    assert "cannot be written" in violation.message


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, step=10)
    monkeypatch.setattr(manifest, "FORMAT_VERSION", 0)
    (violation,) = check("auto", tmp_path)
    assert str(violation).startswith(f"{path / 'manifest.json'}: has a format that this version cannot read")


def test_each_differing_field_is_named_with_both_values(tmp_path: Path) -> None:
    path = make(tmp_path, step=10)
    other = replace(MODEL, hidden_size=32, num_layers=8, activation="gelu", untie_embeddings_and_output_weights=True)
    violations = {v.path: v for v in check("auto", tmp_path, model=other, padded_vocab_size=128)}
    assert set(violations) == {
        "model.hidden_size",
        "model.num_layers",
        "model.activation",
        "model.untie_embeddings_and_output_weights",
        "model.kv_channels",
        "padded_vocab_size",
    }
    assert str(violations["model.hidden_size"]).startswith(
        f"model.hidden_size: differs from the checkpoint's 16 ({path}) (got 32). Use 16"
    )
    assert "64" in violations["padded_vocab_size"].message


def test_what_may_differ(tmp_path: Path) -> None:
    make(tmp_path, step=10)
    other = replace(MODEL, seq_length=64, hidden_dropout=0.1, kv_channels=4, rotary_base=5e5, vocab_size=60)
    assert check("auto", tmp_path, model=other) == []
    assert describe_changes(other, state=state_of(10)) == [
        "model.rotary_base was 10000.0 in the checkpoint and is 500000.0 now.",
        "model.seq_length was 32 in the checkpoint and is 64 now.",
    ]


def test_a_learned_position_table_fixes_the_sequence_length(tmp_path: Path) -> None:
    learned = replace(MODEL, position_embedding_type="learned_absolute")
    make(tmp_path, step=10, state=state_of(10, model=learned))
    (violation,) = check("auto", tmp_path, model=replace(learned, seq_length=64))
    assert violation.path == "model.max_position_embeddings"
    assert (
        check("auto", tmp_path, model=replace(learned, seq_length=8, max_position_embeddings=learned.seq_length)) == []
    )


def test_a_field_that_an_older_checkpoint_does_not_know_had_its_default(tmp_path: Path) -> None:
    state = state_of(10)
    older = replace(state, model={name: value for name, value in state.model.items() if name != "qk_layernorm"})
    make(tmp_path, step=10, state=older)
    assert check("auto", tmp_path) == []
    (violation,) = check("auto", tmp_path, model=replace(MODEL, qk_layernorm=True))
    assert violation.path == "model.qk_layernorm"


def test_records_of_the_state_file_are_those_of_its_bytes(tmp_path: Path) -> None:
    record = write_state(tmp_path, state_of(3))
    assert record == FileRecord(num_bytes=(tmp_path / STATE_NAME).stat().st_size, sha256=record.sha256)


def test_the_seed_is_fixed_for_a_resumed_run_but_not_for_a_fork(tmp_path: Path) -> None:
    make(tmp_path / "run", step=10)
    (problem,) = check("auto", tmp_path / "run", seed=9)
    assert str(problem).startswith("training.seed: differs from 1234, the seed of the resumed run (")
    assert "Use 1234 to resume it" in str(problem)
    assert check(str(tmp_path / "run"), tmp_path / "fork", seed=9) == []


def test_a_full_disk_is_named_before_anything_starts(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", kibibytes=128) as place:
        assert check("auto", place / "run") == []
        fill(place)
        (problem,) = check("auto", place / "run")
        assert "cannot be written: No space left on device" in str(problem) and "Free space there" in str(problem)
        with pytest.raises(ConfigError, match="cannot be written: No space left on device"), RunLock(place / "run"):
            pass
        assert not list((place / "run").iterdir()), "the next start finds no lock"
