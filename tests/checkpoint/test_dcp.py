"""Files are hashed as they are written, and reading them runs nothing."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from trainer.checkpoint.collective import Ranks
from trainer.checkpoint.dcp import METADATA_NAME, SafeReader
from trainer.checkpoint.pieces import ShardedTensorView
from trainer.checkpoint.save import write_pieces


class _Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("is_hidden", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, is_hidden: bool) -> None:
    marker = tmp_path / "harmed"
    harmful = _Harmful(marker)
    content = Metadata(state_dict_metadata={}, planner_data=harmful) if is_hidden else harmful
    (tmp_path / METADATA_NAME).write_bytes(pickle.dumps(content))
    with pytest.raises(pickle.UnpicklingError, match=r"names posix\.mkdir"):
        SafeReader(tmp_path).read_metadata()
    assert not marker.exists()


@pytest.mark.parametrize("name", ["load", "hub.load", "serialization.load", "os.system"])
def test_functions_of_torch_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / METADATA_NAME).write_bytes(f"ctorch\n{name}\n.".encode())
    with pytest.raises(pickle.UnpicklingError, match="not allowed in metadata"):
        SafeReader(tmp_path).read_metadata()


def test_what_is_not_metadata_is_refused(tmp_path: Path) -> None:
    (tmp_path / METADATA_NAME).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(pickle.UnpicklingError, match="holds dict"):
        SafeReader(tmp_path).read_metadata()


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16])
def test_records_are_those_of_the_files(tmp_path: Path, dtype: torch.dtype) -> None:
    pieces = ShardedTensorView((6, 4), dtype=dtype)
    values = torch.arange(24).to(dtype).view(6, 4)
    pieces.add((0, 0), values[:2])
    pieces.add((2, 0), values[2:])
    records = write_pieces(tmp_path, {"key": pieces}, ranks=Ranks(is_alone=True))
    assert set(records) == {METADATA_NAME, "__0_0.distcp"} == {path.name for path in tmp_path.iterdir()}
    for name, record in records.items():
        data = (tmp_path / name).read_bytes()
        assert record.num_bytes == len(data)
        assert record.sha256 == hashlib.sha256(data).hexdigest()
    metadata = SafeReader(tmp_path).read_metadata()
    assert metadata.state_dict_metadata["key"].properties.dtype == dtype
    assert str(tmp_path) not in str(metadata), "a checkpoint may be moved"
