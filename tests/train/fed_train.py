"""`trainer.train`, which also writes down what each rank's steps were fed: `fed.RANK.jsonl` in the directory FED_TO."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from trainer.parallel import cpu_shim

cpu_shim.install()

from trainer import train  # noqa: E402 - the shim comes first
from trainer.data.micro_batch import MicroBatch  # noqa: E402 - as above
from trainer.loop.train_loop import TrainLoop  # noqa: E402 - as above


def main() -> int:
    path = Path(os.environ["FED_TO"], f"fed.{os.environ.get('RANK', '0')}.jsonl")
    take_step = TrainLoop._take_step

    def take_noted_step(loop: TrainLoop, read: Any) -> Any:
        step = loop.progress.step + 1

        def noted_read(take: Any, **options: Any) -> list[MicroBatch]:
            batches: list[MicroBatch] = read(take, **options)
            with path.open("a") as file:
                for batch in batches:
                    windows = [
                        [*row.tolist(), int(labels[-1])] for row, labels in zip(batch.tokens, batch.labels, strict=True)
                    ]
                    fed = dict(zip(batch.sample_ids, windows, strict=True))
                    file.write(json.dumps({"step": step, "fed": fed}) + "\n")
            return batches

        return take_step(loop, noted_read)  # type: ignore[arg-type]

    TrainLoop._take_step = take_noted_step  # type: ignore[method-assign]
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
