"""What benchmarks/data_prep.py works on: real web archives, real text, and tokenizers trained on that text."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import tokenizers
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord
from warcio.warcwriter import WARCWriter

from benchmarks.quality.prose import read_pages
from data_tools.config.schema import TokenizerConfig
from data_tools.quickstart_inputs import copy_dump, crawl_python_docs
from data_tools.stages.train_tokenizer import split_lines, trainer_options

NUM_ARCHIVES = 4
"""Files that the pages are dealt out to: both sides hand whole files to their workers."""
SAMPLE_CHARACTERS = 5_000_000
END_OF_TEXT = "<|endoftext|>"
HTML_TYPES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True, kw_only=True)
class Page:
    """An HTML page with its HTTP headers, as an archive holds it."""

    url: str
    content: bytes
    record: ArcWarcRecord


def find_samples(samples: Path | None, cache: Path) -> Path:
    """The directory of inputs: the given one, or the quickstart's inputs, which are made once."""
    if samples is not None:
        return samples
    raw = cache / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    copy_dump(raw)
    crawl_python_docs(raw)
    # Endings say what sample files are.
    for path in raw.glob("*.bz2"):
        if not path.name.endswith(".xml.bz2"):
            path.rename(path.with_name(f"{path.name.removesuffix('.bz2')}.xml.bz2"))
    return raw


def read_web_pages(samples: Path) -> list[Page]:
    """All HTML pages that were answered with status 200, of the archives that warcio reads to their ends."""
    pages: list[Page] = []
    for path in sorted(samples.glob("*.warc.gz")):
        try:
            pages += list(_read_archive(path))
        except (ArchiveLoadFailed, EOFError):
            continue
    return pages


def _read_archive(path: Path) -> Iterator[Page]:
    with open(path, "rb") as stream:
        for record in ArchiveIterator(stream):
            if record.rec_type != "response" or record.http_headers.get_statuscode() != "200":
                continue
            media_type = (record.http_headers.get_header("Content-Type") or "").partition(";")[0].strip().lower()
            if media_type in HTML_TYPES:
                url = record.rec_headers.get_header("WARC-Target-URI").strip("<>")
                # As it was sent, with its codings.
                yield Page(url=url, content=record.raw_stream.read(), record=record)


def write_archives(pages: list[Page], directory: Path, *, num_copies: int = 1) -> list[Path]:
    """Deal pages out to archives; copies differ from each other by a sentence, so that none is an exact duplicate.

    The header WARC-Identified-Payload-Type says what each page is, as Common Crawl's archives do: without it datatrove
    leaves a third of the pages out.
    """
    directory.mkdir(parents=True)
    paths = []
    for number in range(NUM_ARCHIVES * num_copies):
        path = directory / f"part-{number:03d}.warc.gz"
        copy = number // NUM_ARCHIVES
        with open(path, "wb") as stream:
            writer = WARCWriter(stream, gzip=True)
            for page in pages[number % NUM_ARCHIVES :: NUM_ARCHIVES]:
                content = page.content
                if copy:
                    content = content.replace(b"</body>", f"<p>This is copy number {copy}.</p></body>".encode())
                record = writer.create_warc_record(
                    page.url,
                    "response",
                    payload=io.BytesIO(content),
                    http_headers=page.record.http_headers,
                    warc_headers_dict={"WARC-Identified-Payload-Type": HTML_TYPES[0]},
                )
                writer.write_record(record)
        paths.append(path)
    return paths


def read_english(samples: Path) -> list[str]:
    """Different English texts out of all sample files, cleaned as preparation cleans them."""
    texts = read_pages(samples, language="en", max_documents=1_000_000)
    return list(dict.fromkeys(texts))


def write_jsonl(texts: list[str], path: Path) -> Path:
    """One JSON object a line, as Megatron-LM's preprocess_data.py wants it."""
    with open(path, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    return path


def train_sentencepiece(texts: list[str], path: Path, *, model_type: str, vocab_size: int) -> Path:
    """Train a model with the options that preparation trains with."""
    config = TokenizerConfig(model_type=model_type, vocab_size=vocab_size)  # type: ignore[arg-type]
    lines = (line for text in _sample(texts) for line in split_lines(text))
    with open(path, "wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=stream, **trainer_options(config)
        )
    return path


def train_huggingface(texts: list[str], path: Path, *, vocab_size: int) -> Path:
    """Train a byte-level BPE of the tokenizers library."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(texts), trainer)
    tokenizer.save(str(path))
    return path


def _sample(texts: list[str]) -> Iterator[str]:
    """Texts from everywhere, up to a size."""
    step = max(1, sum(map(len, texts)) // SAMPLE_CHARACTERS)
    yield from texts[::step]
