"""The command trireme: every verb starts its module, help is fast, shells complete it."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trireme import __main__ as command
from trireme.verbs import TASKS, VERBS, Verb

REPOSITORY = Path(__file__).resolve().parents[2]
TRIREME = [sys.executable, "-m", "trireme"]


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*TRIREME, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def test_help_lists_every_verb_and_imports_next_to_nothing() -> None:
    lines = "import sys; sys.argv = ['trireme', '--help']; import trireme.__main__ as m; m.main()"
    count = (
        "; print(sorted(n for n in sys.modules if n.split('.')[0] in ('numpy', 'hydra', 'torch', 'trainer', 'launch')))"
    )
    done = subprocess.run([sys.executable, "-c", lines + count], cwd=REPOSITORY, capture_output=True, text=True)
    assert all(f"  {verb.name} " in done.stdout and verb.help in done.stdout for verb in VERBS.values())
    assert all(f"{task}:" in done.stdout for task in TASKS)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS.values(), ids=list(VERBS))
def test_a_verb_has_a_main(verb: Verb) -> None:
    found = importlib.util.find_spec(verb.module)
    assert found is not None and found.origin is not None
    assert re.search(r"^(def main\(|from \S+ import main$)", Path(found.origin).read_text(), re.MULTILINE)


def test_a_verb_is_its_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["trireme", "inspect", "none"])
    assert command.main() == 2
    assert "none.idx" in capsys.readouterr().err


def test_an_unknown_verb_names_the_nearest() -> None:
    done = run("prpare")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "trireme: no such verb (got prpare). Did you mean prepare?\n"
    assert run().returncode == 2
    assert run("completion", "fish").returncode == 2


def complete(shell: str, line: str) -> list[str]:
    """Return the shell's completions at the end of a line."""
    words = line.split(" ")
    script = f"""
      trireme() {{ {" ".join(TRIREME)} "$@"; }}
      eval "$(trireme completion {shell})"
      compopt() {{ :; }}
      COMP_WORDS=({" ".join(words)}); [[ {line!r} == *' ' ]] && COMP_WORDS+=("")
      COMP_CWORD=$((${{#COMP_WORDS[@]}}-1))
      _trireme
      printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([shell, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash_completes_verbs_groups_and_options() -> None:
    assert complete("bash", "trireme prep") == ["prepare", "prepare-examples"]
    assert "model=" in complete("bash", "trireme local m")
    # readline has split the word at "="
    assert {"llama_1b", "llama_8b"} <= set(complete("bash", "trireme local model = l"))
    assert complete("bash", "trireme inspect x") == []


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_its_script() -> None:
    script = run("completion", "zsh").stdout
    done = subprocess.run(["zsh", "-n"], input=script, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
