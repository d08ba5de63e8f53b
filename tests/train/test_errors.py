"""What a user reads when something is wrong: the real command, exit code 2, every problem at once, no traceback."""

import io
import re
import sys
from pathlib import Path

import pytest
import sentencepiece

from tests import warm
from tests.checkpoint.fragments import state_of
from tests.data.shards import make_documents, write_shard
from tests.train.commands import REPOSITORY, SMALL, command_of, environment
from trainer.checkpoint.directory import begin, commit
from trainer.checkpoint.manifest import write_durably
from trainer.checkpoint.trainer_state import STATE_NAME, write_state

TOKENIZER_SIZE = 300
STARTING = "Importing PyTorch, Megatron-Core and DeepSpeed for "
"""First words of the notice that is printed before the files are checked."""


def problems_of(command: list[str], **changes: str) -> list[str]:
    """Run a command that must refuse to start, warm; every problem it names, in order, without its number."""
    result = warm.run(command, cwd=REPOSITORY, env=environment(**changes))
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    said = [line for line in result.stderr.splitlines() if not line.startswith(STARTING)]
    first, *lines = [line for line in said if not line.startswith("Waiting for ")]  # on a busy host
    count = f"{len(lines)} error{'s' if len(lines) != 1 else ''}"
    assert first == f"{count}; nothing was started:", "each is one line, and nothing else is said"
    assert [line.split(". ")[0].strip() for line in lines] == [str(number + 1) for number in range(len(lines))]
    problems = [line.split(". ", 1)[1] for line in lines]
    # path: message (got value). Fix
    assert all(re.fullmatch(r"[^ ]+: .+\. [A-Z].+", problem) for problem in problems), problems
    return problems


def has(problems: list[str], start: str, *parts: str) -> bool:
    """Whether one problem begins with `start` and says all of `parts`."""
    return any(problem.startswith(start) and all(part in problem for part in parts) for problem in problems)


def launched(*overrides: str) -> list[str]:
    return problems_of(command_of(*SMALL, *overrides))


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = make_documents(num_tokens=2000, vocab_size=64)
    return write_shard(tmp_path_factory.mktemp("data") / "good", documents, with_manifest=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the trireme of nine oars sails to port"] * 20),
        model_writer=model,
        vocab_size=TOKENIZER_SIZE,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def test_sizes_that_do_not_fit_each_other() -> None:
    problems = launched(
        "data.train=[{paths:[/data/wiki]}]",
        "parallel.tensor_model_parallel_size=3",
        "parallel.pipeline_model_parallel_size=3",
        "parallel.virtual_pipeline_model_parallel_size=2",
        "parallel.context_parallel_size=2",
        "parallel.data_parallel_size=2",
        "parallel.sequence_parallel=true",
        "model.ffn_hidden_size=50",
        "training.global_batch_size=7",
        "training.micro_batch_size=2",
    )
    assert has(problems, "parallel.tensor_model_parallel_size: must divide model.num_attention_heads=4")
    assert has(problems, "parallel.tensor_model_parallel_size: must divide model.num_query_groups=2")
    assert has(problems, "parallel.tensor_model_parallel_size: must divide model.ffn_hidden_size=50")
    assert has(problems, "parallel.tensor_model_parallel_size: must divide model.vocab_size=64")
    assert has(
        problems,
        "model.num_layers: must be a multiple of parallel.pipeline_model_parallel_size=3",
        "parallel.virtual_pipeline_model_parallel_size=2 = 6",
    )
    assert has(
        problems,
        "training.global_batch_size: must be a multiple of training.micro_batch_size=2 * data-parallel size 2 = 4",
        "(got 7)",
    )
    assert has(
        problems,
        "model.seq_length: must be a multiple of 12",
        "parallel.context_parallel_size=2",
        "parallel.sequence_parallel",
    )
    assert has(problems, "data.train[0].paths[0]: no such shard", "(got /data/wiki)")
    assert len(problems) == 8


def test_unknown_names_and_an_unusable_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    problems = launched(
        "data.train=[{paths:[/data/wiki]}]",
        "model.hiden_size=64",
        "optimiser.lr=1e-3",
        "parallel=tp2pp2",
        "training.train_iters=many",
        f"output_dir='{file}/runs'",
    )
    assert has(problems, "model.hiden_size: ", "Did you mean model.hidden_size?")
    assert has(problems, "optimiser: ", "Did you mean optimizer?")
    assert has(problems, "parallel: no such preset 'tp2pp2'", "Did you mean tp2_pp2?")
    assert has(problems, "training.train_iters: expected an integer")
    assert has(problems, "output_dir: ", f"{file} is a file")
    assert has(problems, "data.train[0].paths[0]: no such shard", "(got /data/wiki)")
    assert len(problems) == 6


def test_damaged_files_are_reported_together_with_unknown_settings(
    tmp_path: Path, shard: Path, tokenizer: Path
) -> None:
    cut = write_shard(tmp_path / "cut", make_documents(num_tokens=2000, vocab_size=64), with_manifest=True)
    file = cut.with_suffix(".bin")
    file.write_bytes(file.read_bytes()[:-100])
    wrong = tmp_path / "tokenizer.model"
    wrong.write_text("not a model")
    # The launcher, and the ranks of a run that torchrun starts, which also check the rest of the files.
    data = (f"data.train=[{{paths:['{cut}']}},{{paths:['{shard}']}}]", "optimiser.lr=1", "model.num_layers=0")
    for command in (command_of(*SMALL), [sys.executable, "-m", "trainer.train", *SMALL]):
        problems = problems_of([*command, *data, f"tokenizer.path='{wrong}'"])
        assert has(problems, "optimiser: ", "Did you mean optimizer?")
        assert has(problems, "model.num_layers: must be at least 1")
        assert has(problems, f"{file}: truncated: its index expects 4000 bytes")
        assert has(problems, "tokenizer.path: must be a SentencePiece model")
        assert len(problems) == 4
    # Not compared with a setting that is wrong itself: the vocabulary of 64 tokens, the length of a window.
    problems = launched(*data[:2], "model.vocab_size=few", "model.seq_length=long", f"tokenizer.path='{tokenizer}'")
    paths = [problem.split(": ")[0] for problem in problems]
    assert paths == ["model.seq_length", "model.vocab_size", "optimiser", f"{file}"]


def test_a_world_size_that_is_no_multiple_is_named_once_by_three_processes(shard: Path) -> None:
    overrides = [*SMALL, f"data.train=[{{paths:['{shard}']}}]", "parallel=tp2"]
    torchrun = [sys.executable, "-m", "trainer.torchrun", "--nproc-per-node", "3", "--rdzv-backend", "c10d"]
    problems = problems_of([*torchrun, "--rdzv-endpoint", "localhost:0", "-m", "trainer.train", *overrides])
    assert has(
        problems, "world_size: must be a multiple of parallel.tensor_model_parallel_size=2", "Start 2 or 4 processes"
    )
    assert len(problems) == 1
    # The same of one process that some other launcher started.
    alone = problems_of([sys.executable, "-m", "trainer.train", *overrides], WORLD_SIZE="3", RANK="0")
    assert alone == problems


def test_broken_shards_are_all_named_once(tmp_path: Path, shard: Path, tokenizer: Path) -> None:
    documents = make_documents(num_tokens=2000, vocab_size=64)
    names = ("empty_bin", "empty_idx", "cut_bin", "cut_idx", "other_version", "no_index", "flipped")
    prefixes = {name: write_shard(tmp_path / name, documents, with_manifest=True) for name in names}
    prefixes["other_tokenizer"] = write_shard(tmp_path / "other_tokenizer", documents, tokenizer_sha256="0" * 64)
    prefixes["small"] = write_shard(tmp_path / "small", make_documents(num_tokens=20, vocab_size=64), vocab_size=64)
    prefixes["missing"] = tmp_path / "empty_bim"
    bins = {name: prefix.with_suffix(".bin") for name, prefix in prefixes.items()}
    indices = {name: prefix.with_suffix(".idx") for name, prefix in prefixes.items()}
    bins["empty_bin"].write_bytes(b"")
    indices["empty_idx"].write_bytes(b"")
    bins["cut_bin"].write_bytes(bins["cut_bin"].read_bytes()[:-100])
    indices["cut_idx"].write_bytes(indices["cut_idx"].read_bytes()[:-8])
    header = bytearray(indices["other_version"].read_bytes())
    header[9] = 7
    indices["other_version"].write_bytes(header)
    indices["no_index"].write_bytes(b"PK" + indices["no_index"].read_bytes()[2:])
    tokens = bytearray(bins["flipped"].read_bytes())
    tokens[1000] ^= 1
    bins["flipped"].write_bytes(tokens)

    datasets = ",".join(f"{{paths:['{prefix}']}}" for prefix in (shard, *prefixes.values()))
    problems = launched(
        f"data.train=[{datasets}]",
        "data.verify=checksum",
        f"tokenizer.path='{tokenizer}'",
        "model.vocab_size=null",
        "parallel=dp2",
        f"output_dir='{tmp_path}'",
    )
    assert has(problems, f"{bins['empty_bin']}: empty: its index expects 4000 bytes")
    assert has(problems, f"{indices['empty_idx']}: must not be empty")
    assert has(problems, f"{bins['cut_bin']}: truncated: its index expects 4000 bytes")
    assert has(problems, f"{indices['cut_idx']}: ", "truncated: 101 sequences and 102 document indices take")
    assert has(problems, f"{indices['other_version']}: must have version 1 (got version 7)")
    assert has(problems, f"{indices['no_index']}: must be a token index")
    assert has(problems, f"{bins['flipped']}: corrupted: its manifest records sha256")
    assert has(problems, f"{prefixes['other_tokenizer']}.manifest.json: ", f"tokenizer.path={tokenizer}")
    assert has(problems, "data.train[10].paths[0]: no such shard", f"Use {prefixes['empty_bin']}")
    assert has(problems, "data.train[9]: is shorter than one window of model.seq_length=32")
    assert len(problems) == len(prefixes), "and the good one is not among them"


def test_tokenizer_checkpoint_and_directory_that_do_not_fit(tmp_path: Path, shard: Path, tokenizer: Path) -> None:
    temporary = begin(tmp_path / "taken", step=3)
    files = {
        "__0_0.distcp": write_durably(temporary / "__0_0.distcp", "tensors"),
        STATE_NAME: write_state(temporary, state_of(3)),
    }
    commit(temporary, step=3, files=files)
    run = (f"data.train=[{{paths:['{shard}']}}]", f"output_dir='{tmp_path}'", "run_name=taken")

    problems = launched(*run, f"tokenizer.path='{tokenizer}'", "resume=never")
    size = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer)).get_piece_size()
    assert has(
        problems, f"model.vocab_size: must be at least {size}, the number of tokens of tokenizer.path={tokenizer}"
    )
    assert has(
        problems, f"resume: would start a new run in {tmp_path}/taken, which already has the checkpoint step_00000003"
    )
    assert len(problems) == 2

    problems = launched(*run)
    assert has(problems, "model.hidden_size: differs from the checkpoint's 16", f"{tmp_path}/taken")
    assert has(problems, "model.num_query_groups: differs from the checkpoint's 4")
    assert has(problems, "model.untie_embeddings_and_output_weights: differs from the checkpoint's False")

    # No access bit forbids it, so only an attempt tells.
    (problem,) = launched(*run[:1], "output_dir=/proc/trireme")
    assert problem.startswith("output_dir: ") and "cannot be written" in problem


def test_a_tokenizer_that_is_none(tmp_path: Path, shard: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_text("not a model")
    (problem,) = launched(f"data.train=[{{paths:['{shard}']}}]", f"tokenizer.path='{file}'")
    assert problem.startswith("tokenizer.path: must be a SentencePiece model")
