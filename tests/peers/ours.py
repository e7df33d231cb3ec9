"""Cascade's side of the comparison: the demo's stages at the peer's size, with the peer's text."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parent))

from protocol import FRAMES, TEXT_WIDTH, Clips, Side, Workload, embed, serve

from cascade.ema import PowerEMA
from cascade.entry import CONF
from cascade.text.encoder import TextEncoder, TextFeatures
from cascade.video import to_uint8

#: About 4.78 M and 5.19 M parameters.
BASE = ("stage=demo/base", "stage.net.width=192", "stage.net.depth=7")
SR = ("stage=demo/ssr1", "stage.net.widths=[96,192]", "stage.net.depths=[1,4]")


class FrozenWords(TextEncoder):
    """The comparison's frozen word vectors as a text encoder without parameters."""

    width = TEXT_WIDTH

    def check(self, prompt: str) -> None:
        """Accept every prompt."""

    def prepare(self) -> None:
        """Nothing to load: a word's vector is drawn at its first use."""

    def forward(self, captions: Sequence[str], known: Any = None) -> TextFeatures:
        """One vector per word; nothing is stored, so `known` is None."""
        assert known is None
        return TextFeatures(*embed(captions))


class Ours(Side):
    """A stage with its optimizer, clipping, warm-up, decay and EMA."""

    def make(self, workload: Workload, options: dict[str, Any]) -> nn.Module:
        own = BASE if workload.low is None else SR
        size = [f"stage.target.{side}={workload.size}" for side in ("height", "width")]
        with initialize_config_dir(CONF, version_base="1.3"):
            cfg = compose("train", [*own, *size, f"stage.target.frames={FRAMES}"])
        config: Any = OmegaConf.to_container(cfg.stage, resolve=True)
        if options.get("text_only"):
            config["train"]["modes"]["only"] = "text"
        self.stage = hydra.utils.instantiate(config, _convert_="all")
        self.stage.text = FrozenWords()
        self.stage.configure_model()
        self.clip = cfg.trainer.gradient_clip_val
        self.warmup = cfg.stage.train.lr_factor.warmup_steps
        self.optimizer = self.stage.recipe.optimizer(self.stage)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = PowerEMA(self.stage, cfg.callbacks.ema.sigma_rels)
        self.use = cfg.callbacks.ema.use
        self.taken = 0
        return self.stage

    def loss(self, clips: Clips) -> Tensor:
        batch = {
            "video": clips.video,
            "fps": torch.full((len(clips.captions),), self.stage.target.fps),
            "zoom": torch.ones(len(clips.captions)),
            "caption": clips.captions,
            "position": torch.tensor(clips.positions),
        }
        return self.stage.losses(batch, purpose="train").loss.mean()

    def step(self, clips: Clips, *, done: float) -> float:
        # The recipe's linear decay, by training time instead of steps.
        factor = min((self.taken + 1) / (self.warmup + 1), 1 - done)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = factor * rate
        loss = self.loss(clips)
        loss.backward()
        nn.utils.clip_grad_norm_(self.stage.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.taken += 1
        self.ema.update(self.stage, self.taken)
        return loss.item()

    def sample(self, captions: list[str], *, first: int, **settings: Any) -> Tensor:
        seeds = range(first, first + len(captions))
        with self.ema.swapped(self.stage, self.use):
            videos = self.stage.sample(
                captions,
                grid=self.stage.target,
                seeds=list(seeds),
                steps=settings["steps"],
                guidance_scale=settings["scale"],
            )
        return to_uint8(videos)


if __name__ == "__main__":
    serve(Ours())
