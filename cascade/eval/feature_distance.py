"""Distances between sets of videos in the features of a network: FVD and KVD, FID and KID.

Fréchet distance: Heusel et al. 2017 (FID), Unterthiner et al. 2018 (FVD, with I3D). Kernel
distance: Bińkowski et al. 2018 (KID), an unbiased estimate. Both grow with fewer videos or another
recipe, so a figure's name has both.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from cascade.eval.measure import Generated, Scores, SetFigure
from cascade.video import resize, to_float

log = logging.getLogger(__name__)

LEAST = 256
"""The Fréchet distance of fewer videos is mostly its own bias."""
BATCH = 16
ELSEWHERE = 1_000_000
"""Right videos to compare with are other draws than those of the prompts: numbers from here on."""
Reads = Literal["videos", "frames"]


class Features(nn.Module):
    """A feature network from a TorchScript file, and how videos are prepared for it.

    Without a file the network is an untrained one of fixed weights, which is a check of the code
    and no measure of quality: its figures are named `random`.
    """

    def __init__(self, path: str | Path | None, *, reads: Reads, size: int, range01: bool) -> None:
        """`reads` whole videos (`b c f h w`) or frames (`b c h w`), resized to `size`×`size`.

        Pixels are in [0, 1] with `range01`, else in [-1, 1].

        Raises:
            FileNotFoundError: there is no such file.
        """
        super().__init__()
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such TorchScript file of a feature network")
        self.name = "random" if path is None else Path(path).stem
        self.reads, self.size, self.range01 = reads, size, range01
        self.net = _untrained(reads) if path is None else torch.jit.load(str(path)).eval()

    @torch.inference_mode()
    def forward(self, videos: Shaped[Tensor, "b c f h w"]) -> Float[Tensor, "n k"]:
        """One row of features per video, or per frame."""
        x = videos if videos.is_floating_point() else to_float(videos)
        x = resize(x, self.size, self.size)
        if self.range01:
            x = x / 2 + 0.5
        if self.reads == "frames":
            x = x.transpose(1, 2).flatten(0, 1)
        return torch.as_tensor(self.net(x)).flatten(1).float()

    @property
    def recipe(self) -> str:
        """What its figures depend on, for their names."""
        return f"{self.name}, {self.reads} {self.size}×{self.size}"


class FeatureDistance:
    """The measure of a stage's videos as a set: Fréchet and kernel distance to right videos."""

    def __init__(
        self,
        *,
        path: str | None = None,
        reads: Reads = "videos",
        size: int = 224,
        range01: bool = False,
        force: bool = False,
    ) -> None:
        """See `Features`; `force` allows fewer than `LEAST` videos."""
        self.features = Features(path, reads=reads, size=size, range01=range01)
        self.force = force

    def check(self, made: Generated) -> None:
        """Refuse too few videos, and a world that has no other right videos for a prompt."""
        count, stage = len(made.prompts), next(iter(made.grids))
        if count < LEAST and not self.force:
            raise ValueError(
                f"feature distance: {count} videos, and fewer than {LEAST} give mostly the bias of "
                "the estimate; set prompts.n, or force=true to have it all the same"
            )
        if torch.equal(made.truth(stage, 0), made.truth(stage, 0, draw=ELSEWHERE)):
            raise ValueError(
                "feature distance: compares with other right videos than the prompts' own, but "
                "this world has one for each prompt; leave this measure out"
            )

    def __call__(self, made: Generated, stage: str) -> Scores:
        """The distances of a stage's videos to as many right ones of other draws.

        Raises:
            ValueError: there are too few videos.
        """
        self.check(made)
        videos = made.videos[stage]
        count = len(videos)
        right = (
            torch.stack([made.truth(stage, n, draw=ELSEWHERE) for n in part])
            for part in _parts(count)
        )
        parts = (videos[part.start : part.stop] for part in _parts(count))
        own = torch.cat([self.features(part) for part in parts])
        other = torch.cat([self.features(part) for part in right])
        letter = "V" if self.features.reads == "videos" else "I"
        suffix = "_random" if self.features.name == "random" else ""
        described = f" ({self.features.recipe}, N={count})"
        return Scores(
            figures={
                f"F{letter}D{suffix}{described}": SetFigure(value=frechet(own, other)),
                f"K{letter}D{suffix}{described}": SetFigure(value=kernel(own, other)),
            }
        )


def frechet(own: Float[Tensor, "n k"], other: Float[Tensor, "m k"]) -> float:
    """|μ₁ − μ₂|² + Tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of two sets of features."""
    return _distance(FrechetInceptionDistance(_Given(own.shape[1])), own.double(), other.double())


def kernel(own: Float[Tensor, "n k"], other: Float[Tensor, "m k"]) -> float:
    """The unbiased squared MMD of the kernel (xᵀy / k + 1)³ of two sets of features."""
    size = min(len(own), len(other))
    metric = KernelInceptionDistance(_Given(own.shape[1]), subsets=1, subset_size=size)
    return _distance(metric, own.double(), other.double())


def _distance(metric: Metric, own: Tensor, other: Tensor) -> float:
    metric.set_dtype(torch.float64)
    metric.update(other, real=True)
    metric.update(own, real=False)
    found = metric.compute()
    return float(found[0] if isinstance(found, tuple) else found)


class _Given(nn.Module):
    """The features themselves, for metrics that want a network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _parts(count: int) -> Iterator[range]:
    return (range(first, min(first + BATCH, count)) for first in range(0, count, BATCH))


def _untrained(reads: Reads) -> nn.Module:
    """A small convolutional network of fixed random weights."""
    conv = nn.Conv3d if reads == "videos" else nn.Conv2d
    pool = nn.AdaptiveAvgPool3d(2) if reads == "videos" else nn.AdaptiveAvgPool2d(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            conv(3, 8, 3, stride=2, padding=1), nn.Tanh(), conv(8, 8, 3, padding=1), nn.Tanh(), pool
        )
