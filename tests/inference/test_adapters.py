"""Adapters beside one model: each text is what its own adapter, merged, generates, alone or among others."""

import concurrent.futures
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.distributed.harness import run_distributed
from tests.inference.serving import chat_run, serve
from tests.train.small_run import run_command
from tests.train.test_lora import adapt
from trainer.inference.request import GenerationRequest
from trainer.inference.sampling import SamplingConfig

PROMPTS = ("abc", "Hello there, a longer prompt that is shared", "Hello there, a longer prompt that is not")
COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model and two adapters on it, of other layers and ranks, trained so hard that their texts differ."""
    folder = tmp_path_factory.mktemp("adapters")
    chat_run(folder)
    for name, *settings in (
        ("first", "lora.rank=4", "optimizer.lr=1e-1"),
        ("second", "lora.rank=2", "optimizer.lr=2e-1", "lora.target_modules=[linear_qkv,linear_fc2]"),
    ):
        code, log = adapt(folder, name, *settings, "training.seed=7", "optimizer.clip_grad=0")
        assert code == 0, log
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[str]]:
    """What the model and each adapter generate on their own, by `trireme generate`."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    texts = []
    for adapter in ((), ("--adapter", "outputs/first"), ("--adapter", "outputs/second")):
        options = ("--input", prompts, "--max-new-tokens", COUNT, "--temperature", 0)
        done = run_command("trainer.generate", "outputs/small", *map(str, (*adapter, *options)), cwd=folder)
        assert done.returncode == 0, done.stderr
        texts.append([json.loads(line)["completion"] for line in done.stdout.splitlines()])
    assert len({tuple(one) for one in texts}) == 3, "they differ"
    return texts


def generate(folder: Path, size: int) -> list[list[str]]:
    """Generate all texts at once under tensor parallelism, in rows that change owners; rank 0 returns them."""
    from trainer.inference.loading import load_model  # noqa: PLC0415 - after the shim, in a rank
    from trainer.inference.options import ModelOptions  # noqa: PLC0415 - as above

    outputs = folder / "outputs"
    model = load_model(
        ModelOptions(
            path=outputs / "small",
            adapters={name: outputs / name for name in ("first", "second")},
            max_batch_size=4,
            tensor_model_parallel_size=size,
        )
    )
    if not model.is_driver:
        model.runner.follow()
        return []
    requests = [
        GenerationRequest(
            prompt=model.encode_prompt(prompt),
            max_new_tokens=COUNT,
            sampling=SamplingConfig(temperature=0),
            stop_ids=model.stop_ids,
            adapter=adapter,
        )
        for prompt in PROMPTS
        for adapter in range(3)
    ]
    texts: dict[int, str] = {}
    for piece in model.new_generator().run(requests):
        texts[piece.request_id] = texts.get(piece.request_id, "") + piece.text
    model.runner.stop()
    ordered = [texts[number] for number in sorted(texts)]
    return [ordered[adapter::3] for adapter in range(3)]


@pytest.mark.parametrize("size", [1, 2])
def test_each_row_has_its_adapter(folder: Path, expected: list[list[str]], size: int) -> None:
    found, *_ = run_distributed(generate, size, folder, size)
    assert found == expected


def test_server_selects_by_the_name_of_the_model(folder: Path, expected: Sequence[list[str]]) -> None:
    outputs = folder / "outputs"
    options = [f"--adapter={name}={outputs / name}" for name in ("first", "second")]
    names = ("base", "first", "second")
    with serve(outputs / "small", "--served-model-name", "base", *options) as server:
        listed = json.loads(server.get("/v1/models")[1])["data"]
        assert [one["id"] for one in listed] == list(names)

        def ask(case: tuple[int, int]) -> str:
            number, place = case
            body = {"model": names[number], "prompt": PROMPTS[place], "max_tokens": COUNT, "temperature": 0}
            status, answer = server.post("/v1/completions", body)
            assert status == 200 and answer["model"] == names[number], answer
            return str(answer["choices"][0]["text"])

        cases = [(number, place) for place in range(len(PROMPTS)) for number in range(3)]
        with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
            assert list(pool.map(ask, cases)) == [expected[number][place] for number, place in cases]
        status, answer = server.post("/v1/completions", {"model": "third", "prompt": "a"})
        assert status == 404 and "This server has base, first, second." in answer["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("outputs/small", "--adapter", "x"), "--adapter: must be NAME=PATH"),
        (("outputs/small", "--adapter", "x=outputs/first", "--adapter", "x=outputs/second"), "given twice"),
        (("outputs/small", "--adapter", "x=outputs/small"), "--adapter: holds all weights and no adapters"),
        (("outputs/first", "--adapter", "x=outputs/second"), "--adapter: was trained on another checkpoint"),
    ],
)
def test_wrong_input(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run_command("trainer.serve", *arguments, "--port", "0", cwd=folder)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
