"""A sharded checkpoint's table of contents is data: it runs nothing, and leads nowhere else."""

import dataclasses
import os
import pickle
import shutil

import pytest
import torch
from torch.distributed.checkpoint import filesystem as files
from torch.distributed.checkpoint import metadata as contents

from cascade.parallel import checkpoint
from cascade.parallel.metadata import METADATA, DamagedError, read_metadata


class Command:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint that one process wrote, as its table of contents and its folder."""
    folder = tmp_path / "saved"
    checkpoint.save({"weights": {"a": torch.arange(6.0)}, "step": 3}, folder, lead=True)
    return read_metadata(folder), folder


def rewritten(folder, found) -> None:
    (folder / METADATA).write_bytes(pickle.dumps(found))


def test_one_process_reads_what_it_wrote(saved):
    _, folder = saved
    tree = checkpoint.load_whole(folder)
    assert tree["step"] == 3
    assert torch.equal(tree["weights"]["a"], torch.arange(6.0))
    assert str(folder).encode() not in (folder / METADATA).read_bytes()


def test_it_runs_nothing(saved, tmp_path):
    found, folder = saved
    found.planner_data = Command(tmp_path / "done")
    rewritten(folder, found)
    with pytest.raises(DamagedError, match=r"asks for posix\.system"):
        read_metadata(folder)
    with pytest.raises(DamagedError, match=r"asks for posix\.system"):
        checkpoint.load_whole(folder)
    assert not (tmp_path / "done").exists()


def test_nor_does_the_state_itself(saved, tmp_path):
    _, folder = saved
    shutil.rmtree(folder)
    checkpoint.save({"step": Command(tmp_path / "done")}, folder, lead=True)
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_whole(folder)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relative_path": "../elsewhere"}, "which is no file beside it"),
        ({"relative_path": "/etc/passwd"}, "which is no file beside it"),
        ({"length": 10**12}, "ends at byte"),
        ({"offset": -1}, "ends at byte"),
        ({"transform_descriptors": ("zstd",)}, "is packed by"),
    ],
)
def test_it_leads_nowhere_else(saved, change, message):
    found, folder = saved
    [(index, place)] = found.storage_data.items()
    found.storage_data = {index: dataclasses.replace(place, **change)}
    rewritten(folder, found)
    with pytest.raises(DamagedError, match=message):
        checkpoint.load_whole(folder)


def test_it_asks_for_no_more_memory_than_there_is_on_disk(saved):
    found, folder = saved
    found.state_dict_metadata["rest"].size = torch.Size([10**15])
    rewritten(folder, found)
    with pytest.raises(DamagedError, match="is more than all"):
        checkpoint.load_whole(folder)


def test_what_is_no_tensor_is_refused(saved):
    found, folder = saved
    found.state_dict_metadata["more"] = contents.BytesStorageMetadata()
    found.storage_data[contents.MetadataIndex("more")] = files._StorageInfo("__0_0.distcp", 0, 1)
    rewritten(folder, found)
    with pytest.raises(DamagedError, match="BytesStorageMetadata"):
        read_metadata(folder)


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", pickle.dumps([1])])
def test_what_is_no_table_of_contents_is_refused(saved, data):
    _, folder = saved
    (folder / METADATA).write_bytes(data)
    with pytest.raises(DamagedError, match=str(folder)):
        read_metadata(folder)
