"""The ways to prompt: each is one function that fixes frames or regions of the video to be made.

Training slices its sources out of the clip and calls the same functions that a user's prompt calls,
so what is asked at sampling is what was practised. A spoken prompt stands beside all of them: text
fixes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cascade import keyed
from cascade.grid import Grid
from cascade.video import resize

Frames = Float[Tensor, "b c k h w"]
Clip = Float[Tensor, "b c f h w"]


@dataclass(frozen=True)
class Given:
    """What the user fixed: `mask` is 1 there and `frames` holds it; elsewhere both are 0."""

    frames: Float[Tensor, "b c f h w"]
    mask: Float[Tensor, "b 1 f h w"]

    def check(self, shape: Sequence[int]) -> None:
        """Refuse what does not fit videos of `shape`, (b, c, f, h, w).

        Raises:
            ValueError: another shape, a mask other than 0 and 1, pixels outside [-1, 1].
        """
        batch, _, *grid = shape
        if tuple(self.frames.shape) != tuple(shape) or tuple(self.mask.shape) != (batch, 1, *grid):
            raise ValueError(
                f"given frames must live on the last stage's grid: frames {tuple(shape)} and mask "
                f"{(batch, 1, *grid)}, got {tuple(self.frames.shape)} and {tuple(self.mask.shape)}"
            )
        if not ((self.mask == 0) | (self.mask == 1)).all():
            raise ValueError("given frames: the mask must be 0 or 1 everywhere")
        inside = torch.where(self.mask > 0, self.frames, 0.0)
        if not (inside.abs() <= 1 + 1e-3).all():
            raise ValueError("given frames: pixels must be finite and in [-1, 1]")

    def paste(self, x: Clip) -> Clip:
        """`x` with what was fixed put over it."""
        return torch.where(self.mask > 0, self.frames, x)


def whole_frames(mask: Float[Tensor, "b 1 f h w"]) -> Bool[Tensor, "b f"]:
    """Which frames are given whole."""
    return mask.amin(dim=(1, 3, 4)) > 0


def text(
    shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Given:
    """Nothing fixed, for a video of shape (b, c, f, h, w): the text alone leads."""
    batch, _, *grid = shape
    return Given(
        torch.zeros(*shape, device=device, dtype=dtype),
        torch.zeros(batch, 1, *grid, device=device, dtype=dtype),
    )


def fill_in(known: Frames, indices: Sequence[int], frames: int) -> Given:
    """Known frames at `indices` of a video of `frames`; the rest is filled in.

    Raises:
        ValueError: an index repeated or outside the video, or not one per known frame.
    """
    batch, channels, count, height, width = known.shape
    wrong = [i for i in indices if not 0 <= i < frames]
    if wrong or len(set(indices)) != len(indices) or len(indices) != count:
        raise ValueError(
            f"given frames: {count} need as many different places in 0…{frames - 1}, "
            f"got {list(indices)}"
        )
    shape = (batch, channels, frames, height, width)
    given = text(shape, device=known.device, dtype=known.dtype)
    given.frames[:, :, list(indices)] = known
    given.mask[:, :, list(indices)] = 1
    return given


def image(first: Float[Tensor, "b c 1 h w"], frames: int) -> Given:
    """A picture to animate: the first frame."""
    return fill_in(first, [0], frames)


def first_last(
    first: Float[Tensor, "b c 1 h w"], last: Float[Tensor, "b c 1 h w"], frames: int
) -> Given:
    """Two pictures to move between: the first frame and the last."""
    return fill_in(torch.cat([first, last], dim=2), [0, frames - 1], frames)


def extend_forward(before: Frames, frames: int) -> Given:
    """The end of a video to go on from: `before` opens the new one."""
    return fill_in(before, range(before.shape[2]), frames)


def extend_backward(after: Frames, frames: int) -> Given:
    """The start of a video to lead up to: `after` closes the new one."""
    return fill_in(after, range(frames - after.shape[2], frames), frames)


def connect(
    one: Float[Tensor, "b c m h w"], other: Float[Tensor, "b c n h w"], frames: int, overlap: int
) -> Given:
    """Two videos to join: the tail of `one` opens the new video, the head of `other` closes it.

    `overlap` is the length of tail and head in frames.

    Raises:
        ValueError: a video shorter than the overlap, or no frame left between.
    """
    if not 1 <= overlap <= min(one.shape[2], other.shape[2]):
        raise ValueError(
            f"connect: the overlap must lie in 1…{min(one.shape[2], other.shape[2])}, the frames "
            f"that both videos have, got {overlap}"
        )
    known = torch.cat([one[:, :, -overlap:], other[:, :, :overlap]], dim=2)
    return fill_in(known, [*range(overlap), *range(frames - overlap, frames)], frames)


def loop(video: Frames, frames: int, overlap: int) -> Given:
    """A video to close into a ring: made is what leads from its tail back to its head."""
    return connect(video, video, frames, overlap)


def region(video: Clip, mask: Float[Tensor, "b 1 f h w"]) -> Given:
    """A part of each frame to keep, where `mask` is 1: the rest is painted anew."""
    mask = (mask > 0).to(video)
    return Given(video * mask, mask)


def bring(given: Given, grid: Grid, device: torch.device) -> Given:
    """What was fixed, brought from the last stage's grid to the grid of an earlier stage.

    In time a frame stands for an interval; the first in it that has anything given is taken. In
    space frames are resized, antialiased, and a region counts where it covers a pixel whole.
    """
    mask = given.mask.to(device)
    frames = torch.where(mask > 0, given.frames.to(device), 0.0)
    factor = frames.shape[2] // grid.frames
    if factor > 1:
        known = mask.flatten(3).amax((1, 3)).view(-1, grid.frames, factor) > 0
        first = known.float().argmax(2) + factor * torch.arange(grid.frames, device=device)
        frames, mask = (
            x.gather(2, first[:, None, :, None, None].expand(-1, x.shape[1], -1, *x.shape[3:]))
            for x in (frames, mask)
        )
    if frames.shape[3:] != (grid.height, grid.width):
        frames = resize(frames, grid.height, grid.width)
        mask = (resize(mask, grid.height, grid.width) > 1 - 1e-3).to(frames)
    return Given(frames * mask, mask)


class Modes:
    """How often each way to prompt is practised: shares, made to sum to 1.

    A clip too short for a way (an image has one frame) shares out that way's part among the others.
    """

    def __init__(
        self,
        *,
        text: float = 0.0,
        image: float = 0.0,
        first_last: float = 0.0,
        extend_forward: float = 0.0,
        extend_backward: float = 0.0,
        fill_in: float = 0.0,
        loop: float = 0.0,
        connect: float = 0.0,
        region: float = 0.0,
    ) -> None:
        self.shares = {
            "text": text,
            "image": image,
            "first_last": first_last,
            "extend_forward": extend_forward,
            "extend_backward": extend_backward,
            "fill_in": fill_in,
            "loop": loop,
            "connect": connect,
            "region": region,
        }
        if min(self.shares.values()) < 0 or not sum(self.shares.values()) > 0:
            raise ValueError(
                f"modes: shares must not be negative and must not all be 0, got {self.shares}"
            )

    def probabilities(self, frames: int) -> dict[str, float]:
        """The chance of each way for clips of so many frames; text alone where none suits."""
        suit = {n: s for n, s in self.shares.items() if s > 0 and frames >= _WAYS[n][0]}
        suit = suit or {"text": 1.0}
        return {name: share / sum(suit.values()) for name, share in suit.items()}

    def names(self, frames: int, *, seed: int, positions: Sequence[int]) -> list[str]:
        """The way drawn for each sample."""
        chances = self.probabilities(frames)
        ends = torch.tensor(list(chances.values()), dtype=torch.float64).cumsum(0)
        drawn = torch.searchsorted(ends, keyed.uniforms(seed, positions, "mode"))
        ways = list(chances)
        return [ways[min(i, len(ways) - 1)] for i in drawn.tolist()]

    def draw(self, clip: Clip, *, seed: int, positions: Sequence[int]) -> Given:
        """What is given of each clip: a function of (seed, position), whatever the batch."""
        names = self.names(clip.shape[2], seed=seed, positions=positions)
        drawn = [
            _WAYS[name][1](clip[i : i + 1], keyed.generator(seed, position, f"mode/{name}"))
            for i, (name, position) in enumerate(zip(names, positions, strict=True))
        ]
        return Given(
            torch.cat([given.frames for given in drawn]), torch.cat([given.mask for given in drawn])
        )


# How training slices its sources out of a clip, so that the answer to the prompt is the clip.


def _extend_forward(clip: Tensor, generator: torch.Generator) -> Given:
    known = _length(clip.shape[2] // 2, generator)
    return extend_forward(clip[:, :, :known], clip.shape[2])


def _extend_backward(clip: Tensor, generator: torch.Generator) -> Given:
    known = _length(clip.shape[2] // 2, generator)
    return extend_backward(clip[:, :, -known:], clip.shape[2])


def _fill_in(clip: Tensor, generator: torch.Generator) -> Given:
    known = _length(clip.shape[2] // 2, generator)
    indices = sorted(torch.randperm(clip.shape[2], generator=generator)[:known].tolist())
    return fill_in(clip[:, :, indices], indices, clip.shape[2])


def _connect(clip: Tensor, generator: torch.Generator) -> Given:
    known = _length((clip.shape[2] - 1) // 2, generator)
    return connect(clip[:, :, :known], clip[:, :, -known:], clip.shape[2], known)


def _loop(clip: Tensor, generator: torch.Generator) -> Given:
    known = _length((clip.shape[2] - 1) // 2, generator)
    video = torch.cat([clip[:, :, -known:], clip[:, :, :known]], dim=2)
    return loop(video, clip.shape[2], known)


def _region(clip: Tensor, generator: torch.Generator) -> Given:
    """A box of a quarter to three quarters of each side, kept or painted anew."""
    mask = clip.new_zeros(1, 1, *clip.shape[2:])
    box = [_span(size, generator) for size in clip.shape[3:]]
    mask[..., box[0], box[1]] = 1
    outside = torch.rand((), generator=generator).item() < 0.5
    return region(clip, 1 - mask if outside else mask)


def _length(most: int, generator: torch.Generator) -> int:
    return int(torch.randint(1, max(most, 1) + 1, (), generator=generator))


def _span(size: int, generator: torch.Generator) -> slice:
    share, place = torch.rand(2, generator=generator).tolist()
    length = min(max(round(size * (0.25 + 0.5 * share)), 1), size - 1) or 1
    start = round((size - length) * place)
    return slice(start, start + length)


# The least frames with which one is left to make, and how a clip is sliced.
_WAYS: dict[str, tuple[int, Callable[[Tensor, torch.Generator], Given]]] = {
    "text": (1, lambda clip, _: text(clip.shape, device=clip.device, dtype=clip.dtype)),
    "image": (2, lambda clip, _: image(clip[:, :, :1], clip.shape[2])),
    "first_last": (3, lambda clip, _: first_last(clip[:, :, :1], clip[:, :, -1:], clip.shape[2])),
    "extend_forward": (2, _extend_forward),
    "extend_backward": (2, _extend_backward),
    "fill_in": (2, _fill_in),
    "loop": (3, _loop),
    "connect": (3, _connect),
    "region": (1, _region),
}
