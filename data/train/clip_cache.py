"""Decoded videos in memory that a loader and its worker processes share."""

import fcntl
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from data.decode.shared_memory import SharedFile

_PLACE = np.dtype([("begin", "<i8"), ("ready", "<i8"), ("shape", "<i4", 4)])


class ClipCache:
    """Videos of `rows`, of at most `limit` bytes, each put by the process that decodes it first.

    Processes that are forked after it was made share it, each with one thread; a process to which
    it is sent otherwise has a cache of its own. A process that is killed leaves nothing locked, and
    a video that it did not write to its end does not count.
    """

    def __init__(self, rows: Integer[np.ndarray, " n"], limit: int) -> None:
        self._rows, self._limit = np.unique(rows), limit
        file = SharedFile()
        weakref.finalize(self, file.close)
        self._descriptor = file.descriptor
        header = _PLACE.itemsize * (1 + len(self._rows))
        whole = np.frombuffer(file.view(header + limit), np.uint8)  # memory is taken when written
        # The first place's `begin` is where the next video goes.
        self._places, self._pixels = whole[:header].view(_PLACE), whole[header:]

    def __reduce__(self) -> tuple[Callable[..., "ClipCache"], tuple[object, ...]]:
        """Make another, empty cache where it is sent."""
        return type(self), (self._rows, self._limit)

    def get(self, row: int) -> UInt8[Tensor, "c f h w"] | None:
        """The video of a row, if it is cached."""
        place = self._place(row)
        with self._locked():  # processors may read the pixels before `ready`, but not before a lock
            ready = bool(place["ready"])
        if not ready:
            return None
        shape = place["shape"].tolist()
        begin = int(place["begin"])
        return torch.from_numpy(self._pixels[begin : begin + np.prod(shape)]).view(shape)

    def put(self, row: int, clip: UInt8[Tensor, "c f h w"]) -> None:
        """Add a video, unless another process has begun to, or the cache is full."""
        place, size = self._place(row), clip.numel()
        with self._locked():
            begin = int(self._places[0]["begin"])
            if place["shape"].any() or begin + size > self._limit:
                return
            self._places[0]["begin"] = begin + size
            place["begin"], place["shape"] = begin, clip.shape
        self._pixels[begin : begin + size] = clip.numpy().reshape(-1)
        with self._locked():
            place["ready"] = 1

    def _place(self, row: int) -> Any:
        number = int(np.searchsorted(self._rows, row))
        assert row in self._rows[number : number + 1], f"row {row} is not one of the cache's rows"
        return self._places[1 + number]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
