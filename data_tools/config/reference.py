"""Generate the reference of all settings of a preparation, as Markdown, from the dataclasses and conf/.

`python -m data_tools.config.reference > docs/reference/data_prep.md`
"""

import inspect
import sys

from data_tools.config.rules import RANGES
from data_tools.config.schema import ROOT, DataPrepConfig
from trireme.config.fields import field_types, nested_schemas
from trireme.config.reference import render_fields, render_groups

PREFACE = """\
# Data preparation: settings

<!-- Generated: python -m data_tools.config.reference > docs/reference/data_prep.md. Edit the dataclasses instead. -->

    trireme prepare data_prep=OPTION data_prep.FIELD=VALUE ...

`data_prep=OPTION` selects the file `conf/data_prep/OPTION.yaml`; `data_prep.FIELD=VALUE` sets one field. An item of a
list is addressed by its index: `data_prep.sources.0.paths=[...]`. `'hydra.searchpath=[/my/conf]'` adds a directory of
your own options. For how to use them, see [Preparing data](../data/preparing.md).
"""

PREFIX = "data_prep."


def render_reference() -> str:
    """Return the whole document."""
    ranges = {PREFIX + path: allowed for path, allowed in RANGES.items()}
    parts = [PREFACE, "## Options\n\n" + render_groups(ROOT), "\n## Fields\n"]
    parts.append(render_fields(DataPrepConfig, prefix=PREFIX, nested=False, ranges=ranges))
    for name, annotation in field_types(DataPrepConfig).items():
        for schema in nested_schemas(annotation):
            table = render_fields(schema, prefix=f"{PREFIX}{name}.", nested=True, ranges=ranges)
            parts.append(f"\n### {name}\n\n{inspect.getdoc(schema)}\n\n{table}")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
