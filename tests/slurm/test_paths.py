"""Directories whose names mean something to shells, sbatch or Hydra: jobs of a real cluster read and write them."""

from pathlib import Path

import pytest

from data_tools.executors.run_share import Stage
from tests.data.shards import write_shard
from tests.data_tools.sample_inputs import hash_files, make_text, run_prepare, write_jsonl
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import DEADLINE, Runs, launch
from tests.slurm.test_data_prep_array import submit_chain
from tests.train.commands import counting_documents, losses_of
from trireme.config.override_line import quote_text

pytestmark = [pytest.mark.slurm, pytest.mark.long]

NAME = """größe '"#&!()[]{}=,; $HOME `x` %j @ 数据"""


@pytest.fixture
def hard_runs(tmp_path: Path) -> Runs:
    """Runs of a directory with such a name."""
    (tmp_path / NAME).mkdir()
    shard = write_shard(tmp_path / NAME / "counting", counting_documents(), with_manifest=True)
    return Runs(output=tmp_path / NAME / "runs", shard=shard)


def test_a_run_of_two_nodes(cluster: SlurmCluster, hard_runs: Runs) -> None:
    job = hard_runs.submit(cluster, "first", "training.train_iters=5", "checkpoint.save_interval=2")
    cluster.wait_for(job, "COMPLETED", seconds=DEADLINE)
    assert list(losses_of(hard_runs.directory("first"))) == [1, 2, 3, 4, 5]
    assert "done" in hard_runs.printed("first"), "what it printed is where status and logs look for it"
    these = ("run_name=first", f"output_dir={quote_text(str(hard_runs.output))}")
    assert f"job        {job} COMPLETED" in launch(cluster, *these, "action=status").stdout
    again = launch(cluster, *hard_runs.overrides("again", "-m", "training.seed=1,2", "training.train_iters=3"))
    assert again.returncode == 0, again.stderr
    cluster.wait_for(str(int(job) + 1), "COMPLETED", seconds=DEADLINE)
    assert all(list(losses_of(hard_runs.directory(f"again_seed_{seed}"))) == [1, 2, 3] for seed in (1, 2))


def test_a_data_preparation(cluster: SlurmCluster, tmp_path: Path) -> None:
    place = tmp_path / NAME
    place.mkdir()
    file = write_jsonl(place / "records.jsonl", ({"text": make_text(seed)} for seed in range(30)))
    overrides = (
        f"data_prep.sources=[{{name:notes,kind:jsonl,paths:[{quote_text(str(file))}]}}]",
        "data_prep.tokenizer.vocab_size=512",
        "data_prep.tokenizer.num_threads=1",
        "data_prep.num_workers=1",
    )
    local = run_prepare(*overrides, f"data_prep.output_dir={quote_text(str(place / 'local'))}")
    assert local.returncode == 0, local.stderr
    chain = submit_chain(cluster, *overrides, f"data_prep.output_dir={quote_text(str(place / 'jobs'))}")
    cluster.wait_for(chain.jobs[Stage.ASSEMBLE.value][0], "COMPLETED", seconds=240)
    assert hash_files(place / "jobs") == hash_files(place / "local")
