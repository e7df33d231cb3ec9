"""Frames of stages on disk, as they are made: a stopped request continues from them.

One file per stage and video: float32 frames (3, height, width) one after another, without a header.
A file's name has the hash of everything that its frames depend on, so a request with other settings
of a later stage reads the frames of the earlier ones.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cascade.grid import Grid


class StageFrames:
    """The files of one batch of videos.

    Args:
        folder: where they are.
        grids: each stage's grid, by name, in order.
        depends: per stage, what its frames depend on besides the stages before it.
        videos: per video, what its frames depend on: its seed and number.
    """

    def __init__(
        self,
        folder: Path,
        *,
        grids: Mapping[str, Grid],
        depends: Sequence[Any],
        videos: Sequence[Any],
    ) -> None:
        self._folder, self._grids = folder, dict(grids)
        self._files: dict[str, list[Path]] = {}
        before: list[Any] = []
        for (name, grid), own in zip(grids.items(), depends, strict=True):
            before.append([name, str(grid), own])
            self._files[name] = [
                folder / f"{name}-{_hash([before, video])}.f32" for video in videos
            ]
        folder.mkdir(parents=True, exist_ok=True)
        for name, files in self._files.items():
            for file in files:
                self._cut(name, file)

    def done(self) -> dict[str, Float[Tensor, "b 3 f h w"]]:
        """The frames of each stage that all videos have; those of one video stay on the disk."""
        found = {}
        for name, files in self._files.items():
            frames = min(self._count(name, file) for file in files)
            if frames:
                each = [self._mapped(name, file, frames) for file in files]
                found[name] = each[0] if len(each) == 1 else torch.cat(each)
        return found

    def append(self, name: str, first: int, frames: Float[Tensor, "b 3 f h w"]) -> None:
        """Write frames of a stage, from frame `first` on; those that a file has are skipped.

        Another process may write the same frames. If one has removed the earlier frames, those that
        follow are not written.

        Raises:
            ValueError: a file cannot be written, such as on a full disk.
        """
        for file, video in zip(self._files[name], frames, strict=True):
            with _explained(file), file.open("ab") as out:
                fcntl.flock(out, fcntl.LOCK_EX)
                has = self._count(name, file)
                new = video[:, has - first :] if has >= first else video[:, :0]
                if new.shape[1]:
                    out.write(new.transpose(0, 1).float().contiguous().numpy().tobytes())

    def remove(self, name: str) -> None:
        """Remove the files of a stage."""
        for file in self._files[name]:
            file.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        files = [file for files in self._files.values() for file in files]
        return sum(file.stat().st_size for file in files if file.exists())

    @property
    def left(self) -> int:
        """The bytes that the frames still take until all of them are made."""
        whole = sum(self._frame_bytes(name) * grid.frames for name, grid in self._grids.items())
        return whole * len(next(iter(self._files.values()))) - self.size

    def _frame_bytes(self, name: str) -> int:
        _, height, width = self._grids[name].shape
        return math.prod((3, height, width)) * 4

    def _count(self, name: str, file: Path) -> int:
        return file.stat().st_size // self._frame_bytes(name) if file.exists() else 0

    def _cut(self, name: str, file: Path) -> None:
        """Remove a frame that was half written when its process was killed."""
        if file.exists() and file.stat().st_size % self._frame_bytes(name):
            with file.open("ab") as out:
                fcntl.flock(out, fcntl.LOCK_EX)  # another process may be writing it
                os.truncate(file, self._count(name, file) * self._frame_bytes(name))

    def _mapped(self, name: str, file: Path, frames: int) -> Float[Tensor, "1 3 f h w"]:
        _, height, width = self._grids[name].shape
        shape = (frames, 3, height, width)
        values = np.memmap(file, dtype=np.float32, mode="c", shape=shape)
        return torch.from_numpy(values).transpose(0, 1)[None]


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{file}: frames of a stage cannot be written ({error.strerror}); free space: the same "
            "command continues from the frames that are there"
        ) from error


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
