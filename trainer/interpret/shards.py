"""Find the shards that a model was trained on, as far as its checkpoint says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.checkpoint.tokenizer import find_config
from trainer.config.load import load_config_file
from trainer.history import read_history
from trainer.interpret.documents import NearDocuments
from trainer.saved_run import SavedRun, locate_datasets
from trireme.errors import ConfigError, Violation
from trireme.shards.manifest import check_shard, read_manifest
from trireme.shards.shard import shard_file
from trireme.tokenizer.tokenizer import Tokenizer


def find_training_shards(saved: SavedRun) -> tuple[list[str], str]:
    """Return the prefixes of the run's training shards that are here, and what they are, or why there are none.

    Raises:
        ConfigError: the checkpoint's configuration is damaged.
    """
    config_file = find_config(saved.checkpoint)
    unknown = "Not searched: the checkpoint does not name the data that the model was trained on; --data names shards."
    if config_file is None:
        return [], unknown
    config = load_config_file(config_file)
    datasets = locate_datasets(config.data.train, config=config, run_directory=saved.run_directory)
    named = list(dict.fromkeys(path for dataset in datasets for path in dataset.paths))
    if not named:
        return [], unknown
    found = [path for path in named if all(shard_file(path, suffix).is_file() for suffix in (".idx", ".bin"))]
    if not found:
        return [], f"Not searched: the run's training shards are not here ({named[0]}); --data names others."
    part = "" if len(found) == len(named) else f" that are here ({len(found)} of {len(named)})"
    return found, f"Searched: the run's training shards{part}"


def add_steps(found: NearDocuments, saved: SavedRun) -> tuple[NearDocuments, str]:
    """Add to near documents the steps of the run that were trained on them, up to the checkpoint's step.

    Returns:
        The documents, and a sentence about their steps.
    """
    if saved.run_directory is None or saved.state.contents == "weights":
        return found, "The steps that read a document are not known: the checkpoint is not in the directory of its run."
    try:
        history = read_history(saved.run_directory)
        known = {prefix.resolve() for prefix in history.list_shards()}
        step = saved.state.step
        documents = [
            replace(
                near,
                steps=tuple(
                    dict.fromkeys(
                        read.step for read in history.find_reads(Path(near.shard), near.number, last_step=step)
                    )
                ),
            )
            if Path(near.shard).resolve() in known
            else near
            for near in found.documents
        ]
    except ConfigError as error:
        reasons = "; ".join(map(str, error.violations))
        return found, f"The steps that read a document are not known: {reasons}"
    missing = f" {history.missing}" if history.missing else ""
    return replace(found, documents=tuple(documents)), f"Steps are those up to step {step}, the checkpoint's.{missing}"


def check_shards(prefixes: Sequence[str], *, tokenizer: Tokenizer) -> list[Violation]:
    """Report shards of --data that cannot be read, or that another tokenizer made."""
    found: list[Violation] = []
    for prefix in prefixes:
        problems = check_shard(prefix, verify="none")
        found += problems
        if problems:
            continue
        manifest = read_manifest(prefix)
        if manifest is not None and manifest.tokenizer_sha256 not in (None, tokenizer.sha256):
            message = "was made with another tokenizer than the model's"
            fix = "Prepare the data with the model's tokenizer."
            found.append(Violation(path="--data", value=prefix, message=message, fix=fix))
    return found
