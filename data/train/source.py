"""Reads the sample of a draw: decodes its byte range, cuts the clip, adds caption and json."""

import logging
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Integer, UInt8
from torch import Tensor

from cascade.grid import Grid
from cascade.media.reason import DecodeError
from cascade.text.encoder import Fetch
from cascade.times import clip_length
from cascade.video import covering, scale_frames
from data.decode.decoder import Decoder
from data.decode.probe import Timing
from data.index.columns import Index
from data.plan.buckets import Draw
from data.plan.clip_shapes import Side
from data.plan.fit import Fit, Fitter
from data.shards.caption import Captions, read_beside
from data.shards.format import Sample
from data.shards.store import read_span
from data.train.clip import Clipper
from data.train.clip_cache import ClipCache
from data.train.rules import ClipRules

log = logging.getLogger(__name__)

_CHUNK_BYTES = 2**27


def cached_bytes(index: Index, rows: Integer[np.ndarray, " n"], fit: Fit, fitter: Fitter) -> float:
    """The size in bytes of a cache of all these rows."""
    covers = np.array([fitter.cover(shape) for shape in fit.shapes], dtype=np.float64)
    cover = covers[fit.shape[rows]]
    height, width = index.column("height")[rows], index.column("width")[rows]
    ratio = np.maximum(cover[:, 0] / height, cover[:, 1] / width)
    frames = np.where(
        index.image[rows], 1.0, np.maximum(index.column("duration")[rows] * fitter.grid.fps, 1.0)
    )
    return float((3 * frames * height * width * ratio**2).sum())


class SampleReader:
    """Makes the sample of a draw.

    Decoded videos are cached if all of `rows` fit into `cache_bytes`. `fetch` returns the stored
    embedding of a caption. With `decord`, decord decodes the videos that were verified for it.
    """

    def __init__(
        self,
        *,
        index: Index,
        rows: Integer[np.ndarray, " n"],
        fit: Fit,
        rules: ClipRules,
        clipper: Clipper,
        captions: Captions,
        seed: int,
        decoder: Decoder,
        cache_bytes: int = 0,
        fetch: Fetch | None = None,
        decord: bool = False,
    ) -> None:
        self.decord = decord
        self.index, self.rules, self.clipper = index, rules, clipper
        self.captions, self.seed, self.decoder, self.fetch = captions, seed, decoder, fetch
        needed = cached_bytes(index, rows, fit, rules.fitter) if cache_bytes else 0
        held = 0 < needed <= cache_bytes and not clipper.varies
        self.cache = ClipCache(rows, cache_bytes) if held else None
        if cache_bytes and not held:
            why = "rates or zooms vary" if clipper.varies else "more than data.loading.cache_bytes"
            log.info("data: %.3g bytes of decoded videos are not cached: %s", needed, why)

    def place(self, row: int) -> tuple[str, str]:
        """The shard and the key of a row."""
        line = self.index.row(row)
        return str(line["shard"]), str(line["key"])

    def __call__(self, draw: Draw, row: int) -> Sample:
        """The sample of a draw, from its own row or a replacement.

        Raises:
            DecodeError: the sample cannot be decoded.
            ValueError: its shard cannot be read.
        """
        line = self.index.row(row)
        try:
            text, state = read_beside(line["shard"], line)
            video, rate, zoom = self._video(row, line, draw)
        except DecodeError:
            raise
        except OSError as error:
            raise ValueError(
                f"data: {line['key']} cannot be read: {error}. The sample may be intact, so it is "
                "not replaced; repair access to the shard and run the same command again to resume"
            ) from error
        except ValueError as error:
            raise DecodeError(f"{line['shard']}: {error}") from error
        caption = self.captions(text, state, line["made"], seed=self.seed, position=draw.position)
        stored = None if self.fetch is None else self.fetch(caption)
        return Sample(
            video=video,
            fps=self.grid.fps * rate,
            zoom=zoom,
            caption=caption,
            text=None if stored is None else torch.from_numpy(stored),
            key=line["key"],
            position=draw.position,
            state=state,
        )

    @property
    def grid(self) -> Grid:
        """The stage's nominal grid."""
        return self.rules.fitter.grid

    def _video(
        self, row: int, line: dict[str, Any], draw: Draw
    ) -> tuple[UInt8[Tensor, "c f h w"], float, float]:
        """The clip, its frame rate as a multiple of the grid's, and its zoom."""
        shape, position = draw.shape, draw.position
        rate, zoom, start = 1.0, 1.0, 0
        clip = self.cache.get(row) if self.cache else None
        if clip is None:
            data = read_span(line["shard"], (line["offset"], line["size"]))
            timing = self.decoder.open(data, decord=self.decord and line["decord"])
            image = timing.kind == "image"
            if not image:
                rate = self._rate(timing, draw)
            cover = self.rules.fitter.cover(shape)
            size: Side = (line["height"], line["width"])
            zoom = self.clipper.zoom(
                lambda z: z * max(cover[0] / size[0], cover[1] / size[1]) <= 1, position
            )
            length = 1 if image else clip_length(timing.duration, self.grid.fps * rate)
            if self.cache is None:
                start = self.clipper.start(length, shape.frames, position)
                length = min(shape.frames, length)
            times = (start + np.arange(length)) / (self.grid.fps * rate)
            clip = self._read(times, size, covering(*size, cover, zoom))
            if self.cache is not None:
                self.cache.put(row, clip)
        if self.cache is not None:
            start = self.clipper.start(clip.shape[1], shape.frames, position)
            clip = clip[:, start : start + shape.frames]
        cut = self.clipper.cut(clip, shape.height, shape.width, position)
        if tuple(cut.shape[1:]) != (shape.frames, shape.height, shape.width):
            raise DecodeError(
                f"has the shape {tuple(cut.shape[1:])}, but by its index it should have {shape}"
            )
        return cut, rate, zoom

    def _rate(self, timing: Timing, draw: Draw) -> float:
        fps = np.array([timing.fps], dtype=np.float32)

        def suits(rate: float) -> bool:
            length = clip_length(timing.duration, self.grid.fps * rate)
            return bool(self.rules.need.suits(rate, fps)[0]) and length >= draw.shape.frames

        return self.clipper.rate(suits, draw.position)

    def _read(
        self, times: Float64[np.ndarray, " f"], size: Side, scaled: Side
    ) -> UInt8[Tensor, "c f h w"]:
        """The frames at these times, scaled; a bounded number of `size` decoded at once."""
        chunk = max(1, _CHUNK_BYTES // (3 * size[0] * size[1]))
        parts = []
        for first in range(0, len(times), chunk):
            decoded = self.decoder.frames(times[first : first + chunk])
            # The decoder reuses its memory in the next call.
            whole = scaled == tuple(decoded.shape[1:3])
            parts.append(scale_frames(decoded.clone() if whole else decoded, scaled))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
