"""Everything that a sampler reads of one call, for any frames of the videos: condition and noise.

Frames are counted on the latent grid, from the first frame of the whole video. In a loop, frame −1
is the last one.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from cascade import keyed
from cascade.conditioning import Given, text
from cascade.grid import Grid
from cascade.request import Captions, Noise, SampleRequest
from cascade.stage import Condition, Stage
from cascade.text.encoder import TextFeatures

log = logging.getLogger(__name__)


def keyed_noise(name: str, seeds: Sequence[int], device: torch.device) -> Noise:
    """Noise keyed by each video's seed, the stage `name`, a purpose and the absolute frame."""

    def noise(purpose: str, frames: range, shape: tuple[int, int, int]) -> Tensor:
        purpose = f"{name}/{purpose}"
        return keyed.video_noise(0, seeds, purpose, frames=frames, frame_shape=shape, device=device)

    return noise


class LowFrames:
    """The previous stage's frames, taken from it as they are needed and dropped afterwards."""

    def __init__(
        self, video: Tensor | Iterable[Tensor], *, who: str, shape: tuple[int, ...]
    ) -> None:
        self._who, self._shape = who, shape
        self._source: Iterator[Tensor] = iter([video] if isinstance(video, Tensor) else video)
        self._parts: list[Tensor] = []
        self._first = self._end = 0
        if isinstance(video, Tensor):
            self._pull()
            self._check_end()

    def at(self, frames: Sequence[int]) -> Float[Tensor, "b 3 k h w"]:
        """These frames.

        Raises:
            ValueError: the previous stage's video has another size, or has ended.
        """
        while self._end <= max(frames):
            self._pull()
        if self._end == self._shape[0]:
            self._check_end()
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts, dim=2)]
        return self._parts[0][:, :, [frame - self._first for frame in frames]]

    def drop(self, before: int) -> None:
        """Forget the frames before this one."""
        if self._parts and before > self._first:
            self._parts = [torch.cat(self._parts, dim=2)[:, :, before - self._first :].clone()]
            self._first = before

    def _pull(self) -> None:
        part = next(self._source, None)
        if part is None:
            self._refuse((self._end, *self._shape[1:]))
        self._parts.append(cast(Tensor, part))
        self._end += self._parts[-1].shape[2]
        if tuple(self._parts[-1].shape[3:]) != self._shape[1:] or self._end > self._shape[0]:
            self._refuse((self._end, *self._parts[-1].shape[3:]))

    def _check_end(self) -> None:
        if self._end != self._shape[0]:
            self._refuse((self._end, *self._shape[1:]))

    def _refuse(self, got: tuple[int, ...]) -> None:
        raise ValueError(f"{self._who} the previous stage must give {self._shape}, got {got}")


class VideoInputs:
    """The inputs of one call of `Stage.stream`."""

    def __init__(self, stage: Stage, captions: Captions, request: SampleRequest) -> None:
        self.stage, self.grid = stage, request["grid"]
        self.count, self.device = len(request["seeds"]), stage.device
        self.loop = request.get("loop", False)
        self.frames, height, width = stage.codec.shape(self.grid.shape)
        self.shape = (stage.codec.channels, height, width)
        self._noise = request.get("noise") or keyed_noise(stage.name, request["seeds"], self.device)
        self._given, self._start = request.get("given"), request.get("start")
        self._zoom = request.get("zoom")
        self.low, self._level = self._previous(request)
        self.texts = [(0, self._encoded(captions))]
        for second, later in request.get("later") or ():
            frame = round(second * self.grid.fps / stage.codec.factor[0])
            self.texts.append((frame, self._encoded(later)))
        self._say_unused()
        negative = request.get("negative")
        self.without = self._encoded([""] * self.count if negative is None else negative)

    def condition(self, frames: range) -> Condition:
        """The condition of these latent frames."""
        pixels = self._pixels(frames)
        grid = Grid(
            frames=len(pixels), height=self.grid.height, width=self.grid.width, fps=self.grid.fps
        )
        per_video = torch.ones(self.count, device=self.device)
        low, within = self._low_of(pixels)
        return self.stage.conditioner(
            grid=grid,
            text=self.texts[0][1],
            given=self.given(frames),
            fps=float(self.grid.fps) * per_video,
            zoom=None if self._zoom is None else self._zoom * per_video,
            low=low,
            level=self._level,
            noise=lambda _: self.noise("low", frames),
            within=within,
        )

    @property
    def gives(self) -> bool:
        """Whether the user gives frames or regions."""
        return self._given is not None

    def given(self, frames: range) -> Given:
        """The given frames of these latent frames, in pixels."""
        pixels = self._pixels(frames)
        if self._given is None:
            size = (len(pixels), self.grid.height, self.grid.width)
            return text((self.count, 3, *size), device=self.device)
        return self._given.at(self._wrapped(pixels, self.grid.frames), self.device)

    def start(self, frames: range) -> tuple[Float[Tensor, "b c f h w"], float] | None:
        """The latents to start from and the time to which they are noised; None: pure noise."""
        if self._start is None or self._start[1] == 1:
            return None  # at time 1, λ is bounded, so a trace of the video would be left
        video, t = self._start
        places = self._wrapped(self._pixels(frames), self.grid.frames)
        return self.stage.codec.encode(video[:, :, places].to(self.device)), t

    def noise(self, purpose: str, frames: range) -> Float[Tensor, "b c f h w"]:
        """Standard normal noise of these latent frames."""
        runs = _runs(self._wrapped(frames, self.frames))
        parts = [self._noise(purpose, run, self.shape) for run in runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def texts_of(self, frames: range) -> list[tuple[slice, TextFeatures]]:
        """The captions of these latent frames, and the frames of the range that each one has."""
        ends = [frame for frame, _ in self.texts[1:]] + [self.frames]
        found = []
        for (first, features), end in zip(self.texts, ends, strict=True):
            own = range(max(first, frames.start), min(end, frames.stop))
            if own:
                found.append((slice(own.start - frames.start, own.stop - frames.start), features))
        return found

    def drop_low(self, before: int) -> None:
        """Forget the previous stage's frames that no latent frame from `before` on reads."""
        kind = self.stage.kind
        if self.low is not None and not self.loop:
            pixel = before * self.stage.codec.factor[0]
            self.low.drop(pixel // kind.scale.time - kind.reach)

    def _say_unused(self) -> None:
        """Log captions that begin and end between two frames of this stage."""
        ends = [frame for frame, _ in self.texts[1:]] + [self.frames]
        for number, ((first, _), end) in enumerate(zip(self.texts, ends, strict=True), 1):
            if first >= end:
                log.warning(
                    "stage %s generates %g frames per second, of which prompt %d of %d has none, "
                    "so it ignores that prompt; later stages may use it",
                    *(self.stage.name, self.grid.fps, number, len(self.texts)),
                )

    def _previous(self, request: SampleRequest) -> tuple[LowFrames | None, Tensor | None]:
        stage, low = self.stage, request.get("low")
        if (low is None) == stage.kind.takes_low:
            wants = "needs" if low is None else "takes no"
            raise ValueError(f"stage {stage.name} {wants} video of a previous stage (low)")
        if low is None or stage.augment is None:
            return None, None
        source = self.grid.divided(time=stage.kind.scale.time, space=stage.kind.scale.space)
        who = f"stage {stage.name}: for {self.grid}"
        level = stage.augment.sampling_level(self.count, device=self.device)
        asked = request.get("low_logsnr")
        if asked is not None:
            level = torch.full_like(level, asked)
        return LowFrames(low, who=who, shape=source.shape), level

    def _low_of(self, pixels: range) -> tuple[Tensor | None, slice]:
        """The frames of `low` that these frames read, and their place in it once expanded."""
        if self.low is None:
            return None, slice(None)
        kind = self.stage.kind
        time, total = kind.scale.time, self.grid.frames // kind.scale.time
        first, end = pixels.start // time - kind.reach, -(-pixels.stop // time) + kind.reach
        if not self.loop:
            first, end = max(first, 0), min(end, total)
        low = self.low.at(self._wrapped(range(first, end), total)).to(self.device)
        return low, slice(pixels.start - first * time, pixels.stop - first * time)

    def _pixels(self, frames: range) -> range:
        factor = self.stage.codec.factor[0]
        return range(frames.start * factor, frames.stop * factor)

    def _wrapped(self, frames: range, total: int) -> list[int]:
        return [frame % total for frame in frames]

    def _encoded(self, captions: Captions) -> TextFeatures:
        if isinstance(captions, TextFeatures):
            return TextFeatures(captions.tokens.to(self.device), captions.mask.to(self.device))
        features: TextFeatures = self.stage.text(list(captions))
        return features


def _runs(frames: Sequence[int]) -> list[range]:
    """Consecutive frames as ranges."""
    groups = itertools.groupby(enumerate(frames), lambda pair: pair[1] - pair[0])
    runs = [[frame for _, frame in group] for _, group in groups]
    return [range(run[0], run[-1] + 1) for run in runs]
