"""Convert the lines of a wiki page to prose: headings, dropped sections, lists, tables."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

BREAK = "\x1e"
"""Ends a line within a paragraph, a list item or a table cell; no character of XML, and white space to str.split."""

MAX_HEADING_LEVEL = 6
MAX_TABLE_DEPTH = 8
"""Deeper tables are read as part of the enclosing one, so that the time is linear in the length of the text."""

_LIST = re.compile(r"([*#:;]+)[ \t]*(.*)")
_TABLE_START = re.compile(rf"[ \t:*#{BREAK}]*\{{\|(.*)")
_DROPPED_TABLE = re.compile(
    r"infobox|navbox|metadata|ambox|mbox|sidebar|toccolours|\btoc\b|noprint|succession-box|display:\s*none|messagebox",
    re.IGNORECASE,
)
_NO_ATTRIBUTE = frozenset("[]{}\x7f")
_CELL_BREAK = re.compile(r"\|\|")
_HEADER_BREAK = re.compile(r"\|\||!!")


@dataclass
class _Table:
    """Hold the rows of a table that has not ended yet."""

    is_kept: bool
    rows: list[list[str]] = field(default_factory=lambda: [[]])

    def add_text(self, text: str) -> None:
        """Append text to the current cell."""
        if self.rows[-1]:
            cell = self.rows[-1][-1]
            self.rows[-1][-1] = f"{cell} {text}" if cell else text

    def write(self) -> list[str]:
        """Return one line per row, with bars between cells; rows without text are dropped."""
        if not self.is_kept:
            return []
        rows = ([cell for cell in (" ".join(cell.split()) for cell in row) if cell] for row in self.rows)
        return [" | ".join(row) for row in rows if row]


@dataclass
class _Writer:
    """Collect the lines of a page, and drop sections and empty headings."""

    drop_sections: frozenset[str]
    lines: list[tuple[int, str]] = field(default_factory=list)
    """Level of the heading, or 0, and the text of each line."""
    dropped_level: int = 0
    """Level of the heading whose section is dropped, or 0."""

    def add(self, line: str) -> None:
        """Append a line of text."""
        if not self.dropped_level:
            self.lines.append((0, line))

    def add_heading(self, level: int, title: str) -> None:
        """Start a section."""
        if self.dropped_level and level > self.dropped_level:
            return
        self.dropped_level = level if title.casefold() in self.drop_sections else 0
        if not self.dropped_level:
            self.lines.append((level, title))

    def write(self) -> str:
        """Return all lines except headings without text below them."""
        written: list[str] = []
        # Backward: the lowest level of the headings that the text further down belongs to.
        open_level = 0
        for level, line in reversed(self.lines):
            if level == 0:
                open_level = 7 if line.strip() else open_level
                written.append(line)
            elif open_level > level:
                open_level = level
                written += ["", line, ""]
            # A heading of the same or a higher level ends the section before; one without text is dropped.
        return "\n".join(reversed(written)).replace(BREAK, "\n")


def write_lines(text: str, *, drop_sections: frozenset[str]) -> str:
    """Convert a page, whose templates and links have been resolved, to prose.

    Args:
        drop_sections: case-folded titles of the sections to drop, with their subsections.
    """
    writer = _Writer(drop_sections)
    tables: list[_Table] = []
    counters: dict[str, int] = {}
    for line in text.split("\n"):
        start = _TABLE_START.fullmatch(line)
        if start and len(tables) < MAX_TABLE_DEPTH:
            tables.append(_Table(is_kept=not _DROPPED_TABLE.search(start[1])))
        elif heading := _read_heading(line):
            # A heading ends a table: an unclosed one would otherwise swallow the rest of the page.
            _end_tables(tables, writer)
            writer.add_heading(*heading)
        elif tables:
            _read_table_line(line.strip(), tables, writer)
        else:
            writer.add(_write_list_item(line, counters))
    _end_tables(tables, writer)
    return writer.write()


def _read_heading(line: str) -> tuple[int, str] | None:
    """Return the level and the title of a heading."""
    if "=" not in line[:4]:
        return None
    line = line.strip()
    level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), MAX_HEADING_LEVEL)
    title = " ".join(line[level : len(line) - level].split())
    return (level, title) if level and title else None


def _end_tables(tables: list[_Table], writer: _Writer) -> None:
    while tables:
        _end_table(tables, writer)


def _end_table(tables: list[_Table], writer: _Writer) -> None:
    lines = tables.pop().write()
    if tables:
        tables[-1].add_text(" ".join(lines))
    else:
        _add_all(["", *lines, ""], writer)


def _add_all(lines: Iterable[str], writer: _Writer) -> None:
    for line in lines:
        writer.add(line)


def _read_table_line(line: str, tables: list[_Table], writer: _Writer) -> None:
    table = tables[-1]
    if line.startswith("|}"):
        _end_table(tables, writer)
        rest = line[2:].strip()
        if rest and tables:
            tables[-1].add_text(rest)
        elif rest:
            writer.add(rest)
    elif line.startswith("|-"):
        table.rows.append([])
    elif line.startswith("|+"):
        table.rows += [[_strip_attributes(line[2:])], []]
    elif line.startswith(("|", "!")):
        separator = _HEADER_BREAK if line[0] == "!" else _CELL_BREAK
        table.rows[-1] += [_strip_attributes(cell) for cell in separator.split(line[1:])]
    elif line:
        item = _LIST.fullmatch(line)
        table.add_text(item[2] if item else line)


def _strip_attributes(cell: str) -> str:
    """Remove the attributes before a cell's text: style="..." |."""
    attributes, bar, text = cell.partition("|")
    is_attributes = bar and ("=" in attributes or not attributes.strip()) and not set(attributes) & _NO_ATTRIBUTE
    return (text if is_attributes else cell).strip()


def _write_list_item(line: str, counters: dict[str, int]) -> str:
    """Prefix a list item with a bullet, a number or nothing; return other lines unchanged."""
    item = _LIST.fullmatch(line)
    if item is None:
        counters.clear()
        return line[1:].rstrip() if line.startswith(" ") else line.rstrip()
    marks, content = item[1], item[2].rstrip()
    for known in [known for known in counters if not marks.startswith(known)]:
        del counters[known]
    if not content:
        return ""
    indent = "  " * (len(marks.rstrip(":;")) - 1)
    if marks[-1] == "#":
        counters[marks] = counters.get(marks, 0) + 1
        return f"{indent}{counters[marks]}. {content}"
    if marks[-1] == "*":
        return f"{indent}- {content}"
    return content
