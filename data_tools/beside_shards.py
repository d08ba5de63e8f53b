"""What lies beside the shards of a preparation: their manifests, and a report for people."""

import logging
from pathlib import Path
from typing import Any

from data_tools.packing import SplitResult
from data_tools.preparation import created_by
from data_tools.report import write_report
from data_tools.stage_timings import StageTiming, write_timings
from trireme.errors import ConfigError
from trireme.shards.manifest import ShardManifest, write_manifest

logger = logging.getLogger(__name__)


def write_manifests(
    results: dict[str, SplitResult],
    description: dict[str, Any],
    *,
    built: Path,
    tokenizer_sha256: str,
    stats: dict[str, Any],
) -> None:
    """Write the manifest of each shard that has documents."""
    for name, result in results.items():
        if result.files:
            manifest = ShardManifest(
                num_documents=result.num_documents,
                num_tokens=result.num_tokens,
                dtype=result.dtype,
                files=result.files,
                tokenizer_sha256=tokenizer_sha256,
                vocab_size=stats["vocab_size"],
                settings={**description, "split": name, "unigram_entropy_nats": stats[name]["unigram_entropy_nats"]},
                created_by=created_by(),
            )
            write_manifest(built / name, manifest)


def report(output: Path, timings: list[StageTiming]) -> None:
    """Draw what was prepared; shards without a picture are whole all the same."""
    try:
        write_timings(output, timings)
        write_report(output)
    except (OSError, ConfigError) as error:
        logger.warning(
            "warning: report.html could not be written: %s; try python -m data_tools.report %s", error, output
        )
