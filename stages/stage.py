"""A stage of a cascade, made of parts: kind, objective, codec, network.

The condition is built in `condition.py`, from a loader's batch in `examples.py`; the loss is the
objective's; the sampler's denoiser is in `sampling.py`. `trained.py` adds the hooks by which
Lightning trains a stage, so that sampling needs no Lightning. Every random draw is keyed by (seed,
position, purpose).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Unpack

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from cascade.codec import Codec
from cascade.diffusion.augment import NoiseAugment
from cascade.diffusion.process import Diffusion, Sampling
from cascade.grid import Grid
from cascade.meta import on_meta
from cascade.parallel.blocks import compile_blocks
from cascade.request import Captions, SampleRequest
from cascade.stage import Batch, Condition, Kind, Losses, Noised, Objective, Video
from cascade.text.encoder import TextEncoder
from cascade.video import hold, to_float
from stages import network
from stages.condition import Conditioner
from stages.examples import examples
from stages.noised import noised, swapped, weighted, with_condition
from stages.sampling.stream import stream
from stages.training import Training


class Stage(nn.Module):
    """A conditional generator: from text, the previous stage's video and given frames to a video.

    With `residual` r, x̂ = baseline + r × the network's output, where the baseline is `low`
    interpolated; without it, the output is the prediction itself.
    """

    def __init__(
        self,
        *,
        name: str,
        kind: Kind,
        target: Grid,
        net: Callable[..., nn.Module],
        diffusion: Diffusion,
        text: TextEncoder,
        codec: Codec,
        sampling: Sampling,
        augment: NoiseAugment | None = None,
        residual: float | None = None,
        objective: Objective | None = None,
        train: Training | None = None,
    ) -> None:
        super().__init__()
        if kind.takes_low != (augment is not None):
            wants = "needs an augmentation" if kind.takes_low else "has no previous stage to noise"
            raise ValueError(
                f"{name}: a stage of kind {type(kind).__name__} {wants}, but augment is {augment}; "
                f"set stage.augment{'' if kind.takes_low else '=null'}"
            )
        if sampling.guidance.threshold is not None and not codec.bounded:
            raise ValueError(
                f"{name}: a threshold clips x̂ to the range of pixels, but the latents of "
                f"{type(codec).__name__} are unbounded; set stage.sampling.guidance.threshold=null"
            )
        self.name, self.kind, self.target = name, kind, target
        self.diffusion, self.text, self.codec = diffusion, text, codec
        self.sampling, self.augment, self.residual = sampling, augment, residual
        self.objective, self.recipe = objective, train
        self._check_residual()
        self.low_grid = target.divided(time=kind.scale.time, space=kind.scale.space)
        self._build = net
        self.net: nn.Module | None = None
        self._multiple: tuple[int, int, int] | None = None

    def _check_residual(self) -> None:
        if self.residual is None:
            return
        if not self.kind.takes_low or not self.residual > 0 or self.diffusion.target != "x":
            raise ValueError(
                f"{self.name}: a residual is the scale (above 0) of x − interpolated `low`, so the "
                "stage must have a previous stage and predict x; got residual "
                f"{self.residual}, kind {type(self.kind).__name__} and diffusion.target "
                f"{self.diffusion.target}; set stage.residual=null"
            )

    # Shape: the network, and the grids it runs on.

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Everything the network reads besides z and its log-SNR, by name."""
        low = ("low",) if self.kind.takes_low else ()
        return ("text", *low, "given", *self.kind.scalars)

    def configure_model(self) -> None:
        """Build the network once, in this hook, so that a sharding strategy can wrap it.

        Its initial weights depend on the recipe's seed alone.
        """
        if self.net is not None:
            return
        with torch.random.fork_rng():
            torch.manual_seed(0 if self.recipe is None else self.recipe.seed)
            self.net = self.new_net()
        if self.recipe is not None and self.recipe.compile is not False:
            compile_blocks(self, everywhere=self.recipe.compile is True)

    def new_net(self) -> nn.Module:
        """A new network of this stage's sizes; its input channels are [z, low, given, mask]."""
        net = self._build(
            in_channels=network.in_channels(self.kind, self.codec),
            out_channels=self.codec.channels,
            text_width=self.text.width,
            num_scalars=len(self.kind.scalars),
        )
        if not self.kind.takes_low:  # the others train on crops, and run in windows
            network.set_trained_frames(net, self.codec.shape(self.target.shape)[0])
        return net

    @property
    def multiple(self) -> tuple[int, int, int]:
        """The numbers that frames, height and width in pixels must be multiples of."""
        if self._multiple is None:
            with on_meta():
                net = self.new_net() if self.net is None else self.net
            self._multiple = network.multiple(net, self.kind, self.codec)
        return self._multiple

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid that this stage cannot run on, with a ValueError."""
        grid.check_multiple(self.multiple, name=f"stage {self.name}")

    def dry_forward(self, shape: tuple[int, int, int]) -> Callable[[], object]:
        """A forward pass on the meta device for one clip of `shape`, to count its cost."""
        return network.dry_forward(self, shape)

    # The network.

    @property
    def conditioner(self) -> Conditioner:
        """The builder of conditions, one for training and sampling."""
        return Conditioner(
            kind=self.kind,
            codec=self.codec,
            augment=self.augment,
            residual=self.residual is not None,
        )

    def inputs(
        self, z: Float[Tensor, "b c f h w"], cond: Condition
    ) -> Float[Tensor, "b channels f h w"]:
        """The network's input channels: noisy z, low, given frames and their mask."""
        low = [] if cond.low is None else [cond.low]
        return torch.cat([z, *low, cond.given, cond.mask], dim=1)

    def predict(
        self, z: Float[Tensor, "b c f h w"], logsnr: Float[Tensor, "b f"], cond: Condition
    ) -> Float[Tensor, "b c f h w"]:
        """The prediction for noisy `z`, as `diffusion.target` names it."""
        assert self.net is not None
        out: Tensor = self.net(
            self.inputs(z, cond), logsnr, cond.text.tokens, cond.text.mask, cond.scalars
        )
        return self.prediction(out, cond)

    def prediction(
        self, out: Float[Tensor, "b c f h w"], cond: Condition
    ) -> Float[Tensor, "b c f h w"]:
        """The prediction, from the network's output `out`.

        x̂ = baseline + r·out, with r the typical size of x − baseline (c_skip and c_out of EDM,
        eq. 7, with `low` in place of z). The baseline is without noise; only the network's
        input `low` is noised.
        """
        if cond.baseline is None:
            return out
        assert self.residual is not None
        return cond.baseline + self.residual * out

    def predict_parts(self, parts: Sequence[Noised]) -> list[Float[Tensor, "1 c _f _h _w"]]:
        """The predictions for clips of several shapes in one packed sequence.

        Raises:
            ValueError: the network cannot pack.
        """
        outs = network.packed(self, [self.inputs(p.z, p.condition)[0] for p in parts], parts)
        pairs = zip(outs, parts, strict=True)
        return [self.prediction(out.unsqueeze(0), part.condition) for out, part in pairs]

    # Training.

    def clip(self, video: UInt8[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f2 h w"]:
        """Clips in [-1, 1]; an image is repeated to the fewest frames that the stage takes."""
        x = to_float(video)
        return hold(x, self.multiple[0]) if x.shape[2] == 1 else x

    def losses(self, batch: Batch, *, purpose: str) -> Losses:
        """The objective's loss of each sample."""
        assert self.objective is not None
        return self.objective.losses(self, batch, purpose=purpose)

    def noise(self, batch: Batch, *, purpose: str) -> Noised:
        """A batch of one shape, noised for the denoising loss."""
        assert self.recipe is not None
        (example,) = examples(self, batch, purpose=purpose)
        return noised(example, self.diffusion, seed=self.recipe.seed, purpose=purpose)

    def loss_without(
        self, noised: Noised, other: Noised, name: str
    ) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """The denoising losses with `name` taken from `other`, and the samples where it differs."""
        condition, differs = swapped(noised, other, name, self.kind.scalars)
        changed = with_condition(noised, condition, self.diffusion.schedule)
        out = self.predict(changed.z, changed.logsnr, condition)
        return weighted(out, changed, self.diffusion), differs

    # Sampling.

    def sample(self, captions: Captions, **request: Unpack[SampleRequest]) -> Video:
        """Videos for captions, in [-1, 1]; sample i depends on its own caption and seed alone.

        Args:
            captions: one per video, or their features from this stage's text encoder.
            request: the arguments that `SampleRequest` describes.

        Raises:
            ValueError: a grid or `low` that does not fit the stage, or windows that it cannot have.
        """
        return torch.cat(list(self.stream(captions, **request)), dim=2)

    def stream(self, captions: Captions, **request: Unpack[SampleRequest]) -> Iterator[Video]:
        """The videos of `sample`, window by window, each as soon as it is finished."""
        return stream(self, captions, request)
