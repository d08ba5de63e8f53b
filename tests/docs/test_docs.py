"""The documentation names only what exists: modules, files, links, commands, settings."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from data_tools.config.schema import DataPrepRoot
from trainer.certificate.settings import CertifyConfig
from trainer.config.load import group_options
from trainer.config.schema import TrainConfig
from trireme.config.fields import leaf_paths
from trireme.verbs import VERBS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md"), *REPOSITORY.glob("[belst]*/README.md")])
ROOTS = ("", "trainer", "data_tools", "trainer/checkpoint")
"""Directories that a path in a page may start from."""
PACKAGES = ("trireme", "trainer", "data_tools", "launch", "benchmarks", "tests")
USERS_OWN = {"conf/cluster/ours.yaml", "cluster=ours", "data_prep=mine", "model=mine"}
"""What a reader is told to create."""
NO_SETTING = (
    ".json",
    ".jsonl",
    ".model",
    ".vocab",
    ".yaml",
    ".md",
    ".py",
    ".html",
    ".parquet",
    ".sbatch",
    ".FIELD",
    ".safetensors",
)
MAX_ARCHITECTURE_LINES = 120
QUOTES = {
    "docs/training/fault_tolerance.md": {
        "will finish the current step, save a checkpoint and exit.": "trainer/loop/signals.py",
        "was killed by": "trainer/torchrun.py",
        "SKIPPED: gradient not finite": "trainer/metrics/console.py",
        "The run hangs: ": "trainer/health/hang_diagnosis.py",
        "blocking the others.": "trainer/health/hang_diagnosis.py",
        "not completed": "trainer/health/rank_state.py",
    },
    "docs/training/checkpoints.md": {"This start changes ": "trainer/resume.py"},
    "docs/data/filtering.md": {"step_": "data_tools/filters/custom.py"},
}
"""Messages that a page quotes -> the file that prints them."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def split_page(text: str) -> tuple[list[str], str]:
    """Code blocks (fenced, or indented by four spaces) in their order, and the text outside of them."""
    blocks: list[str] = []
    outside: list[str] = []
    is_fenced = was_code = False
    for line in text.splitlines():
        is_fence = line.startswith("```")
        is_fenced ^= is_fence
        is_code = is_fenced or line.startswith("    ")
        if is_code and not is_fence:
            if not was_code:
                blocks.append("")
            blocks[-1] += line.strip() + "\n"
        elif not is_fence and line:
            outside.append(line)
        was_code = is_code or (was_code and not line)
    return blocks, "\n".join(outside)


def code_blocks(text: str) -> list[str]:
    return split_page(text)[0]


def code_spans(text: str) -> list[str]:
    """Text in backticks outside of blocks."""
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`]+)`", split_page(text)[1])]


def code_of(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return "\n".join([*code_blocks(text), *code_spans(text)])


def headings(text: str) -> list[str]:
    return re.findall(r"^(#+ .*)$", split_page(text)[1], flags=re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def links(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("http")]


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in map(slug, headings(target.read_text(encoding="utf-8")))):
            broken.append(link)
    assert not broken


@each_page
def test_modules_exist(page: Path) -> None:
    for module in re.findall(r"(?:python|torchrun\b.*?|\.\.\.) -m ([\w.]+)", code_of(page)):
        if module == "http.server":
            continue
        path = REPOSITORY.joinpath(*module.rstrip(".").split("."))
        assert module.split(".")[0] in PACKAGES, module
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@each_page
def test_dotted_names_of_modules_exist(page: Path) -> None:
    for span in code_spans(page.read_text(encoding="utf-8")):
        words = span.split()
        if words and re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", words[0]) and not words[0].endswith(NO_SETTING):
            *parents, last = words[0].split(".")
            path = REPOSITORY.joinpath(*parents)
            known = [(path / last).with_suffix(".py"), path / last, path.with_suffix(".py")]
            assert any(each.exists() for each in known), words[0]


@each_page
def test_paths_exist(page: Path) -> None:
    missing = [path for path in repository_paths(page.read_text(encoding="utf-8")) if not exists(path)]
    assert not missing


def repository_paths(text: str) -> Iterator[str]:
    """Paths in backticks that begin with a directory of the repository, or name a Python file."""
    names = {
        entry.name
        for root in ROOTS
        for entry in (REPOSITORY / root).iterdir()
        if entry.is_dir() and entry.name[0] != "."
    }
    for span in code_spans(text):
        path = span.split()[0] if span.split() else ""
        if not re.fullmatch(r"[\w.-]+(/[\w.-]*)*", path) or path in USERS_OWN or re.search(r"\b[A-Z_]{3,}\b", path):
            continue
        is_inside = "/" in path and path.split("/")[0] in names - {"outputs", "step"}
        if is_inside or re.fullmatch(r"\w+(/\w+)*\.py", path):
            yield path


def exists(path: str) -> bool:
    return any((REPOSITORY / root / path).exists() for root in ROOTS)


@each_page
def test_commands_exist(page: Path) -> None:
    code = code_of(page)
    for verb in re.findall(r"(?:^|[^\w/.:])trireme ([a-z][a-z-]+)(?!\w)", code):
        assert verb in {*VERBS, "completion"}, verb
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for target in re.findall(r"^make ([a-z][a-z-]*)", code, flags=re.MULTILINE):
        assert target in targets, target


@cache
def settings() -> tuple[set[str], set[str]]:
    """Paths of all fields, and the first parts of those."""
    paths = {path for schema in (TrainConfig, DataPrepRoot) for path, _ in leaf_paths(schema)}
    paths |= {f"certify.{path}" for path, _ in leaf_paths(CertifyConfig)}
    paths = {re.sub(r"\[\]|\{\}", "", path) for path in paths}
    return paths, {path.split(".")[0] for path in paths if "." in path}


def is_setting(path: str) -> bool:
    """Whether it is a field, a group of fields, or inside a field that holds a mapping."""
    paths, _ = settings()
    path = re.sub(r"\.\d+(?=\.|$)", "", path)
    return any(
        known == path or known.startswith(f"{path.removesuffix('.*')}.") or path.startswith(f"{known}.")
        for known in paths
    )


@each_page
def test_settings_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    _, groups = settings()
    names = "|".join(sorted(groups))
    found = set(re.findall(rf"(?<![\w./])((?:{names})(?:\.\w+)+)=", code_of(page)))
    found = {path for path in found if not path.endswith(NO_SETTING)}
    for span in code_spans(text):
        if re.fullmatch(rf"(?:{names})(?:\.\w+)*(?:\.\*)?", span) and "." in span and not span.endswith(NO_SETTING):
            found.add(span)
    assert [path for path in sorted(found) if not is_setting(path)] == []


@each_page
def test_options_exist(page: Path) -> None:
    options = {**group_options(), "data_prep": [file.stem for file in (REPOSITORY / "conf/data_prep").glob("*.yaml")]}
    for group, choice in re.findall(rf"(?<![\w.])({'|'.join(options)})=([a-z][\w/]*)", code_of(page)):
        assert choice in options[group] or f"{group}={choice}" in USERS_OWN, f"{group}={choice}"


def test_architecture_names_what_is_in_the_code() -> None:
    page = REPOSITORY / "docs" / "architecture.md"
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_ARCHITECTURE_LINES
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    sources = "\n".join((REPOSITORY / file).read_text(encoding="utf-8") for file in files.stdout.split())
    words = set(re.findall(r"\w+", sources))
    for span in code_spans(text):
        if re.fullmatch(r"\w+(\.\w+)*", span) and not span.endswith(NO_SETTING):
            assert set(span.split(".")) <= words, span


@pytest.mark.parametrize("page", QUOTES)
def test_quoted_messages_are_printed(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for quote, file in QUOTES[page].items():
        assert quote in text, quote
        assert quote in (REPOSITORY / file).read_text(encoding="utf-8"), quote


def test_both_readmes_have_the_same_sections_and_commands() -> None:
    english, chinese = ((REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert [heading.count("#") for heading in headings(english)] == [
        heading.count("#") for heading in headings(chinese)
    ]
    placeholder = {"<this repository>": "<REPOSITORY>", "<本仓库>": "<REPOSITORY>"}
    blocks = [
        [re.sub("|".join(placeholder), lambda found: placeholder[found[0]], block) for block in code_blocks(text)]
        for text in (english, chinese)
    ]
    assert blocks[0] == blocks[1]
    assert set(code_spans(english)) == set(code_spans(chinese))
    other = {"README.md", "README.zh-CN.md"}
    assert [each for each in links(english) if each not in other] == [
        each for each in links(chinese) if each not in other
    ]
    assert english.count("\n|") == chinese.count("\n|"), "the tables have the same rows"


def test_the_readme_shows_what_the_quickstart_prints() -> None:
    shown = next(
        block for block in code_blocks((REPOSITORY / "README.md").read_text(encoding="utf-8")) if "== Done" in block
    )
    source = (REPOSITORY / "launch" / "quickstart.py").read_text(encoding="utf-8")
    titles = re.findall(r"^\S+ s?\s*(\d/7 .*)$", shown, flags=re.MULTILINE)
    labels = re.findall(r"^([a-z][a-z, ]+?)  ", shown, flags=re.MULTILINE)
    assert len(titles) == 7 and len(labels) == 5
    assert [text for text in [*titles, *labels] if text not in source] == []


def test_the_index_lists_every_page() -> None:
    docs = REPOSITORY / "docs"
    listed = {(docs / link).resolve() for link in links((docs / "README.md").read_text(encoding="utf-8"))}
    assert [page for page in docs.rglob("*.md") if page.name != "README.md" and page.resolve() not in listed] == []


def test_what_does_not_exist_would_be_found() -> None:
    assert list(repository_paths("`trainer/nowhere.py` `conf/GROUP` `outputs/x`")) == ["trainer/nowhere.py"]
    assert not exists("trainer/nowhere.py")
    assert not is_setting("training.nowhere") and is_setting("training.train_iters") and is_setting("health.*")
    assert slug("## Fuzzy deduplication (MinHash)") == "fuzzy-deduplication-minhash"
