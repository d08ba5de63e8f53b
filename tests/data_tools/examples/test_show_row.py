"""Show rows of examples: places are those of the row."""

from pathlib import Path

import numpy as np

from data_tools.examples.show_row import describe_row
from trireme.shards.examples import LABELS_SUFFIX, NO_LABEL, ExamplesRecord, encode_labels
from trireme.shards.shard import ShardReader, ShardWriter, shard_file


def test_the_place_of_an_answer_is_counted_in_the_row_as_that_of_its_document(tmp_path: Path) -> None:
    prefix = tmp_path / "rows"
    labels = np.full(8, NO_LABEL)
    labels[[0, 1, 3, 4]] = (0, 0, 2, 3)
    starts = np.isin(np.arange(8), (0, 3))
    for path, values, dtype in (
        (prefix, np.arange(10, 18), np.dtype(np.uint16)),
        (shard_file(prefix, LABELS_SUFFIX), encode_labels(labels, starts=starts), np.dtype(np.int32)),
    ):
        with ShardWriter(path, dtype=dtype, allow_negative=True) as writer:
            writer.add_document(values)
            writer.commit()
    record = ExamplesRecord(task="qa", seq_length=8, pad_token_id=0, num_examples=2)
    lines = list(describe_row(ShardReader(prefix), 0, record=record, tokenizer=None, is_colored=False))
    assert lines[1] == "--- document 0, tokens 0 to 2, no answer here"
    assert lines[3] == "--- document 1, tokens 3 to 7, answer in tokens 5 to 6"
    assert "[[15 16 ]]" in lines[4]
