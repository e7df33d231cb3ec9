"""A sharded checkpoint's metadata runs no code, and leads to no file outside its folder."""

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
    """A checkpoint written by one process: its metadata and its folder."""
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


def test_the_metadata_runs_nothing(saved, tmp_path):
    found, folder = saved
    found.planner_data = Command(tmp_path / "done")
    rewritten(folder, found)
    with pytest.raises(DamagedError, match=r"refers to posix\.system"):
        read_metadata(folder)
    with pytest.raises(DamagedError, match=r"refers to posix\.system"):
        checkpoint.load_whole(folder)
    assert not (tmp_path / "done").exists()


def test_the_state_runs_nothing(saved, tmp_path):
    _, folder = saved
    shutil.rmtree(folder)
    checkpoint.save({"step": Command(tmp_path / "done")}, folder, lead=True)
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_whole(folder)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relative_path": "../elsewhere"}, "must be in a file of this folder"),
        ({"relative_path": "/etc/passwd"}, "must be in a file of this folder"),
        ({"length": 10**12}, "ends at byte"),
        ({"offset": -1}, "ends at byte"),
        ({"transform_descriptors": ("zstd",)}, "must not be compressed"),
    ],
)
def test_it_names_no_file_outside_its_folder(saved, change, message):
    found, folder = saved
    [(index, place)] = found.storage_data.items()
    found.storage_data = {index: dataclasses.replace(place, **change)}
    rewritten(folder, found)
    with pytest.raises(DamagedError, match=message):
        checkpoint.load_whole(folder)


def test_it_describes_no_more_data_than_the_files_have(saved):
    found, folder = saved
    found.state_dict_metadata["rest"].size = torch.Size([10**15])
    rewritten(folder, found)
    with pytest.raises(DamagedError, match="exceeds the"):
        checkpoint.load_whole(folder)


def test_an_entry_that_is_not_a_tensor_is_refused(saved):
    found, folder = saved
    found.state_dict_metadata["more"] = contents.BytesStorageMetadata()
    found.storage_data[contents.MetadataIndex("more")] = files._StorageInfo("__0_0.distcp", 0, 1)
    rewritten(folder, found)
    with pytest.raises(DamagedError, match="BytesStorageMetadata"):
        read_metadata(folder)


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", pickle.dumps([1])])
def test_a_file_that_is_not_metadata_is_refused(saved, data):
    _, folder = saved
    (folder / METADATA).write_bytes(data)
    with pytest.raises(DamagedError, match=str(folder)):
        read_metadata(folder)
