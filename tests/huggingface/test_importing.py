"""What an import and an export take and leave: files, data types, names, and refusals that leave nothing behind."""

import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from tests.huggingface.models import SMALL, save_model, transformers
from tests.trireme.tokenizer.test_tokenizer import SENTENCES, train_byte_level, train_sentencepiece
from trainer.checkpoint.companions import read_generation_config
from trainer.checkpoint.pretrained import check_contents
from trainer.checkpoint.trainer_state import read_state
from trainer.config.load import load_config
from trainer.huggingface import native_weights
from trainer.huggingface.config_json import read_config_json
from trainer.huggingface.exporting import export_model
from trainer.huggingface.importing import import_model, open_source
from trainer.huggingface.native_weights import NativeWeights
from trainer.huggingface.record import read_record
from trainer.saved_run import open_saved_run
from trireme.errors import ConfigError
from trireme.tokenizer.model_files import read_chat_template
from trireme.tokenizer.tokenizer import Tokenizer

TEXTS = ["the sea and the hills", "  two  spaces, 漢字 and 🙂\n", "x = {'a': [1, 2]}"]


def edit_config(directory: Path, **changes: Any) -> None:
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**content, **changes}))


def refusals(source: Path, output: Path) -> str:
    with pytest.raises(ConfigError) as found:
        import_model(open_source(source), output, has_gate=False)
    assert not output.exists(), "nothing is left behind"
    return str(found.value)


def test_all_files_and_data_types_come_back(tmp_path: Path) -> None:
    source = save_model("qwen3_moe", tmp_path / "source", dtype=torch.bfloat16, max_shard_size="100KB")
    edit_config(source, vocab_size=131, eos_token_id=[2, 3])
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 3], "temperature": 0.6}')
    # One tensor in another data type, as routers of some models are.
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    name = "model.norm.weight"
    part = load_file(source / index[name])
    part[name] = part[name].float() + 1e-5
    save_file(part, source / index[name], metadata={"format": "pt"})
    result = import_model(open_source(source), tmp_path / "run", has_gate=False)
    record = read_record(result.checkpoint)
    assert record is not None
    assert (record.dtype, record.other_dtypes, record.token_ids["eos_token_id"]) == ("bf16", {name: "fp32"}, [2, 3])
    exported = export_model(
        open_saved_run(tmp_path / "run", verify=True), tmp_path / "out", has_gate=False, max_shard_bytes=200_000
    )
    assert exported.dtype == "bf16"
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["torch_dtype"], written["eos_token_id"]) == ("bfloat16", [2, 3])
    files = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(files.values())) > 1
    assert files.keys() == index.keys()
    for tensor, file in files.items():
        before, after = load_file(source / index[tensor])[tensor], load_file(tmp_path / "out" / file)[tensor]
        assert before.dtype == after.dtype
        assert torch.equal(before, after), tensor


def test_an_export_imports_to_the_same_checkpoint(tmp_path: Path) -> None:
    """import(export(x)) is x, bit for bit, but for padding rows of the vocabulary, which no model uses."""
    import_model(open_source(save_model("gpt2", tmp_path / "source")), tmp_path / "one", has_gate=False)
    export_model(open_saved_run(tmp_path / "one", verify=True), tmp_path / "out", has_gate=False)
    import_model(open_source(tmp_path / "out"), tmp_path / "two", has_gate=False)
    first, second = (open_saved_run(tmp_path / name, verify=True) for name in ("one", "two"))
    assert first.state.model == second.state.model
    shapes = NativeWeights(first.checkpoint).shapes
    assert shapes == NativeWeights(second.checkpoint).shapes
    hashes = [json.loads((run.checkpoint / "manifest.json").read_text())["files"] for run in (first, second)]
    (weights,) = (name for name in hashes[0] if name.endswith(".distcp"))
    assert hashes[0][weights] == hashes[1][weights]


def train_without_prefix(directory: Path, model_type: str) -> Path:
    """A SentencePiece model as `data_tools.prepare` trains them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=400, model_type=model_type,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2, num_threads=1, add_dummy_prefix=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    return directory / "tokenizer.model"


def test_a_tokenizer_that_prefixes_a_space_is_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Llama 2's: transformers converts it itself."""
    sizes = SMALL | {"vocab_size": 400, "num_hidden_layers": 1}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(tmp_path / "source")
    path = train_sentencepiece(tmp_path / "source", "bpe")
    import_model(open_source(tmp_path / "source"), tmp_path / "run", has_gate=False)
    export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "out", has_gate=False)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == path.read_bytes()
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert "exported as tokenizer.model only" in caplog.text


@pytest.mark.parametrize("kind", ["byte-level", "bpe", "unigram"])
def test_the_tokenizer_keeps_its_ids_in_transformers(kind: str, tmp_path: Path) -> None:
    sizes = SMALL | {"vocab_size": 400, "num_hidden_layers": 1}
    source = tmp_path / "source"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(source)
    path = train_byte_level(source) if kind == "byte-level" else train_without_prefix(source, kind)
    (source / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    result = import_model(open_source(source), tmp_path / "run", has_gate=False)
    assert read_chat_template(result.checkpoint) == (source / "chat_template.jinja").read_text()
    export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "out", has_gate=False)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), Tokenizer(path)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    messages = [{"role": "user", "content": "hello"}]
    assert theirs.apply_chat_template(messages, tokenize=False) == "hello"
    if kind != "byte-level":
        assert (tmp_path / "out" / "tokenizer.model").read_bytes() == path.read_bytes(), "for llama.cpp"


def test_published_gpt2_has_no_prefix_and_old_masks(tmp_path: Path) -> None:
    source = save_model("gpt2", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    published = {name.removeprefix("transformer."): value for name, value in weights.items()}
    published["h.0.attn.bias"] = torch.ones(1, 1, 128, 128)
    save_file(published, source / "model.safetensors", metadata={"format": "pt"})
    import_model(open_source(source), tmp_path / "run", has_gate=False)
    export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "out", has_gate=False)
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], weights[name]) for name in weights)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    source = save_model("deepseek_v3", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["model.layers.3.enorm.weight"] = torch.ones(64)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    edit_config(source, num_nextn_predict_layers=1)
    import_model(open_source(source), tmp_path / "run")
    other = save_model("llama2", tmp_path / "llama")
    edit_config(other, num_hidden_layers=2)
    assert "model.layers.2.input_layernorm.weight: is no tensor" in refusals(other, tmp_path / "llama_run")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = save_model("llama3", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    copied = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(copied, source / "model.safetensors", metadata={"format": "pt"})
    import_model(open_source(source), tmp_path / "copied", has_gate=False)
    copied["lm_head.weight"][130, 0] += 1
    save_file(copied, source / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head.weight: differs from the embedding" in refusals(source, tmp_path / "run")
    del weights["model.norm.weight"]
    weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(95, 64)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    said = refusals(source, tmp_path / "run")
    assert "model.norm.weight: is missing; config.json calls for it with shape [64]" in said
    assert "model.layers.0.mlp.up_proj.weight: has shape [95, 64], but config.json calls for [96, 64]" in said


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = save_model("llama2", tmp_path / "source")
    train_byte_level(source)
    assert "has 400 tokens, but the model's embedding has 131 rows" in refusals(source, tmp_path / "run")


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    source = save_model("llama2", tmp_path / "source")
    result = import_model(open_source(source), tmp_path / "run", has_gate=False)
    with pytest.raises(ConfigError, match="OUTPUT_DIR: already has checkpoints"):
        import_model(open_source(source), tmp_path / "run", has_gate=False)
    with pytest.raises(ConfigError, match="OUTPUT_DIR: must be empty"):
        export_model(open_saved_run(tmp_path / "run", verify=True), source, has_gate=False)
    (found,) = check_contents(result.checkpoint)
    assert "holds the weights of an import" in found.message
    assert read_state(result.checkpoint).contents == "weights"


def test_weights_that_a_data_type_cannot_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_model("llama2", tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][3] = 1e6
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    import_model(open_source(source), tmp_path / "run", has_gate=False)
    saved = open_saved_run(tmp_path / "run", verify=True)
    with pytest.raises(ConfigError, match="model.norm.weight: contains values that fp16 cannot hold"):
        export_model(saved, tmp_path / "out", dtype="fp16", has_gate=False)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    shutil.rmtree(tmp_path / "run")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(native_weights, "_check_finite", lambda name, values: None)  # as a training may end
    import_model(open_source(source), tmp_path / "run", has_gate=False)
    with pytest.raises(ConfigError, match="model.norm.weight: contains NaN or infinity"):
        export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "out", has_gate=False)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("llama2", "model.layers.1.mlp.up_proj.weight"), ("gpt2", "transformer.h.1.attn.c_attn.weight")],
)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(name: str, tensor: str, value: float, tmp_path: Path) -> None:
    source = save_model(name, tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights[tensor][3, 4] = value
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    assert refusals(source, tmp_path / "run").startswith(f"{tensor}: contains NaN or infinity. ")


def test_damaged_small_files_are_named(tmp_path: Path) -> None:
    source = save_model("llama2", tmp_path / "source", max_shard_size="100KB")
    index = source / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": content["weight_map"]}))
    assert f"{index}: is damaged: it has no metadata" in refusals(source, tmp_path / "run")
    index.write_text(json.dumps(content))
    (source / "generation_config.json").write_text("[]")
    assert "generation_config.json: must be a JSON object" in refusals(source, tmp_path / "run")


def test_sampling_out_of_range_is_reported_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "source"
    sizes = SMALL | {"vocab_size": 400, "num_hidden_layers": 1}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(source)
    (source / "generation_config.json").write_text('{"temperature": -3, "top_p": "a", "top_k": 50, "eos_token_id": 2}')
    train_byte_level(source)
    result = import_model(open_source(source), tmp_path / "run", has_gate=False)
    assert "generation_config.json: temperature must be at least 0 (got -3), so the default is used." in caplog.text
    assert read_generation_config(result.checkpoint) == {"top_k": 50, "eos_token_id": 2}


@pytest.mark.parametrize("classifier", [None, 0.3])
def test_dropout_is_that_of_the_config(tmp_path: Path, classifier: float | None) -> None:
    """Training drops as transformers' does, and nothing else: the gate passes, and an export says the same."""
    source = save_model("bert_SequenceClassification", tmp_path / "source")
    edit_config(source, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2, classifier_dropout=classifier)
    result = import_model(open_source(source), tmp_path / "run")
    assert result.gate is not None and result.gate["relative_difference"] <= 5e-6
    model = read_state(result.checkpoint).model_config()
    expected = (0.1, 0.2, classifier or 0.1)
    assert (model.hidden_dropout, model.attention_dropout, model.head_dropout) == expected
    export_model(open_saved_run(tmp_path / "run", verify=True), tmp_path / "exported", has_gate=False)
    written = read_config_json(tmp_path / "exported")
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    assert tuple(written[name] for name in names) == expected
    # Runs take it from their start, unless they are told otherwise.
    values = (f"pretrained_checkpoint={tmp_path}/run", "data.train=[{paths:[x]}]", "model.attention_dropout=0")
    config = load_config(values, check=lambda config, doubtful: [])
    assert (config.model.hidden_dropout, config.model.attention_dropout) == (0.1, 0.0)
    edit_config(source, hidden_dropout_prob=1.5)
    with pytest.raises(ConfigError, match="hidden_dropout_prob: must be at least 0 and less than 1"):
        import_model(open_source(source), tmp_path / "other")


def test_dropout_of_modernbert_is_kept_where_it_exists_here_and_the_rest_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def read(name: str, **changes: float) -> tuple[float, float, float]:
        edit_config(source, **changes)
        model = read_state(import_model(open_source(source), tmp_path / name, has_gate=False).checkpoint).model_config()
        return model.hidden_dropout, model.attention_dropout, model.head_dropout

    def warnings() -> str:
        return "\n".join(one.getMessage() for one in caplog.records if one.levelno == logging.WARNING)

    source = save_model("modernbert_mean", tmp_path / "source")
    assert read("none", classifier_dropout=0.3) == (0, 0, 0.3)
    assert "dropout" not in warnings()
    assert read("all", embedding_dropout=0.1, mlp_dropout=0.1, attention_dropout=0.2) == (0.1, 0.2, 0.3)
    assert "runs here drop behind both by hidden_dropout" in warnings()
    export_model(open_saved_run(tmp_path / "all", verify=True), tmp_path / "exported", has_gate=False)
    written = read_config_json(tmp_path / "exported")
    names = ("embedding_dropout", "mlp_dropout", "attention_dropout", "classifier_dropout")
    assert [written[name] for name in names] == [0.1, 0.1, 0.2, 0.3]
    caplog.clear()
    assert read("apart", mlp_dropout=0.0) == (0, 0.2, 0.3)
    assert "config.json: embedding_dropout and mlp_dropout differ" in warnings()


def test_what_transformers_cannot_load_is_a_message(tmp_path: Path) -> None:
    source = save_model("llama2", tmp_path / "source")
    edit_config(source, initializer_range="x")  # has no effect here
    with pytest.raises(ConfigError, match=r"source: cannot be loaded by transformers: .*initializer_range"):
        import_model(open_source(source), tmp_path / "run")
    assert not (tmp_path / "run").exists()
