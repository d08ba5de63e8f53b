"""Scores of texts that share beginnings are those of each text by itself, for every model and under every layout."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoint.fragments import PADDED_VOCAB_SIZE, open_world
from tests.distributed.harness import run_distributed
from tests.inference.models import (
    CAPPED,
    CONTEXT,
    EXPERTS,
    GPT2,
    LATENT,
    LLAMA,
    MODELS,
    WINDOWS,
    Numbers,
    build,
    uncached,
    whole_forward,
)
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.evaluation import likelihood
from trainer.evaluation.likelihood import ContinuationRequest, ContinuationScore, LikelihoodModel
from trainer.evaluation.prefix_trees import Question, build_batches, build_trees
from trainer.inference.loading import LoadedModel
from trainer.inference.model_runner import ModelRunner
from trainer.model.gpt import GPT
from trainer.model.token_tree import find_subtree_ends
from trainer.parallel.world import World

PREFIX = (0,)
"""What stands before a text without context."""
CHEAP = 1e-4
"""Cost of a pair of tokens, so that sharing a few tokens pays."""


def plan_requests() -> list[ContinuationRequest]:
    """Answers to several contexts, some of which begin alike, in an order that separates what belongs together."""
    draw = np.random.default_rng(5)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in draw.integers(1, PADDED_VOCAB_SIZE, count))

    passage = (*PREFIX, *tokens(12))
    contexts = [
        PREFIX,  # an empty one
        (*PREFIX, *tokens(3)),
        passage,
        (*passage, *tokens(6)),  # goes on where another ends
        (*passage[:7], *tokens(4)),
        (*PREFIX, *tokens(2 * CONTEXT)),  # loses its beginning
    ]
    answers = [tokens(1), tokens(1), tokens(4), tokens(2)]
    answers.append((*answers[2], *tokens(3)))  # begins like another answer
    requests = [ContinuationRequest(context=context, continuation=answer) for answer in answers for context in contexts]
    requests.append(requests[8])  # twice
    requests.append(ContinuationRequest(context=PREFIX, continuation=tokens(CONTEXT)))  # fits just
    requests.append(ContinuationRequest(context=passage, continuation=tokens(CONTEXT + 5)))
    return requests


def score_alone(chunk: GPT, request: ContinuationRequest) -> ContinuationScore:
    """The score from a forward pass over the whole text."""
    whole = (*request.context, *request.continuation)[-(CONTEXT + 1) :]
    count = min(len(request.continuation), len(whole) - 1)
    logprobs = whole_forward(chunk, whole[:-1])[-count:].log_softmax(dim=-1)
    targets = torch.tensor(whole[-count:])
    return ContinuationScore(
        token_logprobs=tuple(logprobs.gather(1, targets[:, None])[:, 0].tolist()),
        is_greedy=bool((logprobs.argmax(dim=-1) == targets).all()),
    )


def open_model(model: ModelConfig, chunk: GPT, world: World, *, batch_size: int) -> LikelihoodModel:
    loaded = LoadedModel(
        name="model",
        checkpoint=Path(),
        world=world,
        model=chunk,
        config=model,
        runner=ModelRunner(chunk, world=world, num_rows=1, max_length=CONTEXT, packs_weights=False),
        tokenizer=Numbers(),  # type: ignore[arg-type]
        vocab_size=PADDED_VOCAB_SIZE,
        context_length=CONTEXT,
        chat_template=None,
        generation_config={},
        stop_ids=frozenset(),
        document_start=PREFIX,
    )
    return LikelihoodModel(loaded, batch_size=batch_size)


def check(found: list[ContinuationScore], expected: list[ContinuationScore]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, rel=1e-6)
        # Single tokens: some roundings of fp32 logits of size 10.
        assert one.token_logprobs == pytest.approx(other.token_logprobs, rel=1e-5, abs=1e-5)
        assert one.is_greedy == other.is_greedy


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_each_text_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Batches of few tokens, so that there are several.
    monkeypatch.setattr(likelihood, "_TOKENS_PER_TEXT", 2 * CONTEXT)
    requests = plan_requests()
    with open_world(ParallelConfig()) as world:
        chunk = build(MODELS[name], world)
        likely = tuple(uncached(chunk, requests[2].context, 3))
        other = (*likely[:2], (likely[2] + 1) % PADDED_VOCAB_SIZE)
        requests += [dataclasses.replace(requests[2], continuation=answer) for answer in (likely, likely[:2], other)]
        expected = [score_alone(chunk, request) for request in requests]
        model = open_model(MODELS[name], chunk, world, batch_size=1)
        counts: list[int] = []
        found = model.score(requests, show=counts.append)
        assert len(counts) > 2 and counts == sorted(set(counts)) and counts[-1] == len(requests)
        assert model.score(requests) == found, "the same each time"
        monkeypatch.setattr(likelihood, "_TOKENS_PER_TEXT", 100 * CONTEXT)
        single = open_model(MODELS[name], chunk, world, batch_size=1).score(requests)
    check(found, expected)
    check(single, expected)
    assert len({round(score.logprob, 3) for score in expected}) > 20  # a model that always says the same proves little
    assert [score.is_greedy for score in expected[-3:]] == [True, True, False]


def score_in_layouts(models: list[ModelConfig], layouts: list[ParallelConfig]) -> list[list[ContinuationScore]]:
    found = []
    for model, parallel in zip(models, layouts, strict=True):
        with open_world(parallel) as world:
            scorer = open_model(model, build(model, world, parallel=parallel), world, batch_size=1)
            if world.rank:
                scorer.follow()
            else:
                found.append(scorer.score(plan_requests()))
                scorer.stop()
    return found


def test_layouts() -> None:
    tensor = ParallelConfig(tensor_model_parallel_size=2)
    pipeline = ParallelConfig(pipeline_model_parallel_size=2)
    cases = [
        *((model, layout) for model in (GPT2, LLAMA, CAPPED) for layout in (tensor, pipeline)),
        # One key-value head for two tensor-parallel ranks.
        (dataclasses.replace(LLAMA, num_query_groups=1), tensor),
        (WINDOWS, pipeline),
        (LATENT, pipeline),
        (LATENT, tensor),
        (EXPERTS, ParallelConfig(expert_model_parallel_size=2)),
        (LLAMA, ParallelConfig()),  # two replicas
    ]
    found, others = run_distributed(score_in_layouts, 2, *map(list, zip(*cases, strict=True)))
    assert others == []
    with open_world(ParallelConfig()) as world:
        for scores, (model, _) in zip(found, cases, strict=True):
            chunk = build(model, world)
            check(scores, [score_alone(chunk, request) for request in plan_requests()])


def test_what_texts_share_is_in_a_tree_once() -> None:
    passage = tuple(range(100, 150))
    texts = [
        (*passage, 1, 2, 3),
        (*passage, 1, 2, 4),
        (*passage, 7),
        passage,
        (*passage, 7),
        tuple(range(200, 250)),
    ]
    questions = [Question(tokens=text, targets=(5,)) for text in texts]
    shared, other = build_trees(questions, max_tokens=500, max_places=50, pair_cost=CHEAP)
    assert len(shared) == 50 + 2 + 1 + 1 + 1 and len(other) == 50
    assert len(shared.places) == 4, "equal texts, and answers of one token, share the logits"
    ends = find_subtree_ends(shared.depths)
    for branch in shared.branches:
        (last,) = branch.places
        ancestors = [number for number in range(last + 1) if last < ends[number]]
        assert tuple(shared.tokens[number] for number in ancestors) == texts[branch.number]
    # Attention that costs as much as all else makes a long row with little in common dear.
    assert len(build_trees(questions[:3], max_tokens=500, max_places=50, pair_cost=CHEAP)) == 1
    few = [Question(tokens=(1, *range(start, start + 50)), targets=(5,)) for start in (100, 200)]
    assert len(build_trees(few, max_tokens=500, max_places=50, pair_cost=1.0)) == 2
    assert build_trees([], max_tokens=1, max_places=1, pair_cost=CHEAP) == []


@pytest.mark.parametrize("num_targets", [1, 4])
def test_a_context_that_is_longer_than_a_batch_is_computed_once(num_targets: int) -> None:
    """Few-shot questions have more than the 512 tokens of a CPU's batch before each of their answers."""
    context = tuple(range(100, 700))
    answers = [tuple(range(1000 * number, 1000 * number + num_targets)) for number in range(1, 5)]
    questions = [Question(tokens=(*context, *answer[:-1]), targets=answer) for answer in answers]
    (tree,) = build_trees(questions, max_tokens=512, max_places=100, pair_cost=CHEAP)
    assert len(tree) == 600 + 4 * (num_targets - 1)
    # A mask of all pairs is for no texts of any length; equal ones need none.
    long = [dataclasses.replace(question, tokens=(*range(1000, 9000), *question.tokens)) for question in questions]
    trees = build_trees(long, max_tokens=512, max_places=100, pair_cost=CHEAP)
    assert len(trees) == (1 if num_targets == 1 else 4)


@pytest.mark.parametrize(("max_tokens", "max_places"), [(64, 1000), (1000, 8), (1, 1)])
def test_memory_is_bounded(max_tokens: int, max_places: int) -> None:
    draw = np.random.default_rng(6)
    questions = []
    for _ in range(30):
        context = tuple(map(int, draw.integers(0, 3, draw.integers(1, 20))))
        for _ in range(3):
            answer = tuple(map(int, draw.integers(0, 3, draw.integers(1, 9))))
            questions.append(Question(tokens=(*context, *answer[:-1]), targets=answer[-len(context) :]))
    trees = build_trees(questions, max_tokens=max_tokens, max_places=max_places, pair_cost=CHEAP)
    batches = build_batches(trees, max_tokens=max_tokens, max_places=max_places)
    for batch in batches:
        if len(batch) > 1 or len(batch[0].branches) > 1:
            longest = max(len(questions[branch.number].tokens) for tree in batch for branch in tree.branches)
            assert len(batch) * max(map(len, batch)) <= max_tokens or (len(batch) == 1 and len(batch[0]) <= 2 * longest)
            assert sum(len(tree.places) for tree in batch) <= max_places
    numbers = [branch.number for batch in batches for tree in batch for branch in tree.branches]
    assert sorted(numbers) == list(range(len(questions)))
    again = build_trees(questions, max_tokens=max_tokens, max_places=max_places, pair_cost=CHEAP)
    assert [tree.branches for tree in again] == [tree.branches for tree in trees]
