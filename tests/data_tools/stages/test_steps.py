"""Filters count every document that they exclude, whatever they raise, and never end a run."""

import pytest
from warcio.warcwriter import WARCWriter

from data_tools.config.filtering import LanguageConfig, LineConfig, PersonalDataConfig, QualityConfig, UrlFilterConfig
from data_tools.document import Document, DroppedError, FailedError, apply_filter
from data_tools.ledger import Ledger
from data_tools.tokenizer.sample_texts import OWN_PROSE
from tests.data_tools.records import LONG, http_record, page, read_clean


class PanicException(BaseException):
    """What a panic inside a Rust extension derives from."""


def documents(number: int) -> list[Document]:
    return [Document(record=i, media_type="plain", content=b"", url=f"u{i}") for i in range(number)]


def test_what_a_filter_raises_is_counted():
    def apply(document: Document, ledger: Ledger) -> None:
        errors = [None, DroppedError("small"), FailedError("broken"), ValueError("x"), PanicException("y"), None]
        if error := errors[document.record]:
            raise error

    ledger = Ledger(read=6)
    kept = list(apply_filter(apply, documents(6), name="try", ledger=ledger))
    assert [document.record for document in kept] == [0, 5]
    assert ledger.dropped == {"small": 1}
    assert ledger.failed == {"broken": 1, "try_error": 2}
    assert {example.name for example in ledger.examples} == {"u1", "u2", "u3", "u4"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_end_of_the_run_is_not_swallowed(error):
    def apply(document: Document, ledger: Ledger) -> None:
        raise error

    with pytest.raises(error):
        list(apply_filter(apply, documents(1), name="try", ledger=Ledger()))


def test_content_is_let_go(tmp_path):
    with (tmp_path / "a.warc.gz").open("wb") as file:
        http_record(WARCWriter(file, gzip=True), page(LONG).encode())
    (document,), _ = read_clean(tmp_path / "a.warc.gz", "warc")
    assert document.content == b"" and document.text == LONG.strip()


def test_enabled_filters_run_in_their_order(tmp_path):
    notice = "Please enable JavaScript.\n\n"
    footer = "\n\nThe miller answers at me@example.org."
    with (tmp_path / "a.warc.gz").open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for number, text in enumerate(
            [OWN_PROSE["en"], OWN_PROSE["zh"], OWN_PROSE["ru"], "Buy the cheap shoes online now " * 50]
        ):
            body = "".join(f"<p>{part}</p>" for part in (notice + text + footer).split("\n\n"))
            http_record(writer, page(body).encode(), url=f"http://example.org/{number}")
        http_record(writer, page(OWN_PROSE["en"]).encode(), url="http://blocked.org/")
    kept, ledger = read_clean(
        tmp_path / "a.warc.gz",
        "warc",
        url_filter=UrlFilterConfig(blocked_domains=["blocked.org"]),
        language=LanguageConfig(identify=True, allowed=["en", "zh"]),
        lines=LineConfig(drop_containing=["enable javascript"]),
        quality=QualityConfig(rules=["gopher_quality", "gopher_repetition", "c4", "fineweb"]),
        personal_data=PersonalDataConfig(mask=["email", "ip"]),
    )
    assert [document.language for document in kept] == ["en", "zh"]
    assert [document.text[:5] for document in kept] == ["The o", "村子的尽头"]
    assert all(document.text.endswith("at |||EMAIL_ADDRESS|||.") for document in kept)
    assert ledger.dropped == {"url_blocked_domain": 1, "language_ru": 1, "gopher_stop_words": 1}
    assert ledger.notes["documents_with_removed_lines"] == 3
