"""The code of each stage: a change of a module discards the results that depend on it, and no others."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_tools.filters.decontamination import read_evaluations
from data_tools.stages import run
from data_tools.stages.cache import Stage, hash_code, list_code
from tests.data_tools.conftest import Prepared
from tests.data_tools.sample_inputs import run_prepare
from trireme.project import PROJECT_ROOT

READ, DECIDE, TRAIN, TOKENIZE = Stage.READ, Stage.DECIDE, Stage.TRAIN_TOKENIZER, Stage.TOKENIZE
CACHED = (READ, DECIDE, TRAIN, TOKENIZE)

PLANTED = {
    "data_tools/config/schema.py": {READ, DECIDE, TRAIN, TOKENIZE},
    "data_tools/config/rules.py": set(),
    "data_tools/crawl/crawler.py": set(),
    "data_tools/dedup/decide.py": {DECIDE, TOKENIZE},
    "data_tools/dedup/lines.py": {READ, DECIDE, TRAIN, TOKENIZE},
    "data_tools/document.py": {READ},
    "data_tools/errors.py": {READ, DECIDE, TRAIN, TOKENIZE},
    "data_tools/examples/packing.py": set(),
    "data_tools/executors/slurm.py": set(),
    "data_tools/extract/html/regions.py": {READ},
    "data_tools/extract/wikitext/templates.py": {READ},
    "data_tools/filters/pii.py": {READ},
    "data_tools/filters/quality/gopher.py": {READ},
    "data_tools/inputs/http.py": {READ, DECIDE},
    "data_tools/ledger.py": {READ, DECIDE, TRAIN, TOKENIZE},
    "data_tools/merge.py": set(),
    "data_tools/output/publish.py": set(),
    "data_tools/output/stats.py": set(),
    "data_tools/output/tables.py": {TOKENIZE},
    "data_tools/prepare.py": set(),
    "data_tools/readers/warc.py": {READ},
    "data_tools/report/page.py": set(),
    "data_tools/stages/read.py": {READ},
    "data_tools/stages/read_state.py": {READ, DECIDE},
    "data_tools/stages/run.py": set(),
    "data_tools/stages/tokenize_worker.py": {TOKENIZE},
    "data_tools/stages/train_tokenizer.py": {TRAIN},
    "data_tools/text/words.py": {READ},
    "data_tools/tokenizer/encoder.py": {TOKENIZE},
    "data_tools/tokenizer/sample.py": {TRAIN},
    "data_tools/work/journal.py": {READ, DECIDE, TOKENIZE},
    "data_tools/work/progress.py": set(),
    "trireme/errors.py": set(),
    "trireme/shards/shard.py": {TRAIN, TOKENIZE},
    "trireme/tokenizer/tokenizer.py": {TRAIN, TOKENIZE},
}
"""File -> stages whose own code it is; later stages run again too, since their keys contain the earlier ones."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("data_tools", "trireme"):
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_change_in_each_room_discards_the_stages_that_stand_on_it(tree: Path) -> None:
    rooms = {path.name for path in (tree / "data_tools").iterdir() if path.is_dir()}
    assert rooms == {Path(name).parts[1] for name in PLANTED if name.count("/") > 1 and name.startswith("data_tools/")}
    before = {stage: hash_code(stage, root=tree) for stage in CACHED}
    for name, expected in PLANTED.items():
        source = (tree / name).read_text(encoding="utf-8")
        (tree / name).write_text(source + "\n# planted\n", encoding="utf-8")
        hash_code.cache_clear()
        changed = {stage for stage in CACHED if hash_code(stage, root=tree) != before[stage]}
        assert changed == expected, name
        (tree / name).write_text(source, encoding="utf-8")


def test_a_new_import_anywhere_in_a_module_belongs_to_the_stage(tree: Path) -> None:
    (tree / "data_tools/readers/new.py").write_text("")
    reader = tree / "data_tools/readers/text.py"
    before = reader.read_text(encoding="utf-8")
    for statement in (
        "from data_tools.readers import (\n    new,\n)",
        "from data_tools.readers.new import anything",
        "def late():\n    import data_tools.readers.new",
    ):
        assert tree / "data_tools/readers/new.py" not in list_code(READ, root=tree)
        reader.write_text(f"{before}\n{statement}\n", encoding="utf-8")
        assert tree / "data_tools/readers/new.py" in list_code(READ, root=tree)
        reader.write_text(before, encoding="utf-8")


def test_evaluation_texts_are_read_once(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiz = tmp_path / "quiz.jsonl"
    quiz.write_text('{"text": "one two three"}\n{"text": "four"}\n', encoding="utf-8")
    calls = []

    def read(*arguments: Any) -> Any:
        calls.append(arguments)
        return read_evaluations(*arguments)

    monkeypatch.setattr(run, "read_evaluations", read)
    done = run_prepare(
        *prepared.overrides,
        f"data_prep.output_dir={tmp_path / 'data'}",
        "data_prep.decontamination.ngram_words=3",
        f"data_prep.evaluations=[{{name:quiz,kind:jsonl,paths:['{quiz}']}}]",
        "data_prep.num_workers=1",
    )
    assert done.returncode == 0, done.stderr
    assert len(calls) == 1
    stats = json.loads((tmp_path / "data" / "stats.json").read_text(encoding="utf-8"))
    assert stats["evaluations"] == {"num_texts": 2, "num_short_texts": 1}
