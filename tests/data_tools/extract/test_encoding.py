"""Bytes become the text that was meant, whatever is declared about them."""

import random

import pytest

from data_tools.extract.encoding import decode_text
from data_tools.ledger import Ledger
from tests.data_tools.records import LONG

GERMAN = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Das Öl läuft über die Straße. "
FRENCH = "Dès Noël où un zéphyr haï me vêt de glaçons würmiens, je dîne d’exquis rôtis de bœuf à l’aÿ d’âge mûr. "
POLISH = "Pchnąć w tę łódź jeża lub ośm skrzyń fig. Zażółć gęślą jaźń i idź już do domu. "
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Nechť již hříšné saxofony ďáblů rozezvučí síň. "
TURKISH = "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul'da güneşli bir gün daha geçti. "
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. В чащах юга жил бы цитрус. "
UKRAINIAN = "Жебракують філософи при ґанку церкви в Гадячі, ще й шатро їхнє п'яне знаємо. "
GREEK = "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία και τρέχω στο δάσος με τους φίλους μου. "
HEBREW = "דג סקרן שט בים מאוכזב ולפתע מצא לו חברה נחמדה מאוד. "
ARABIC = "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق. "
THAI = "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน จงฝ่าฟันพัฒนาวิชาการ "
CHINESE = "视野无限广，窗外有蓝天。微风带动窗帘，摇曳的光影在地板上跳舞。我们今天去公园散步。"
TRADITIONAL = "視野無限廣，窗外有藍天。微風帶動窗簾，搖曳的光影在地板上跳舞。我們今天去公園散步。"
JAPANESE = "いろはにほへと散りぬるを、我が世誰ぞ常ならむ。有為の奥山今日越えて、カタカナも①㈱ある。"
KOREAN = "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 오늘은 날씨가 맑다. "

ENCODED = [
    (GERMAN, "cp1252"),
    (FRENCH, "cp1252"),
    (POLISH, "iso-8859-2"),
    (POLISH, "cp1250"),
    (CZECH, "cp1250"),
    (TURKISH, "cp1254"),
    (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8-r"),
    (RUSSIAN, "iso-8859-5"),
    (RUSSIAN, "cp866"),
    (UKRAINIAN, "koi8-u"),
    (GREEK, "cp1253"),
    (HEBREW, "cp1255"),
    (ARABIC, "cp1256"),
    (THAI, "tis-620"),
    (CHINESE, "gbk"),
    (CHINESE + "㐂𠮷", "gb18030"),
    (TRADITIONAL, "big5"),
    (JAPANESE, "cp932"),
    (JAPANESE.replace("①㈱", ""), "euc-jp"),
    (JAPANESE.replace("①㈱", ""), "iso2022_jp"),
    (KOREAN, "euc-kr"),
    (KOREAN + "똠방각하", "cp949"),
    (CHINESE, "utf-8"),
]
LOOK_WESTERN = (POLISH, CZECH, TURKISH)
"""Letters of Latin scripts with other accents: only the page itself could tell."""


def parametrize_cases(*left_out: str):
    kept = [(text, encoding) for text, encoding in ENCODED if text not in left_out]
    return pytest.mark.parametrize(("text", "encoding"), kept, ids=[f"{n}-{pair[1]}" for n, pair in enumerate(kept)])


cases = parametrize_cases()


def decode(content: bytes, declared: str | None = None, *, is_html: bool = False) -> tuple[str, dict[str, int]]:
    ledger = Ledger()
    return decode_text(content, declared=declared, is_html=is_html, ledger=ledger), dict(ledger.notes)


@cases
@pytest.mark.parametrize("copies", [2, 40])
def test_the_right_declaration(text, encoding, copies):
    assert decode((text * copies).encode(encoding), encoding) == (text * copies, {})


@cases
@pytest.mark.parametrize("declared", [None, "", "utf-8", "no-such-charset"])
def test_no_declaration_or_a_false_one(text, encoding, declared):
    assert decode((text * 5).encode(encoding), declared)[0] == text * 5


@parametrize_cases(*LOOK_WESTERN)
@pytest.mark.parametrize("declared", ["iso-8859-1", "Latin-1", "windows-1252", "us-ascii"])
def test_servers_that_declare_the_western_encoding_for_everything(text, encoding, declared):
    found, notes = decode((text * 5).encode(encoding), declared)
    assert found == text * 5
    assert notes == ({} if encoding in ("cp1252", "utf-8") else {"charset_wrong": 1})


@cases
@pytest.mark.parametrize("header", [None, "iso-8859-1", "utf-8"])
def test_the_page_itself_declares(text, encoding, header):
    html = (
        f'<html><head><META http-equiv="Content-Type" content="text/html; charset={encoding}"></head><p>{text * 3}</p>'
    )
    assert text * 3 in decode(html.encode(encoding), header, is_html=True)[0]


def test_a_header_comes_before_the_page_unless_it_is_western():
    html = f'<meta charset="windows-1252"><p>{RUSSIAN}</p>'
    assert RUSSIAN in decode(html.encode("koi8-r"), "koi8-r", is_html=True)[0]
    html = f'<meta charset="windows-1254"><p>{TURKISH}</p>'
    assert TURKISH in decode(html.encode("cp1254"), "iso-8859-1", is_html=True)[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("declared", [None, "iso-8859-1", "utf-8"])
def test_a_byte_order_mark_comes_before_all(encoding, declared):
    assert decode(CHINESE.encode(encoding), declared) == (CHINESE, {})


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark(encoding):
    assert decode(GERMAN.encode(encoding))[0] == GERMAN
    assert decode(CHINESE.encode(encoding), encoding) == (CHINESE, {})


def test_western_text_is_read_with_the_signs_of_windows():
    text = "The so-called “smart” quotes – and the € – stand where ISO-8859-1 has nothing… " + LONG
    assert decode(text.encode("cp1252"), "iso-8859-1") == (text, {})


def test_a_few_invalid_bytes_are_replaced_and_noted():
    content = (RUSSIAN * 20).encode("utf-8") + b"\xff"
    assert decode(content) == (RUSSIAN * 20 + "\ufffd", {"invalid_bytes_replaced": 1})


def test_anything_is_decoded():
    source = random.Random(1)
    for size in (0, 1, 2, 100, 5000):
        for declared in (
            None,
            "utf-8",
            "gbk",
            "utf-16",
            "iso-2022-jp",
            "hz-gb-2312",
            "rot13",
            "base64",
            "x-user-defined",
        ):
            text, _ = decode(source.randbytes(size), declared, is_html=True)
            assert isinstance(text, str)


@pytest.mark.parametrize("text", ["à", "ça", "m³ ±5 °C", "Ünïcödé", "ÄÖÜ ÄÖÜ", "Windows® 7 ©2010 §5", "¿Qué? ¡Sí!"])
def test_short_western_text_is_believed(text):
    assert decode(text.encode("cp1252"), "iso-8859-1")[0] == text


@pytest.mark.parametrize("declared", [None, "utf-8", "gbk", "iso-8859-1"])
@pytest.mark.parametrize("sign", ["£5", "a café", "it’s", "it’s a", "“so”", "Fred’s,"])
def test_a_few_western_signs_in_a_long_english_text(declared, sign):
    text = LONG * 20 + sign + LONG * 20
    assert decode(text.encode("cp1252"), declared)[0] == text


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (
            "HTML은 웹을 만드는 언어이고 CSS는 꾸미며 JavaScript가 움직인다. Linux와 Windows에서 Python을 쓴다. ",
            "euc-kr",
        ),
        ("HTMLはページを書く言語で、CSSは飾り、JavaScriptが動かす。LinuxやWindowsでPythonを使う。", "shift_jis"),
        ("用HTML写网页，CSS管样式，JavaScript负责交互。在Linux和Windows上都能运行Python程序。", "gbk"),
    ],
)
def test_technical_text_with_english_words(text, encoding, is_declared):
    assert decode((text * 4).encode(encoding), encoding if is_declared else None) == (text * 4, {})
