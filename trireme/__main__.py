"""Start the module of a verb: `trireme VERB ...`. `python -m MODULE` does the same."""

import importlib
import sys

from trireme.errors import EXIT_BAD_INPUT
from trireme.verbs import TASKS, VERBS

_COMPLETE = "__complete"
"""Verb that the completion scripts call."""


def main() -> int:
    """Run the verb that the command line names; return its exit code."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else EXIT_BAD_INPUT
    name, rest = words[0], words[1:]
    if name == "--version":
        from importlib.metadata import version  # noqa: PLC0415 - most verbs do not need it

        print(f"trireme {version('trireme')}")
        return 0
    if name in ("completion", _COMPLETE):
        from trireme import completion  # noqa: PLC0415 - as above

        return completion.print_script(rest) if name == "completion" else completion.print_choices(rest)
    if name not in VERBS:
        return _refuse(name)
    sys.argv = [f"trireme {name}", *rest]
    code = importlib.import_module(VERBS[name].module).main()
    return int(code or 0)


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    lines = ["usage: trireme VERB [ARGUMENT ...]", ""]
    for task, verbs in TASKS.items():
        lines += [f"{task}:", *(f"  {verb.name:{width}}{verb.help}" for verb in verbs), ""]
    lines += [
        "trireme VERB --help explains a verb. Each is also a module: trireme prepare is python -m data_tools.prepare.",
        'Shell completion: eval "$(trireme completion bash)", or zsh.',
    ]
    return "\n".join(lines)


def _refuse(name: str) -> int:
    from trireme.config.suggest import did_you_mean  # noqa: PLC0415 - as above

    fix = did_you_mean(name, VERBS) or "See trireme --help."
    print(f"trireme: no such verb (got {name}). {fix.strip()}", file=sys.stderr)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
