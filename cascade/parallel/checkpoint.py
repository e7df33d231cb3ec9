"""A sharded checkpoint: every rank writes its shards; any number of ranks can read it.

It is a folder in the format of `torch.distributed.checkpoint`. Each sharded tensor is an entry,
named by its path in the tree; the rest of the tree is one more entry, as bytes of `torch.save`.
Nothing in it is read with an unrestricted pickle.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as read
from torch.distributed.checkpoint.state_dict_saver import save as write
from torch.distributed.tensor import DTensor

from cascade.parallel.metadata import METADATA, DamagedError, Reader, Writer, read_metadata

REST, ENTRY = "rest", "entry of the sharded checkpoint"
Place = Callable[[torch.Size, torch.dtype], Tensor]


def is_sharded(path: Path) -> bool:
    """Whether the path is a sharded checkpoint."""
    return (Path(path) / METADATA).is_file()


def split(tree: Any, *where: str) -> tuple[Any, dict[str, DTensor]]:
    """The tree with a name in place of each sharded tensor; and these tensors by name."""
    if isinstance(tree, DTensor):
        name = "/".join(where)
        return {ENTRY: name}, {name: tree}
    if isinstance(tree, dict):
        pairs: Any = tree.items()
    elif isinstance(tree, list):
        pairs = enumerate(tree)
    else:
        return tree, {}
    parts = {key: split(value, *where, str(key)) for key, value in pairs}
    found = {name: tensor for _, inner in parts.values() for name, tensor in inner.items()}
    if not found:
        return tree, {}
    values = {key: value for key, (value, _) in parts.items()}
    return (values if isinstance(tree, dict) else list(values.values())), found


def join(tree: Any, entries: dict[str, Tensor]) -> Any:
    """The tree with its tensors back in place."""
    if isinstance(tree, dict):
        if tree.keys() == {ENTRY}:
            return entries[tree[ENTRY]]
        return {key: join(value, entries) for key, value in tree.items()}
    if isinstance(tree, list):
        return [join(value, entries) for value in tree]
    return tree


def names_in(tree: Any) -> Iterator[str]:
    """The names that `split` put in a tree."""
    if isinstance(tree, dict):
        if tree.keys() == {ENTRY}:
            yield tree[ENTRY]
            return
        tree = list(tree.values())
    if isinstance(tree, list):
        for value in tree:
            yield from names_in(value)


def save(tree: dict[str, Any], folder: Path, *, lead: bool) -> None:
    """Write a tree into `folder`: every rank writes its shards, the rank with `lead` the rest.

    Raises:
        OSError: on every rank, if any rank could not write.
    """
    rest, entries = split(tree)
    content: dict[str, Tensor] = {**entries}
    if lead:
        buffer = io.BytesIO()
        torch.save(rest, buffer)
        content[REST] = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with _quiet():
            write(content, storage_writer=Writer(folder), planner=planner)
    except CheckpointException as error:
        raise _cause(error, folder) from error


def load_whole(folder: Path) -> dict[str, Any]:
    """The saved tree with full tensors: for one process, or ranks that each have all weights."""
    return load(folder, lambda size, dtype: torch.empty(size, dtype=dtype))


def load(folder: Path, place: Place) -> dict[str, Any]:
    """The saved tree; `place` makes the tensor that an entry is read into.

    Raises:
        DamagedError: the folder is incomplete or inconsistent.
    """
    folder = Path(folder)
    known = read_metadata(folder).state_dict_metadata
    if REST not in known:
        raise DamagedError(
            f"{folder}: must have the entry {REST!r} with the training state, has only "
            f"{sorted(known)[:3]}"
        )
    rest = _tensors(folder, {REST: torch.empty(_size(known[REST])[0], dtype=torch.uint8)})[REST]
    tree = torch.load(io.BytesIO(rest.numpy().data), map_location="cpu", weights_only=True)
    names = list(names_in(tree))
    lost = sorted(set(names) ^ (known.keys() - {REST}))
    if lost:
        raise DamagedError(
            f"{folder}: {METADATA} and the training state must name the same tensors, but "
            f"differ in {lost[:3]}"
        )
    joined = join(tree, _tensors(folder, {name: place(*_size(known[name])) for name in names}))
    assert isinstance(joined, dict)
    return joined


def _size(entry: Any) -> tuple[torch.Size, torch.dtype]:
    assert isinstance(entry, TensorStorageMetadata)
    return entry.size, entry.properties.dtype


def _tensors(folder: Path, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    alone = not torch.distributed.is_initialized()
    try:
        with _quiet():
            read(targets, storage_reader=Reader(folder), planner=planner, no_dist=alone)
    except CheckpointException as error:
        raise _cause(error, folder) from error
    return targets


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the warning about reading with a single process, which is intended, is ignored."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _cause(error: CheckpointException, folder: Path) -> Exception:
    """The error of the first rank that failed: an OS error, or a damaged checkpoint."""
    rank, (first, _) = min(error.failures.items())
    if isinstance(first, OSError):
        return OSError(first.errno, f"rank {rank}: {first.strerror}", str(folder))
    return DamagedError(f"{folder}: rank {rank}: {type(first).__name__}: {first}")
