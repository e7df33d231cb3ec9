"""imagen-pytorch's side of the comparison; it runs in its own environment, without Cascade's.

It is set up as in its documentation for video: `Unet3D` in `ElucidatedImagen`, trained and sampled
with `ImagenTrainer`, with defaults for all arguments that are not named here.
"""

import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parent))  # last: this folder has an imagen_pytorch.py

import standins
from protocol import FRAMES, TEXT_WIDTH, Clips, Side, Workload, embed, serve

#: 4.76 M parameters as a base, 5.22 M as super-resolution. Its default pads every text to 256
#: tokens; our captions have at most 14 words, so 32 makes it faster.
UNET = {"dim": 32, "dim_mults": (1, 2, 4), "text_embed_dim": TEXT_WIDTH, "max_text_len": 32}


class Theirs(Side):
    """The peer's trainer: Adam and its own EMA; learning rate, decay and clipping by options."""

    def make(self, workload: Workload, options: dict[str, Any]) -> nn.Module:
        from imagen_pytorch import ElucidatedImagen, ImagenTrainer, NullUnet, Unet3D

        base = workload.low is None
        self.number = 1 if base else 2
        imagen = ElucidatedImagen(
            unets=(Unet3D(**UNET),) if base else (NullUnet(), Unet3D(**UNET, lowres_cond=True)),
            image_sizes=(workload.size,) if base else (workload.low, workload.size),
            temporal_downsample_factor=(1,) * self.number,
            text_embed_dim=TEXT_WIDTH,
            cond_drop_prob=0.1,
        )
        self.rate = options.get("lr")
        self.warmup = options.get("warmup", 0)
        self.decays = options.get("decay", False)
        self.trainer = ImagenTrainer(
            imagen,
            **({} if self.rate is None else {"lr": self.rate}),
            max_grad_norm=options.get("max_grad_norm"),
            verbose=False,
        )
        self.taken = 0
        return imagen.unets[self.number - 1]

    def loss(self, clips: Clips) -> Tensor:
        tokens, mask = embed(clips.captions)
        return self.trainer.imagen(
            clips.video, text_embeds=tokens, text_masks=mask, unet_number=self.number
        )

    def step(self, clips: Clips, *, done: float) -> float:
        if self.decays:
            factor = min((self.taken + 1) / (self.warmup + 1), 1 - done)
            for group in getattr(self.trainer, f"optim{self.number - 1}").param_groups:
                group["lr"] = factor * self.rate
        tokens, mask = embed(clips.captions)
        loss = self.trainer(
            clips.video, text_embeds=tokens, text_masks=mask, unet_number=self.number
        )
        self.trainer.update(unet_number=self.number)
        self.taken += 1
        return loss

    def sample(self, captions: list[str], *, first: int, **settings: Any) -> Tensor:
        imagen = self.trainer.imagen
        imagen.hparams = [hp._replace(num_sample_steps=settings["steps"]) for hp in imagen.hparams]
        tokens, mask = embed(captions)
        videos = self.trainer.sample(
            text_embeds=tokens,
            text_masks=mask,
            video_frames=FRAMES,
            cond_scale=settings["scale"],
            cfg_remove_parallel_component=settings.get("remove_parallel", True),
            use_tqdm=False,
        )
        return (videos.clamp(0, 1) * 255).round().byte()


if __name__ == "__main__":
    standins.install()
    serve(Theirs())
