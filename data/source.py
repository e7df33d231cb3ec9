"""Rows of the index to samples: a byte range, decoded, cut to a clip, with caption and state."""

import logging
from collections import OrderedDict

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from data.caption import Captions
from data.clip import Clipper, clip_bytes
from data.decode import DEADLINE_S, decode
from data.probe import MAX_PIXELS, DecodeError, Header, read_header
from data.sample import Sample, read_state
from data.select import Index, clip_length
from data.store import read_span

log = logging.getLogger(__name__)

_CHUNK_BYTES = 2**27


class ClipCache:
    """Videos at a stage's scale and frame rate, kept until they pass `limit` bytes: oldest out."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._clips: OrderedDict[int, UInt8[Tensor, "c f h w"]] = OrderedDict()

    def get(self, row: int) -> UInt8[Tensor, "c f h w"] | None:
        """The video of a row, if it is held."""
        if row in self._clips:
            self._clips.move_to_end(row)
        return self._clips.get(row)

    def put(self, row: int, clip: UInt8[Tensor, "c f h w"]) -> None:
        """Hold a video."""
        self._clips[row] = clip
        self.held += clip_bytes(clip)
        while self.held > self.limit and self._clips:
            self.held -= clip_bytes(self._clips.popitem(last=False)[1])


def cached_bytes(index: Index, rows: Int64[np.ndarray, " n"], clipper: Clipper) -> float:
    """Bytes that a cache of all these rows would hold."""
    grid = clipper.grid
    height, width = index.column("height")[rows], index.column("width")[rows]
    scale = np.maximum(grid.height / height, grid.width / width)
    frames = np.maximum(index.column("duration")[rows] * grid.fps, 1.0)
    return float((3 * frames * height * width * scale**2).sum())


class Source:
    """Makes the sample of a row at a position.

    Videos are kept decoded where all of `rows` fit into `cache_bytes`.
    """

    def __init__(
        self,
        *,
        index: Index,
        rows: Int64[np.ndarray, " n"],
        clipper: Clipper,
        captions: Captions,
        seed: int,
        cache_bytes: int = 0,
        deadline_s: float = DEADLINE_S,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.index = index
        self.clipper = clipper
        self.captions = captions
        self.seed = seed
        self.deadline_s = deadline_s
        self.max_pixels = max_pixels
        needed = cached_bytes(index, rows, clipper) if cache_bytes else 0
        self.cache = ClipCache(cache_bytes) if 0 < needed <= cache_bytes else None
        if needed > cache_bytes:
            log.info("data: %.3g bytes of decoded videos are more than cache_bytes", needed)

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self.index.table["key"][row].as_py())

    def __call__(self, row: int, position: int) -> Sample:
        """The sample.

        Raises:
            DecodeError: it does not decode, or its shard has changed under the index.
        """
        line = self.index.row(row)
        shard = self.index.shards[line["shard"]]
        state, text = {}, ""
        try:
            if line["state_offset"] >= 0:
                state = read_state(read_span(shard, (line["state_offset"], line["state_size"])))
            if line["caption_offset"] >= 0:
                span = (line["caption_offset"], line["caption_size"])
                text = read_span(shard, span).decode()
            video = self._video(row, line["offset"], line["size"], line["shard"], position)
        except DecodeError:
            raise
        except (OSError, ValueError) as error:
            raise DecodeError(f"{shard}: {error}") from error
        return Sample(
            video=video,
            fps=self.clipper.grid.fps,
            caption=self.captions(text, state, seed=self.seed, position=position),
            key=line["key"],
            position=position,
            state=state,
        )

    def _video(
        self, row: int, offset: int, size: int, shard: int, position: int
    ) -> UInt8[Tensor, "c f h w"]:
        held = self.cache.get(row) if self.cache else None
        if held is not None:
            start = self.clipper.start(held.shape[1], position)
            return self.clipper.cut(held[:, start : start + self.clipper.crop[0]], position)
        data = read_span(self.index.shards[shard], (offset, size))
        header = read_header(data, max_pixels=self.max_pixels)
        fps = self.clipper.grid.fps
        length = 1 if header.kind == "image" else clip_length(header.duration, fps)
        start = self.clipper.start(length, position)
        frames = min(self.clipper.crop[0], length)
        if self.cache is None:
            return self.clipper.cut(self._read(data, header, start, frames), position)
        whole = self._read(data, header, 0, length)
        self.cache.put(row, whole)
        return self.clipper.cut(whole[:, start : start + frames], position)

    def _read(
        self, data: bytes, header: Header, start: int, frames: int
    ) -> UInt8[Tensor, "c f h w"]:
        """Frames at the grid's rate and scale, a bounded number decoded at once."""
        chunk = max(1, _CHUNK_BYTES // (3 * header.width * header.height))
        times = self.clipper.times(start, frames)
        parts = [
            self.clipper.scale(
                decode(data, header, times[i : i + chunk], deadline_s=self.deadline_s)
            )
            for i in range(0, frames, chunk)
        ]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
