"""Load a run or an import for inference: model, tokenizer, chat template and defaults, under any layout."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.build import wire_model
from trainer.checkpoint.companions import read_generation_config
from trainer.checkpoint.load import load_weights
from trainer.checkpoint.quantized import is_quantized
from trainer.checkpoint.trainer_state import ORIGIN_NAME
from trainer.config.model import ModelConfig
from trainer.config.optim import PrecisionConfig
from trainer.config.parallel import ParallelConfig
from trainer.inference.adapters import load_adapters
from trainer.inference.generator import Generator
from trainer.inference.model_runner import ModelRunner
from trainer.inference.options import ModelOptions
from trainer.inference.quantized_layers import attach_quantized_weights
from trainer.model.finite import find_not_finite, join_first
from trainer.model.gpt import GPT
from trainer.parallel.world import World, start_world
from trainer.saved_run import SavedRun, check_tokenizer, open_saved_run
from trireme.errors import ConfigError, Violation, raise_if_any
from trireme.progress import format_bytes
from trireme.tokenizer.chat_template import ChatTemplate, TemplateRefusal
from trireme.tokenizer.model_files import read_chat_template
from trireme.tokenizer.tokenizer import Tokenizer

_LOGGER = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Hold a model that is ready to generate text; the same on every rank."""

    name: str
    """Name of the run, or of the checkpoint's directory."""
    checkpoint: Path
    world: World
    model: GPT
    """This rank's stage."""
    config: ModelConfig
    runner: ModelRunner
    tokenizer: Tokenizer
    vocab_size: int
    """Tokens that may be generated."""
    context_length: int
    """Positions of the model."""
    chat_template: ChatTemplate | None
    """None: the model continues text, and was not trained on conversations."""
    generation_config: Mapping[str, Any]
    """The model's own defaults, from generation_config.json; often empty."""
    stop_ids: frozenset[int]
    """Ids that end a text."""
    document_start: tuple[int, ...]
    """Ids before a text that begins a document."""
    adapters: tuple[str, ...] = ()
    """Names of the adapters that texts can be generated with, by number from 1."""

    @property
    def is_driver(self) -> bool:
        """Return whether this rank decides what is generated; the others call `runner.follow`."""
        return self.world.rank == 0

    def new_generator(self) -> Generator:
        """Return a generator; one at a time uses the model."""
        return Generator(
            self.runner,
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
        )

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Encode a text that begins a document; the result has at least one id."""
        return (*self.document_start, *self.tokenizer.encode(text)) or (0,)


def load_model(
    options: ModelOptions,
    *,
    purpose: str = "generate text",
    packs_weights: bool = True,
    world: World | None = None,
    verify: bool = True,
    announces: bool = True,
) -> LoadedModel:
    """Load the latest valid checkpoint at a path; all ranks call this.

    Args:
        purpose: completes the message about damaged weights: `cannot generate text: ...`.
        packs_weights: see `ModelRunner`; False leaves a model that can also be used without a cache, with dequantized
            weights where the checkpoint's are quantized.
        world: of the options' layout, which other models share; None starts it.
        verify: read every byte of the checkpoint and compare sha256.
        announces: log checkpoint and step.
    Raises:
        ConfigError: on every rank: there is no valid checkpoint, the tokenizer is not the model's, or weights are not
            finite, or the model is an encoder.
    """
    saved = open_saved_run(options.path, verify=verify)
    tokenizer = open_tokenizer(options.tokenizer, saved)
    template = _open_template(saved.checkpoint, tokenizer)
    state = saved.state
    model_config = state.model_config()
    if model_config.attention_mask != "causal":
        raise ConfigError([_is_encoder(saved.checkpoint, purpose=purpose)])
    if not model_config.has_output_layer:
        raise ConfigError([_has_task(saved.checkpoint, model_config, purpose=purpose)])
    model, world = place_model(options, saved=saved, purpose=purpose, world=world)
    bank = load_adapters(model, options.adapters, base=saved)
    if packs_weights and options.params_dtype == "bf16" and is_quantized(saved.checkpoint):
        num_bytes = attach_quantized_weights(model, saved.checkpoint)
        _LOGGER.info("Quantized weights on this rank: %s.", format_bytes(num_bytes))
    if announces:
        _LOGGER.info("%s, step %d", saved.checkpoint, state.step)
    generation_config = read_generation_config(saved.checkpoint)
    return LoadedModel(
        name=(saved.run_directory or saved.checkpoint).resolve().name,
        checkpoint=saved.checkpoint,
        world=world,
        model=model,
        config=model_config,
        adapters=tuple(options.adapters),
        runner=ModelRunner(
            model,
            world=world,
            num_rows=options.max_batch_size,
            max_length=model_config.num_positions,
            adapters=bank,
            packs_weights=packs_weights,
        ),
        tokenizer=tokenizer,
        vocab_size=count_tokens(tokenizer, saved),
        context_length=model_config.num_positions,
        chat_template=template,
        generation_config=generation_config,
        stop_ids=_find_stop_ids(tokenizer, generation_config),
        document_start=_find_document_start(saved, tokenizer),
    )


def place_model(
    options: ModelOptions, *, saved: SavedRun, purpose: str, world: World | None = None
) -> tuple[GPT, World]:
    """Load a checkpoint's weights into the layout of the options, in evaluation mode; all ranks call this.

    Args:
        purpose: completes the message about damaged weights: `cannot predict: ...`.
        world: see `load_model`.
    Raises:
        ConfigError: on every rank: the model cannot be divided so, or its weights are not finite.
    """
    state = saved.state
    config = state.model_config()
    raise_if_any(_check_layout(config, padded_vocab_size=state.padded_vocab_size, options=options))
    parallel = ParallelConfig(
        tensor_model_parallel_size=options.tensor_model_parallel_size,
        pipeline_model_parallel_size=options.pipeline_model_parallel_size,
        expert_model_parallel_size=options.expert_model_parallel_size,
    )
    if world is None:
        world = start_world(parallel, timeout_seconds=_TIMEOUT_SECONDS, seed=1)
    (model,) = wire_model(
        config,
        parallel=parallel,
        precision=PrecisionConfig(params_dtype=options.params_dtype),
        padded_vocab_size=state.padded_vocab_size,
        vocab_size=state.vocab_size,
        world=world,
        reset_position_ids=True,
    )
    load_weights(saved.checkpoint, chunks=[model], base=options.base, base_name="--adapter")
    if damage := find_not_finite([model]):
        raise ConfigError([_describe_damage(saved.checkpoint, join_first(damage), purpose=purpose)])
    model.eval()
    assert isinstance(model, GPT)
    return model, world


def count_tokens(tokenizer: Tokenizer, saved: SavedRun) -> int:
    """Return the tokens that both the tokenizer and the model have, without the padding of the vocabulary."""
    return min(tokenizer.vocab_size, saved.state.vocab_size or saved.state.padded_vocab_size)


def _check_layout(model: ModelConfig, *, padded_vocab_size: int, options: ModelOptions) -> list[Violation]:
    """Report sizes of the layout into which the model cannot be divided."""
    # Key-value heads may be fewer: then several ranks hold copies of one.
    shared_heads = options.tensor_model_parallel_size % model.num_query_groups == 0
    counts = (
        ("tensor", "key-value heads", 0 if shared_heads else model.num_query_groups),
        ("tensor", "attention heads", model.num_attention_heads),
        ("tensor", "channels of the MLP", model.ffn_hidden_size),
        ("tensor", "rows of the vocabulary", padded_vocab_size),
        ("pipeline", "layers", model.num_layers),
        ("expert", "experts", model.num_moe_experts or 1),
    )
    return [
        Violation(
            path=f"--{name}-model-parallel-size",
            value=size,
            message=f"must divide the model's {count} {what}",
            fix=f"Use one of {', '.join(str(part) for part in range(1, 65) if count % part == 0)}.",
        )
        for name, what, count in counts
        if count % (size := getattr(options, f"{name}_model_parallel_size"))
    ]


def _find_stop_ids(tokenizer: Tokenizer, generation_config: Mapping[str, Any]) -> frozenset[int]:
    """Return the tokenizer's end of document, and the ends that the model's generation_config.json names."""
    named = generation_config.get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    found = {token for token in ids if isinstance(token, int)}
    return frozenset(found | ({tokenizer.eos_id} if tokenizer.eos_id is not None else set()))


def open_tokenizer(given: Path | None, saved: SavedRun) -> Tokenizer:
    """Open the given tokenizer, which must be the model's, or the checkpoint's own."""
    path = given.expanduser() if given is not None else saved.tokenizer_path
    if path is None:
        message = f"must be set: {saved.checkpoint} contains no tokenizer, and the one of its run does not exist"
        fix = "Give the tokenizer file."
        raise ConfigError([Violation(path="--tokenizer", value="", message=message, fix=fix)])
    tokenizer = Tokenizer(path)
    raise_if_any(check_tokenizer(tokenizer, saved=saved, path="--tokenizer"))
    return tokenizer


def _open_template(checkpoint: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    source = read_chat_template(checkpoint)
    if source is None:
        return None
    try:
        return ChatTemplate(source, tokenizer=tokenizer)
    except TemplateRefusal as error:
        fix = "Correct chat_template.jinja of the model, and import it again."
        raise ConfigError([Violation(path=str(checkpoint), value="", message=str(error), fix=fix)]) from error


def _find_document_start(saved: SavedRun, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return what the model has seen before each document in training."""
    if (saved.checkpoint / ORIGIN_NAME).is_file():  # imported: trained with another program's conventions
        return tokenizer.opening_ids
    # A document begins after the end-of-document token of the one before it.
    return () if tokenizer.eos_id is None else (tokenizer.eos_id,)


def _is_encoder(checkpoint: Path, *, purpose: str) -> Violation:
    return Violation(
        path=str(checkpoint),
        value="",
        message=f"cannot {purpose}: the model attends to both sides and predicts masked tokens, not the next one",
        fix="Give a model that was trained with model.attention_mask=causal.",
    )


def _has_task(checkpoint: Path, model: ModelConfig, *, purpose: str) -> Violation:
    return Violation(
        path=str(checkpoint),
        value="",
        message=f"cannot {purpose}: the model has the head {model.head} and no output layer",
        fix="Give a model with model.head=lm, or use `trireme predict`.",
    )


def _describe_damage(checkpoint: Path, damage: str, *, purpose: str) -> Violation:
    """Return the error of a checkpoint with weights that are not finite."""
    return Violation(
        path="PATH",
        value=checkpoint,
        message=f"cannot {purpose}: the checkpoint's weights contain {damage}",
        fix="Use an older checkpoint of the run.",
    )
