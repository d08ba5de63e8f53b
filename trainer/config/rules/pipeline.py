"""Check that the layers can be split into the pipeline stages."""

from collections.abc import Iterator

from trainer.config.pipeline_split import EMBEDDING, LAYER, LOSS, parse_layout, split_layers, write_layout
from trainer.config.rules.rule import reads
from trainer.config.schema import TrainConfig
from trireme.config.suggest import divisors, join_or, nearest_multiples, nearest_values, to_yaml
from trireme.errors import Violation
from trireme.progress import format_number

_PP = "parallel.pipeline_model_parallel_size"
_VP = "parallel.virtual_pipeline_model_parallel_size"
_FIRST = "parallel.num_layers_in_first_pipeline_stage"
_LAST = "parallel.num_layers_in_last_pipeline_stage"
_EMBEDDING = "parallel.account_for_embedding_in_pipeline_split"
_LOSS = "parallel.account_for_loss_in_pipeline_split"
_LAYOUT = "parallel.pipeline_model_parallel_layout"
_SPLIT = (_PP, _VP, _FIRST, _LAST, _EMBEDDING, _LOSS, _LAYOUT)


def _named(config: TrainConfig) -> dict[str, object]:
    """Return the settings that make a split unequal, as far as they are set."""
    parallel = config.parallel
    values = {
        _FIRST: parallel.num_layers_in_first_pipeline_stage,
        _LAST: parallel.num_layers_in_last_pipeline_stage,
        _EMBEDDING: parallel.account_for_embedding_in_pipeline_split or None,
        _LOSS: parallel.account_for_loss_in_pipeline_split or None,
        _LAYOUT: parallel.pipeline_model_parallel_layout,
    }
    return {path: value for path, value in values.items() if value is not None}


def _clashes(named: dict[str, object]) -> bool:
    """Return whether the split is set in two ways: by its ends, by what is counted, or as a layout."""
    return len([way for way in ({_FIRST, _LAST}, {_EMBEDDING, _LOSS}, {_LAYOUT}) if way & named.keys()]) > 1


@reads(_PP, _FIRST, _LAST, _EMBEDDING, _LOSS, _LAYOUT)
def _split_is_named_once(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    named = _named(config)
    if named and config.parallel.pipeline_model_parallel_size == 1:
        path, value = next(iter(named.items()))
        yield Violation(
            path=path,
            value=to_yaml(value),
            message=f"requires {_PP} of at least 2: it splits layers into pipeline stages",
            fix=f"Use {'false' if value is True else 'null'}, or set {_PP} to 2 or more.",
        )
    elif _clashes(named):
        (path, value), *others = named.items()
        yield Violation(
            path=path,
            value=to_yaml(value),
            message=f"cannot be combined with {' and '.join(f'{o}={to_yaml(v)}' for o, v in others)}: both set the"
            " layers of the stages",
            fix="Keep either the sizes of the first and last stage, or what is accounted for, or the layout, and set"
            " the others to null or false.",
        )


@reads(*_SPLIT, "model.num_layers")
def _stages_divide_layers(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    named, layers, parallel = _named(config), config.model.num_layers, config.parallel
    is_left_to_others = _clashes(named) or (named and parallel.pipeline_model_parallel_size == 1)
    if is_left_to_others or _LAYOUT in named or split_layers(layers, parallel) is not None:
        return
    chunks_per_stage = parallel.virtual_pipeline_model_parallel_size or 1
    layout = write_layout(layers, parallel.num_model_chunks)
    written = f"{_LAYOUT}={layout}" + (", with the other settings of the split set to null or false." if named else "")
    factors = f"{_PP}={parallel.pipeline_model_parallel_size}"
    if chunks_per_stage > 1:
        factors += f" * {_VP}={chunks_per_stage} = {parallel.num_model_chunks}"
    if _FIRST in named or _LAST in named:
        yield _ends_do_not_fit(config, {path: named[path] for path in (_FIRST, _LAST) if path in named}, written)
        return
    counted = layers + len(named)
    multiples = [size - len(named) for size in nearest_multiples(counted, parallel.num_model_chunks)]
    sum_of = f"{layers} + {len(named)} ({' and '.join(named)}) " if named else ""
    pipeline_sizes = [size for size in divisors(counted) if counted % (size * chunks_per_stage) == 0]
    nearest = nearest_values(parallel.pipeline_model_parallel_size, pipeline_sizes)
    yield Violation(
        path="model.num_layers",
        value=layers,
        message=f"{sum_of}must be a multiple of {factors}",
        fix=f"Use {join_or(size for size in multiples if size > 0)}"
        + (f", or set {_PP} to {join_or(nearest)}" if nearest else f", or set {_VP} to null")
        + f", or use {written}",
    )


def _ends_do_not_fit(config: TrainConfig, ends: dict[str, object], written: str) -> Violation:
    layers, parallel = config.model.num_layers, config.parallel
    chunks_per_stage = parallel.virtual_pipeline_model_parallel_size or 1
    others = parallel.pipeline_model_parallel_size - len(ends)
    given = " and ".join(f"{path}={value}" for path, value in ends.items())
    rest = layers - sum(int(str(value)) for value in ends.values())
    chunked = f" of {_VP}={chunks_per_stage} equal chunks" if chunks_per_stage > 1 else ""
    wanted = f"leave a positive multiple of {others * chunks_per_stage}" if others else f"sum up to {layers}"
    if others:
        rule = f"{given} leaves {format_number(rest, 'layer')} for {format_number(others, 'equal stage')}{chunked}"
    elif rest:
        rule = f"{given} do not sum up to it"
    else:
        rule = f"{given} are not multiples of {_VP}={chunks_per_stage}"
    even = f" and are multiples of {chunks_per_stage}" if chunks_per_stage > 1 else ""
    return Violation(
        path="model.num_layers",
        value=layers,
        message=f"cannot be split: {rule}",
        fix=f"Choose sizes that {wanted}{even}, or use {written}",
    )


@reads(*_SPLIT, "model.num_layers")
def _layout_holds_the_model(config: TrainConfig, world_size: int | None) -> Iterator[Violation]:
    parallel, layers = config.parallel, config.model.num_layers
    text, num_chunks = parallel.pipeline_model_parallel_layout, parallel.num_model_chunks
    if text is None or parallel.pipeline_model_parallel_size == 1 or _clashes(_named(config)):
        return
    chunks = parse_layout(text)
    if chunks is None:
        rule = f"must consist of {EMBEDDING} (embedding), {LAYER} (layer), {LOSS} (loss), | and repetitions"
    elif len(chunks) != num_chunks:
        rule = f"must have {_PP} * {_VP} = {num_chunks} chunks, and has {len(chunks)}"
    elif not chunks[0].startswith(EMBEDDING) or sum(chunk.count(EMBEDDING) for chunk in chunks) != 1:
        rule = f"must contain {EMBEDDING} (embedding) once, at the beginning of the first chunk"
    elif not chunks[-1].endswith(LOSS) or sum(chunk.count(LOSS) for chunk in chunks) != 1:
        rule = f"must contain {LOSS} (loss) once, at the end of the last chunk"
    elif (num_layers := sum(chunk.count(LAYER) for chunk in chunks)) != layers:
        rule = f"must have model.num_layers={layers} layers, and has {num_layers}"
    else:
        return
    yield Violation(
        path=_LAYOUT, value=text, message=rule, fix=f"Use {write_layout(layers, num_chunks)} or a similar layout."
    )


RULES = (_split_is_named_once, _stages_divide_layers, _layout_holds_the_model)
