"""The report in a real Chromium: no error, the numbers of the ledger, bars as long as they say, room on a telephone."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import lxml.html
import pytest

from data_tools.report.page import write_report
from tests.data_tools.conftest import Prepared
from tests.data_tools.report.test_page import check_numbers, read_json

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]

# What a page in a frame looks like, as text; the frame's width is that of the screen.
MEASURE = """<iframe src="report.html" style="border:0;width:%dpx;height:800px"></iframe><pre></pre><script>
document.querySelector("iframe").onload = event => {
  const page = event.target.contentDocument, width = element => element.getBoundingClientRect().width;
  const rows = [...page.querySelectorAll("#table-File tbody tr")];
  document.querySelector("pre").textContent = JSON.stringify({
    room: page.documentElement.clientWidth, needed: page.documentElement.scrollWidth,
    paper: event.target.contentWindow.getComputedStyle(page.body).backgroundColor,
    bars: rows.map(row => [...row.querySelectorAll("rect")].map(
      rect => [rect.getAttribute("class"), width(rect) / width(row.querySelector("svg"))])),
    columns: page.querySelectorAll(".plot rect.train").length,
    heights: [...page.querySelectorAll(".plot")].map(plot => plot.getBoundingClientRect().height),
  });
};
</script>"""


def run_chromium(page: Path, *options: str) -> tuple[str, str]:
    """The document after it was loaded, and what the browser logged."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    done = subprocess.run(
        [*command, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", f"file://{page}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def report(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("browser") / "data"
    shutil.copytree(prepared.output, copy)
    return write_report(copy)


def measure(report: Path, *options: str, width: int) -> dict[str, Any]:
    page = report.with_name("measure.html")
    page.write_text(MEASURE % width)
    found, _ = run_chromium(page, "--allow-file-access-from-files", "--virtual-time-budget=5000", *options)
    measured: dict[str, Any] = json.loads(lxml.html.document_fromstring(found).xpath("string(//pre)"))
    return measured


def test_no_error_and_the_numbers_of_the_ledger(report: Path) -> None:
    found, log = run_chromium(report)
    assert "CONSOLE" not in log
    check_numbers(lxml.html.document_fromstring(found), report.parent)


def test_an_error_would_be_seen(report: Path) -> None:
    # The report's own rule against scripts makes one.
    page = report.with_name("broken.html")
    page.write_text(report.read_text(encoding="utf-8").replace("</body>", "<script>1</script></body>"))
    assert "CONSOLE" in run_chromium(page)[1]


@pytest.mark.parametrize("width", [360, 1100])
def test_bars_have_their_lengths_and_nothing_is_wider_than_the_screen(report: Path, width: int) -> None:
    found = measure(report, width=width)
    assert found["needed"] <= found["room"] <= width
    files = sorted(
        read_json(report.parent, "ledger.json")["files"], key=lambda file: file["kept"] - file["read"]
    )  # those that lost most come first
    assert len(found["bars"]) == len(files)
    for file, bars in zip(files, found["bars"], strict=True):
        counts = {
            "kept": file["kept"],
            "dropped": sum(file["dropped"].values()),
            "failed": sum(file["failed"].values()),
        }
        expected = [(kind, count / file["read"]) for kind, count in counts.items() if count]
        assert [kind for kind, _ in bars] == [kind for kind, _ in expected]
        assert [share for _, share in bars] == pytest.approx([share for _, share in expected], abs=1e-3)
    assert found["columns"] > 0
    assert all(height > 150 for height in found["heights"])


def test_dark_where_the_reader_wants_it_dark(report: Path) -> None:
    papers = [
        measure(report, f"--blink-settings=preferredColorScheme={scheme}", width=800)["paper"] for scheme in (0, 1)
    ]
    brightness = [sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) for paper in papers]
    assert brightness[0] < 150 < 600 < brightness[1], papers
