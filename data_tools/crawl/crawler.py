"""Crawl a web site politely: follow links breadth-first from one page, and write a WARC file."""

import argparse
import ipaddress
import re
import sys
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from urllib.robotparser import RobotFileParser

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_tools.crawl.fetch import USER_AGENT, Fetcher, FetchError, FetchSettings, Pace, Page, links_of, normalize_url
from data_tools.crawl.warc_writer import WarcFile
from trireme.command import EXIT_INTERRUPTED
from trireme.errors import ConfigError, Violation, exit_code_of, raise_if_any
from trireme.progress import PlainProgress, format_bytes, format_number, should_draw_bar


@dataclass(frozen=True, kw_only=True)
class CrawlSettings:
    """Settings of a crawl."""

    start_url: str
    output: Path
    """The file to write, *.warc.gz; it must not exist."""
    max_pages: int = 100
    """Maximum responses to store, of any status."""
    delay_seconds: float = 1.0
    """Delay between request starts; a longer Crawl-delay of robots.txt takes precedence."""
    num_workers: int = 1
    """Concurrent requests."""
    is_same_host: bool = False
    """Follow links to the whole host; otherwise only below the directory of the start page."""
    exclude: str | None = None
    """Regular expression; matching links are not followed."""
    fetch: FetchSettings = field(default_factory=FetchSettings)


@dataclass(kw_only=True)
class CrawlReport:
    """The result of a crawl: stored pages, errors and skipped links, by reason."""

    num_pages: int = 0
    num_bytes: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    """Links that were not followed."""
    is_interrupted: bool = False

    def lines(self) -> list[str]:
        """Format the report."""
        groups = (
            ("responses", {f"HTTP {status}": count for status, count in sorted(self.statuses.items())}),
            ("errors", dict(self.errors.most_common())),
            ("links not followed", dict(self.skipped.most_common())),
        )
        lines = [f"{format_number(self.num_pages, 'page')}, {format_bytes(self.num_bytes)} compressed"]
        lines += [f"  {name}: " + ", ".join(f"{k}: {v}" for k, v in group.items()) for name, group in groups if group]
        return lines + (["  interrupted: the file contains the pages stored so far"] if self.is_interrupted else [])


class _Frontier:
    """URLs to visit, each once, in the order in which they were found."""

    def __init__(
        self, settings: CrawlSettings, *, start_url: str, robots: RobotFileParser, report: CrawlReport
    ) -> None:
        parts = urlsplit(start_url)
        directory = "/" if settings.is_same_host else parts.path[: parts.path.rfind("/") + 1]
        self._prefix = f"{parts.scheme}://{parts.netloc}{directory}"
        self._exclude = re.compile(settings.exclude) if settings.exclude else None
        self._robots, self._report = robots, report
        self._seen = {start_url}
        self._queue = deque([start_url])

    def add(self, url: str) -> None:
        """Queue a URL unless it was seen, is out of scope or excluded; the report counts why."""
        if url in self._seen:
            return
        self._seen.add(url)
        if not url.startswith(self._prefix):
            self._report.skipped["out of scope"] += 1
        elif self._exclude and self._exclude.search(url):
            self._report.skipped["excluded"] += 1
        elif not self._robots.can_fetch(USER_AGENT, url):
            self._report.skipped["disallowed by robots.txt"] += 1
        else:
            self._queue.append(url)

    def pop(self) -> str:
        """Return the next URL."""
        return self._queue.popleft()

    def __len__(self) -> int:
        return len(self._queue)


def crawl(settings: CrawlSettings, *, on_page: Callable[[int], object] = lambda num_pages: None) -> CrawlReport:
    """Crawl and write the WARC file; calls `on_page` with the number of pages after each.

    Raises:
        ConfigError: a setting is invalid, robots.txt disallows the start page, or it gives no response.
    """
    start_url = _checked(settings)
    pace = Pace(settings.delay_seconds)
    fetcher = Fetcher(settings.fetch, pace=pace, is_loopback=_is_loopback(start_url))
    robots = _read_robots(fetcher, start_url)
    if not robots.can_fetch(USER_AGENT, start_url):
        raise ConfigError([_violation(start_url, "disallowed by robots.txt", "Crawl another site.")])
    pace.delay_seconds = max(settings.delay_seconds, float(robots.crawl_delay(USER_AGENT) or 0))
    report = CrawlReport()
    frontier = _Frontier(settings, start_url=start_url, robots=robots, report=report)
    with WarcFile(settings.output, description=f"crawl of {start_url}") as warc:
        try:
            _visit_all(frontier, warc, report, fetcher=fetcher, settings=settings, on_page=on_page)
        except KeyboardInterrupt:
            report.is_interrupted = True
        if report.num_pages == 0 and not report.is_interrupted:
            reason = ", ".join(report.errors)
            raise ConfigError([_violation(start_url, f"no response: {reason}", "Check the URL.")])
        report.num_bytes = warc.num_bytes
        warc.commit()
    return report


def _visit_all(
    frontier: _Frontier,
    warc: WarcFile,
    report: CrawlReport,
    *,
    fetcher: Fetcher,
    settings: CrawlSettings,
    on_page: Callable[[int], object],
) -> None:
    """Fetch with several threads; store in queue order, so that the file does not depend on their timing."""
    under_way: deque[Future[Page]] = deque()
    with ThreadPoolExecutor(settings.num_workers) as pool:
        try:
            while report.num_pages < settings.max_pages and (frontier or under_way):
                room = min(settings.num_workers, settings.max_pages - report.num_pages) - len(under_way)
                for _ in range(min(room, len(frontier))):
                    under_way.append(pool.submit(fetcher.get, frontier.pop()))
                try:
                    page = under_way.popleft().result()
                except FetchError as error:
                    report.errors[str(error)] += 1
                    continue
                warc.add(page)
                report.num_pages += 1
                report.statuses[page.status] += 1
                for link in _next_links(page):
                    frontier.add(link)
                on_page(report.num_pages)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _next_links(page: Page) -> list[str]:
    """Return the redirect target of a page, or the links in it."""
    if 300 <= page.status < 400:
        target = normalize_url(page.header("location"), base=page.url)
        return [target] if page.header("location") and target else []
    return links_of(page) if page.status == 200 else []


def _read_robots(fetcher: Fetcher, start_url: str) -> RobotFileParser:
    """Read the site's rules. As in RFC 9309: without the file all is allowed, at a server error nothing."""
    robots = RobotFileParser()
    try:
        page = fetcher.get(urljoin(start_url, "/robots.txt"))
        for _ in range(5):
            target = normalize_url(page.header("location"), base=page.url)
            if not 300 <= page.status < 400 or target is None:
                break
            page = fetcher.get(target)
    except FetchError as error:
        raise ConfigError([_violation(start_url, f"cannot read robots.txt: {error}", "Check the URL.")]) from error
    if page.status >= 500:
        rules = "User-agent: *\nDisallow: /"
    else:
        rules = page.body.decode("utf-8", errors="replace") if page.status == 200 else ""
    robots.parse(rules.splitlines())
    return robots


def _checked(settings: CrawlSettings) -> str:
    """Check all settings at once; return the normalized start URL."""
    start_url = normalize_url(settings.start_url)
    violations = []
    if start_url is None:
        violations.append(_violation(settings.start_url, "must be a web address", "Begin it with http:// or https://."))
    if not settings.output.name.endswith(".warc.gz"):
        violations.append(_violation(settings.output, "must end in .warc.gz", "Use FILE.warc.gz.", path="--output"))
    elif settings.output.exists():
        violations.append(
            _violation(settings.output, "already exists", "Remove it, or choose another file.", path="--output")
        )
    if settings.max_pages < 1:
        violations.append(_violation(settings.max_pages, "must be at least 1", "Use 1 or more.", path="--max-pages"))
    if settings.delay_seconds < 0:
        violations.append(_violation(settings.delay_seconds, "must be at least 0", "Use 0 or more.", path="--delay"))
    if settings.num_workers < 1:
        violations.append(_violation(settings.num_workers, "must be at least 1", "Use 1 or more.", path="--workers"))
    try:
        re.compile(settings.exclude or "")
    except re.error as error:
        violations.append(
            _violation(settings.exclude, f"invalid regular expression: {error}", "Correct it.", path="--exclude")
        )
    raise_if_any(violations)
    assert start_url is not None
    return start_url


def _violation(value: object, rule: str, fix: str, *, path: str = "START_URL") -> Violation:
    return Violation(path=path, value=value, message=rule, fix=fix)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def crawl_with_progress(settings: CrawlSettings) -> CrawlReport:
    """Crawl with a progress bar on a terminal and plain lines elsewhere."""
    if should_draw_bar("auto", stream=sys.stderr):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("crawl", total=settings.max_pages)
            return crawl(settings, on_page=lambda num_pages: bar.update(task, completed=num_pages))
    plain = PlainProgress(
        "crawl",
        total=settings.max_pages,
        unit="pages",
        write=lambda line: print(line, file=sys.stderr, flush=True),
    )
    report = crawl(settings, on_page=plain.update)
    plain.finish(report.num_pages)
    return report


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="trireme crawl", description=__doc__)
    parser.add_argument("start_url", metavar="START_URL")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.warc.gz")
    parser.add_argument("--max-pages", type=int, default=100, help="maximum responses to store (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds between requests (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="concurrent requests (default: %(default)s)")
    parser.add_argument(
        "--same-host",
        action="store_true",
        help="follow links to the whole host, not only below the directory of START_URL",
    )
    parser.add_argument("--exclude", metavar="REGEX", help="do not follow links that match")
    args = parser.parse_args()
    settings = CrawlSettings(
        start_url=args.start_url,
        output=args.output,
        max_pages=args.max_pages,
        delay_seconds=args.delay,
        num_workers=args.workers,
        is_same_host=args.same_host,
        exclude=args.exclude,
    )

    def body() -> int:
        report = crawl_with_progress(settings)
        print("\n".join([f"{settings.output}: {report.lines()[0]}", *report.lines()[1:]]))
        return EXIT_INTERRUPTED if report.is_interrupted else 0

    return exit_code_of(body)
