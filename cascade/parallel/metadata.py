"""The table of contents of a sharded checkpoint, read without trusting it.

torch writes it as a pickle (`.metadata`), and would load it as any pickle. Here it may name the
few plain classes that it is made of; what it says is then held against the files beside it.
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
    """A sharded checkpoint that does not hold what it must."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _CLASSES[module, name]
        except KeyError:
            raise DamagedError(f"it asks for {module}.{name}, which no checkpoint needs") from None


def read_metadata(folder: Path) -> contents.Metadata:
    """What the checkpoint in `folder` holds, by name, and where in its files.

    Raises:
        DamagedError: it is missing, is no table of contents, asks for anything but that, leads out
            of the folder, or tells of more than the files hold.
    """
    path = Path(folder) / METADATA
    try:
        found = _Unpickler(io.BytesIO(path.read_bytes())).load()
        _check(found, Path(folder))
    except DamagedError as error:
        raise DamagedError(f"{path}: {error}") from error
    except Exception as error:  # whatever a damaged pickle gives
        raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error
    assert isinstance(found, contents.Metadata)
    return found


def _check(found: Any, folder: Path) -> None:
    if not isinstance(found, contents.Metadata):
        raise DamagedError(f"it holds a {type(found).__name__}")
    sizes: dict[str, int] = {}
    for index, place in found.storage_data.items():
        name = place.relative_path
        if type(name) is not str or PurePath(name).name != name:
            raise DamagedError(f"{index.fqn} lies in {name!r}, which is no file beside it")
        if place.transform_descriptors:
            raise DamagedError(f"{index.fqn} is packed by {place.transform_descriptors}")
        if name not in sizes:
            sizes[name] = (folder / name).stat().st_size
        if place.offset < 0 or place.length < 0 or place.offset + place.length > sizes[name]:
            raise DamagedError(
                f"{index.fqn} ends at byte {place.offset + place.length} of {name}, which has "
                f"{sizes[name]}"
            )
    total = sum(sizes.values())
    for name, one in found.state_dict_metadata.items():
        if not isinstance(one, contents.TensorStorageMetadata):
            raise DamagedError(f"{name} is no tensor")
        if one.size.numel() * one.properties.dtype.itemsize > total:
            raise DamagedError(f"{name} of {tuple(one.size)} is more than all {total} bytes there")


class Writer(files.FileSystemWriter):
    """torch's writer of a sharded checkpoint, which tells of no path of this machine."""

    def storage_meta(self) -> contents.StorageMeta:
        """Nothing but the number of this save."""
        return contents.StorageMeta(save_id=self.save_id)


class Reader(files.FileSystemReader):
    """torch's reader of a sharded checkpoint, with this module's table of contents."""

    def read_metadata(self, *_: Any, **__: Any) -> contents.Metadata:
        """Checked; see `read_metadata`."""
        found = read_metadata(Path(self.path))
        found.storage_meta = contents.StorageMeta(load_id=self.load_id)
        return found
