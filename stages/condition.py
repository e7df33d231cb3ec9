"""The condition of a stage's network, built by one function for training and for sampling.

`low` is expanded in pixels, then encoded, then noised (augmentation); given frames are encoded; the
mask is folded to the latent grid. Scalars describe the video in pixels.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.codec import Codec
from cascade.conditioning import Given
from cascade.diffusion.augment import NoiseAugment
from cascade.grid import Grid
from cascade.stage import Condition, Kind
from cascade.text.encoder import TextFeatures


def scalars(
    names: Sequence[str],
    grid: Grid,
    fps: Float[Tensor, " b"],
    level: Float[Tensor, " b"] | None,
    zoom: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, "b k"]:
    """The numbers that the network reads by adaLN, in the order of `names`, scaled to about 1.

    `grid` is in pixels, `level` the log-SNR of `low` in nats.
    """
    values = {
        "fps": torch.log(fps / 8),
        "zoom": torch.zeros_like(fps) if zoom is None else torch.log(zoom.to(fps)),
        "height": torch.full_like(fps, math.log(grid.height / 64)),
        "width": torch.full_like(fps, math.log(grid.width / 64)),
    }
    if level is not None:
        values["augment"] = level.to(fps) / 8
    return torch.stack([values[name] for name in names], dim=1)


class Conditioner:
    """Builds the condition of one stage; training and sampling call it with the same arguments."""

    def __init__(
        self, *, kind: Kind, codec: Codec, augment: NoiseAugment | None, residual: bool = False
    ) -> None:
        self.kind, self.codec, self.augment = kind, codec, augment
        self.residual = residual

    def __call__(
        self,
        *,
        grid: Grid,
        text: TextFeatures,
        given: Given,
        fps: Float[Tensor, " b"],
        zoom: Float[Tensor, " b"] | None = None,
        low: Float[Tensor, "b 3 f2 h2 w2"] | None = None,
        level: Float[Tensor, " b"] | None = None,
        noise: Callable[[Sequence[int]], Tensor] | None = None,
        within: slice = slice(None),
    ) -> Condition:
        """The condition of videos on `grid`.

        Args:
            grid: the grid of the videos, in pixels.
            text: encoded captions.
            given: given frames and regions, in pixels on `grid`.
            fps: frames per second of each video.
            zoom: magnification of each video; 1 by default.
            low: the output of the previous stage, in pixels on its own grid.
            level: log-SNR of the augmentation of `low`, in nats.
            noise: returns standard normal noise for `low`, (b, *shape), from a latent shape.
            within: the frames of the expanded `low` that belong to the videos; a window of frames
                has more of `low` on both sides, if the kind reads more (`Kind.reach`).
        """
        latents = baseline = None
        if low is not None:
            assert self.augment is not None
            assert level is not None
            assert noise is not None
            with torch.no_grad():
                latents = self.codec.encode(self.kind.expand(low)[:, :, within])
            latents = self.augment(latents, level, noise(latents.shape[1:]))
            if self.residual:
                with torch.no_grad():
                    baseline = self.codec.encode(self.kind.baseline(low)[:, :, within])
        with torch.no_grad():
            known = self.codec.encode(given.frames)
        return Condition(
            low=latents,
            given=known,
            mask=self.codec.fold(given.mask),
            text=text,
            scalars=scalars(self.kind.scalars, grid, fps, level, zoom),
            baseline=baseline,
        )
