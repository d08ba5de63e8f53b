"""Write the report of a preparation: trireme data-report OUTPUT_DIR writes OUTPUT_DIR/report.html.

It is rendered from the files next to the shards. It is not part of the output: equal preparations may have different
reports.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data_tools.ledger import LEDGER_VERSION
from data_tools.output.publish import RECORD_NAME, RECORD_VERSION, REPORT_NAME
from data_tools.output.stats import STATS_VERSION
from data_tools.report.content import Files, build_content
from data_tools.report.counts import count_tables
from data_tools.report.tables import read_samples
from data_tools.work.progress import read_timings
from trireme.errors import ConfigError, Violation, exit_code_of
from trireme.files import write_whole
from trireme.progress import format_count

TEMPLATE_NAME = "page.html.j2"
NAMES = {"train": "Training", "validation": "Validation", "kept": "Kept", "dropped": "Dropped", "failed": "Failed"}
"""Labels of the figures."""


def write_report(output: Path) -> Path:
    """Write report.html into the directory of a finished preparation, whole or not at all.

    Returns:
        Its path.
    Raises:
        ConfigError: the directory contains no finished preparation, or one of its files cannot be read.
        OSError: the report cannot be written.
    """
    html = render_report(output)
    path = output / REPORT_NAME
    write_whole(path, html)
    return path


def render_report(output: Path) -> str:
    """Render the report of a finished preparation as HTML.

    Raises:
        ConfigError: the directory contains no finished preparation, or one of its files cannot be read.
    """
    record = _read_json(output / RECORD_NAME, version=RECORD_VERSION)
    try:
        tables = count_tables(output)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError([_violation(output, f"cannot read a table: {error}")]) from error
    files = Files(
        record=record,
        stats=_read_json(output / "stats.json", version=STATS_VERSION),
        ledger=_read_json(output / "ledger.json", version=LEDGER_VERSION),
        tables=tables,
        samples=read_samples(output),
        timings=read_timings(output),
    )
    finished = datetime.fromtimestamp((output / RECORD_NAME).stat().st_mtime, tz=UTC)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    return environment.get_template(TEMPLATE_NAME).render(
        content=build_content(output, files),
        prepared=finished.strftime("%Y-%m-%d %H:%M UTC"),
        names=NAMES,
        format_count=format_count,
    )


def _read_json(path: Path, *, version: int) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([_violation(path.parent, f"no finished preparation: {path.name} does not exist")]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([_violation(path.parent, f"cannot read {path.name}: {error}")]) from error
    if not isinstance(content, dict) or content.get("version") != version:
        raise ConfigError([_violation(path.parent, f"{path.name} is not of version {version}")])
    return content


def _violation(output: Path, rule: str) -> Violation:
    fix = "Use the data_prep.output_dir of a finished preparation, or prepare it again."
    return Violation(path="OUTPUT_DIR", value=output, message=rule, fix=fix)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="trireme data-report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", metavar="OUTPUT_DIR", type=Path, help="data_prep.output_dir of a preparation")
    args = parser.parse_args()

    def body() -> int:
        try:
            path = write_report(args.output)
        except OSError as error:
            print(f"Failed to write the report: {error.filename}: {error.strerror}", file=sys.stderr)
            return 1
        print(path)
        return 0

    return exit_code_of(body)
