"""Resolve nested wikitext in one pass: templates, links, comments and extension tags.

The parser libraries are slower and expand no templates such as {{convert}}: on English Wikipedia, wikitextparser 3.0.0
took twice and mwparserfromhell 0.7.2 3.4 times as long to strip markup. This pass takes linear time: nesting deeper
than MAX_DEPTH is treated as plain text.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from data_tools.extract.wikitext.namespaces import fold_prefix, looks_like_picture
from data_tools.extract.wikitext.templates import Arguments, Wiki, expand_template, guess_text

MAX_DEPTH = 60
"""MediaWiki itself stops expanding templates at 40 (docs: $wgMaxPPExpandDepth, $wgMaxTemplateDepth)."""

STRIP_MARKER = "\x7f"
"""Encloses the number of a piece of text that later passes must not change; MediaWiki uses the same character."""

_LITERAL_TAGS = ("nowiki", "pre", "source", "syntaxhighlight")
_MATH_TAGS = ("math", "chem", "ce")
_DROPPED_TAGS = (
    "ref", "references", "gallery", "timeline", "imagemap", "score", "hiero", "graph", "templatedata", "templatestyles",
    "mapframe", "maplink", "inputbox", "categorytree", "indicator", "includeonly", "style", "script", "charinsert",
    "dynamicpagelist", "listing", "section", "languages", "rss", "videoflash",
)  # fmt: skip
_EXTENSION_TAGS = (*_LITERAL_TAGS, *_MATH_TAGS, *_DROPPED_TAGS)

_TOKEN = re.compile(
    r"\{\{+|\}\}+|\[\[|\]+|\||\[(?=(?:(?:https?|ftp):)?//[^\n\]]{0,2000}\]|mailto:[^\n\]]{0,2000}\])|<!--"
    rf"|<(?P<tag>{'|'.join(_EXTENSION_TAGS)})(?=[\s/>])(?P<attributes>[^<>]{{0,2000}})>",
    re.IGNORECASE,
)
_CLOSING_TAGS = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _EXTENSION_TAGS}
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,})*|simple|be-x-old|map-bms|roa-rup|roa-tara")
_WINDOW = 120
"""Characters of the line that are examined on either side of a template."""
_MARK_UP_BESIDE = re.compile(r"<[^<>]*>|\{\{[^{}]*\}\}")
_NO_NAME = re.compile(r"[\n{}\[\]<>|\x7f]")
MAX_NAME_CHARACTERS = 60
"""Longer names are not those of templates, and are not counted."""
_PIPE_TRICK = re.compile(r"[ \t]{0,3}[(（][^()（）]*[)）]$|[,，、][^,，、]*$")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")

_Kind = Literal["{", "[[", "["]


@dataclass(slots=True)
class _Frame:
    """Hold markup that has been opened and not yet closed."""

    kind: _Kind
    opening: str
    start: int
    """Offset in the text."""
    parts: list[list[str]] = field(default_factory=lambda: [[]])
    """Pieces of the text of each part; bars separate parts."""
    equals: list[int | None] = field(default_factory=lambda: [None])
    """Position of the first equals sign of each part, outside of inner markup."""
    unknown: list["UnknownTemplate"] = field(default_factory=list)
    """Inside of it."""

    def add(self, text: str, *, is_literal: bool) -> None:
        """Append text to the current part."""
        if is_literal and self.kind == "{" and self.equals[-1] is None and (at := text.find("=")) >= 0:
            self.equals[-1] = sum(map(len, self.parts[-1])) + at
        self.parts[-1].append(text)

    def split(self) -> None:
        """Start the next part."""
        self.parts.append([])
        self.equals.append(None)

    def restart(self, text: str) -> None:
        """Restart with the result of the inner braces of a run."""
        self.parts, self.equals = [[text]], [None]

    def joined(self) -> list[str]:
        """Return each part's text."""
        return ["".join(part) for part in self.parts]

    def as_text(self) -> str:
        """Return the opening markup and its content as plain text."""
        return self.opening + "|".join(self.joined())


class UnknownTemplate(NamedTuple):
    """Identify an unknown template inside a sentence."""

    name: str
    is_left_out: bool
    """Whether it was removed, because it has no argument that could be its text."""


class ResolvedMarkup(NamedTuple):
    """Hold a text without templates and links."""

    text: str
    protected: list[str]
    """The texts that its strip markers stand for."""
    unknown: Counter[UnknownTemplate]


def resolve_markup(text: str, *, link_prefixes: frozenset[str], wiki: Wiki, keep_math: bool = True) -> ResolvedMarkup:
    """Replace templates, links, comments and extension tags by their text.

    Args:
        link_prefixes: case-folded names of the namespaces whose links show no text (files, categories).
        keep_math: write formulas as $LaTeX$.
    """
    return _Resolver(text.replace(STRIP_MARKER, ""), link_prefixes, wiki, keep_math).resolve()


class _Resolver:
    def __init__(self, text: str, link_prefixes: frozenset[str], wiki: Wiki, keep_math: bool) -> None:
        self._text = text
        self._link_prefixes, self._wiki, self._keep_math = link_prefixes, wiki, keep_math
        self._output: list[str] = []
        self._stack: list[_Frame] = []
        self._protected: list[str] = []
        self._never_closed: set[str] = set()
        self._unknown: list[UnknownTemplate] = []

    def resolve(self) -> ResolvedMarkup:
        text, done = self._text, 0
        for match in _TOKEN.finditer(text):
            start = match.start()
            if start < done:
                continue
            if start > done:
                self._add(text[done:start])
            token = match[0]
            done = match.end()
            if match["tag"] is not None:
                done = self._skip_tag(match["tag"].lower(), match["attributes"], done)
            elif token == "|":
                if self._stack:
                    self._stack[-1].split()
                else:
                    self._add(token)
            elif token == "<!--":
                end = text.find("-->", done)
                done = len(text) if end < 0 else end + 3
            elif token[0] in "{[":
                self._open(token, start)
            elif token[0] == "}":
                self._close_braces(len(token), done)
            else:
                self._close_brackets(len(token))
        self._add(text[done:])
        while self._stack:
            self._give_up()
        return ResolvedMarkup("".join(self._output), self._protected, Counter(self._unknown))

    def _add(self, text: str, *, is_literal: bool = True) -> None:
        if self._stack:
            self._stack[-1].add(text, is_literal=is_literal)
        else:
            self._output.append(text)

    def _open(self, token: str, start: int) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._add(token)
            return
        kind: _Kind = "{" if token[0] == "{" else "[[" if token == "[[" else "["
        self._stack.append(_Frame(kind=kind, opening=token, start=start))

    def _give_up(self) -> None:
        """Treat the innermost open markup as plain text."""
        frame = self._stack.pop()
        self._add(frame.as_text(), is_literal=False)
        self._note(frame.unknown)

    def _note(self, unknown: list[UnknownTemplate]) -> None:
        if unknown:
            (self._stack[-1].unknown if self._stack else self._unknown).extend(unknown)

    def _close_braces(self, count: int, end: int) -> None:
        while count >= 2 and any(frame.kind == "{" for frame in self._stack):
            while self._stack[-1].kind != "{":
                self._give_up()
            frame = self._stack[-1]
            used = min(3, count, len(frame.opening))
            result = self._show_template(frame, end) if used == 2 else self._show_parameter(frame)
            frame.opening = frame.opening[used:]
            count -= used
            if len(frame.opening) >= 2:
                frame.restart(result)
            else:
                self._stack.pop()
                self._add(frame.opening + result, is_literal=False)
                self._note(frame.unknown)
        if count:
            self._add("}" * count)

    def _close_brackets(self, count: int) -> None:
        while count and self._stack:
            frame = self._stack[-1]
            if frame.kind == "[":
                result, used = _show_external_link(frame), 1
            elif frame.kind == "[[" and count >= 2:
                result, used = self._show_link(frame), 2
            else:
                break
            self._stack.pop()
            self._add(result, is_literal=False)
            if result:
                self._note(frame.unknown)
            count -= used
        if count:
            self._add("]" * count)

    def _show_parameter(self, frame: _Frame) -> str:
        """Return the default of {{{name|default}}}, which has no value outside of templates."""
        return "|".join(frame.joined()[1:])

    def _show_template(self, frame: _Frame, end: int) -> str:
        parts = frame.joined()
        positional: list[str] = []
        named: dict[str, str] = {}
        for part, equals in zip(parts[1:], frame.equals[1:], strict=True):
            if equals is None:
                positional.append(part.strip())
            else:
                named[part[:equals].strip()] = part[equals + 1 :].strip()
        name, arguments = parts[0].strip(), Arguments(positional, named)
        shown = expand_template(name, arguments, wiki=self._wiki)
        if shown:
            return shown
        # Templates inside a template without text are not counted.
        frame.unknown.clear()
        if shown is None and self._is_in_sentence(frame, end):
            shown = guess_text(name, arguments)
            if len(name) <= MAX_NAME_CHARACTERS and not _NO_NAME.search(name):
                title = " ".join(name.replace("_", " ").split())
                frame.unknown.append(UnknownTemplate(title[:1].upper() + title[1:], is_left_out=not shown))
        return shown or ""

    def _is_in_sentence(self, frame: _Frame, end: int) -> bool:
        """Return whether a template has text next to it on its line; in a table cell any template may be text."""
        if len(self._stack) > 1:
            # The enclosing markup decides.
            return True
        start = frame.start
        if "\n" in self._text[start:end]:
            return False
        before = self._text[max(0, start - _WINDOW) : start].rpartition("\n")[2].lstrip()
        after = self._text[end : end + _WINDOW].partition("\n")[0]
        if before.startswith(("|", "!")):
            return False
        return any(_MARK_UP_BESIDE.sub("", side).strip(" \t*#:;'{}|") for side in (before, after))

    def _show_link(self, frame: _Frame) -> str:
        parts = frame.joined()
        target = parts[0].strip()
        prefix, colon, _ = target.partition(":")
        folded = fold_prefix(prefix) if colon else ""
        if folded and (folded in self._link_prefixes or looks_like_picture(target, parts[1:-1])):
            return ""
        if "\n" in target or (len(parts) > 1 and _BLANK_LINE.search(parts[-1])):
            return frame.as_text() + "]]"
        if len(parts) > 1:
            # The label may contain bars, from inner templates that write tables.
            label = "|".join(parts[1:])
            # [[Town (place)|]] is displayed as Town.
            return label or _PIPE_TRICK.sub("", target.removeprefix(":").rpartition(":")[2])
        if folded and _LANGUAGE_CODE.fullmatch(prefix.strip()):
            return ""
        return target.removeprefix(":")

    def _skip_tag(self, name: str, attributes: str, start: int) -> int:
        """Skip to the end of an extension tag, and append the part of its content that is kept."""
        text = self._text
        if attributes.endswith("/") or name in self._never_closed:
            return start
        closing = _CLOSING_TAGS[name].search(text, start)
        if closing is None:
            self._never_closed.add(name)
            return start
        content = text[start : closing.start()]
        if name in _MATH_TAGS and self._keep_math:
            formula = " ".join(content.split())
            if formula:
                self._add(self._protect(f"${formula}$" if name == "math" else f"$\\ce{{{formula}}}$"), is_literal=False)
        elif name == "nowiki":
            self._add(self._protect(content), is_literal=False)
        elif name in _LITERAL_TAGS:
            is_inline = "inline" in attributes.lower() or "\n" not in content
            protected = self._protect(content.strip("\n"))
            self._add(protected if is_inline else f"\n{protected}\n", is_literal=False)
        return closing.end()

    def _protect(self, text: str) -> str:
        self._protected.append(text)
        return f"{STRIP_MARKER}{len(self._protected) - 1}{STRIP_MARKER}"


def _show_external_link(frame: _Frame) -> str:
    """Return the text of [http://address text]; without a text, the page shows only a number."""
    address, _, label = "|".join(frame.joined()).partition(" ")
    return label.strip() if address else ""
