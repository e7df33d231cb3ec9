"""The interfaces of a stage: what its parts, the pipeline, callbacks and the doctor may use of it.

The classes that implement them are in `stages/`. Everything that the network reads is on the latent
grid of the stage's codec; kinds, `low` before `expand`, and given frames are in pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Unpack, cast, runtime_checkable

from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from cascade.codec import Codec
from cascade.diffusion.augment import NoiseAugment
from cascade.diffusion.process import Diffusion, Sampling
from cascade.grid import Grid, Scale
from cascade.request import Captions, SampleRequest
from cascade.text.encoder import TextEncoder, TextFeatures

#: For a class of stages, the one that Lightning trains.
WITH_HOOKS = {"stages.stage.Stage": "stages.trained.TrainedStage"}
Video = Float[Tensor, "b 3 f h w"]
Batch = dict[str, Any]


@dataclass(frozen=True)
class Condition:
    """Everything the network reads besides z and its log-SNR, on the latent grid.

    `given` holds the latents of the given frames. `mask` is 1 at given pixels; it has one channel
    per pixel of a latent position.
    """

    low: Float[Tensor, "b c f h w"] | None
    given: Float[Tensor, "b c f h w"]
    mask: Float[Tensor, "b m f h w"]
    text: TextFeatures
    scalars: Float[Tensor, "b k"]
    baseline: Float[Tensor, "b c f h w"] | None = None
    """`low` interpolated, without noise, if the stage predicts the difference from it; the network
    does not read it."""

    @property
    def fixed(self) -> Bool[Tensor, "b 1 f h w"]:
        """The latent positions whose pixels are all given."""
        return (self.mask > 0).all(dim=1, keepdim=True)

    @property
    def frames(self) -> Bool[Tensor, "b f"]:
        """The latent frames whose pixels are all given."""
        return (self.mask > 0).all(dim=4).all(dim=3).all(dim=1)

    def part(
        self, frames: slice, rows: slice = slice(None), columns: slice = slice(None)
    ) -> "Condition":
        """The condition of a part of the videos."""
        place = (slice(None), slice(None), frames, rows, columns)
        return self._videos(lambda video: video[place])

    def shifted(self, frames: int) -> "Condition":
        """The condition of the videos moved by `frames` in time, circularly."""
        return self._videos(lambda video: video.roll(frames, 2))

    def rolled(self) -> "Condition":
        """Each sample with the condition of the sample before it."""
        return replace(
            self._videos(lambda video: video.roll(1, 0)),
            text=TextFeatures(self.text.tokens.roll(1, 0), self.text.mask.roll(1, 0)),
            scalars=self.scalars.roll(1, 0),
        )

    def _videos(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        """Everything on the latent grid changed alike."""
        return replace(
            self,
            low=None if self.low is None else change(self.low),
            given=change(self.given),
            mask=change(self.mask),
            baseline=None if self.baseline is None else change(self.baseline),
        )


@dataclass(frozen=True, kw_only=True)
class Example:
    """Clips of one shape, on the latent grid, with their condition."""

    x: Float[Tensor, "b c f h w"]
    condition: Condition
    captions: list[str]
    """The captions that the text encoder reads; dropped ones are empty."""
    ways: list[str]
    """The way to prompt of each clip."""
    positions: list[int]


@dataclass(frozen=True, kw_only=True)
class Noised:
    """An example with noise `eps` at the drawn log-SNR, and what the network should predict."""

    example: Example
    eps: Float[Tensor, "b c f h w"]
    z: Float[Tensor, "b c f h w"]
    logsnr: Float[Tensor, "b f"]
    target: Float[Tensor, "b c f h w"]
    drawn: Float[Tensor, " b"]
    """The drawn log-SNR, which the frames that are not given have."""
    counted: Bool[Tensor, "b f"]
    """The frames that carry the loss."""

    @property
    def condition(self) -> Condition:
        """The condition of the example."""
        return self.example.condition

    def rolled(self) -> "Noised":
        """Each sample with the caption and the condition of the sample before it."""
        one = self.example
        captions = [*one.captions[-1:], *one.captions[:-1]]
        other = replace(one, condition=one.condition.rolled(), captions=captions)
        return replace(self, example=other)


class Losses(NamedTuple):
    """The weighted loss of each sample, and the values by which it is logged."""

    loss: Float[Tensor, " b"]
    logsnr: Float[Tensor, " b"]
    """The log-SNR drawn for each sample."""
    zero: Float[Tensor, " b"]
    """The loss of the prediction 0."""
    ways: list[str]
    """The way to prompt of each sample."""
    shapes: list[tuple[int, int, int]]
    """Frames, height and width of each clip, as the loader gave it."""


@runtime_checkable
class Kind(Protocol):
    """How a clip is degraded to the output of the previous stage, and resampled back; in pixels."""

    scale: Scale
    #: The names of the numbers that the network reads by adaLN (`stages.condition.scalars`).
    scalars: tuple[str, ...]
    #: Whether a stage of this kind has a previous stage.
    takes_low: bool
    #: How many frames of `low` before and after its own a frame of `expand` or `baseline` reads.
    reach: int

    def reduce(self, x: Float[Tensor, "b c f h w"], /) -> Float[Tensor, "b c f2 h2 w2"] | None:
        """The output of the previous stage, computed from the clip itself; None for a base."""

    def expand(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """The output of the previous stage, resampled to this stage's grid: the channels `low`."""

    def baseline(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """`low` on this stage's grid by interpolation alone: the baseline the stage must beat."""

    def new_frames(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f3 h w"]:
        """The frames of `x` that this stage generates: for TSR those that `low` does not have."""


@runtime_checkable
class Stage(Protocol):
    """A conditional generator of a cascade: the members that sampling and the pipeline use."""

    name: str
    kind: Kind
    target: Grid
    text: TextEncoder
    codec: Codec
    diffusion: Diffusion
    sampling: Sampling
    augment: NoiseAugment | None
    net: nn.Module | None

    @property
    def device(self) -> Any:
        """The device of its weights."""

    @property
    def low_grid(self) -> Grid:
        """The grid of the previous stage, at this stage's target."""

    @property
    def multiple(self) -> tuple[int, int, int]:
        """The numbers that frames, height and width in pixels must be multiples of."""

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid that the stage cannot run on, with a ValueError."""

    @property
    def conditioner(self) -> Callable[..., Condition]:
        """The builder of conditions, one for training and sampling."""

    def predict(
        self, z: Float[Tensor, "b c f h w"], logsnr: Float[Tensor, "b f"], cond: Condition
    ) -> Float[Tensor, "b c f h w"]:
        """The prediction for noisy `z`, as `diffusion.target` names it."""

    def sample(self, captions: Captions, **request: Unpack[SampleRequest]) -> Video:
        """Videos in [-1, 1] on the request's grid."""

    def stream(self, captions: Captions, **request: Unpack[SampleRequest]) -> Iterator[Video]:
        """The same videos, window by window."""

    def state_dict(self) -> dict[str, Any]:
        """The weights, by name."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to another device."""


@runtime_checkable
class TrainableStage(Stage, Protocol):
    """A stage with the members that training, callbacks, the doctor and the bench use besides."""

    recipe: Any  # a TrainingRecipe, or None if the stage is only sampled

    @property
    def conditions(self) -> tuple[str, ...]:
        """Everything the network reads besides z and its log-SNR, by name."""

    def new_net(self) -> nn.Module:
        """A new network of the stage's sizes."""

    def configure_model(self) -> None:
        """Build the network, once."""

    def clip(self, video: UInt8[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f2 h w"]:
        """A loader's clips as floats in [-1, 1]."""

    def losses(self, batch: Batch, *, purpose: str) -> Losses:
        """The objective's loss of each sample of a batch."""

    def noise(self, batch: Batch, *, purpose: str) -> Noised:
        """A batch of one shape, noised for the denoising loss."""

    def loss_without(
        self, noised: Noised, other: Noised, name: str
    ) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """The denoising losses with `name` taken from `other`, and the samples where it differs."""

    def predict_parts(self, parts: Sequence[Noised]) -> list[Float[Tensor, "1 c _f _h _w"]]:
        """The predictions for clips of several shapes in one packed sequence."""

    def dry_forward(self, shape: tuple[int, int, int]) -> Callable[[], object]:
        """A forward pass on the meta device for one clip of `shape`, to count its cost."""


@runtime_checkable
class Objective(Protocol):
    """What a stage is trained to do with a batch: denoise, imitate a teacher, prefer a sample."""

    def check(self, stage: TrainableStage) -> None:
        """Refuse a stage that this objective cannot train, with a ValueError; load its inputs."""

    def losses(self, stage: TrainableStage, batch: Batch, *, purpose: str) -> Losses:
        """The loss of each sample."""

    def figures(self, stage: TrainableStage, batch: Batch, /) -> dict[str, Float[Tensor, " b"]]:
        """Further metrics of validation clips, one number per clip, by name."""


def receptive_field(stage: Stage) -> tuple[int, int] | None:
    """How far the stage's network reads, in latent frames and positions; None: everywhere."""
    field: tuple[int, int] | None = getattr(stage.net, "receptive_field", None)
    return field


def as_module(stage: Stage) -> nn.Module:
    """The stage, typed as a torch module."""
    return cast(nn.Module, stage)


def trainable(module: nn.Module) -> TrainableStage:
    """The stage that Lightning passes to a callback, typed as one."""
    return cast(TrainableStage, module)


def trained_by_lightning(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's config with the class that has Lightning's hooks."""
    return {**stage, "_target_": WITH_HOOKS.get(stage["_target_"], stage["_target_"])}
