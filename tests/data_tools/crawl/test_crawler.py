"""The crawler against a real HTTP server on loopback: what it follows, what it leaves, what the WARC file holds."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcio.archiveiterator import ArchiveIterator as WarcioIterator

from data_tools.crawl.crawler import CrawlSettings, crawl
from data_tools.crawl.fetch import FetchSettings, normalize_url
from tests.data_tools.commands import run_command
from trireme.errors import ConfigError

QUICK = FetchSettings(num_retries=1, retry_wait_seconds=0.01, max_page_bytes=100_000)
HTML = "text/html; charset=utf-8"
Answer = tuple[int, dict[str, str], bytes]


class Site:
    """A web site given as path -> answer; remembers who asked for what, and when."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[int], Answer]] = {}
        self.requests: list[tuple[str, float]] = []
        self.user_agents: set[str] = set()
        self.url = ""

    def page(self, path: str, *links: str, head: str = "") -> None:
        anchors = "".join(f'<a href="{link}">{link}</a> ' for link in links)
        body = f"<html><head>{head}<title>{path}</title></head><body><p>This is {path}.</p>{anchors}</body></html>"
        self.answers[path] = (200, {"Content-Type": HTML}, body.encode())

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests if path != "/robots.txt"]


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.requests.append((self.path, time.monotonic()))
            served.user_agents.add(self.headers["User-Agent"])
            answer = served.answers.get(self.path, (404, {"Content-Type": HTML}, b"<p>not here"))
            if callable(answer):
                answer = answer(self.path_count())
            status, headers, body = answer
            if status == 0:  # break the connection
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if headers.get("Transfer-Encoding") != "chunked":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def path_count(self) -> int:
            return sum(path == self.path for path, _ in served.requests)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield served
    server.shutdown()
    server.server_close()


def _settings(site: Site, tmp_path: Path, **changes: object) -> CrawlSettings:
    values: dict[str, object] = {
        "start_url": site.url,
        "output": tmp_path / "out.warc.gz",
        "delay_seconds": 0.0,
        "fetch": QUICK,
    }
    return CrawlSettings(**{**values, **changes})  # type: ignore[arg-type]


def _responses(path: Path) -> dict[str, tuple[int, bytes]]:
    """URL -> status and payload, as fastwarc reads them, digests verified."""
    found: dict[str, tuple[int, bytes]] = {}
    with path.open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, verify_digests=True):
            url = record.headers["WARC-Target-URI"]
            assert url not in found
            found[url] = (record.http_headers.status_code, record.reader.read())
    return found


def test_follows_links_breadth_first_and_visits_each_page_once(site: Site, tmp_path: Path) -> None:
    site.page("/", "/a", "/b", "/a#part", "./a", site.url.upper().replace("HTTP", "http") + "/b")
    site.page("/a", "/a1", "/")
    site.page("/b", "/b1", "/a")
    site.page("/a1", "/deep")
    site.page("/b1", "/a1")
    site.page("/deep", "/")
    report = crawl(_settings(site, tmp_path))
    assert site.paths == ["/", "/a", "/b", "/a1", "/b1", "/deep"]
    assert report.num_pages == 6
    assert report.statuses == {200: 6}
    assert set(_responses(tmp_path / "out.warc.gz")) == {
        site.url + path for path in ("/", "/a", "/b", "/a1", "/b1", "/deep")
    }


def test_the_file_is_a_genuine_warc(site: Site, tmp_path: Path) -> None:
    site.page("/", "/b")
    site.page("/b")
    crawl(_settings(site, tmp_path))
    path = tmp_path / "out.warc.gz"
    with path.open("rb") as stream:
        records = [
            (r.rec_type, r.rec_headers, r.http_headers, r.content_stream().read())
            for r in WarcioIterator(stream, check_digests="raise")
        ]
    assert [kind for kind, *_ in records] == ["warcinfo", "response", "request", "response", "request"]
    _, headers, http_headers, body = records[1]
    assert headers.protocol == "WARC/1.1"
    assert headers["WARC-Target-URI"] == site.url + "/"
    assert headers["WARC-Block-Digest"] and headers["WARC-Payload-Digest"] and headers["WARC-Date"]
    assert http_headers["Content-Type"] == HTML
    assert body == site.answers["/"][2]  # type: ignore[index]
    assert records[2][1]["WARC-Concurrent-To"] == headers["WARC-Record-ID"]
    assert records[2][2]["Host"] == site.url.removeprefix("http://")
    assert records[2][2]["User-Agent"].startswith("Trireme-crawl/")
    assert b"robots: obey" in records[0][3]
    checked = run_command("warcio.cli", "check", "-v", path)
    assert checked.returncode == 0, checked.stderr
    assert "digest pass" in checked.stdout


def test_obeys_robots_txt_and_nofollow(site: Site, tmp_path: Path) -> None:
    rules = b"User-agent: trireme-crawl\nDisallow: /private\nCrawl-delay: 0.2\n\nUser-agent: *\nDisallow: /\n"
    site.answers["/robots.txt"] = (200, {"Content-Type": "text/plain"}, rules)
    site.page("/", "/private/x", "/open", "/meta")
    site.page("/meta", "/hidden", head='<meta name="ROBOTS" content="index, NOFOLLOW">')
    site.answers["/open"] = (200, {"Content-Type": HTML}, b'<a rel="nofollow" href="/secret">s</a>')
    report = crawl(_settings(site, tmp_path))
    assert site.paths == ["/", "/open", "/meta"]
    assert report.skipped == {"disallowed by robots.txt": 1}
    # Crawl-delay 0.2 is no whole number, which robots.txt readers ignore; a whole one is kept to below.
    site.answers["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 1\n")
    site.requests.clear()
    crawl(_settings(site, tmp_path, output=tmp_path / "slow.warc.gz", max_pages=3))
    times = [moment for _, moment in site.requests]
    assert len(times) == 4
    # A busy machine may deliver one late, but none before its turn.
    assert all(moment - times[0] >= 1.0 * number for number, moment in enumerate(times[1:]))
    assert site.user_agents == {"Trireme-crawl/0.1"}


@pytest.mark.parametrize(("status", "is_allowed"), [(404, True), (403, True), (500, False)])
def test_robots_txt_that_is_not_there(site: Site, tmp_path: Path, status: int, is_allowed: bool) -> None:
    site.answers["/robots.txt"] = (status, {}, b"User-agent: *\nDisallow: /")
    site.page("/")
    if is_allowed:
        assert crawl(_settings(site, tmp_path)).num_pages == 1
    else:
        with pytest.raises(ConfigError, match="disallowed by robots.txt"):
            crawl(_settings(site, tmp_path))
        assert list(tmp_path.iterdir()) == []


def test_keeps_to_its_delay_whatever_the_number_of_workers(site: Site, tmp_path: Path) -> None:
    site.page("/", *[f"/{n}" for n in range(6)])
    begin = time.monotonic()
    crawl(_settings(site, tmp_path, delay_seconds=0.1, num_workers=4))
    times = sorted(moment for _, moment in site.requests)
    assert len(times) == 8
    # A busy machine may deliver one late, but none before its turn.
    assert all(moment - begin >= 0.1 * number for number, moment in enumerate(times))


def test_stays_below_the_start_page_or_on_its_host(site: Site, tmp_path: Path) -> None:
    site.page("/docs/index.html", "/docs/a.html", "/blog", "http://example.invalid/docs/", "mailto:a@b", "ftp://x/y")
    site.page("/docs/a.html", "../blog", "/docs/getfile?key=1")
    site.page("/docs/getfile?key=1")
    site.page("/blog")
    start = site.url + "/docs/index.html"
    report = crawl(_settings(site, tmp_path, start_url=start, exclude=r"getfile\?"))
    assert site.paths == ["/docs/index.html", "/docs/a.html"]
    assert report.skipped == {"out of scope": 2, "excluded": 1}
    site.requests.clear()
    crawl(_settings(site, tmp_path, start_url=start, is_same_host=True, output=tmp_path / "host.warc.gz"))
    assert sorted(site.paths) == ["/blog", "/docs/a.html", "/docs/getfile?key=1", "/docs/index.html"]


def test_stores_redirects_errors_and_other_media_and_survives_loops(site: Site, tmp_path: Path) -> None:
    site.page("/", "/moved", "/loop1", "/gone", "/data.json", "/empty", "/broken.html", "/away", "/nowhere")
    site.answers["/moved"] = (301, {"Location": "target"}, b"")
    site.page("/target")
    site.answers["/loop1"] = (302, {"Location": "/loop2"}, b"")
    site.answers["/loop2"] = (302, {"Location": "/loop1"}, b"")
    site.answers["/away"] = (302, {"Location": "http://example.invalid/"}, b"")
    site.answers["/nowhere"] = (302, {}, b"")
    site.answers["/data.json"] = (200, {"Content-Type": "application/json"}, b'{"a": "<a href=/trap>"}')
    site.answers["/empty"] = (200, {"Content-Type": HTML}, b"")
    site.answers["/broken.html"] = (200, {"Content-Type": HTML}, b"\xff\x00<a href='http://[bad'><a href=/target")
    report = crawl(_settings(site, tmp_path))
    stored = _responses(tmp_path / "out.warc.gz")
    assert report.statuses == {200: 5, 301: 1, 302: 4, 404: 1}
    assert report.errors == {}
    assert stored[site.url + "/moved"][0] == 301
    assert stored[site.url + "/gone"] == (404, b"<p>not here")
    assert stored[site.url + "/data.json"][1] == b'{"a": "<a href=/trap>"}'
    assert "/trap" not in site.paths
    assert len(site.paths) == len(set(site.paths)) == 11


def test_tries_again_and_counts_what_fails(site: Site, tmp_path: Path) -> None:
    def recovers(count: int) -> Answer:
        return (503, {"Retry-After": "0"}, b"") if count == 1 else (200, {"Content-Type": HTML}, b"<p>at last")

    is_over = threading.Event()

    def slow(count: int) -> Answer:
        is_over.wait(60)
        return 200, {}, b""

    site.page("/", "/busy", "/recovers", "/drops", "/slow")
    site.answers["/busy"] = (503, {"Retry-After": "0"}, b"busy")
    site.answers["/recovers"] = recovers
    site.answers["/drops"] = (0, {}, b"")
    site.answers["/slow"] = slow
    # On a busy machine the other answers take a while too.
    settings = FetchSettings(timeout_seconds=1.5, num_retries=1, retry_wait_seconds=0.01)
    report = crawl(_settings(site, tmp_path, fetch=settings))
    is_over.set()
    assert [site.paths.count(path) for path in ("/busy", "/recovers", "/drops", "/slow")] == [2, 2, 2, 2]
    assert report.statuses == {200: 2, 503: 1}
    assert report.errors == {"connection failed": 1, "timeout": 1}
    assert report.lines()[1:] == [
        "  responses: HTTP 200: 2, HTTP 503: 1",
        "  errors: connection failed: 1, timeout: 1",
    ]
    assert _responses(tmp_path / "out.warc.gz")[site.url + "/recovers"] == (200, b"<p>at last")


def test_content_and_transfer_codings_and_long_pages(site: Site, tmp_path: Path) -> None:
    packed = gzip.compress(b"<a href=/found>f</a>")
    site.page("/", "/gzip", "/chunked", "/long")
    site.answers["/gzip"] = (200, {"Content-Type": HTML, "Content-Encoding": "gzip"}, packed)
    site.answers["/chunked"] = (200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
    site.answers["/long"] = (200, {"Content-Type": HTML}, b"x" * 300_000)
    site.page("/found")
    crawl(_settings(site, tmp_path))
    stored = _responses(tmp_path / "out.warc.gz")
    assert stored[site.url + "/gzip"][1] == packed
    assert "/found" in site.paths
    assert stored[site.url + "/chunked"][1] == b"hello world"
    assert stored[site.url + "/long"][1] == b"x" * 100_000
    with (tmp_path / "out.warc.gz").open("rb") as stream:
        truncated = [
            record.headers["WARC-Target-URI"]
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response)
            if "WARC-Truncated" in record.headers
        ]
    assert truncated == [site.url + "/long"]


@pytest.mark.parametrize("num_workers", [1, 4])
def test_stops_at_the_number_of_pages_and_stores_in_one_order(site: Site, tmp_path: Path, num_workers: int) -> None:
    site.page("/", *[f"/{n}" for n in range(30)])
    for n in range(30):
        site.page(f"/{n}", f"/{n}/below")
    pages: list[int] = []
    report = crawl(_settings(site, tmp_path, max_pages=7, num_workers=num_workers), on_page=pages.append)
    assert report.num_pages == 7
    assert pages == [1, 2, 3, 4, 5, 6, 7]
    assert list(_responses(tmp_path / "out.warc.gz")) == [
        site.url + path for path in ["/", *map("/{}".format, range(6))]
    ]
    assert len(site.paths) == 7


def test_all_wrong_settings_are_named_at_once(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        crawl(
            _settings(
                site,
                tmp_path,
                start_url="gopher://x",
                output=tmp_path / "x.txt",
                max_pages=0,
                delay_seconds=-1,
                num_workers=0,
                exclude="(",
            )
        )
    assert len(error.value.violations) == 6


def test_an_interrupted_crawl_keeps_what_it_has(site: Site, tmp_path: Path) -> None:
    site.page("/", "/a", "/b")

    def interrupt(num_pages: int) -> None:
        if num_pages == 2:
            raise KeyboardInterrupt

    report = crawl(_settings(site, tmp_path), on_page=interrupt)
    assert report.is_interrupted
    assert len(_responses(tmp_path / "out.warc.gz")) == 2


def test_a_failure_leaves_no_file(site: Site, tmp_path: Path) -> None:
    site.page("/")

    def fail(num_pages: int) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        crawl(_settings(site, tmp_path), on_page=fail)
    assert list(tmp_path.iterdir()) == []


def test_the_command_reports_what_it_got(site: Site, tmp_path: Path) -> None:
    site.page("/", "/gone")
    output = tmp_path / "site.warc.gz"
    done = run_command("data_tools.crawl", site.url, "--output", output, "--delay", "0", "--max-pages", "5")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith(f"{output}: 2 pages, ")
    assert done.stdout.splitlines()[1] == "  responses: HTTP 200: 1, HTTP 404: 1"
    assert "crawl: 2/5 pages" in done.stderr
    again = run_command("data_tools.crawl", site.url, "--output", output)
    assert again.returncode == 2
    assert f"--output: already exists (got {output}). Remove it, or choose another file." in again.stderr


def test_a_server_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        done = run_command("data_tools.crawl", url, "--output", tmp_path / "x.warc.gz", "--delay", "0")
    assert done.returncode == 2
    assert f"(got {url})" in done.stderr and "connection failed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "base", "expected"),
    [
        ("HTTP://Example.ORG:80", "", "http://example.org/"),
        ("b?q=1#frag", "http://x.org/a/", "http://x.org/a/b?q=1"),
        ("//y.org/ü", "https://x.org/", "https://y.org/%C3%BC"),
        (" /c ", "http://x.org:8080/a", "http://x.org:8080/c"),
        ("http://[::1]:81/x", "", "http://[::1]:81/x"),
        ("javascript:void(0)", "http://x.org/", None),
        ("http://[bad", "http://x.org/", None),
        ("http://x.org:port/", "", None),
    ],
)
def test_one_spelling_for_one_page(url: str, base: str, expected: str | None) -> None:
    assert normalize_url(url, base=base) == expected
