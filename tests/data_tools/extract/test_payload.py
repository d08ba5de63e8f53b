"""What a payload is, told from whole signatures: texts about formats begin as files in them do."""

import bz2

import pytest

from data_tools.document import Document, DroppedError
from data_tools.extract.payload import detect_media_type
from data_tools.ledger import Ledger
from tests.data_tools.records import read_clean

TEXTS = [
    "ID3 is a metadata container most often used in conjunction with the MP3 audio file format.",
    "RIFF stands for Resource Interchange File Format, a generic container of tagged chunks.",
    "GIF89a was published in 1989 and added animation to the format of 1987.",
    "BZh is how a file of bzip2 begins, and BZh9 one with large blocks.",
    "BZh91 is no file either.",
    "%PDF- is what a reader looks for, %PDF-1.7, for example.",
    "%!PS is how PostScript begins.",
    "Rar! is what the lion says.",
    "OggS is the capture pattern of a page in an Ogg stream.",
    "wOFF and wOF2 are fonts; PK is Phil Katz; 7z is an archive.",
]
FILES = [
    b"ID3\x04\x00\x00\x00\x00\x0f\x76TSSE",
    b"RIFF\x24\x08\x00\x00WAVEfmt ",
    b"RIFF$$$$WEBPVP8 ",
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00",
    b"GIF87a\x00\x05\x00\x04\xf7",
    bz2.compress(b"text"),
    bz2.compress(b""),
    b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    b"%PDF-1.4\r1 0 obj",
    b"%!PS-Adobe-3.0 EPSF-3.0\n",
    b"Rar!\x1a\x07\x01\x00",
    b"OggS\x00\x02",
    b"wOF2\x00\x01\x00\x00",
    b"wOFFOTTO",
]


def detect(content: bytes) -> str:
    return detect_media_type(Document(record=0, media_type="plain", content=content), Ledger())


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_about_a_format_is_text(text: str) -> None:
    assert detect(text.encode()) == "plain"


@pytest.mark.parametrize("content", FILES)
def test_a_file_of_a_format_is_none(content: bytes) -> None:
    with pytest.raises(DroppedError, match="content_not_text"):
        detect(content)


def test_a_text_file_that_begins_like_bzip2_is_read(tmp_path) -> None:
    (tmp_path / "a.txt").write_text(TEXTS[3])
    (document,), ledger = read_clean(tmp_path / "a.txt", "text")
    assert document.text == TEXTS[3] and not ledger.failed
