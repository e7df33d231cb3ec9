"""The metadata of a sharded checkpoint, read as untrusted input.

torch writes it as a pickle (`.metadata`), and would load it without restrictions. Here only the few
plain classes that it consists of are allowed, and its content is checked against the files.
"""

import io
import pickle
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem as files
from torch.distributed.checkpoint import metadata as contents

METADATA = ".metadata"
_PARTS = (
    *(contents.Metadata, contents.MetadataIndex, contents.StorageMeta),
    *(contents.TensorStorageMetadata, contents.ChunkStorageMetadata, contents.TensorProperties),
    *(contents._MEM_FORMAT_ENCODING, files._StorageInfo),
)
_CLASSES: dict[tuple[str, str], Any] = {
    **{(part.__module__, part.__qualname__): part for part in _PARTS},
    **{
        ("torch", str(t).partition(".")[2]): t
        for t in vars(torch).values()
        if isinstance(t, torch.dtype)
    },
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): {"torch.strided": torch.strided}.__getitem__,
}


class DamagedError(ValueError):
    """A sharded checkpoint is incomplete, inconsistent or malicious."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _CLASSES[module, name]
        except KeyError:
            raise DamagedError(
                f"it may only refer to torch's metadata classes, but refers to {module}.{name}"
            ) from None


def read_metadata(folder: Path) -> contents.Metadata:
    """The entries of the checkpoint in `folder`, by name, and their places in its files.

    Raises:
        DamagedError: it is missing, is not a checkpoint's metadata, refers to other classes, leads
            out of the folder, or describes more data than the files have.
    """
    path = Path(folder) / METADATA
    try:
        found = _Unpickler(io.BytesIO(path.read_bytes())).load()
        _check(found, Path(folder))
    except DamagedError as error:
        raise DamagedError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error
    assert isinstance(found, contents.Metadata)
    return found


def _check(found: Any, folder: Path) -> None:
    if not isinstance(found, contents.Metadata):
        raise DamagedError(f"it must hold a Metadata, holds a {type(found).__name__}")
    sizes: dict[str, int] = {}
    for index, place in found.storage_data.items():
        name = place.relative_path
        if type(name) is not str or PurePath(name).name != name:
            raise DamagedError(f"{index.fqn} must be in a file of this folder, but is in {name!r}")
        if place.transform_descriptors:
            raise DamagedError(
                f"{index.fqn} must not be compressed, but has {place.transform_descriptors}"
            )
        if name not in sizes:
            sizes[name] = (folder / name).stat().st_size
        if place.offset < 0 or place.length < 0 or place.offset + place.length > sizes[name]:
            raise DamagedError(
                f"{index.fqn} ends at byte {place.offset + place.length} of {name}, which has "
                f"{sizes[name]} bytes"
            )
    total = sum(sizes.values())
    for name, one in found.state_dict_metadata.items():
        if not isinstance(one, contents.TensorStorageMetadata):
            raise DamagedError(f"{name} must be a tensor, is a {type(one).__name__}")
        if one.size.numel() * one.properties.dtype.itemsize > total:
            raise DamagedError(
                f"{name} of shape {tuple(one.size)} exceeds the {total} bytes of all files"
            )


class Writer(files.FileSystemWriter):
    """torch's writer of a sharded checkpoint, which stores no path of this machine."""

    def storage_meta(self) -> contents.StorageMeta:
        """The id of this save, and nothing else."""
        return contents.StorageMeta(save_id=self.save_id)


class Reader(files.FileSystemReader):
    """torch's reader of a sharded checkpoint, with metadata checked by this module."""

    def read_metadata(self, *_: Any, **__: Any) -> contents.Metadata:
        """The checked metadata; see `read_metadata`."""
        found = read_metadata(Path(self.path))
        found.storage_meta = contents.StorageMeta(load_id=self.load_id)
        return found
