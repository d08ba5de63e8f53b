"""Split layers into model chunks as Megatron-Core does, in plain Python.

The rules check a configuration with it before anything is built, and the built model is compared with it.
"""

import re

from trainer.config.parallel import ParallelConfig

EMBEDDING, LAYER, LOSS = "E", "t", "L"
"""Letters of parallel.pipeline_model_parallel_layout."""


def split_layers(num_layers: int, parallel: ParallelConfig) -> list[list[int]] | None:
    """Count the layers of every chunk.

    Returns:
        [pipeline stage][chunk of the stage] number of layers; None where the layers cannot be split as configured.
    Source: Megatron-Core get_num_layers_to_build and PipelineParallelLayerLayout.
    """
    stages, chunks_per_stage = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size or 1
    if parallel.pipeline_model_parallel_layout is not None:
        chunks = parse_layout(parallel.pipeline_model_parallel_layout)
        if chunks is None or len(chunks) != stages * chunks_per_stage:
            return None
        counts = [chunk.count(LAYER) for chunk in chunks]
        if sum(counts) != num_layers:
            return None
        return [counts[stage::stages] for stage in range(stages)]
    first, last = parallel.num_layers_in_first_pipeline_stage, parallel.num_layers_in_last_pipeline_stage
    if first is not None or last is not None:
        return _split_with_named_ends(num_layers, first, last, stages=stages, chunks_per_stage=chunks_per_stage)
    with_embedding = parallel.account_for_embedding_in_pipeline_split
    with_loss = parallel.account_for_loss_in_pipeline_split
    per_chunk, rest = divmod(num_layers + with_embedding + with_loss, stages * chunks_per_stage)
    if rest:
        return None
    counts_of_stages = [[per_chunk] * chunks_per_stage for _ in range(stages)]
    counts_of_stages[0][0] -= with_embedding
    counts_of_stages[-1][-1] -= with_loss
    return counts_of_stages


def _split_with_named_ends(
    num_layers: int, first: int | None, last: int | None, *, stages: int, chunks_per_stage: int
) -> list[list[int]] | None:
    ends = [size for size in (first, last) if size is not None]
    middle_layers, middle_stages = num_layers - sum(ends), stages - len(ends)
    if middle_stages < 0 or middle_layers < 0 or (middle_layers > 0) != (middle_stages > 0):
        return None
    per_stage, rest = divmod(middle_layers, middle_stages) if middle_stages else (0, 0)
    sizes = [per_stage] * middle_stages
    sizes = ([first] if first is not None else []) + sizes + ([last] if last is not None else [])
    if rest or any(size % chunks_per_stage for size in sizes):
        return None
    return [[size // chunks_per_stage] * chunks_per_stage for size in sizes]


def parse_layout(text: str) -> list[str] | None:
    """Expand a layout into the letters of each chunk, in the order of the forward pass.

    Returns:
        None where it contains anything but E, t, L, |, repetitions and commas, which only group.
    """
    expanded = text.replace(",", "")
    for pattern in (r"\(([^()]+)\)\*(\d+)", r"([^*])\*(\d+)"):
        expanded = re.sub(pattern, lambda found: found.group(1) * int(found.group(2)), expanded)
    return None if set(expanded) - {EMBEDDING, LAYER, LOSS, "|"} else expanded.split("|")


def write_layout(num_layers: int, num_chunks: int) -> str:
    """Write the layout that is nearest to equal parts; the last chunks, next to the output layer, get fewer layers."""
    per_chunk, rest = divmod(num_layers, num_chunks)
    sizes = [per_chunk + (chunk < rest) for chunk in range(num_chunks)]
    return EMBEDDING + "|".join(f"{LAYER}*{size}" if size else "" for size in sizes) + LOSS
