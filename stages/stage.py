"""One conditional denoiser of a cascade as a Lightning module; its kinds say how they degrade.

A training step is the same in all stages: read a clip and its caption, degrade the clip to `low`,
noise-condition `low` at a random level told to the network, draw a way to prompt and make `given`
and `mask` from the clip itself, draw a log-SNR per frame, denoise, weigh the loss. Every draw is
keyed by (seed, position, purpose).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cascade import keyed
from cascade.codec import Codec
from cascade.conditioning import Given, text
from cascade.diffusion.augment import NoiseAugment
from cascade.diffusion.gaussian import diffuse, per_frame, target
from cascade.diffusion.loss import denoising_loss
from cascade.diffusion.process import Diffusion, Sampling
from cascade.diffusion.sampler import Step, levels
from cascade.grid import Grid
from cascade.text import TextEncoder, TextFeatures
from cascade.video import hold, to_float
from stages.condition import Condition, Denoiser, Scale, scalars, take
from stages.packed import Noised, packed_losses
from stages.training import Training


class Stage(pl.LightningModule, ABC):
    """A stage of a cascade: text, the stage before and given frames in, video out."""

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

    # What a kind says ---------------------------------------------------------------------------

    @abstractmethod
    def check_scale(self) -> None:
        """Refuse a `scale` that is not this kind's, with a ValueError."""

    @abstractmethod
    def reduce(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f2 h2 w2"] | None:
        """What the stage before would hand over, made from the clip itself; none for a base."""

    @abstractmethod
    def expand(self, low: Float[Tensor, "b c f2 h2 w2"]) -> Float[Tensor, "b c f h w"]:
        """What the stage before hands over, brought to this stage's grid: the channels `low`."""

    @abstractmethod
    def measure(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, " b"]]:
        """Figures of validation clips, one number per clip, by name; none for a base."""

    # Network ------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Build the network, once (here, so that a sharding strategy can wrap it as it is made).

        Its first weights depend on the recipe's seed alone, not on what else was drawn before.
        """
        if self.net is not None:
            return
        with torch.random.fork_rng():
            torch.manual_seed(0 if self.recipe is None else self.recipe.seed)
            self.net = self._new_net()

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

    # Training -----------------------------------------------------------------------------------

    def losses(
        self, batch: dict[str, Any], *, purpose: str
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The weighted loss of each sample, and the log-SNR it was drawn at."""
        text = self._read(batch, purpose=purpose)
        if "videos" in batch:
            return packed_losses(self, batch, text, purpose=purpose)
        noised = self.noised(self.clip(batch["video"]), batch, text, purpose=purpose)
        out = self.predict(noised.z, noised.logsnr, noised.condition)
        return self.weighed(out, noised), noised.drawn

    def noised(
        self,
        video: Float[Tensor, "b 3 f h w"],
        batch: dict[str, Any],
        text: TextFeatures,
        *,
        purpose: str,
    ) -> Noised:
        """Clips of one shape at a random log-SNR, and all that the network is told of them."""
        assert self.recipe is not None
        seed, positions = self.recipe.seed, batch["position"].tolist()
        x = self.codec.encode(video)
        schedule = self.diffusion.schedule
        cond = self._training_condition(x, batch, text, purpose=purpose)
        u = keyed.uniforms(seed, positions, f"{purpose}/time").to(x.device, torch.float32)
        drawn = self.diffusion.logsnr(u)
        eps = keyed.normals(seed, positions, f"{purpose}/eps", x.shape[1:], x.device)
        clean = torch.full_like(drawn, schedule.logsnr_max)
        logsnr = torch.where(cond.frames, clean[:, None], drawn[:, None])
        alpha, sigma = per_frame(schedule.alpha(logsnr)), per_frame(schedule.sigma(logsnr))
        z = torch.where(per_frame(cond.frames), x, diffuse(x, eps, alpha, sigma))
        return Noised(
            z=z,
            logsnr=logsnr,
            condition=cond,
            target=target(self.diffusion.target, x, eps, alpha, sigma),
            drawn=drawn,
        )

    def weighed(self, out: Float[Tensor, "b c f h w"], noised: Noised) -> Float[Tensor, " b"]:
        """The weighted loss of each sample, from the network's output."""
        schedule, logsnr = self.diffusion.schedule, noised.logsnr
        return denoising_loss(
            self.diffusion.target,
            out,
            noised.target,
            logsnr,
            per_frame(schedule.alpha(logsnr)),
            per_frame(schedule.sigma(logsnr)),
            self.diffusion.weight,
            ~noised.condition.frames,
        )

    def clip(self, video: UInt8[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f2 h w"]:
        """Clips in [-1, 1]; an image is held for as many frames as the stage takes at least."""
        x = to_float(video)
        return hold(x, self.multiple[0]) if x.shape[2] == 1 else x

    def inputs(
        self, z: Float[Tensor, "b c f h w"], cond: Condition
    ) -> Float[Tensor, "b channels f h w"]:
        """What the network reads: noisy z, low, given frames and their mask, as channels."""
        low = [] if cond.low is None else [cond.low]
        return torch.cat([z, *low, cond.given.frames, cond.given.mask], dim=1)

    def _read(self, batch: dict[str, Any], *, purpose: str) -> TextFeatures:
        """The batch's captions, some of them dropped for guidance's sake."""
        assert self.recipe is not None
        drawn = keyed.uniforms(self.recipe.seed, batch["position"].tolist(), f"{purpose}/text")
        dropped = (drawn < self.recipe.text_dropout).tolist()
        captions = ["" if d else c for c, d in zip(batch["caption"], dropped, strict=True)]
        stored = batch.get("text")
        known = None
        if stored is not None and any(one is not None for one in stored):
            known = [None if d else one for one, d in zip(stored, dropped, strict=True)]
        features: TextFeatures = self.text(captions, known)
        return features

    def _training_condition(
        self,
        x: Float[Tensor, "b c f h w"],
        batch: dict[str, Any],
        text: TextFeatures,
        *,
        purpose: str,
    ) -> Condition:
        assert self.recipe is not None
        seed, positions = self.recipe.seed, batch["position"].tolist()
        low, level = self.reduce(x), None
        if low is not None and self.augment is not None:
            low = self.expand(low)
            u = keyed.uniforms(seed, positions, f"{purpose}/augment").to(x.device, torch.float32)
            level = self.augment.level(u)
            noise = keyed.normals(seed, positions, f"{purpose}/low", low.shape[1:], x.device)
            low = self.augment(low, level, noise)
        _, _, frames, height, width = x.shape
        grid = Grid(frames=frames, height=height, width=width, fps=self.target.fps)
        return Condition(
            low=low,
            given=self.recipe.modes.draw(x, seed=seed, positions=positions),
            text=text,
            scalars=scalars(self.scalars, grid, batch["fps"].to(x), level, batch["zoom"].to(x)),
        )

    def training_step(self, batch: dict[str, Any], _: int) -> dict[str, Tensor]:
        """The mean loss; each sample's own loss and log-SNR beside it for whoever watches."""
        losses, logsnr = self.losses(batch, purpose="train")
        loss = losses.mean() * batch.get("weight", 1.0)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(losses))
        return {"loss": loss, "losses": losses.detach(), "logsnr": logsnr}

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """The loss at fixed draws, and the kind's own figures on the first `val_videos` clips."""
        assert self.recipe is not None
        losses, _drawn = self.losses(batch, purpose="val")
        self._log_mean("val/loss", losses)
        # Every rank must have a figure to share, or the others wait for it.
        first = max(
            self.recipe.val_videos, self.trainer.world_size if self.recipe.val_videos else 0
        )
        few = [i for i, p in enumerate(batch["position"].tolist()) if p < first]
        if few:
            for name, values in self.measure(take(batch, few)).items():
                self._log_mean(f"val/{name}", values)

    def _log_mean(self, name: str, values: Float[Tensor, " b"]) -> None:
        self.log(name, values.mean(), batch_size=len(values), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """One optimizer, and the learning rate's factor per step."""
        assert self.recipe is not None
        optimizer = self.recipe.optimizer(self)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.recipe.lr_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    # Sampling -----------------------------------------------------------------------------------

    @torch.inference_mode()
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
