"""Drop documents by their address: domains and whole words, from the configuration, from files, or from a short list.

The files have the form of the lists of Université Toulouse 1 (https://dsi.ut-capitole.fr/blacklists/), which RefinedWeb
(https://arxiv.org/abs/2306.01116) and FineWeb use: one domain a line.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from data_tools.document import Document, DroppedError
from data_tools.ledger import Ledger
from data_tools.quality_config import UrlFilterConfig

DEFAULT_DOMAINS = (
    "pornhub.com", "xvideos.com", "xnxx.com", "xhamster.com", "redtube.com", "youporn.com", "chaturbate.com",
    "onlyfans.com", "adultfriendfinder.com", "thepiratebay.org", "1337x.to", "bet365.com", "1xbet.com",
)  # fmt: skip
DEFAULT_WORDS = (
    "porn", "porno", "pornstar", "xxx", "hentai", "milf", "camgirls", "sexcam", "sexcams", "escorts", "viagra",
    "cialis", "onlinecasino", "warez", "keygen",
)  # fmt: skip
_WORD = re.compile(r"[^\W_]+")


class UrlFilter:
    """Drops documents whose address is on a list."""

    def __init__(self, config: UrlFilterConfig) -> None:
        domains = [*config.blocked_domains, *(DEFAULT_DOMAINS if config.use_default_list else ())]
        words = [*config.blocked_words, *(DEFAULT_WORDS if config.use_default_list else ())]
        self._words = frozenset(word.lower() for word in words)
        self._domains = frozenset(_clean_domains([*domains, *_read_lists(config.block_lists)]))

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Raise if a document's address is blocked; documents without one pass."""
        if not document.url:
            return
        for domain in _parent_domains(document.url):
            if domain in self._domains:
                raise DroppedError("url_blocked_domain", domain)
        for word in _WORD.findall(document.url.lower()):
            if word in self._words:
                raise DroppedError("url_blocked_word", word)


def _parent_domains(url: str) -> Iterator[str]:
    """A host and everything that it lies below: a.b.org, b.org, org."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    except ValueError:  # as in http://[half-an-address/
        return
    host = host.rstrip(".")
    while host:
        yield host
        host = host.partition(".")[2]


def _read_lists(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        with Path(path).open(encoding="utf-8", errors="replace") as lines:
            yield from (line.partition("#")[0] for line in lines)


def _clean_domains(domains: Iterable[str]) -> Iterator[str]:
    for domain in domains:
        plain = domain.strip().lower().removeprefix("*").strip(".")
        if plain:
            yield plain
