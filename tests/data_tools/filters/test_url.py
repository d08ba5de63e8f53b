"""Documents are dropped by their address: domains with all below them, and whole words."""

import pytest

from data_tools.config.filtering import UrlFilterConfig
from data_tools.filters.url import UrlFilter
from tests.data_tools.step_results import apply_step


def reason_of(url: str, **config: object) -> list[str]:
    _, ledger = apply_step(UrlFilter(UrlFilterConfig(**config)), "text", url=url)
    return list(ledger.dropped)


@pytest.mark.parametrize(
    ("url", "is_blocked"),
    [
        ("https://bad.org/a", True),
        ("http://user@www.BAD.org:8080/", True),
        ("bad.org/page", True),
        ("https://bad.org./", True),
        ("https://notbad.org/", False),
        ("https://bad.org.example.com/", False),
        ("https://good.org/?from=bad.org", False),
        ("http://[broken/", False),
        ("", False),
    ],
)
def test_domains(url, is_blocked):
    assert reason_of(url, blocked_domains=["Bad.org"]) == (["url_blocked_domain"] if is_blocked else [])


@pytest.mark.parametrize(
    ("url", "is_blocked"),
    [("https://a.org/Casino-royal", True), ("https://a.org/x_casino", True), ("https://a.org/casinos", False)],
)
def test_words(url, is_blocked):
    assert reason_of(url, blocked_words=["casino"]) == (["url_blocked_word"] if is_blocked else [])


def test_lists_of_domains(tmp_path):
    path = tmp_path / "domains"
    path.write_bytes(b"# adult\nfirst.org\r\n  .second.org  # so\n\n*.third.org\nbroken\xff.org\n")
    for number, name in enumerate(("first", "second", "third", "fourth")):
        assert bool(reason_of(f"https://www.{name}.org/", block_lists=[str(path)])) == (number < 3)


def test_the_default_list_lets_ordinary_words_pass():
    assert reason_of("https://xvideos.com/a", use_default_list=True) == ["url_blocked_domain"]
    assert reason_of("https://a.org/free-porn/", use_default_list=True) == ["url_blocked_word"]
    for url in ("https://www.essex.ac.uk/sussex", "https://a.org/analysis/breast-cancer", "https://a.org/middlesex"):
        assert reason_of(url, use_default_list=True) == []


@pytest.mark.parametrize(
    ("url", "is_blocked"),
    [
        ("https://man.example.org/ssh-keygen.1.html", False),
        ("https://en.wikipedia.org/wiki/Games_of_the_XXX_Olympiad", False),
        ("https://en.wikipedia.org/wiki/Destroyer_escorts", False),
        ("https://en.wikipedia.org/wiki/MILF", False),
        ("https://health.example.org/drugs/viagra", False),
        ("https://xxx.example.com/", True),
        ("https://best-escorts.example.com/london", True),
        ("https://a.org/xxx-videos/1", True),
        ("https://a.org/buy%20viagra", True),
        ("https://a.org/photoshop-keygen-crack", True),
        ("https://a.org/?q=viagra+cialis", True),
    ],
)
def test_ambiguous_words_need_company(url, is_blocked):
    assert reason_of(url, use_default_list=True) == (["url_blocked_word"] if is_blocked else [])


def test_words_that_a_user_names_are_whole_words_wherever_they_stand():
    assert reason_of("https://man.example.org/ssh-keygen.1.html", use_default_list=True, blocked_words=["keygen"])
