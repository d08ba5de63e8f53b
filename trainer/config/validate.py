"""Check all rules between the fields of a configuration at once. Nothing is repaired, nothing is started."""

import dataclasses
import importlib.util
import re
from collections.abc import Collection

from trainer.config.rules import (
    distill,
    documents,
    engines,
    evaluation,
    finetune,
    heads,
    health,
    layout,
    lora,
    masking,
    model,
    moe,
    pipeline,
    recompute,
    recovery,
    slurm,
    surroundings,
    training,
    zero,
)
from trainer.config.rules.ranges import check_ranges
from trainer.config.schema import TrainConfig
from trireme.config.fields import is_inside, overlaps
from trireme.errors import Violation

RULES = (
    *model.RULES,
    *layout.RULES,
    *pipeline.RULES,
    *moe.RULES,
    *recompute.RULES,
    *training.RULES,
    *engines.RULES,
    *zero.RULES,
    *documents.RULES,
    *masking.RULES,
    *finetune.RULES,
    *distill.RULES,
    *lora.RULES,
    *evaluation.RULES,
    *heads.RULES,
    *health.RULES,
    *recovery.RULES,
    *surroundings.RULES,
    *slurm.RULES,
)


def validate(config: TrainConfig, *, world_size: int | None, ignore: Collection[str] = frozenset()) -> list[Violation]:
    """Check all rules.

    Args:
        config: of valid form, as the loader returns it.
        world_size: number of processes; None where it is not known yet, which skips the rules about it.
        ignore: paths whose values are known to be invalid; rules that read them are skipped.
    Returns:
        All violations, each with the nearest values that would be accepted; none when the run can start. The contents
        of shards and tokenizer are checked by their readers.
    """
    violations = [
        violation for violation in check_ranges(config) if not any(is_inside(violation.path, path) for path in ignore)
    ]
    doubtful = {*ignore, *(violation.path for violation in violations)}
    for rule in RULES:
        if not any(overlaps(read, doubtful) for read in rule.reads):
            violations.extend(rule.check(config, world_size))
    if config.pretrained_checkpoint is not None:
        return [_without_other_models(violation) for violation in violations]
    return violations


_OTHER_MODEL = re.compile(
    r", or set model\.(?:num_layers|hidden_size|ffn_hidden_size|num_attention_heads|num_query_groups|vocab_size"
    r"|make_vocab_size_divisible_by) to [^.]*?(?=, or (?:set|use) |\.$)"
)
_NUM_LAYERS = re.compile(r"^Use [\d, or]+, or (set|use) ")


def _without_other_models(violation: Violation) -> Violation:
    """Leave advice out that would change the sizes of a model whose weights come from a checkpoint."""
    fix = _OTHER_MODEL.sub("", violation.fix)
    if violation.path == "model.num_layers":
        fix = _NUM_LAYERS.sub(lambda match: f"{match[1].capitalize()} ", fix)
    return dataclasses.replace(violation, fix=fix)


def needed_packages(config: TrainConfig) -> list[str]:
    """Return the distributions that this run needs beyond those that every run needs."""
    return ["transformer-engine"] if config.model.transformer_impl == "transformer_engine" else []


def check_packages(config: TrainConfig) -> list[Violation]:
    """Report packages that the run needs and this host lacks.

    This is not a rule: the host that plans or submits a run need not have the packages of its nodes.
    """
    if not needed_packages(config) or importlib.util.find_spec("transformer_engine"):
        return []
    return [
        Violation(
            path="model.transformer_impl",
            value="transformer_engine",
            message="requires the package transformer-engine, which is not installed on this host",
            fix="Install transformer-engine, or use torch.",
        )
    ]
