"""One layout of each kind trains as one process does: same weights, same data, three steps, fp32.

The certificate compares all of them, for ten steps (conf/certify/standard.yaml).
"""

import pytest
import torch
from torch.nn import functional

from tests.distributed.harness import run_distributed
from tests.engine.runs import (
    CP2,
    DOCUMENTS,
    GPT2,
    GRAD_NORM_TOLERANCE,
    LOSS_TOLERANCE,
    MEGATRON,
    MEGATRON_GATHER,
    MEGATRON_PLAIN,
    NORMED,
    OPTIMIZERS,
    PP2,
    PP2_VP2,
    TP2,
    TP2_SP,
    ZERO_0,
    Case,
    Trained,
    check_same_training,
    check_same_weights,
    largest_difference,
    micro_batches,
    open_engine,
    rate_of,
    train_all,
)

ONE = {
    "llama": Case(),
    "llama clipped": Case(optimizer="clipped"),
    "llama documents": Case(documents=DOCUMENTS),
    "normed clipped": Case(model=NORMED, optimizer="clipped"),
    "gpt2": Case(model=GPT2),
    "gpt2 clipped": Case(model=GPT2, optimizer="clipped"),
    "megatron llama clipped": Case(optimizer="clipped", engine=MEGATRON),
    "megatron plain gpt2": Case(model=GPT2, engine=MEGATRON_PLAIN),
}
# Each beside the name of the same run in one process.
TWO = {
    # Without sequence parallelism only the norms of queries and keys have gradients in parts.
    "tp2": ("normed clipped", Case(parallel=TP2, model=NORMED, optimizer="clipped")),
    "tp2 sp": ("normed clipped", Case(parallel=TP2_SP, model=NORMED, optimizer="clipped")),
    "pp2 tied gpt2": ("gpt2 clipped", Case(parallel=PP2, model=GPT2, optimizer="clipped")),
    "megatron pp2 vp2": ("llama clipped", Case(parallel=PP2_VP2, optimizer="clipped", engine=MEGATRON)),
    "cp2 documents": ("llama documents", Case(parallel=CP2, documents=DOCUMENTS)),
    "dp2": ("llama clipped", Case(optimizer="clipped")),
    "dp2 zero0": ("llama clipped", Case(optimizer="clipped", engine=ZERO_0)),
    "megatron dp2": ("llama clipped", Case(optimizer="clipped", engine=MEGATRON)),
    "megatron dp2 plain": ("llama clipped", Case(optimizer="clipped", engine=MEGATRON_PLAIN)),
    "megatron dp2 gather": ("llama clipped", Case(optimizer="clipped", engine=MEGATRON_GATHER)),
}
FOUR = {
    # Both stages' ranks own the same part of the tied embedding, though their buffers differ.
    "megatron dp2 pp2 tied gpt2": (
        "gpt2 clipped",
        Case(parallel=PP2, model=GPT2, optimizer="clipped", engine=MEGATRON),
    ),
}
LAYOUTS = {**TWO, **FOUR}


def train_by_hand(case: Case) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of training that is written out with torch alone: one batch, its clipping and AdamW."""
    optimizer_config = OPTIMIZERS[case.optimizer]
    with open_engine(case) as (_, (model,), _):
        decayed, undecayed = [], []
        for name, parameter in model.named_parameters():
            (undecayed if "norm" in name or name.endswith("bias") else decayed).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}],
            betas=(optimizer_config.adam_beta1, optimizer_config.adam_beta2),
            eps=optimizer_config.adam_eps,
            weight_decay=optimizer_config.weight_decay,
            foreach=False,
        )
        losses, norms = [], []
        for step in range(case.num_steps):
            batches = micro_batches(step, case=case)
            tokens, labels, positions = (
                torch.cat([getattr(batch, name) for batch in batches]) for name in ("tokens", "labels", "position_ids")
            )
            mask = torch.cat([batch.loss_mask for batch in batches]).bool()
            logits = model(tokens, positions, None)
            loss = functional.cross_entropy(logits[mask].float(), labels[mask])
            optimizer.zero_grad()
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer_config.clip_grad).item())
            for group in optimizer.param_groups:
                group["lr"] = rate_of(step)
            optimizer.step()
            losses.append(loss.item())
    return losses, norms


def run_one() -> tuple[dict[str, Trained], tuple[list[float], list[float]]]:
    return train_all(ONE), train_by_hand(ONE["llama clipped"])


def run_many(cases: dict[str, tuple[str, Case]]) -> dict[str, Trained]:
    return train_all({name: case for name, (_, case) in cases.items()})


@pytest.fixture(scope="module")
def one() -> tuple[dict[str, Trained], tuple[list[float], list[float]]]:
    return run_distributed(run_one, 1)[0]


@pytest.fixture(scope="module")
def alone(one: tuple) -> dict[str, Trained]:
    return one[0]


@pytest.fixture(scope="module")
def together() -> dict[str, list[Trained]]:
    """What each rank of a layout saw of it."""
    ranks = {}
    for size, cases in ((2, TWO), (4, FOUR)):
        found = run_distributed(run_many, size, cases, timeout_seconds=300)
        ranks |= {name: [rank[name] for rank in found] for name in cases}
    return ranks


def test_one_process_trains_as_a_loop_written_by_hand(one: tuple) -> None:
    trained, (losses, grad_norms) = one
    assert largest_difference(trained["llama clipped"].losses, losses) <= LOSS_TOLERANCE
    assert largest_difference(trained["llama clipped"].grad_norms, grad_norms) <= GRAD_NORM_TOLERANCE


def test_the_runs_would_show_a_mistake(alone: dict[str, Trained]) -> None:
    for name in ("llama", "gpt2"):
        usual, clipped = alone[name], alone[f"{name} clipped"]
        assert usual.losses[-1] < usual.losses[0], "something was learned"
        assert min(clipped.grad_norms) > 5 * OPTIMIZERS["clipped"].clip_grad, "every step was clipped"
        assert largest_difference(usual.losses, clipped.losses) > 1e-3
    plain, documents = alone["llama"], alone["llama documents"]
    assert abs(plain.losses[0] - documents.losses[0]) > 1e-3
    assert documents.evaluated[1] < plain.evaluated[1], "eod_mask_loss leaves tokens out"
    assert not any(result.is_skipped for trained in alone.values() for result in trained.results)


@pytest.mark.parametrize(
    ("name", "other"), [("megatron llama clipped", "llama clipped"), ("megatron plain gpt2", "gpt2")]
)
def test_engines_train_alike_in_one_process(name: str, other: str, alone: dict[str, Trained]) -> None:
    check_same_training([alone[name]], alone[other])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_trains_as_one_process(
    layout: str, alone: dict[str, Trained], together: dict[str, list[Trained]]
) -> None:
    check_same_training(together[layout], alone[LAYOUTS[layout][0]])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_start_equal_and_copies_stay_equal(
    layout: str, alone: dict[str, Trained], together: dict[str, list[Trained]]
) -> None:
    check_same_weights(together[layout], alone[LAYOUTS[layout][0]])
