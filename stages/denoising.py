"""What makes a stage of a cascade sample: its network, what it is told, and the walk from noise.

Its kinds say how a video is brought to the grid of the stage before (`reduce`) and back (`expand`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cascade import keyed
from cascade.codec import Codec
from cascade.conditioning import Given, text
from cascade.diffusion.augment import NoiseAugment
from cascade.diffusion.gaussian import diffuse
from cascade.diffusion.process import Diffusion, Sampling
from cascade.diffusion.sampler import Step, levels
from cascade.grid import Grid
from cascade.parallel.blocks import compile_blocks
from cascade.text.encoder import TextEncoder
from stages.condition import Condition, Denoiser, Scale, scalars
from stages.training import Training


class Denoising(pl.LightningModule, ABC):
    """A conditional denoiser: text, the stage before and given frames in, video out."""

    #: The numbers told to the network by adaLN, in this order; `stages.condition.scalars` has them.
    scalars: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *,
        name: str,
        scale: Scale,
        target: Grid,
        net: Callable[..., nn.Module],
        diffusion: Diffusion,
        text: TextEncoder,
        codec: Codec,
        sampling: Sampling,
        augment: NoiseAugment | None = None,
        train: Training | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.scale = scale
        self.target = target
        self.diffusion = diffusion
        self.text = text
        self.codec = codec
        self.sampling = sampling
        self.augment = augment
        self.recipe = train
        self._build = net
        self.net: nn.Module | None = None
        #: The stage before, where validation starts from one; a list keeps it out of the weights.
        self._before: list[nn.Module] = []
        self.check_scale()
        self.low_grid = target.divided(time=scale.time, space=scale.space)

    @abstractmethod
    def check_scale(self) -> None:
        """Refuse a `scale` that is not this kind's, with a ValueError."""

    @abstractmethod
    def reduce(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h2 w2"] | None:
        """What the stage before would hand over, made from the clip itself; none for a base."""

    @abstractmethod
    def expand(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """What the stage before hands over, brought to this stage's grid: the channels `low`."""

    def configure_model(self) -> None:
        """Build the network, once (here, so that a sharding strategy can wrap it as it is made).

        Its first weights depend on the recipe's seed alone, not on what else was drawn before.
        """
        if self.net is not None:
            return
        with torch.random.fork_rng():
            torch.manual_seed(0 if self.recipe is None else self.recipe.seed)
            self.net = self._new_net()
        if self.recipe is not None and self.recipe.compile:
            compile_blocks(self)

    def _new_net(self) -> nn.Module:
        low = 0 if self.augment is None else self.codec.channels
        return self._build(
            in_channels=2 * self.codec.channels + low + 1,
            out_channels=self.codec.channels,
            text_width=self.text.width,
            num_scalars=len(self.scalars),
        )

    def setup(self, stage: str) -> None:  # noqa: ARG002 (Lightning passes it)
        """Fail before the first step where files are missing or the grid does not fit."""
        self.text.prepare()
        self.check_grid(self.target)
        if self.recipe is not None and self.recipe.crop is not None:
            frames, height, width = self.recipe.crop
            self.check_grid(Grid(frames=frames, height=height, width=width, fps=self.target.fps))

    @property
    def multiple(self) -> tuple[int, int, int]:
        """What frames, height and width of this stage's videos must be multiples of."""
        built = self.net
        if built is None:
            with torch.device("meta"):
                built = self._new_net()
        net: tuple[int, int, int] = tuple(built.multiple)  # type: ignore[arg-type]  # a module's attribute
        scale = (self.scale.time, self.scale.space, self.scale.space)
        sides = zip(net, self.codec.factor, scale, strict=True)
        frames, height, width = (math.lcm(n * c, s) for n, c, s in sides)
        return frames, height, width

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid that this stage cannot run on, with a ValueError."""
        grid.check_multiple(self.multiple, name=f"stage {self.name}")

    def predict(
        self, z: Float[Tensor, "b c f h w"], logsnr: Float[Tensor, "b f"], cond: Condition
    ) -> Float[Tensor, "b c f h w"]:
        """The network's raw output for noisy `z`."""
        assert self.net is not None
        out: Tensor = self.net(
            self.inputs(z, cond), logsnr, cond.text.tokens, cond.text.mask, cond.scalars
        )
        return out

    def inputs(
        self, z: Float[Tensor, "b c f h w"], cond: Condition
    ) -> Float[Tensor, "b channels f h w"]:
        """What the network reads: noisy z, low, given frames and their mask, as channels."""
        low = [] if cond.low is None else [cond.low]
        return torch.cat([z, *low, cond.given.frames, cond.given.mask], dim=1)

    @torch.no_grad()  # inference mode would spoil weights that a sharding strategy gathers
    def sample(
        self,
        captions: Sequence[str],
        *,
        grid: Grid,
        seeds: Sequence[int],
        negative: Sequence[str] | None = None,
        low: Float[Tensor, "b 3 f2 h2 w2"] | None = None,
        given: Given | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        low_logsnr: float | None = None,
        start: tuple[Float[Tensor, "b 3 f h w"], float] | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> Float[Tensor, "b 3 f h w"]:
        """Videos for captions, in [-1, 1]; sample i depends on its own caption and seed alone.

        Args:
            captions: one per video.
            grid: where the videos live; `low` must live on it divided by `scale`.
            seeds: one per video.
            negative: what guidance leads away from; empty by default.
            low: what the stage before made, for stages that have one before them.
            given: frames and regions that the user fixed.
            steps: sampler steps; the stage's own by default.
            guidance_scale: classifier-free guidance; the stage's own by default.
            low_logsnr: noise level of `low` (nats); the augmentation's own by default.
            start: a video and a time in (0, 1] to start from, instead of noise (SDEdit).
            on_step: called after every step.
        """
        self.check_grid(grid)
        cond = self._sampling_condition(captions, grid, seeds, low, given, low_logsnr)
        guidance = self.sampling.guidance
        if guidance_scale is not None:
            guidance = guidance.with_scale(guidance_scale)
        without = self.text(list(negative) if negative is not None else [""] * len(captions))
        schedule, entry = self.diffusion.schedule, 1.0
        shape = tuple(cond.given.frames.shape[1:])
        z = keyed.normals(0, seeds, f"{self.name}/start", shape, self.device)
        if start is not None:
            video, entry = start
            first = levels(schedule, 1, entry)[0]
            alpha, sigma = (z.new_full((1,) * z.ndim, a) for a in (first.alpha, first.sigma))
            z = diffuse(self.codec.encode(video.to(self.device)), z, alpha, sigma)

        denoise = Denoiser(
            predict=self.predict,
            diffusion=self.diffusion,
            condition=cond,
            without=without,
            guidance=guidance,
        )
        x = self.sampling.sampler(
            denoise,
            z,
            schedule=schedule,
            steps=self.sampling.steps if steps is None else steps,
            start=entry,
            noise=lambda i: keyed.normals(0, seeds, f"{self.name}/{i}", shape, self.device),
            on_step=on_step,
        )
        x = torch.where(cond.given.mask > 0.5, cond.given.frames, x)
        return self.codec.decode(x).clamp(-1, 1).float()

    def _sampling_condition(
        self,
        captions: Sequence[str],
        grid: Grid,
        seeds: Sequence[int],
        low: Float[Tensor, "b 3 f2 h2 w2"] | None,
        given: Given | None,
        low_logsnr: float | None,
    ) -> Condition:
        count, level = len(captions), None
        if (low is None) != (self.augment is None):
            wants = "needs" if low is None else "takes no"
            raise ValueError(f"stage {self.name} {wants} video of a stage before it (low)")
        if low is not None and self.augment is not None:
            source = grid.divided(time=self.scale.time, space=self.scale.space)
            if tuple(low.shape[2:]) != source.shape:
                raise ValueError(
                    f"stage {self.name}: for {grid} the stage before must hand over "
                    f"{source.shape}, got {tuple(low.shape[2:])}"
                )
            low = self.expand(self.codec.encode(low.to(self.device)))
            level = self.augment.sampling_level(count).to(self.device)
            if low_logsnr is not None:
                level = torch.full_like(level, low_logsnr)
            noise = keyed.normals(0, seeds, f"{self.name}/low", low.shape[1:], self.device)
            low = self.augment(low, level, noise)
        if given is None:
            given = text((count, self.codec.channels, *grid.shape), device=self.device)
        fps = torch.full((count,), float(grid.fps), device=self.device)
        return Condition(
            low=low,
            given=given,
            text=self.text(list(captions)),
            scalars=scalars(self.scalars, grid, fps, level),
        )

    def remake(
        self,
        x: Float[Tensor, "b 3 f h w"],
        captions: Sequence[str],
        *,
        seeds: Sequence[int],
        start: float = 0.5,
        steps: int | None = None,
    ) -> Float[Tensor, "b 3 f h w"]:
        """This stage's own version of real clips `x`: what a later stage will meet.

        A base is entered half way (SDEdit), a super-resolution stage starts from the clips reduced.
        """
        _, _, frames, height, width = x.shape
        grid = Grid(frames=frames, height=height, width=width, fps=self.target.fps)
        low = self.reduce(x)
        return self.sample(
            captions,
            grid=grid,
            seeds=seeds,
            low=low,
            start=(x, start) if low is None else None,
            steps=steps,
        )
