"""Export a SentencePiece model as a tokenizer for Hugging Face's transformers.

    trireme export-tokenizer DIRECTORY/tokenizer.model OUTPUT_DIR [--verify FILE]

Nothing is written unless every verification text yields the same ids, and decodes to the same text.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from data_tools.tokenizer.convert import SPACE_MARK, ConvertedTokenizer, UnsupportedModelError, convert_tokenizer
from data_tools.tokenizer.sample_texts import OWN_PROSE
from trireme.errors import ConfigError, Violation, exit_code_of
from trireme.tokenizer.tokenizer import Tokenizer

EXIT_DIFFERENT = 1
NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SHOWN_CHARACTERS = 80

EDGE_TEXTS = (
    "",
    " ",
    "a",
    " leading, and trailing ",
    "runs  of   spaces    and     more" + " " * 33 + "x",
    " " * 100,
    "tabs\tand\t\ttabs \t ",
    "lines\nand\n\nlines\r\nand\r \n ",
    f"the sign {SPACE_MARK} itself{SPACE_MARK}{SPACE_MARK} and  {SPACE_MARK} among spaces",
    "no\u00a0break, thin\u2009, ideographic\u3000 and zero\u200bwidth spaces\ufeff",
    "0123456789 3.14159 1,000,000 ٣٤٥ 一二三 ² ½",
    "emoji 🙂🚣🏽\u200d♀️👩\u200d👩\u200d👧\u200d👦🏳️\u200d🌈🇫🇷🇯",
    "combining e\u0301 \u0301 alone, a\u0308\u0304, \u0915\u094d\u0937",
    "mixed 漢字かなカナ한글ไทย, 中文English混合 русский العربية עברית हिन्दी",
    "rare 𠀋𠮷 𒀀 𓀀 \U0010ffff \ue000 \ufffd \u0378",
    "control \x00 NUL \x01\x1b\x7f\x85 signs",
    "<s></s><unk> <0x41><0x0A> <|endoftext|> spelled out",
    "def f(x):\n\tif x >= 0:\n        return {'a': [1, 2]}  # ok\n",
    "aaaa aaaaaa abababab ......... ------ ========",
)
"""Texts that tokenizers tend to encode differently."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A text that the two tokenizers encode or decode differently."""

    text: str
    number: int
    """Number of the text, from 1."""
    what: str


def build_texts(tokenizer: Tokenizer, symbols: Iterable[str]) -> Iterator[str]:
    """Yield the default verification texts.

    Args:
        symbols: user-defined symbols of the tokenizer.
    """
    yield from EDGE_TEXTS
    for name in (*symbols, *tokenizer.special_tokens):
        yield from (name, f"before{name}behind", f" {name} {name}{name}\n", name[:-1], f"{name[0]}{name}{name[-1]}")
    for text in OWN_PROSE.values():
        yield text
        yield from text.split("\n")


def find_difference(
    model: Tokenizer, other: tokenizers.Tokenizer, texts: Iterable[str]
) -> tuple[int, Difference | None]:
    """Compare ids and decoded texts.

    Args:
        other: with `encode_special_tokens`, since SentencePiece never encodes text to control symbols.
    Returns:
        Number of compared texts, and the first difference.
    """
    count = 0
    for count, text in enumerate(texts, start=1):
        expected = model.encode(text)
        found = other.encode(text, add_special_tokens=False).ids
        what = None
        if found != expected:
            what = f"ids are {_show_ids(found, expected)}"
        elif (decoded := other.decode(expected)) != model.decode(expected):
            what = f"decoded to {decoded!r}, by SentencePiece to {model.decode(expected)!r}"
        elif decoded != text.replace(SPACE_MARK, " "):
            what = f"decoded to {decoded!r}"
        if what is not None:
            return count, Difference(text=text, number=count, what=what)
    return count, None


def write_tokenizer(converted: ConvertedTokenizer, directory: Path) -> None:
    """Write the three files of the tokenizer."""
    names: dict[str, object] = {"unk_token": converted.unk_token}
    if converted.bos_token is not None:
        names["bos_token"] = converted.bos_token
    if converted.eos_token is not None:
        names["eos_token"] = converted.eos_token
    if converted.special_tokens:
        names["additional_special_tokens"] = converted.special_tokens
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        # Spaces before punctuation are part of the text.
        "clean_up_tokenization_spaces": False,
    }
    directory.mkdir(parents=True, exist_ok=True)
    converted.tokenizer.save(str(directory / NAMES[0]))
    for name, content in zip(NAMES[1:], (config, names), strict=True):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


def export(model_path: Path, directory: Path, *, verify: Path | None, overwrite: bool) -> int:
    """Convert, verify and write a model.

    Returns:
        The exit code: 0, or 1 if a text differs.
    Raises:
        ConfigError: the model or the directory cannot be used.
    """
    model = _open_model(model_path)
    _check_output(directory, overwrite=overwrite)
    try:
        converted = convert_tokenizer(model_path.read_bytes())
    except UnsupportedModelError as error:
        fix = "Use a model that trireme prepare trained, or one with the same normalization."
        rule = f"cannot export the model: it {error}"
        raise ConfigError([Violation(path="MODEL", value=model_path, message=rule, fix=fix)]) from error
    # Verify what will be written, since that is what others will use.
    other = tokenizers.Tokenizer.from_str(converted.tokenizer.to_str())
    other.encode_special_tokens = True
    texts = build_texts(model, converted.symbols) if verify is None else _read_lines(verify)
    count, difference = find_difference(model, other, texts)
    if difference is not None:
        where = "text" if verify is None else f"line {difference.number} of {verify}:"
        shown = difference.text[:SHOWN_CHARACTERS]
        print(f"Not exported: {where} {shown!r} differs: {difference.what}", file=sys.stderr)
        return EXIT_DIFFERENT
    write_tokenizer(converted, directory)
    print(f"Wrote {', '.join(NAMES)} to {directory}: {model.vocab_size} ids; {count} texts have the same ids")
    return 0


def _open_model(path: Path) -> Tokenizer:
    model = Tokenizer(path)
    if model.is_huggingface:
        violation = Violation(path="MODEL", value=path, message="already a tokenizer.json", fix="Use it as it is.")
        raise ConfigError([violation])
    return model


def _check_output(directory: Path, *, overwrite: bool) -> None:
    taken = [name for name in NAMES if (directory / name).exists()]
    if directory.exists() and not directory.is_dir():
        rule, fix = "must be a directory", "Choose another path."
    elif taken and not overwrite:
        rule, fix = f"already contains {', '.join(taken)}", "Choose another directory, or set --overwrite."
    else:
        return
    raise ConfigError([Violation(path="OUTPUT_DIR", value=directory, message=rule, fix=fix)])


def _read_lines(path: Path) -> Iterator[str]:
    """Yield lines with their ends."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            yield from stream
    except (OSError, UnicodeDecodeError) as error:
        fix = "Use a text file in UTF-8."
        raise ConfigError(
            [Violation(path="--verify", value=path, message=f"cannot read the file: {error}", fix=fix)]
        ) from error


def _show_ids(found: list[int], expected: list[int]) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(map(len, (found, expected)))
    )
    part = slice(max(0, place - 2), place + 6)
    return f"{found[part]} from token {part.start} on, by SentencePiece {expected[part]}"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="trireme export-tokenizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a SentencePiece .model")
    parser.add_argument("directory", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument(
        "--verify", type=Path, metavar="FILE", help="verify with this text, line by line (default: built-in texts)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier export")
    arguments = parser.parse_args()
    return exit_code_of(
        lambda: export(arguments.model, arguments.directory, verify=arguments.verify, overwrite=arguments.overwrite)
    )


if __name__ == "__main__":
    sys.exit(main())
