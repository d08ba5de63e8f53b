"""How much clean prose the default rules of quality keep, and how much made junk they drop, by language.

    python -m benchmarks.quality.report [--prose DIRECTORY | --samples DIRECTORY] [--json FILE] [data_prep.FIELD=VALUE]

The settings are those of `data_prep=common_crawl`. --prose names a directory with one directory per language, each with
text files, one document each; --samples one with raw files to take prose out of. Without both the prose is a few short
texts of our own.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.junk import JUNK_KINDS, make_junk
from benchmarks.quality.prose import find_kind, read_prose, read_texts
from data_tools.config.rules import validate
from data_tools.config.schema import ROOT, DataPrepConfig
from data_tools.document import Document
from data_tools.filters.quality.filter import ThresholdTable
from data_tools.ledger import Ledger
from data_tools.stages.steps import FilterChain
from data_tools.tokenizer.sample_texts import OWN_PROSE
from trireme.config.compose import compose_config
from trireme.errors import ConfigError, Violation, exit_code_of, raise_if_any
from trireme.progress import format_number

LANGUAGES = ("zh", "ja", "ko", "ru", "ar", "en")
MAX_PROSE = 500
NUM_JUNK = 50
"""Documents of each kind and language."""
PROSE_GOAL = 0.93
"""Share of clean prose that is kept, in each language."""
JUNK_GOAL = 0.98
"""Share of the junk that is dropped, of each kind in each language."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What became of some documents."""

    language: str
    kind: str
    """prose, or a kind of junk."""
    num_documents: int
    num_kept: int
    reasons: dict[str, int]
    """Why the others were dropped."""

    @property
    def is_good(self) -> bool:
        """Return whether enough prose was kept, or enough junk dropped."""
        kept = self.num_kept / max(1, self.num_documents)
        return self.num_documents > 0 and (kept >= PROSE_GOAL if self.kind == "prose" else 1 - kept >= JUNK_GOAL)


def measure(config: DataPrepConfig, prose: dict[str, list[str]]) -> list[Share]:
    """Send prose, and junk made of it, through the filters of a configuration."""
    chain = FilterChain(config)
    thresholds = ThresholdTable(config.quality)
    shares = []
    for language, texts in prose.items():
        shares.append(_measure_texts(chain, texts, language=language, kind="prose"))
        unit = thresholds(_code_of(language)).characters_per_word
        for kind in JUNK_KINDS if texts else ():
            junk = [
                make_junk(texts[seed % len(texts)], kind=kind, seed=seed, characters_per_word=unit)
                for seed in range(NUM_JUNK)
            ]
            shares.append(_measure_texts(chain, junk, language=language, kind=kind))
    return shares


def _code_of(language: str) -> str:
    """Return the identifier's code of a language that is named with its script or country, as in sr_Latn."""
    return language.partition("_")[0]


def _measure_texts(chain: FilterChain, texts: list[str], *, language: str, kind: str) -> Share:
    ledger = Ledger()
    documents: Any = [
        Document(record=number, media_type="plain", content=text.encode()) for number, text in enumerate(texts)
    ]
    num_kept = sum(1 for _ in chain.apply(documents, ledger))
    reasons = Counter(ledger.dropped) + Counter(ledger.failed)
    return Share(
        language=language, kind=kind, num_documents=len(texts), num_kept=num_kept, reasons=dict(reasons.most_common())
    )


def render(shares: list[Share]) -> str:
    """Return a table with a line per language, and the reasons where the goal is missed."""
    kinds = ["prose", *JUNK_KINDS]
    lines = [f"kept of clean prose (goal: {PROSE_GOAL:.0%}), dropped of made junk (goal: {JUNK_GOAL:.0%} of each)", ""]
    lines.append("language  documents" + "".join(f"{kind:>16}" for kind in kinds))
    for language in dict.fromkeys(share.language for share in shares):
        mine = {share.kind: share for share in shares if share.language == language}
        cells = [_show(mine[kind]) if kind in mine else "-" for kind in kinds]
        row = f"{language:<8}  {mine['prose'].num_documents:>9}"
        lines.append(row + "".join(f"{cell:>16}" for cell in cells))
    for share in shares:
        if not share.is_good:
            reasons = ", ".join(f"{reason} {count}" for reason, count in share.reasons.items()) or "nothing dropped"
            lines.append(
                f"missed: {share.language} {share.kind}: {format_number(share.num_documents, 'document')}; {reasons}"
            )
    return "\n".join(lines)


def _show(share: Share) -> str:
    if not share.num_documents:
        return "no documents"
    kept = share.num_kept / share.num_documents
    return f"{kept if share.kind == 'prose' else 1 - kept:.1%}"


def _load(overrides: list[str]) -> DataPrepConfig:
    config = compose_config(ROOT, ["data_prep=common_crawl", *overrides], validate=lambda *_: []).data_prep
    raise_if_any(validate(config))
    return config


def _find_prose(prose: Path | None, samples: Path | None) -> dict[str, list[str]]:
    for name, directory in (("--prose", prose), ("--samples", samples)):
        if directory is not None and not directory.is_dir():
            raise ConfigError(
                [
                    Violation(
                        path=name,
                        value=directory,
                        message="no such directory",
                        fix="Check the path, or omit the option.",
                    )
                ]
            )
    if prose is not None:
        return read_texts(prose, max_documents=MAX_PROSE)
    if samples is not None:
        found = read_prose(samples, languages=LANGUAGES, max_documents=MAX_PROSE)
        return {language: found.get(language, []) for language in LANGUAGES}
    return {language: [text] for language, text in OWN_PROSE.items()}


def _describe(shares: list[Share], *, prose: Path | None, samples: Path | None, overrides: list[str]) -> dict[str, Any]:
    files = None if samples is None else sorted(path.name for path in samples.iterdir() if find_kind(path))
    command = [
        "python",
        "-m",
        "benchmarks.quality.report",
        *(["--prose", "DIRECTORY"] if prose else []),
        *(["--samples", "DIRECTORY"] if samples else []),
        *overrides,
    ]
    return {
        "command": " ".join(command),
        "samples": files,
        "prose_goal": PROSE_GOAL,
        "junk_goal": JUNK_GOAL,
        "shares": [asdict(share) for share in shares],
    }


def main() -> int:
    """Return the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.report", description=(__doc__ or "").strip())
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--prose", type=Path, help="directory with a directory of text files for each language")
    where.add_argument("--samples", type=Path, help="directory with .warc.gz, .wet.gz, .xml.bz2, .jsonl.gz files")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("overrides", nargs="*", metavar="data_prep.FIELD=VALUE")
    arguments = parser.parse_args()

    def body() -> int:
        config = _load(arguments.overrides)
        shares = measure(config, _find_prose(arguments.prose, arguments.samples))
        print(render(shares))
        if arguments.json is not None:
            result = _describe(shares, prose=arguments.prose, samples=arguments.samples, overrides=arguments.overrides)
            arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0 if all(share.is_good for share in shares) else 1

    return exit_code_of(body)


if __name__ == "__main__":
    sys.exit(main())
