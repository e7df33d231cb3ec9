"""The state of a run as one file: streamed to the disk, its checksum taken on the way."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from cascade.parallel import checkpoint as parts


class _Hashing:
    """A file that knows the checksum of what went into it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write on; after a failure nothing more, since torch cannot stop in the midst."""
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
        """All at the end."""


class StateFile(CheckpointIO):
    """Reads and writes a state without free pickle, and without a second copy in memory."""

    def __init__(self) -> None:
        #: Size and checksum of the file last written, by its name.
        self.written: dict[str, tuple[int, str]] = {}

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ARG002 Lightning passes it
    ) -> None:
        """Write a state, and bring it to the disk."""
        path = Path(path)
        self.written = {}
        with path.open("wb") as raw:
            file = _Hashing(raw)
            torch.save(checkpoint, file)  # type: ignore[arg-type]  # it needs write and flush alone
            if file.failed is not None:
                raise file.failed
            raw.flush()
            os.fsync(raw.fileno())
        self.written[path.name] = (file.size, file.digest.hexdigest())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,  # noqa: ARG002 Lightning passes it
        weights_only: bool | None = None,  # noqa: ARG002 it is never otherwise
    ) -> dict[str, Any]:
        """Read a state, of one file or in parts: tensors and plain values, nothing that runs."""
        if parts.is_sharded(Path(path)):
            return parts.load_whole(Path(path))
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a state."""
        Path(path).unlink(missing_ok=True)
