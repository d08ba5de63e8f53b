"""A mixture of experts through the real commands: shared by two processes, saved, gone on with by one."""

from pathlib import Path

from tests.data.shards import write_shard
from tests.train.commands import SMALL, counting_documents, launch
from trainer.metrics.jsonl import read_records

EXPERTS = ("model=quickstart_moe", "model.moe_ffn_hidden_size=24", "parallel.expert_model_parallel_size=2")


def test_a_run_resumes_without_expert_parallelism(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "counting", counting_documents(), with_manifest=True)
    data = (f"data.train=[{{paths:['{shard}']}}]", f"output_dir='{tmp_path}'", "run_name=moe", "training.train_iters=8")
    shared = launch(
        *EXPERTS, *SMALL, *data, "engine=megatron", "parallel.data_parallel_size=2", "training.stop_after_step=5"
    )
    assert shared.returncode == 0, shared.stderr
    assert "expert load up to" in shared.stdout
    alone = launch(*EXPERTS, *SMALL, *data, "parallel.expert_model_parallel_size=1")
    assert alone.returncode == 0, alone.stderr
    records = read_records(tmp_path / "moe" / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 9))
    assert records[-1]["loss"] < records[0]["loss"]
    for record in records:
        assert [layer["layer"] for layer in record["moe_layers"]] == [1, 2, 3, 4]
        assert all(abs(sum(layer["expert_load"]) - 1) < 1e-9 for layer in record["moe_layers"])
        assert record["moe_max_load_ratio"] == max(layer["max_load_ratio"] for layer in record["moe_layers"])
        assert record["moe_load_balancing_loss"] > 0.9 and record["moe_z_loss"] > 0
