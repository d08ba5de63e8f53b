"""Drop documents by URL: domains and whole words, from the configuration, from files, or from a short built-in list.

The files have the form of the lists of Université Toulouse 1 (https://dsi.ut-capitole.fr/blacklists/), which RefinedWeb
(https://arxiv.org/abs/2306.01116) and FineWeb use: one domain a line.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from data_tools.config.filtering import UrlFilterConfig
from data_tools.document import Document, DroppedError
from data_tools.ledger import Ledger

DEFAULT_DOMAINS = (
    "pornhub.com", "xvideos.com", "xnxx.com", "xhamster.com", "redtube.com", "youporn.com", "chaturbate.com",
    "onlyfans.com", "adultfriendfinder.com", "thepiratebay.org", "1337x.to", "bet365.com", "1xbet.com",
)  # fmt: skip
DEFAULT_WORDS = (
    "porn", "porno", "pornstar", "hentai", "camgirls", "sexcam", "sexcams", "onlinecasino", "warez",
)  # fmt: skip
AMBIGUOUS_WORDS = frozenset(("xxx", "milf", "escorts", "viagra", "cialis", "keygen"))
"""Part of the default list where they stand in the name of the host, or with another of these or of the next words:
ssh-keygen.1.html, Games_of_the_XXX_Olympiad and Destroyer_escorts are no such pages."""
TELLING_WORDS = frozenset((
    "sex", "sexy", "nude", "tube", "girls", "videos", "movies", "escort", "incall", "buy", "cheap", "pills", "pharmacy",
    "crack", "cracked", "serial", "patch", "torrent", "activation",
))  # fmt: skip
_WORD = re.compile(r"[^\W_]+")


class UrlFilter:
    """Drop documents whose URL is blocked."""

    def __init__(self, config: UrlFilterConfig) -> None:
        domains = [*config.blocked_domains, *(DEFAULT_DOMAINS if config.use_default_list else ())]
        words = [*config.blocked_words, *(DEFAULT_WORDS if config.use_default_list else ())]
        self._words = frozenset(word.lower() for word in words)
        self._ambiguous_words = AMBIGUOUS_WORDS - self._words if config.use_default_list else frozenset()
        self._domains = frozenset(_clean_domains([*domains, *_read_lists(config.block_lists)]))

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Raise if a document's URL is blocked; documents without a URL pass."""
        if not document.url:
            return
        domains = list(_parent_domains(document.url))
        for domain in domains:
            if domain in self._domains:
                raise DroppedError("url_blocked_domain", domain)
        words = dict.fromkeys(_WORD.findall(unquote(document.url).lower()))
        for word in words:
            if word in self._words:
                raise DroppedError("url_blocked_word", word)
        ambiguous = [word for word in words if word in self._ambiguous_words]
        if not ambiguous:
            return
        in_host = self._ambiguous_words.intersection(_WORD.findall(domains[0])) if domains else ()
        if in_host or len(ambiguous) > 1 or not TELLING_WORDS.isdisjoint(words):
            raise DroppedError("url_blocked_word", ambiguous[0])


def _parent_domains(url: str) -> Iterator[str]:
    """Yield a host and its parent domains: a.b.org, b.org, org."""
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
