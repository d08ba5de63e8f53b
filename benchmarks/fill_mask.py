"""Measure how often a masked language model has the hidden token among its first five, on held-out text.

One token in seven of every window is hidden, never a special one; the model fills in the hidden tokens of a window
together. Beside it the guess without a model: the five most frequent tokens of the training text, for every place.
Prints one JSON line.

    trireme local experiment=bert_tiny_mlm data.train='[{paths:[DATA/train]}]' tokenizer.path=DATA/tokenizer.model
    python -m benchmarks.fill_mask outputs/bert_tiny_mlm DATA/train DATA/validation [--num-windows 200]

The tokenizer needs a mask token: data_prep.tokenizer.special_tokens='["[MASK]"]'.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.output import take_stdout

FIGURES = take_stdout() if __name__ == "__main__" else sys.stdout  # before libraries are imported that write to it

from trainer.parallel import cpu_shim  # noqa: E402 - see above

cpu_shim.install()

import numpy as np  # noqa: E402 - as above

from trainer.data.token_dataset import TokenDataset  # noqa: E402 - as above
from trainer.inference.batch_model import InputRow, load_batch_model, open_for_batches  # noqa: E402 - as above
from trainer.inference.mask_filler import fill_masks  # noqa: E402 - as above
from trainer.inference.options import ModelOptions  # noqa: E402 - as above
from trainer.parallel.world import stop_world  # noqa: E402 - as above
from trireme.tokenizer.words import find_mask_token  # noqa: E402 - as above

TOP = 5
SHARE = 1 / 7
SEED = 1


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("train", type=Path, help="prefix of the training shard")
    parser.add_argument("held_out", type=Path, help="prefix of the held-out shard")
    parser.add_argument("--num-windows", type=int, default=200)
    arguments = parser.parse_args()
    options = ModelOptions(path=arguments.run, max_batch_size=16)
    saved, tokenizer = open_for_batches(options)
    mask_id = find_mask_token(tokenizer)
    assert mask_id is not None, "the tokenizer has no mask token"
    loaded = load_batch_model(options, saved=saved, tokenizer=tokenizer, purpose="fill in masks")
    length = saved.state.model_config().seq_length
    special = np.array(sorted(tokenizer.special_tokens.values()))
    counts = np.zeros(loaded.vocab_size, np.int64)
    for window in read_windows(arguments.train, length=length, limit=None):
        counts += np.bincount(window, minlength=len(counts))
    counts[special] = 0
    guess = np.argsort(counts)[::-1][:TOP]
    generator = np.random.default_rng(SEED)
    rows, hidden = [], []
    for window in read_windows(arguments.held_out, length=length, limit=arguments.num_windows):
        chosen = (generator.random(length) < SHARE) & ~np.isin(window, special)
        rows.append(InputRow(tokens=np.where(chosen, mask_id, window)))
        hidden.append(window[chosen])
    found: dict[int, list[list[tuple[int, float]]]] = {}
    for part in fill_masks(loaded.model, rows, mask_id=mask_id, top_k=TOP, vocab_size=loaded.vocab_size):
        found |= part
    stop_world()
    truth = np.concatenate(hidden)
    best = np.array([[token for token, _ in mask] for number in range(len(rows)) for mask in found[number]])
    result = {
        "num_tokens": len(truth),
        "top5": round(float((best == truth[:, None]).any(axis=1).mean()), 4),
        "top1": round(float((best[:, 0] == truth).mean()), 4),
        "unigram_top5": round(float(np.isin(truth, guess).mean()), 4),
        "unigram_top1": round(float((truth == guess[0]).mean()), 4),
        "step": saved.state.step,
    }
    print(json.dumps(result), file=FIGURES)


def read_windows(prefix: Path, *, length: int, limit: int | None) -> list[np.ndarray]:
    """Read the first windows of a shard, or all: [length] int64 each."""
    dataset = TokenDataset([prefix], seq_length=length)
    count = dataset.num_windows if limit is None else min(limit, dataset.num_windows)
    out = np.zeros((count, length + 1), np.int64)
    dataset.read_windows(np.arange(count), out=out, rows=np.arange(count))
    dataset.close()
    return list(out[:, :length])


if __name__ == "__main__":
    main()
