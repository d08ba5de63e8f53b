"""Wikipedia dumps: which pages are read, which are left out, and what damage costs."""

import bz2
import tracemalloc
from importlib import metadata

import pytest

from data_tools.config.filtering import CleaningConfig
from data_tools.config.schema import DataPrepConfig, SourceConfig, WikipediaConfig
from data_tools.inputs.files import open_input, resolve_inputs
from data_tools.ledger import Ledger
from data_tools.readers.open import read_documents
from tests.data_tools.records import LONG, read_clean, read_raw

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo><sitename>Wikipedia</sitename><base>https://de.wikipedia.org/wiki/Hauptseite</base><namespaces>
    <namespace key="0" case="first-letter" /><namespace key="6">Datei</namespace>
    <namespace key="14">Kategorie</namespace>
  </namespaces></siteinfo>
"""
END = "</mediawiki>\n"


def revision(text, *, model="wikitext", time="2020-01-01T00:00:00Z", attributes=""):
    return (
        f"<revision><id>5</id><timestamp>{time}</timestamp><contributor><username>U</username><id>9</id></contributor>"
        f'<model>{model}</model><text {attributes} xml:space="preserve">{text}</text></revision>'
    )


def page(title, *revisions, namespace=0, id=1, extra=""):
    return f"  <page><title>{title}</title><ns>{namespace}</ns><id>{id}</id>{extra}{''.join(revisions)}</page>\n"


def write(path, *pages, head=HEAD, end=END):
    path.write_text(head + "".join(pages) + end)
    return path


def test_a_page_becomes_a_document(tmp_path):
    text = "[[Datei:x.jpg|mini|Bild]]A &amp; B &lt;b&gt;fett&lt;/b&gt;[[Kategorie:K]]"
    path = write(tmp_path / "a.xml", page("Über &amp; C/D", revision(text), id=77))
    (raw,), _, _ = read_raw(path, "wikipedia")
    assert raw.content == b"[[Datei:x.jpg|mini|Bild]]A & B <b>fett</b>[[Kategorie:K]]"
    assert (raw.id, raw.title, raw.url) == (
        "77",
        "Über & C/D",
        "https://de.wikipedia.org/wiki/%C3%9Cber_%26_C/D",
    )
    assert path.read_bytes()[raw.offset :].startswith(b"<page><title>")
    (clean,), _ = read_clean(path, "wikipedia")
    assert clean.text == "Über & C/D\n\nA & B fett"


def test_the_language_of_a_wiki_is_that_of_its_dump_or_address(tmp_path):
    text = f"[[Bild:x|thumb|Bild]]{LONG}\n== Siehe auch ==\n* x"
    for head in (HEAD, HEAD.replace('xml:lang="de"', ""), HEAD.replace("//de.", "//x.")):
        path = write(tmp_path / "a.xml", page("T", revision(text)), head=head)
        (raw,), _, _ = read_raw(path, "wikipedia")
        assert raw.wiki_language == "de"
        (clean,), _ = read_clean(path, "wikipedia")
        assert clean.text == f"T\n\n{LONG.strip()}"


def test_the_language_of_a_wiki_is_known_behind_a_damaged_page(tmp_path):
    path = write(tmp_path / "a.xml", page("A", revision("a & b")), page("T", revision(f"[[Bild:x|mini|y]]{LONG}")))
    (clean,), _ = read_clean(path, "wikipedia")
    assert clean.text == f"T\n\n{LONG.strip()}"


def test_pages_without_text_of_their_own_are_dropped_by_reason(tmp_path):
    path = write(
        tmp_path / "a.xml",
        page("Good", revision("text")),
        page("Redirect", revision("#REDIRECT [[Good]]"), extra='<redirect title="Good" />'),
        page("Old redirect", revision("#redirect [[Good]]")),
        page("Talk:Good", revision("text"), namespace=1),
        page("Empty", revision(" \n ")),
        page("Script", revision("var x", model="javascript")),
        page("Gone", revision("", attributes='deleted="deleted"')),
        page("Only files", revision("[[Datei:x.jpg]] {{Infobox|a=b}}")),
        page("No revision"),
    )
    documents, ledger = read_clean(path, "wikipedia")
    assert [document.title for document in documents] == ["Good"]
    assert ledger.dropped == {
        "redirect": 2,
        "namespace_1": 1,
        "page_empty": 2,
        "content_model_javascript": 1,
        "text_deleted": 1,
        "no_text": 1,
    }
    both, _ = read_clean(path, "wikipedia", wikipedia=WikipediaConfig(namespaces=[0, 1]))
    assert len(both) == 2


def test_of_a_history_the_latest_revision_counts(tmp_path):
    revisions = [revision(f"from {year}", time=f"{year}-01-01T00:00:00Z") for year in (2003, 2021, 2010)]
    (document,), ledger, _ = read_raw(write(tmp_path / "a.xml", page("P", *revisions)), "wikipedia")
    assert document.content == b"from 2021"
    assert ledger.notes == {"page_with_history": 1}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (2, 1, 3)])
def test_the_latest_revision_decides_though_it_is_deleted_or_large(tmp_path, order):
    """An earlier revision is never taken in its place: somebody took its text away."""
    kinds = {
        "deleted": (revision("", time="2003-01-01T00:00:00Z", attributes='deleted="deleted"'), "text_deleted"),
        "large": (revision("x" * 2000, time="2003-01-01T00:00:00Z"), "record_too_large"),
        "script": (revision("x", time="2003-01-01T00:00:00Z", model="json"), "content_model_json"),
    }
    for last, reason in kinds.values():
        all_three = {n: revision(f"from {n}", time=f"200{n}-01-01T00:00:00Z") for n in (1, 2)} | {3: last}
        path = write(tmp_path / "a.xml", page("P", *(all_three[n] for n in order)))
        limits = CleaningConfig(max_record_bytes=1000)
        documents, ledger, _ = read_raw(path, "wikipedia", cleaning=limits)
        assert not documents
        assert ledger.dropped == {reason: 1}


@pytest.mark.parametrize("is_ascending", [True, False])
def test_a_history_takes_the_memory_of_one_revision(tmp_path, is_ascending):
    years = range(2000, 2020) if is_ascending else range(2020, 2000, -1)
    revisions = [revision(f"{year} " * 400_000, time=f"{year}-01-01T00:00:00Z") for year in years]
    path = write(tmp_path / "a.xml", page("P", *revisions))
    del revisions
    source = SourceConfig(name="s", kind="wikipedia", paths=[str(path)])
    (file,), _ = resolve_inputs([source])
    tracemalloc.start()
    with open_input(file) as stream:
        config = DataPrepConfig(output_dir="", sources=[source])
        (document,) = read_documents(file, stream=stream, ledger=Ledger(), config=config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert document.content.startswith(b"2019" if is_ascending else b"2020")
    assert peak < 12 << 20, "2 MB as pieces, as one string and as bytes, and the buffers"


def test_schema_0_10_and_0_11_give_the_same(tmp_path):
    """The order of a revision's elements and the attributes of its text differ."""
    text = LONG + "&amp; more"
    old = (
        "<revision><id>5</id><parentid>4</parentid><timestamp>2020-01-01T00:00:00Z</timestamp><contributor><ip>::1</ip>"
        "</contributor><minor /><comment>c</comment><model>wikitext</model><format>text/x-wiki</format>"
        f'<text xml:space="preserve">{text}</text><sha1>phoiac9h4m842xq45sp7s6u21eteeq1</sha1></revision>'
    )
    new = (
        "<revision><id>5</id><parentid>4</parentid><timestamp>2020-01-01T00:00:00Z</timestamp><contributor>"
        "<username>U</username><id>9</id></contributor><comment>c</comment><origin>5</origin><model>wikitext</model>"
        f'<format>text/x-wiki</format><text bytes="{len(text)}" sha1="phoiac9h4m842xq45sp7s6u21eteeq1" '
        f'xml:space="preserve">{text}</text><sha1>phoiac9h4m842xq45sp7s6u21eteeq1</sha1></revision>'
    )
    pages = {
        "0.10": [page("P", old), page("R", old, extra='<redirect title="P" />'), page("Talk:P", old, namespace=1)],
        "0.11": [page("P", new), page("R", new, extra='<redirect title="P" />'), page("Talk:P", new, namespace=1)],
    }
    found = {}
    for version, written in pages.items():
        path = write(tmp_path / "a.xml", *written, head=HEAD.replace("0.11", version))
        documents, ledger, _ = read_raw(path, "wikipedia")
        assert ledger.dropped == {"redirect": 1, "namespace_1": 1}
        found[version] = [(document.title, document.id, document.url, document.content) for document in documents]
    assert found["0.10"] == found["0.11"]
    assert found["0.10"][0][3] == text.replace("&amp;", "&").encode()


def test_slots_beside_the_main_one_are_no_text(tmp_path):
    slot = "<content><role>data</role><model>json</model><text>{}</text></content>"
    whole = revision("main").replace("</revision>", f"{slot}</revision>")
    (document,), _, _ = read_raw(write(tmp_path / "a.xml", page("P", whole)), "wikipedia")
    assert document.content == b"main"


@pytest.mark.parametrize("broken", ["a & b", "&undefined;", "\x01", "<b>", "</text></page>"])
def test_a_page_that_is_no_xml_costs_itself(tmp_path, broken):
    pages = [page(f"P{number}", revision(broken if number == 2 else LONG)) for number in range(5)]
    documents, ledger, _ = read_raw(write(tmp_path / "a.xml", *pages), "wikipedia")
    assert [document.title for document in documents] == ["P0", "P1", "P3", "P4"]
    assert ledger.failed == {"xml_invalid": 1}
    assert ledger.examples[0].name == "P2"
    whole = (tmp_path / "a.xml").read_bytes()
    assert all(whole[document.offset :].startswith(b"<page>") for document in documents)


def test_entity_bombs_are_refused(tmp_path):
    entities = '<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    path = write(tmp_path / "a.xml", page("P", revision("&i;")), head=f"<!DOCTYPE mediawiki [{entities}]>\n" + HEAD)
    documents, ledger, _ = read_raw(path, "wikipedia")
    assert not documents
    assert ledger.failed == {"xml_doctype_refused": 1}


@pytest.mark.parametrize(
    "declaration",
    [
        '<!ENTITY e SYSTEM "file://{secret}">',
        '<!ENTITY % e SYSTEM "file://{secret}"> %e;',
        '<!ATTLIST page a CDATA "b">',
    ],
)
def test_external_entities_are_refused(tmp_path, declaration):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    doctype = f"<!DOCTYPE mediawiki [{declaration.format(secret=secret)}]>"
    path = write(tmp_path / "a.xml", page("P", revision("&e;")), head=doctype + HEAD)
    documents, ledger, _ = read_raw(path, "wikipedia")
    assert not documents
    assert ledger.failed == {"xml_doctype_refused": 1}


@pytest.mark.parametrize("cut", [40, 400, 1400, 2100])
def test_a_cut_dump_keeps_its_whole_pages(tmp_path, cut):
    text = HEAD + "".join(page(f"P{number}", revision(LONG)) for number in range(5))
    (tmp_path / "a.xml").write_text(text[:cut])
    documents, ledger, _ = read_raw(tmp_path / "a.xml", "wikipedia")
    assert len(documents) == text[:cut].count("</page>")
    assert ledger.failed == {"xml_truncated": 1}


def test_multistream_and_cut_bzip2(tmp_path):
    pages = [page(f"P{number}", revision(f"{number} {LONG}")) for number in range(2000)]
    streams = [HEAD, *("".join(pages[start : start + 100]) for start in range(0, 2000, 100)), END]
    packed = [bz2.compress(stream.encode()) for stream in streams]
    (tmp_path / "a.xml.bz2").write_bytes(b"".join(packed))
    assert read_raw(tmp_path / "a.xml.bz2", "wikipedia")[1].read == 2000
    (tmp_path / "cut.bz2").write_bytes(b"".join(packed)[: len(b"".join(packed[:11])) + 50])
    documents, ledger, _ = read_raw(tmp_path / "cut.bz2", "wikipedia")
    assert len(documents) == 1000
    assert ledger.failed == {"compressed_data_truncated": 1}


@pytest.mark.parametrize("place", [2, 60, 900])
def test_a_damaged_bzip2_stream_costs_its_own_pages(tmp_path, place):
    pages = [page(f"P{number}", revision(f"{number * 7919} {LONG}")) for number in range(1000)]
    streams = [HEAD, *("".join(pages[start : start + 100]) for start in range(0, 1000, 100)), END]
    packed = [bytearray(bz2.compress(stream.encode())) for stream in streams]
    packed[6][place] ^= 0xFF
    (tmp_path / "a.bz2").write_bytes(b"".join(packed))
    documents, ledger, _ = read_raw(tmp_path / "a.bz2", "wikipedia")
    assert [document.title for document in documents] == [f"P{n}" for n in range(1000) if not 500 <= n < 600]
    assert ledger.failed == {"compressed_data_corrupt": 1}


def test_memory_does_not_grow_with_pages_or_their_size(tmp_path):
    large = page("Large", revision("x" * 30_000_000))
    path = write(tmp_path / "a.xml", large, *(page(f"P{number}", revision(LONG * 10)) for number in range(3000)))
    source = SourceConfig(name="s", kind="wikipedia", paths=[str(path)])
    config = DataPrepConfig(output_dir="", sources=[source], cleaning=CleaningConfig(max_record_bytes=1 << 20))
    (file,), _ = resolve_inputs([source])
    ledger = Ledger()
    tracemalloc.start()
    with open_input(file) as stream:
        for _ in read_documents(file, stream=stream, ledger=ledger, config=config):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ledger.dropped == {"record_too_large": 1}
    assert ledger.read == 3001
    assert peak < 12 << 20


def test_real_dump():
    """206 pages of the English Wikipedia."""
    name = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    try:
        files = metadata.distribution("gensim").files or []
    except metadata.PackageNotFoundError:
        pytest.skip("needs the wheel gensim, which holds the dump")
    path = next(file.locate() for file in files if file.name == name)
    documents, ledger = read_clean(path, "wikipedia", min_characters=100)
    assert (ledger.read, ledger.kept) == (206, 106)
    assert ledger.dropped == {"redirect": 99, "namespace_4": 1}
    texts = {document.title: document.text for document in documents}
    assert "about 15 °C" in texts["Albedo"]
    assert "an area of 2381741 km²" in texts["Algeria"]
    assert "at least 5 ft" in texts["Astronaut"] or "5 ft 2 in" in texts["Astronaut"]
    assert "; February 12, 1809 – April 15, 1865)" in texts["Abraham Lincoln"]
    assert not [title for title, text in texts.items() if "[[" in text or "<ref" in text or "Category:" in text]
