"""Complete the command `trireme` in bash and zsh: verbs, then groups of conf/ with their options, then files."""

import sys
from collections.abc import Iterator

from trireme.errors import EXIT_BAD_INPUT
from trireme.project import CONF_DIR
from trireme.verbs import VERBS

BASH = """\
_trireme() {
  local IFS=$'\\n' word="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
  # Bash splits at "=": put what belongs together into one word again.
  if [[ $word == "=" ]]; then word="${words[-1]}="; unset 'words[-1]'
  elif [[ ${#words[@]} -ge 2 && ${words[-1]} == "=" ]]; then
    word="${words[-2]}=$word"; unset 'words[-1]' 'words[-1]'
  fi
  COMPREPLY=($(trireme __complete "$word" "${words[@]}" 2>/dev/null))
  if [[ $word == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#*=}"); fi
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -o bashdefault -o default -F _trireme trireme
"""

ZSH = """\
#compdef trireme
_trireme() {
  local -a found
  found=(${(f)"$(trireme __complete "${words[CURRENT]}" "${(@)words[2,CURRENT-1]}" 2>/dev/null)"})
  if (( $#found )); then compadd -Q -S '' -- $found; else _files; fi
}
compdef _trireme trireme
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH}


def print_script(arguments: list[str]) -> int:
    """Print the script that a shell evaluates; return 2 for an unknown shell."""
    if len(arguments) != 1 or arguments[0] not in SCRIPTS:
        got = " ".join(arguments) or "nothing"
        print(
            f"trireme completion: must be bash or zsh (got {got}). Run trireme completion bash, or zsh.",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    print(SCRIPTS[arguments[0]], end="")
    return 0


def print_choices(words: list[str]) -> int:
    """Print the completions of the word at the cursor, one per line.

    Args:
        words: the word so far, then the words before it.
    """
    word, before = (words[0], words[1:]) if words else ("", [])
    for choice in sorted(set(find_choices(word, before))):
        print(choice)
    return 0


def find_choices(word: str, before: list[str]) -> Iterator[str]:
    """Yield verbs for the first word; after a verb that takes overrides, `GROUP=` and `GROUP=OPTION`."""
    if not before:
        yield from (name for name in [*VERBS, "completion"] if name.startswith(word))
        return
    verb = VERBS.get(before[0])
    if before[0] == "completion":
        yield from (name for name in SCRIPTS if name.startswith(word))
    if verb is None or not verb.takes_overrides:
        return
    group, equals, option = word.partition("=")
    if equals:
        yield from (f"{group}={name}" for name in _options(group) if name.startswith(option))
        return
    is_preparation = verb.takes_overrides == "data_prep"
    for folder in sorted(CONF_DIR.iterdir()):
        is_of_verb = folder.is_dir() and (folder.name == "data_prep") == is_preparation
        if is_of_verb and folder.name.startswith(word) and _options(folder.name):
            yield f"{folder.name}="


def _options(group: str) -> list[str]:
    folder = CONF_DIR / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
