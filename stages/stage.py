"""One conditional denoiser of a cascade as a Lightning module; its kinds say how they degrade.

A training step is the same in all stages: read a clip and its caption, degrade the clip to `low`,
noise-condition `low` at a random level told to the network, draw a way to prompt and make `given`
and `mask` from the clip itself, draw a log-SNR per frame, denoise, weigh the loss. Every draw is
keyed by (seed, position, purpose).
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cascade import keyed
from cascade.diffusion.gaussian import per_frame, target
from cascade.diffusion.loss import denoising_loss
from cascade.grid import Grid
from cascade.text.encoder import TextFeatures
from cascade.video import hold, to_float
from stages.condition import Condition, scalars, take
from stages.denoising import Denoising
from stages.noised import Losses, Noised, at_level, swapped

#: Tokens of text where a cost is counted and no text is there.
DRY_TOKENS = 32


class Stage(Denoising):
    """A stage of a cascade, trained alone; abstract: its kinds say how they degrade."""

    @abstractmethod
    def measure(self, batch: dict[str, Any]) -> dict[str, Float[Tensor, " b"]]:
        """Figures of validation clips, one number per clip, by name; none for a base."""

    def losses(self, batch: dict[str, Any], *, purpose: str) -> Losses:
        """The weighted loss of each sample, first of all."""
        if "videos" in batch:
            return self._packed_losses(batch, purpose=purpose)
        noised = self.noise(batch, purpose=purpose)
        out = self.predict(noised.z, noised.logsnr, noised.condition)
        return self._losses([out], [noised], [batch["video"].shape[2:]] * len(out))

    def noise(self, batch: dict[str, Any], *, purpose: str) -> Noised:
        """A batch of one shape on its way to the network."""
        text, captions = self._read(batch, purpose=purpose)
        return self.noised(self.clip(batch["video"]), batch, text, captions, purpose=purpose)

    def _packed_losses(self, batch: dict[str, Any], *, purpose: str) -> Losses:
        """Those that each clip of a packed batch would have alone.

        Raises:
            ValueError: the stage's network cannot pack.
        """
        forward_packed = getattr(self.net, "forward_packed", None)
        if forward_packed is None:
            raise ValueError(
                f"stage {self.name}: its network {type(self.net).__name__} does not pack clips of "
                "several shapes; take data.batching=buckets"
            )
        text, captions = self._read(batch, purpose=purpose)
        beside = {name: batch[name] for name in ("fps", "zoom", "position")}
        parts = [
            self.noised(
                self.clip(video.unsqueeze(0)),
                take(beside, [i]),
                TextFeatures(text.tokens[i : i + 1], text.mask[i : i + 1]),
                captions[i : i + 1],
                purpose=purpose,
            )
            for i, video in enumerate(batch["videos"])
        ]
        outs = forward_packed(
            [self.inputs(part.z, part.condition)[0] for part in parts],
            [part.logsnr[0] for part in parts],
            [part.condition.text.tokens[0, part.condition.text.mask[0]] for part in parts],
            torch.cat([part.condition.scalars for part in parts]),
        )
        shapes = [video.shape[1:] for video in batch["videos"]]
        return self._losses([out.unsqueeze(0) for out in outs], parts, shapes)

    def _losses(
        self,
        outs: Sequence[Float[Tensor, "_b c _f _h _w"]],
        parts: Sequence[Noised],
        shapes: Sequence[Sequence[int]],
    ) -> Losses:
        pairs = list(zip(outs, parts, strict=True))
        with torch.no_grad():
            zero = [self.weighed(out.new_zeros(()).expand_as(out), part) for out, part in pairs]
        return Losses(
            loss=torch.cat([self.weighed(out, part) for out, part in pairs]),
            logsnr=torch.cat([part.drawn for part in parts]),
            zero=torch.cat(zero),
            ways=[way for part in parts for way in part.ways],
            shapes=[(frames, height, width) for frames, height, width in shapes],
        )

    def noised(
        self,
        video: Float[Tensor, "b 3 f h w"],
        batch: dict[str, Any],
        text: TextFeatures,
        captions: list[str],
        *,
        purpose: str,
    ) -> Noised:
        """Clips of one shape at a random log-SNR, and all that the network is told of them."""
        assert self.recipe is not None
        seed, positions = self.recipe.seed, batch["position"].tolist()
        x = self.codec.encode(video)
        cond = self._training_condition(x, batch, text, purpose=purpose)
        u = keyed.uniforms(seed, positions, f"{purpose}/time").to(x.device, torch.float32)
        drawn = self.diffusion.logsnr(u)
        eps = keyed.normals(seed, positions, f"{purpose}/eps", x.shape[1:], x.device)
        schedule = self.diffusion.schedule
        z, logsnr = at_level(x, eps, drawn, cond, schedule)
        alpha, sigma = per_frame(schedule.alpha(logsnr)), per_frame(schedule.sigma(logsnr))
        return Noised(
            x=x,
            eps=eps,
            z=z,
            logsnr=logsnr,
            condition=cond,
            target=target(self.diffusion.target, x, eps, alpha, sigma),
            drawn=drawn,
            counted=~cond.frames,
            captions=captions,
            ways=self.recipe.modes.names(x.shape[2], seed=seed, positions=positions),
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
            noised.counted,
        )

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the network is told besides z and its log-SNR, by name."""
        low = ("low",) if self.augment is not None else ()
        return ("text", *low, "given", *self.scalars)

    def loss_without(
        self, noised: Noised, other: Noised, name: str
    ) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """The losses where the condition `name` is `other`'s, and for which samples it differs."""
        condition, differs = swapped(noised, other, name, self.scalars)
        changed = noised.told(condition, self.diffusion.schedule)
        return self.weighed(self.predict(changed.z, changed.logsnr, condition), changed), differs

    def dry_forward(self, shape: tuple[int, int, int]) -> Callable[[], object]:
        """A call of a network without values on one clip of `shape`, to count what it costs."""
        clip = torch.empty(1, 3, *shape, dtype=torch.uint8, device="meta")
        with torch.device("meta"):
            net = self._new_net()
            sides = zip(self.clip(clip).shape[2:], self.codec.factor, strict=True)
            frames, height, width = (side // factor for side, factor in sides)
            low = 0 if self.augment is None else self.codec.channels
            told = (
                torch.empty(1, 2 * self.codec.channels + low + 1, frames, height, width),
                torch.empty(1, frames),
                torch.empty(1, DRY_TOKENS, self.text.width),
                torch.empty(1, DRY_TOKENS, dtype=torch.bool),
                torch.empty(1, len(self.scalars)),
            )
        return lambda: net(*told)

    def clip(self, video: UInt8[Tensor, "b 3 f h w"]) -> Float[Tensor, "b 3 f2 h w"]:
        """Clips in [-1, 1]; an image is held for as many frames as the stage takes at least."""
        x = to_float(video)
        return hold(x, self.multiple[0]) if x.shape[2] == 1 else x

    def _read(self, batch: dict[str, Any], *, purpose: str) -> tuple[TextFeatures, list[str]]:
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
        return features, captions

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

    def training_step(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        """The mean loss; beside it each sample's own, for whoever watches."""
        losses = self.losses(batch, purpose="train")
        loss = losses.loss.mean() * batch.get("weight", 1.0)
        detached = losses._replace(loss=losses.loss.detach())
        return {"loss": loss, "mean": loss.detach(), "losses": detached}

    #: Clips of this validation that were measured so far, on this rank.
    _measured = 0

    def validation_step(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        """The loss at fixed draws, and the kind's own figures on the first `val_videos` clips."""
        assert self.recipe is not None
        noised = self.noise(batch, purpose="val")
        out = self.predict(noised.z, noised.logsnr, noised.condition)
        losses = self.weighed(out, noised)
        self._log_mean("val/loss", losses)
        # Ranks have batches of equal sizes, so all of them measure in the same steps: a figure that
        # one rank alone would share is waited for by the others for ever.
        each = -(-self.recipe.val_videos // self.trainer.world_size)
        few = min(each - self._measured, len(batch["position"]))
        if few > 0:
            self._measured += few
            for name, values in self.measure(take(batch, range(few))).items():
                self._log_mean(f"val/{name}", values)
        zero = self.weighed(out.new_zeros(()).expand_as(out), noised)
        return {"losses": losses, "zero": zero, "noised": noised}

    def on_validation_epoch_start(self) -> None:
        """No clip is measured yet."""
        self._measured = 0

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
