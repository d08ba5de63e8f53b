"""Our split of layers equals Megatron-Core's, and a split that we refuse it cannot build correctly either."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.parallel import cpu_shim

cpu_shim.install()

from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout  # noqa: E402
from megatron.core.transformer.transformer_block import get_num_layers_to_build  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from trainer.config.parallel import ParallelConfig  # noqa: E402
from trainer.config.pipeline_split import parse_layout, split_layers, write_layout  # noqa: E402


def split_by_megatron_core(num_layers: int, parallel: ParallelConfig) -> list[list[int]] | None:
    pp_size, vp_size = parallel.pipeline_model_parallel_size, parallel.virtual_pipeline_model_parallel_size
    try:
        config = TransformerConfig(
            num_layers=num_layers,
            hidden_size=8,
            num_attention_heads=2,
            pipeline_model_parallel_size=pp_size,
            virtual_pipeline_model_parallel_size=vp_size,
            pipeline_dtype=object(),
            num_layers_in_first_pipeline_stage=parallel.num_layers_in_first_pipeline_stage,
            num_layers_in_last_pipeline_stage=parallel.num_layers_in_last_pipeline_stage,
            account_for_embedding_in_pipeline_split=parallel.account_for_embedding_in_pipeline_split,
            account_for_loss_in_pipeline_split=parallel.account_for_loss_in_pipeline_split,
        )
        split = [
            [get_num_layers_to_build(config, chunk if vp_size else None, stage) for chunk in range(vp_size or 1)]
            for stage in range(pp_size)
        ]
    except (ValueError, AssertionError):
        return None
    # Megatron-Core takes 2 layers for the last of two stages where there is only 1, and gives the first stage -1.
    return None if min(map(min, split)) < 0 else split


maybe_layers = st.none() | st.integers(1, 5)


@given(
    num_layers=st.integers(1, 16),
    stages=st.integers(2, 4),
    chunks=st.sampled_from([None, 2, 3]),
    ends=st.tuples(maybe_layers, maybe_layers),
    accounted=st.tuples(st.booleans(), st.booleans()),
)
def test_layers_of_every_chunk(
    num_layers: int,
    stages: int,
    chunks: int | None,
    ends: tuple[int | None, int | None],
    accounted: tuple[bool, bool],
) -> None:
    if ends != (None, None):
        accounted = (False, False)  # the rules refuse both together
    parallel = ParallelConfig(
        pipeline_model_parallel_size=stages,
        virtual_pipeline_model_parallel_size=chunks,
        num_layers_in_first_pipeline_stage=ends[0],
        num_layers_in_last_pipeline_stage=ends[1],
        account_for_embedding_in_pipeline_split=accounted[0],
        account_for_loss_in_pipeline_split=accounted[1],
    )
    ours = split_layers(num_layers, parallel)
    assert ours == split_by_megatron_core(num_layers, parallel)
    if ours is not None:
        assert sum(map(sum, ours)) == num_layers


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("Ettt|ttL", ["Ettt", "ttL"]),
        ("E|t*3|(tt|)*2,L", ["E", "ttt", "tt", "tt", "L"]),
        ("Et*2||tL", ["Ett", "", "tL"]),
        ("EtxL", None),
        ("E(t|tL", None),
        ("Et*|tL", None),
    ],
)
def test_layouts_are_read_as_megatron_core_reads_them(text: str, chunks: list[str] | None) -> None:
    assert parse_layout(text) == chunks
    if chunks is None:
        with pytest.raises(AssertionError):
            PipelineParallelLayerLayout.parse_str_to_list(text)
    else:
        letters = {"embedding": "E", "decoder": "t", "loss": "L"}
        theirs = PipelineParallelLayerLayout.parse_str_to_list(text)
        assert ["".join(letters[part.name] for part in chunk) for chunk in theirs] == chunks


def test_written_layouts_are_as_equal_as_they_can_be() -> None:
    for num_layers, (stages, chunks) in itertools.product(range(1, 14), [(2, 1), (3, 1), (2, 2), (4, 3)]):
        parallel = ParallelConfig(
            pipeline_model_parallel_size=stages,
            virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None,
            pipeline_model_parallel_layout=write_layout(num_layers, stages * chunks),
        )
        split = split_layers(num_layers, parallel)
        assert split is not None
        sizes = [size for stage in split for size in stage]
        assert sum(sizes) == num_layers
        assert max(sizes) - min(sizes) <= 1
