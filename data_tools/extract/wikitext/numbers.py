"""Format the numbers and measures that templates compose from parts."""

import ast
import math
import operator
import re
from collections.abc import Callable
from itertools import pairwise

from data_tools.extract.superscripts import LOWERABLE, format_subscript, format_superscript

_NUMBER = re.compile(r"[-−+±]?[\d.,]*\d[\d.,+/⁄]*(?:e[-+]?\d+)?", re.IGNORECASE)
_RANGE_WORDS = {
    "-": "–", "–": "–", "to": " to ", "to(-)": " to ", "and": " and ", "and(-)": " and ", "&": " & ", "or": " or ",
    "by": " by ", "x": " × ", "xx": " × ", "×": " × ", "*": " × ", "+/-": " ± ", "±": " ± ", "+": " + ", ",": ", ",
    "/": " / ",
}  # fmt: skip
_UNITS = {
    "C": "°C", "F": "°F", "R": "°R", "sqmi": "sq mi", "sqft": "sq ft", "sqin": "sq in", "sqyd": "sq yd",
    "cuft": "cu ft", "cuin": "cu in", "cuyd": "cu yd", "cumi": "cu mi", "sqkm": "km²", "sqm": "m²", "USgal": "US gal",
    "impgal": "imp gal", "usfloz": "US fl oz", "kn": "knots", "LT": "long tons", "ST": "short tons", "t": "tonnes",
    "oilbbl": "barrels",
}  # fmt: skip
_COMPOSITE_UNITS = {("ft", "in"), ("st", "lb"), ("lb", "oz"), ("mi", "yd"), ("yd", "ft"), ("mi", "ft"), ("mi", "ch")}
_POWER = re.compile(r"(?<=[a-zA-Z])\^?([23])(?!\d)")


def format_fraction(parts: list[str]) -> str:
    """Return the text of {{frac|whole|numerator|denominator}}; with fewer parts the first ones are missing."""
    parts = [part for part in parts if part]
    if not parts:
        return ""
    if len(parts) == 1:
        return f"1/{parts[0]}"
    return f"{parts[-2]}/{parts[-1]}" if len(parts) == 2 else f"{parts[0]} {parts[-2]}/{parts[-1]}"


def format_measure(parts: list[str]) -> str:
    """Return the source measure of {{convert}}: 5 km, 5–10 km, 5 ft 6 in; the converted one is omitted."""
    place, written = 0, ""
    while place < len(parts) and _NUMBER.fullmatch(parts[place]):
        written += parts[place]
        place += 1
        word = _RANGE_WORDS.get(parts[place]) if place < len(parts) else None
        if word is None or place + 1 >= len(parts):
            break
        written += word
        place += 1
    if not written:
        return parts[0] if parts else ""
    if place >= len(parts) or not parts[place]:
        return written
    unit = parts[place]
    written += f" {_format_unit(unit)}"
    if place + 2 < len(parts) and (unit, parts[place + 2]) in _COMPOSITE_UNITS and _NUMBER.fullmatch(parts[place + 1]):
        written += f" {parts[place + 1]} {_format_unit(parts[place + 2])}"
    return written


def _format_unit(unit: str) -> str:
    return _UNITS.get(unit) or _POWER.sub(lambda power: format_superscript(power[1]), unit)


def format_value(parts: list[str], named: dict[str, str]) -> str:
    """Return the text of {{val|1.5|0.2|e=6|u=km}}: 1.5±0.2×10⁶ km."""
    written = named.get("p", "") + (parts[0] if parts else "")
    if len(parts) > 2:
        written += f"+{parts[1].lstrip('+')}−{parts[2].lstrip('-−')}"
    elif len(parts) == 2:
        written += parts[1] if parts[1].startswith("(") else f"±{parts[1]}"
    if exponent := named.get("e"):
        written += f"×10{format_superscript(exponent)}"
    unit = named.get("u") or named.get("ul") or named.get("up") or named.get("upl")
    return written + (f" {_format_unit(unit)}" if unit else "") + named.get("s", "")


def format_height(named: dict[str, str]) -> str:
    """Return the text of {{height|ft=6|in=2}}: 6 ft 2 in; the converted measure is omitted."""
    return " ".join(f"{named[unit]} {unit}" for unit in ("m", "cm", "ft", "in") if named.get(unit))


def format_unit_value(parts: list[str]) -> str:
    """Return the text of {{unité|9,8|m|s|-2}}: 9,8 m s⁻²; a number after a unit is its exponent."""
    written = parts[0] if parts else ""
    for before, part in pairwise(parts):
        if not part:
            continue
        is_power = re.fullmatch(r"[-−]?\d", part) and not _NUMBER.fullmatch(before)
        written += format_superscript(part) if is_power else f" {part}"
    return written


def format_percentage(parts: list[str]) -> str:
    """Return the text of {{percentage|1|4}}: 25%."""
    try:
        share, places = 100 * _to_number(parts[0]) / _to_number(parts[1]), int(parts[2]) if len(parts) > 2 else 0
        return f"{share:.{max(0, min(places, 9))}f}%"
    except (ValueError, ZeroDivisionError, IndexError):
        return parts[0] if parts else ""


def format_ordinal(text: str) -> str:
    """Return the text of {{ordinal|21}}: 21st."""
    if not text.isdecimal():
        return text
    ending = "th" if text[-2:-1] == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(text[-1], "th")
    return f"{text}{ending}"


def format_duration(parts: list[str], named: dict[str, str]) -> str:
    """Return the text of {{duration|m=3|s=45}}: 3:45."""
    if any(parts):
        return ":".join(part for part in parts if part)
    values = [named[unit] for unit in ("h", "m", "s") if named.get(unit)]
    return ":".join([values[0], *(value.zfill(2) for value in values[1:])]) if values else ""


def _to_number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def format_formula(parts: list[str]) -> str:
    """Return the text of {{chem|H|2|O}}: H₂O; numbers are subscripts."""
    return "".join(format_subscript(part) if LOWERABLE.fullmatch(part) else part for part in parts)


def lower_digits(formula: str) -> str:
    """Return the text of {{chem2|H2O}}: H₂O."""
    return re.sub(r"(?<=[A-Za-z)\]])\d+", lambda digits: format_subscript(digits[0]), formula)


MAX_EXPRESSION_CHARACTERS = 200
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,
}


def evaluate(expression: str) -> str:
    """Return the value of {{#expr:3*4}}: sums, products, powers and `round`; an empty text for anything else."""
    if len(expression) > MAX_EXPRESSION_CHARACTERS:
        return ""
    expression, rounds, places = expression.lower().partition("round")
    plain = expression.replace("−", "-").replace("×", "*").replace("^", "**").replace("div", "/").replace("mod", "%")
    try:
        value = _evaluate_node(ast.parse(plain.strip(), mode="eval").body)
        if rounds:
            value = round(value, int(places))
        return f"{value:.12g}" if math.isfinite(value) else ""
    except (SyntaxError, ValueError, ArithmeticError, RecursionError):
        return ""


def _evaluate_node(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate_node(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate_node(node.left), _evaluate_node(node.right))
    raise ValueError(ast.dump(node))
