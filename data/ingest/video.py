"""From a video to its clips: a first pass to select them, a second pass to encode them."""

from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from data.ingest.cut import Window, above, cut_windows, judge
from data.ingest.encode import Encoder, frame_rate
from data.ingest.frame_measures import perceptual_hash, text_share
from data.ingest.frame_reader import Reel, frames, opened, picture, reel_of, shrunk, whole_file
from data.ingest.keep_bytes import reason_to_encode
from data.ingest.part import Record, SourcePart, thumbnail
from data.ingest.recipe import Recipe
from data.ingest.shots import survey

_THUMBNAILS = 4
_HASH_SIDE = 256


def make_video(file: str, out: SourcePart, recipe: Recipe, *, thumbnails: bool) -> Record:
    """Add the clips of a video to `out`; return its record.

    Raises:
        DecodeError: it cannot be decoded, with the reason.
    """
    found = survey(file, recipe)
    reel = found.reel
    windows = cut_windows(reel.times, reel.end, found.cuts, recipe.windows)
    for window in windows:
        judge(window, found, recipe.filters)
    changed = reason_to_encode(file, reel, windows, recipe)
    rate = frame_rate(reel.times, reel.end, recipe.encoding.max_fps)
    shown = _sampled(windows) if thumbnails else []
    rows = [_row(window, reel) for window in windows]
    wanted = [window for window in windows if not window.reason or window.number in shown]
    clips = (
        _Clip(window, reel, recipe, rate, reencode=bool(changed), shown=window.number in shown)
        for window in wanted
    )
    if wanted:
        _second_pass(file, out, clips, rows)
    return {
        "kind": "video",
        "codec": reel.codec,
        "width": reel.width,
        "height": reel.height,
        "fps": float(rate),
        "duration": round(reel.end, 4),
        "reencoded": changed,
        "windows": rows,
    }


def _sampled(windows: list[Window]) -> list[int]:
    """The windows with thumbnails: the first few kept ones and the first few dropped ones.

    Text is searched later, so a clip dropped for it has a thumbnail in any case.
    """
    kept = [window.number for window in windows if not window.reason]
    dropped = [window.number for window in windows if window.reason and window.last > window.first]
    return kept[:_THUMBNAILS] + dropped[:_THUMBNAILS]


def _row(window: Window, reel: Reel) -> Record:
    return {
        "window": window.number,
        "start": round(window.start, 4),
        "end": round(window.end, 4),
        "reason": window.reason,
        "width": reel.width,
        "height": reel.height,
        "scores": window.scores,
    }


def _second_pass(file: str, out: SourcePart, clips: Iterable["_Clip"], rows: list[Record]) -> None:
    """Encode and hash the kept windows, and make thumbnails of the shown ones."""
    with opened(file) as (container, stream):
        coming = enumerate(frames(container, stream, reel_of(container, stream)))
        for clip in clips:
            for i, (_, frame) in coming:
                clip.add(i, frame)
                if i >= clip.window.last - 1:
                    break
            data = clip.finish(file, rows[clip.window.number])
            if data is not None:
                out.add(f"{clip.window.number:04d}.mp4", data)


class _Clip:
    """A window in the second pass."""

    def __init__(
        self,
        window: Window,
        reel: Reel,
        recipe: Recipe,
        rate: Fraction,
        *,
        reencode: bool,
        shown: bool,
    ) -> None:
        self.window = window
        self._reel, self._recipe, self._rate, self._shown = reel, recipe, rate, shown
        self._spread = window.spread(recipe.measures.hash_frames)
        self._repeats = window.repeats(reel.times, rate)
        self._encoder: Encoder | None = None
        if reencode and not window.reason:
            self._encoder = Encoder(reel, rate, recipe.encoding)
        self._hashes: list[str] = []
        self._text: list[float] = []
        self._middle: UInt8[np.ndarray, "h w 3"] | None = None

    def add(self, i: int, frame: av.VideoFrame) -> None:
        """Add a frame of the video by its number; frames before the window are ignored."""
        if i < self.window.first:
            return
        if i in self._spread:
            self._measure(i, frame)
        if self._encoder is not None:
            self._encoder.add(frame, int(self._repeats[i - self.window.first]))

    def finish(self, file: str, row: Record) -> bytes | None:
        """Complete the row of the clip; return its bytes, or None if it is dropped."""
        window, reel = self.window, self._reel
        if self._text:
            window.scores["text"] = round(float(np.mean(self._text)), 4)
            if above(window.scores["text"], self._recipe.filters.text):
                window.drop("text")
        shown = self._middle if self._shown or window.reason == "text" else None
        row |= {"reason": window.reason, "hashes": self._hashes}
        row["thumbnail"] = "" if shown is None else thumbnail(shown)
        if window.reason:
            return None
        if self._encoder is None:
            data, count = whole_file(file), len(reel.times)
        else:
            data, count = self._encoder.finish(), self._encoder.frames
            row |= {"width": self._encoder.width, "height": self._encoder.height}
        row |= {"frames": count, "fps": float(self._rate), "extension": "mp4", "bytes": len(data)}
        return data

    def _measure(self, i: int, frame: av.VideoFrame) -> None:
        reel, side = self._reel, self._recipe.measures.text_side
        size = shrunk(reel.width, reel.height, max(side or 0, _HASH_SIDE))
        pixels = picture(frame, reel, size, "rgb24")
        self._hashes += [perceptual_hash(pixels)] * self._spread.count(i)
        if side is not None and not self.window.reason and i in (self._spread[0], self._spread[-1]):
            self._text.append(text_share(pixels, side))
        if i == self._spread[len(self._spread) // 2]:
            self._middle = pixels
