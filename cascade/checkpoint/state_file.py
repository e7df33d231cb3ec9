"""The state of a run as one file: streamed to disk, its checksum computed while writing."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from cascade.parallel import checkpoint as parts


class _Hashing:
    """A writable file that computes the checksum of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write data; after a failure write nothing, since torch.save cannot be stopped midway."""
        size = memoryview(data).nbytes
        if self.failed is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.failed = error
        self.digest.update(data)
        self.size += size
        return size

    def flush(self) -> None:
        """Do nothing: the file is flushed once, at the end."""


class StateFile(CheckpointIO):
    """Reads and writes a state without unrestricted pickle or a second copy in memory."""

    def __init__(self) -> None:
        #: Size and checksum of the last written file, by its name.
        self.written: dict[str, tuple[int, str]] = {}

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,
    ) -> None:
        """Write a state and sync it to disk.

        Raises:
            TypeError: storage options, of which a local file has none.
        """
        if storage_options is not None:
            raise TypeError(f"StateFile: storage_options must be None, got {storage_options!r}")
        path = Path(path)
        self.written = {}
        with path.open("wb") as raw:
            file = _Hashing(raw)
            torch.save(checkpoint, cast(BinaryIO, file))  # it calls only write and flush
            if file.failed is not None:
                raise file.failed
            raw.flush()
            os.fsync(raw.fileno())
        self.written[path.name] = (file.size, file.digest.hexdigest())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a state, a file or sharded: tensors and plain values, never code.

        Raises:
            ValueError: `weights_only` is False, which would allow code.
        """
        if weights_only is False:
            raise ValueError(
                f"{path}: a state is read without code; weights_only must not be False"
            )
        if parts.is_sharded(Path(path)):
            return parts.load_whole(Path(path))
        state: dict[str, Any] = torch.load(
            path, map_location=map_location or "cpu", weights_only=True
        )
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a state."""
        Path(path).unlink(missing_ok=True)
