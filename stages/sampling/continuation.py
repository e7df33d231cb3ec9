"""Long videos from a network that reads all frames: one window after another.

The first frames of a window are the last of the window before, given through the mask as in
training; so the network must have been trained to continue a video.
"""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from stages.sampling.part import Run
from stages.sampling.wave import Layout, Wave


def continued(
    run: Run, *, size: int, overlap: int, first: int = 0
) -> Iterator[Float[Tensor, "b 3 f h w"]]:
    """The windows' new frames in order, from the window that has frame `first` on.

    All windows have `size` latent frames, as in training; the last one shares more frames with
    the window before.
    """
    total = run.inputs.frames
    made: Tensor | None = None
    start = end = 0
    while end < total:
        window = range(start, start + size)
        known = None if made is None else made[:, :, -(end - start) :]
        x = _alone(run, window, known)
        new = range(end, window.stop)
        if new.stop > first:
            yield run.video(x[:, :, end - start :], new)[:, :, run.skipped(new) :]
        run.inputs.drop_low(window.stop - size)
        made, end = x.clamp(-1, 1) if run.stage.codec.bounded else x, window.stop
        start = min(end - overlap, total - size)


def _alone(run: Run, window: range, known: Tensor | None) -> Tensor:
    layout = Layout(total=len(window), size=len(window), reach=0)
    wave = Wave(layout, begin=lambda _: run.part(window, window, known=known), denoise=run.denoise)
    (x,) = wave.results()
    return x
