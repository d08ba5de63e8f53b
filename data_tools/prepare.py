"""Raw files to token shards: python -m data_tools.prepare data_prep=OPTION [data_prep.FIELD=VALUE ...]"""

import sys

from trireme.errors import exit_code_of

USAGE = """\
usage: python -m data_tools.prepare data_prep=OPTION [data_prep.FIELD=VALUE ...]

Options: files in conf/data_prep/. Fields: docs/data_prep_reference.md. How to: docs/data_preparation.md. For example
  python -m data_tools.prepare 'data_prep.sources=[{name:notes,kind:text,paths:["notes/*.txt"]}]' \\
    data_prep.output_dir=outputs/notes
"""


def main() -> int:
    """The command."""
    overrides = sys.argv[1:]
    if not overrides or {"-h", "--help"} & set(overrides):
        print(USAGE, end="")
        return 0 if overrides else 2
    # Every worker process imports this module.
    from data_tools.run_preparation import run  # noqa: PLC0415

    return exit_code_of(lambda: run(overrides))


if __name__ == "__main__":
    sys.exit(main())
