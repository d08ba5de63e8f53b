"""Beginnings of a few documents, so that a person sees what was kept; read back out of the shard."""

from dataclasses import dataclass
from pathlib import Path

from data_tools.document_table import TABLE_SUFFIX, DocumentOrigin, read_origin
from data_tools.report_records import find_link
from data_tools.tokenizer_files import find_tokenizer
from trireme.shards.shard import ShardReader, shard_file
from trireme.tokenizer.tokenizer import Tokenizer

NUM_SAMPLES = 8
MAX_TOKENS = 400


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The beginning of a document."""

    number: int
    """In the shard."""
    origin: DocumentOrigin
    link: str | None
    """Its address, where that is one that a browser may follow."""
    text: str
    is_cut: bool
    """Whether the document goes on."""


def read_samples(output: Path) -> list[Sample]:
    """Read documents that stand at equal distances in the training shard.

    Returns:
        At most NUM_SAMPLES; none where shard, table or tokenizer are not there.
    Raises:
        ConfigError: one of them is damaged.
    """
    prefix = output / "train"
    table = shard_file(prefix, TABLE_SUFFIX)
    model = find_tokenizer(output)
    if model is None or not all(path.is_file() for path in (table, shard_file(prefix, ".idx"))):
        return []
    reader, tokenizer = ShardReader(prefix), Tokenizer(model)
    numbers = {(2 * place + 1) * reader.num_documents // (2 * NUM_SAMPLES) for place in range(NUM_SAMPLES)}
    samples = []
    for number in sorted(numbers):
        origin, tokens = read_origin(table, number), reader.document(number)
        is_cut = len(tokens) > MAX_TOKENS
        text = tokenizer.decode(tokens[:MAX_TOKENS].tolist())
        if is_cut:
            text = text.rstrip("\ufffd")  # a character that is written in bytes may be cut in two
        samples.append(Sample(number=number, origin=origin, link=find_link(origin.url), text=text, is_cut=is_cut))
    return samples
