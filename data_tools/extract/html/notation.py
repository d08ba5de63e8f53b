"""Write what the bare text of a page would lose: raised numbers, the numbers of lists, formulas."""

import html
import re
from collections.abc import Callable, Iterator

from resiliparse.parse.html import ElementNode, Node, NodeType

from data_tools.extract.superscripts import format_subscript, format_superscript

_MAX_RAISED = 40
"""Characters; what is longer is no number."""
_RAISED = re.compile(
    r"<(su[pb])\b[^<>]*+>((?:[^<]{1,60}+|<(?!/?su[pb]\b)[^<>]{0,300}+>){1,8}+)</\1\s*+>", re.IGNORECASE
)
_ANY_TAG = re.compile("<[^<>]*+>")
_LABEL, _LABEL_END = "\ue000", "\ue001"
"""Around the label of a list's item; characters that no text has but that of pages with fonts of their own."""
_LABELLED = re.compile(rf"(?:\d+\. )?{_LABEL}([^{_LABEL_END}]*){_LABEL_END}")
_MAX_ITEMS = 100_000
_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
    (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip

_TEX = 'annotation[encoding="application/x-tex"], annotation[encoding="TeX"], annotation[encoding="LaTeX"]'
_STYLE = re.compile(r"\{\\(?:display|text)style (.*)\}", re.DOTALL)
"""Around each formula of MediaWiki."""
_MAX_FORMULA_DEPTH = 30
_SEPARATORS = {"mtable": r" \\ ", "mtr": " & "}
_RELATIONS = frozenset("=<>≤≥≈≠∈→")


def _group(tex: str) -> str:
    return tex if len(tex) == 1 else f"{{{tex}}}"


_FORMS: dict[str, tuple[int, Callable[..., str]]] = {
    "msup": (2, lambda base, upper: f"{base}^{_group(upper)}"),
    "mover": (2, lambda base, upper: f"{base}^{_group(upper)}"),
    "msub": (2, lambda base, lower: f"{base}_{_group(lower)}"),
    "munder": (2, lambda base, lower: f"{base}_{_group(lower)}"),
    "msubsup": (3, lambda base, lower, upper: f"{base}_{_group(lower)}^{_group(upper)}"),
    "munderover": (3, lambda base, lower, upper: f"{base}_{_group(lower)}^{_group(upper)}"),
    "mfrac": (2, lambda numerator, denominator: f"\\frac{{{numerator}}}{{{denominator}}}"),
    "mroot": (2, lambda radicand, index: f"\\sqrt[{index}]{{{radicand}}}"),
}
"""Number of children of MathML's elements, and their LaTeX."""


def write_raised_numbers(page: str) -> str:
    """Turn 10<sup>6</sup> into 10⁶; its text alone would be 106."""
    return _RAISED.sub(_write_raised, page)


def _write_raised(found: re.Match[str]) -> str:
    text = html.unescape(_ANY_TAG.sub("", found[2]))
    if len(text) > _MAX_RAISED or not any(character.isdigit() for character in text):
        return found[0]
    written = format_superscript(text) if found[1].lower() == "sup" else format_subscript(text)
    return html.escape(written, quote=False)


def label_lists(body: ElementNode) -> None:
    """Put its label before the text of each item of lists that do not count 1, 2, 3; see `write_labels`."""
    lists = body.query_selector_all("ol[start], ol[type], ol[reversed]").values()
    known = set(map(id, lists))
    for item in body.query_selector_all("ol > li[value]").values():
        parent = item.parent_element
        if parent is not None and id(parent) not in known:
            known.add(id(parent))
            lists.append(parent)
    for element in lists:
        items = [node for node in element.child_nodes.values() if isinstance(node, ElementNode) and node.tag == "li"]
        for item, label in zip(items, _list_labels(element, items), strict=False):
            text = _find_first_text(item)
            if text is not None:
                text.node_value = f"{_LABEL}{label}{_LABEL_END}{(text.node_value or '').lstrip()}"


def write_labels(text: str) -> str:
    """Put the labels of `label_lists` in place of the numbers that resiliparse counts."""
    return _LABELLED.sub(r"\1. ", text) if _LABEL in text else text


def _list_labels(element: ElementNode, items: list[ElementNode]) -> Iterator[str]:
    step = -1 if element.has_attribute("reversed") else 1
    number = _read_number(element.get_attribute("start"))
    if number is None:
        number = len(items) if step < 0 else 1
    kind = element.get_attribute("type") or "1"
    for item in items[:_MAX_ITEMS]:
        value = _read_number(item.get_attribute("value"))
        if value is not None:
            number = value
        yield _write_label(number, kind)
        number += step


def _read_number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,9}", text.strip()) else None


def _write_label(number: int, kind: str) -> str:
    label = ""
    if kind in ("a", "A") and number > 0:
        while number > 0:
            number, place = divmod(number - 1, 26)
            label = chr(ord("a") + place) + label
    elif kind in ("i", "I") and 0 < number < 4000:
        for value, letters in _ROMAN:
            while number >= value:
                number, label = number - value, label + letters
    else:
        return str(number)
    return label if kind.islower() else label.upper()


def _find_first_text(element: ElementNode) -> Node | None:
    """Return the first text that shows, along first children only but for blanks: what a number stands before."""
    node: Node | None = element.first_child
    while node is not None:
        if node.type == NodeType.TEXT:
            if (node.node_value or "").strip():
                return node
            node = node.next_sibling
        elif node.type == NodeType.ELEMENT and node.first_child is not None:
            node = node.first_child
        else:
            node = node.next_sibling
    return None


def write_formulas(body: ElementNode) -> None:
    """Write formulas as $LaTeX$, and those that stand alone as $$LaTeX$$."""
    for element in body.query_selector_all("math").values():
        source = element.query_selector(_TEX)
        tex = source.text if source is not None else element.get_attribute("alttext")
        tex = (tex or "").strip() or _write_mathml(element).strip()
        element.text = format_formula(tex, is_display=element.get_attribute("display") == "block")


def format_formula(tex: str, *, is_display: bool) -> str:
    """Return a formula as text."""
    tex = tex.strip()
    if style := _STYLE.fullmatch(tex):
        tex = style[1].strip()
    if not tex:
        return ""
    return f"$${tex}$$" if is_display else f"${tex}$"


def _write_mathml(node: Node, depth: int = 0) -> str:
    """MathML as LaTeX, as far as its common elements go; the text of others."""
    if node.type == NodeType.TEXT:
        return " ".join((node.node_value or "").split())
    if not isinstance(node, ElementNode) or depth > _MAX_FORMULA_DEPTH or node.tag in ("annotation", "annotation-xml"):
        return ""
    parts = [
        _write_mathml(child, depth + 1)
        for child in node.child_nodes.values()
        if child.type == NodeType.ELEMENT or (child.type == NodeType.TEXT and (child.node_value or "").strip())
    ]
    if node.tag == "msqrt":
        return f"\\sqrt{{{''.join(parts)}}}"
    form = _FORMS.get(node.tag or "")
    if form is not None and len(parts) == form[0]:
        return form[1](*parts)
    written = _SEPARATORS.get(node.tag or "", "").join(parts)
    return f" {written} " if node.tag == "mo" and written in _RELATIONS else written
