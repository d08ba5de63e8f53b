"""Our side of benchmarks/data_prep.py.

python -m benchmarks.data_prep_ours extract ARCHIVE...
python -m benchmarks.data_prep_ours pack JSONL TOKENIZER_MODEL WORK_DIRECTORY NUM_WORKERS
python -m benchmarks.data_prep_ours encode JSONL TOKENIZER_MODEL
"""

import json
import resource
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import sentencepiece

from data_tools.config.schema import DataPrepConfig, SourceConfig
from data_tools.document import apply_filter
from data_tools.extract.html.extractor import HtmlExtractor
from data_tools.extract.payload import undo_codings
from data_tools.inputs.files import open_input, resolve_inputs
from data_tools.ledger import Ledger
from data_tools.readers.open import read_documents
from data_tools.stages.cache import Stage
from data_tools.stages.preparation import Preparation, Share, load_task
from data_tools.stages.run import run_stage


def extract(paths: list[str]) -> dict[str, float]:
    """WARC to text, through the reader and the step that preparation uses; unchecked digests, as theirs."""
    source = SourceConfig(name="archives", kind="warc", paths=paths, wrong_digests="ignore")
    config = DataPrepConfig(output_dir="", sources=[source])
    files, _ = resolve_inputs([source])
    ledger = Ledger()
    extractor = HtmlExtractor(config.html)
    num_texts = num_characters = 0
    start = time.process_time()
    for file in files:
        with open_input(file) as stream:
            documents = read_documents(file, stream=stream, ledger=ledger, config=config)
            decoded = apply_filter(
                lambda document, ledger: undo_codings(document, ledger, max_bytes=config.cleaning.max_record_bytes),
                documents,
                name="undo",
                ledger=ledger,
            )
            for document in apply_filter(extractor, decoded, name="extract", ledger=ledger):
                num_texts += bool(document.text)
                num_characters += len(document.text)
    seconds = time.process_time() - start
    return {
        "cpu_seconds": seconds,
        "num_pages": ledger.read,
        "num_texts": num_texts,
        "num_characters": num_characters,
    }


def pack(jsonl: Path, tokenizer: Path, work: Path, num_workers: int) -> dict[str, float]:
    """Tokenize and pack what was read and chosen before: the last stage of a preparation, with all it does.

    Start-up (processes, tokenizer, what is written beside the shards) is that of preparing one document per worker.
    """
    few = []
    with open(jsonl, encoding="utf-8") as stream:
        for number in range(num_workers):
            few.append(work / f"few-{number}.jsonl")
            few[-1].parent.mkdir(parents=True, exist_ok=True)
            few[-1].write_text(stream.readline(), encoding="utf-8")
    start, _ = _run_last_stage(few, tokenizer, work / "few", num_workers)
    seconds, wall = _run_last_stage([jsonl], tokenizer, work / "all", num_workers)
    return {"cpu_seconds": seconds - start, "start_up_cpu_seconds": start, "wall_seconds": wall}


def encode(jsonl: Path, tokenizer: Path) -> dict[str, float]:
    """SentencePiece's own encoder alone, called in the way in which it is fastest: what its ids cost at least."""
    with open(jsonl, encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in stream]
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    start = time.process_time()
    model.encode(texts, num_threads=1, return_type="numpy")
    return {"cpu_seconds": time.process_time() - start}


def _run_last_stage(paths: list[Path], tokenizer: Path, output: Path, num_workers: int) -> tuple[float, float]:
    names = ",".join(f"'{path}'" for path in paths)
    task = load_task(
        [
            "data_prep=custom",
            f"data_prep.sources=[{{name:text,kind:jsonl,paths:[{names}]}}]",
            f"data_prep.output_dir='{output}'",
            f"data_prep.tokenizer.path='{tokenizer}'",
            f"data_prep.num_workers={num_workers}",
            "data_prep.split.validation_fraction=0",
            "data_prep.cleaning.min_characters=1",
            "data_prep.progress=off",
        ]
    )
    output.mkdir(parents=True)
    preparation = Preparation.of(task)
    preparation.directories.create()
    for stage in (Stage.READ, Stage.DECIDE, Stage.TRAIN_TOKENIZER):
        run_stage(stage, preparation, Share())
    start, wall_start = _cpu_seconds(), time.perf_counter()
    run_stage(Stage.ASSEMBLE, preparation, Share())
    return _cpu_seconds() - start, time.perf_counter() - wall_start


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for: workers count when the server that they are forked from ends."""
    forkserver._forkserver._stop()
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    if sys.argv[1] == "extract":
        print(json.dumps(extract(sys.argv[2:])))
    elif sys.argv[1] == "encode":
        print(json.dumps(encode(Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        print(json.dumps(pack(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))))
