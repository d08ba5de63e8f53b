"""Web pages to text, through every coding, encoding and wrong declaration."""

import gzip
import zlib

import brotli
import pytest
from warcio.warcwriter import WARCWriter

from data_tools.config.filtering import CleaningConfig
from data_tools.config.schema import HtmlConfig
from tests.data_tools.records import LONG, http_record, page, read_clean

CHINESE = "中华人民共和国简称中国，成立于一九四九年十月一日，位于亚洲东部，太平洋西岸。" * 3
RUSSIAN = "Российская Федерация расположена в Восточной Европе и Северной Азии, столица город Москва. " * 3


def extract(tmp_path, body: bytes, *, html=None, max_record_bytes=64 << 20, **headers):
    with (tmp_path / "a.warc.gz").open("wb") as file:
        http_record(WARCWriter(file, gzip=True), body, **headers)
    cleaning = CleaningConfig(min_characters=1, max_record_bytes=max_record_bytes)
    documents, ledger = read_clean(tmp_path / "a.warc.gz", "warc", html=html or HtmlConfig(), cleaning=cleaning)
    return documents[0].text if documents else None, ledger


def chunk(data: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:50], data[50:])) + b"0\r\n\r\n"


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("headers", "encode"),
    [
        ({"Content_Encoding": "gzip"}, gzip.compress),
        ({"Content_Encoding": "x-gzip"}, gzip.compress),
        ({"Content_Encoding": "br"}, brotli.compress),
        ({"Content_Encoding": "deflate"}, zlib.compress),
        ({"Content_Encoding": "deflate"}, deflate),
        ({"Content_Encoding": "gzip", "Transfer_Encoding": "chunked"}, lambda data: chunk(gzip.compress(data))),
        ({"Content_Encoding": "deflate, gzip"}, lambda data: gzip.compress(zlib.compress(data))),
        *[({"Content_Encoding": coding}, bytes) for coding in ("gzip", "br", "deflate", "identity")],
        ({"Transfer_Encoding": "chunked"}, bytes),
    ],
)
def test_codings_are_undone_where_they_are_real(tmp_path, headers, encode):
    assert extract(tmp_path, encode(page(LONG).encode()), **headers)[0] == LONG.strip()


def test_damaged_and_unknown_codings_are_counted(tmp_path):
    whole = gzip.compress(page(LONG * 5).encode())
    assert extract(tmp_path, b"\x1f\x8b" + b"\xff" * 90, Content_Encoding="gzip")[1].failed == {
        "content_coding_corrupt": 1
    }
    assert extract(tmp_path, whole, Content_Encoding="sdch")[1].dropped == {"content_coding_unknown": 1}
    bomb = gzip.compress(b"<html>" + b"x" * 3_000_000)
    assert extract(tmp_path, bomb, max_record_bytes=1 << 20, Content_Encoding="gzip")[1].dropped == {
        "record_too_large": 1
    }


@pytest.mark.parametrize(
    ("text", "encoding", "declared", "meta"),
    [
        (CHINESE, "gbk", "gb2312", None),
        (CHINESE, "gb18030", None, "gbk"),
        (CHINESE, "gbk", None, None),
        (CHINESE, "utf-8", "iso-8859-1", None),
        (CHINESE, "utf-8", None, "gb2312"),
        (CHINESE, "utf-16", None, None),
        (CHINESE, "big5", "big5", None),
        (RUSSIAN, "cp1251", "windows-1251", None),
        (RUSSIAN, "koi8-r", None, "koi8-r"),
        (RUSSIAN, "cp1251", None, None),
        (RUSSIAN, "cp1251", "no-such-charset", None),
        ("Größe und Länge der Straße, gemessen in Fuß. " * 5, "latin-1", "iso-8859-1", None),
        ("日本語のホームページへようこそ。" * 5, "iso2022_jp", "iso-2022-jp", None),
        ("日本語のホームページへようこそ。" * 5, "shift_jis", None, "x-sjis"),
    ],
)
def test_encodings(tmp_path, text, encoding, declared, meta):
    if encoding == "big5":
        text = "中文網頁的編碼測試，內容很長。" * 5
    head = f'<meta http-equiv="Content-Type" content="text/html; charset={meta}">' if meta else ""
    content_type = "text/html" + (f"; charset={declared}" if declared else "")
    body = page(text, head=head).encode(encoding)
    assert extract(tmp_path, body, Content_Type=content_type)[0] == text.strip()


def test_a_few_broken_bytes_do_not_change_the_encoding(tmp_path):
    body = page(CHINESE * 5).encode().replace("太".encode(), b"\xff", 1)
    text, ledger = extract(tmp_path, body, Content_Type="text/html; charset=iso-8859-1")
    assert text.count("\ufffd") == 1 and "中华人民共和国" in text
    assert ledger.notes["invalid_bytes_replaced"] == 1


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain", page("prose").encode(), "prose"),
        ("text/html", b"no mark-up\nin two lines", "no mark-up\nin two lines"),
        ("application/octet-stream", page("prose").encode(), "prose"),
        ("application/octet-stream", b"plain words", "plain words"),
        ("text/html", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, None),
        ("text/html", b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff\0\0" * 20, None),
        ("unknown/unknown", b"<?xml version='1.0'?><rss></rss>", None),
    ],
)
def test_wrong_content_types(tmp_path, content_type, body, expected):
    assert extract(tmp_path, body, Content_Type=content_type)[0] == expected


@pytest.mark.parametrize("piece", ["汉", "m²", "—", "é", "不", "&mdash;", "5½"])
def test_short_pieces_of_text_are_kept(tmp_path, piece):
    body = page(f"one<b>{piece}</b>two <i> {piece} </i>{LONG}").encode()
    expected = piece.replace("&mdash;", "—")
    assert extract(tmp_path, body)[0].startswith(f"one{expected}two {expected} The quick")


README = """<h1 align="center">
  <img src="logo.svg"> Tool
</h1>
<p align="center"><a href="x">Documentation</a></p>

## Use

    pip install tool

1. Call `tool()`.
2. Read <http://example.org>.

It **works**, and it does so for a long time.
"""


@pytest.mark.parametrize("content_type", ["text/plain", "text/markdown; charset=utf-8", "application/octet-stream"])
def test_plain_text_may_begin_with_a_tag(tmp_path, content_type):
    assert extract(tmp_path, README.encode(), Content_Type=content_type)[0] == README.strip()


def test_a_fragment_of_a_page_is_one_whatever_the_server_says(tmp_path):
    body = "<h1>Title</h1>\n\n<p>One.</p>\n\n<p>Two.</p>"
    assert extract(tmp_path, body.encode(), Content_Type="text/plain")[0] == "Title\n\nOne.\n\nTwo."


def test_boilerplate_lists_and_raised_numbers(tmp_path):
    body = (
        "<html><body><nav><a href=/>Home</a></nav><main><p>10<sup>6</sup> m, H<sub>2</sub>O, 1<sup>st</sup> "
        f"{LONG}</p><ul><li>one item {LONG}</li></ul></main><footer>Imprint</footer></body></html>"
    ).encode()
    text, _ = extract(tmp_path, body)
    assert "10⁶ m, H₂O, 1st" in text and "Home" not in text and "Imprint" not in text
    text, _ = extract(tmp_path, body, html=HtmlConfig(main_content=False, list_bullets=False))
    assert "Home" in text and "Imprint" in text and "•" not in text
    assert "• one item" in extract(tmp_path, body, html=HtmlConfig(main_content=False))[0]


def test_trafilatura_is_the_precise_option(tmp_path):
    pytest.importorskip("trafilatura", reason="needs the extra trafilatura")
    body = page(f"{LONG} It weighs 10<sup>6</sup> kg.</p><p>{LONG}").replace("<main>", "<nav><a>Home</a></nav><main>")
    text, ledger = extract(tmp_path, body.encode(), html=HtmlConfig(extractor="trafilatura"))
    assert text is not None and text.startswith(LONG[:40]) and "10⁶ kg" in text and "Home" not in text
    nothing, ledger = extract(tmp_path, page("").encode(), html=HtmlConfig(extractor="trafilatura"))
    assert nothing is None and ledger.dropped == {"no_text": 1}
