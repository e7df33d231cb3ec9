"""The ways to prompt from Python: tensors in, `Given` out.

`frames` is the length of the new video, of which the base generates every `stride`-th frame.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.conditioning.given import Clip, Given
from cascade.conditioning.placement import Placement

Frames = Float[Tensor, "b c k h w"]


def text(
    shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Given:
    """No given frames, for a video of shape (b, c, f, h, w): the text is the only prompt."""
    batch, _, *grid = shape
    return Given(
        torch.zeros(*shape, device=device, dtype=dtype),
        torch.zeros(batch, 1, *grid, device=device, dtype=dtype),
    )


def fill_in(known: Frames, indices: Sequence[int], frames: int, *, end: int | None = None) -> Given:
    """Known frames at `indices` of a video of `frames`; the other frames are generated.

    The video has `end` frames, by default as many as its grid.

    Raises:
        ValueError: an index is repeated or outside the video, or there is not one per known frame.
    """
    batch, channels, count, height, width = known.shape
    wrong = [i for i in indices if not 0 <= i < frames]
    if wrong or len(set(indices)) != len(indices) or len(indices) != count:
        raise ValueError(
            f"given frames: {count} frames need {count} different indices in 0…{frames - 1}, "
            f"got {list(indices)}"
        )
    shape = (batch, channels, frames, height, width)
    given = text(shape, device=known.device, dtype=known.dtype)
    given.frames[:, :, list(indices)] = known
    given.mask[:, :, list(indices)] = 1
    return Given(given.frames, given.mask, end=None if end == frames else end)


def image(first: Float[Tensor, "b c 1 h w"], frames: int) -> Given:
    """An image to animate: the first frame of the video."""
    return fill_in(first, [0], frames)


def first_last(
    first: Float[Tensor, "b c 1 h w"],
    last: Float[Tensor, "b c 1 h w"],
    frames: int,
    *,
    stride: int = 1,
) -> Given:
    """Two images: the first frame of the video, and its frame at the base's last time."""
    return _ends(first, last, frames, stride)


def extend_forward(before: Frames, frames: int) -> Given:
    """A video to continue: its last frames, `before`, open the new video."""
    return fill_in(before, range(before.shape[2]), frames)


def extend_backward(after: Frames, frames: int, *, stride: int = 1) -> Given:
    """A video to precede: its first frames, `after`, close the new video."""
    places = Placement(frames, stride).closing(after.shape[2])
    return fill_in(after, places, frames, end=places.stop)


def connect(
    one: Float[Tensor, "b c m h w"],
    other: Float[Tensor, "b c n h w"],
    frames: int,
    overlap: int,
    *,
    stride: int = 1,
) -> Given:
    """Two videos to connect: the end of `one` opens the new video, the start of `other` closes it.

    `overlap` is the number of frames taken from each.

    Raises:
        ValueError: a video is shorter than the overlap, or no frame is left to generate.
    """
    if not 1 <= overlap <= min(one.shape[2], other.shape[2]):
        raise ValueError(
            f"connect: the overlap must lie in 1…{min(one.shape[2], other.shape[2])}, the frames "
            f"that both videos have, got {overlap}"
        )
    return _ends(one[:, :, -overlap:], other[:, :, :overlap], frames, stride)


def loop(video: Frames, frames: int, overlap: int, *, stride: int = 1) -> Given:
    """A video to close into a loop: the new video leads from its end back to its start."""
    return connect(video, video, frames, overlap, stride=stride)


def region(video: Clip, mask: Float[Tensor, "b 1 f h w"]) -> Given:
    """A region of each frame to keep, where `mask` is 1; the rest is regenerated."""
    mask = (mask > 0).to(video)
    return Given(video * mask, mask)


def _ends(opening: Frames, closing: Tensor, frames: int, stride: int) -> Given:
    placement = Placement(frames, stride)
    first, last = placement.opening(opening.shape[2]), placement.closing(closing.shape[2])
    known = torch.cat([opening, closing], dim=2)
    return fill_in(known, [*first, *last], frames, end=last.stop)
