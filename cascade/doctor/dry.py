"""A stage on torch's `meta` device: shapes without values, so that it takes no memory.

So a base of billions of parameters is counted on a laptop. A frozen text encoder, whose weights are
not the stage's, is replaced by tokens of its width.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import hydra
import torch
from torch import Tensor, nn

from cascade.doctor.kernels import Kernels
from cascade.flops import training_flops
from cascade.memory import StepMemory, optimizer_state, step_memory
from cascade.stage import TrainableStage, as_module
from cascade.text.encoder import TextEncoder, TextFeatures


@dataclass(frozen=True)
class Clips:
    """A batch of one shape: so many clips of frames × height × width."""

    count: int
    frames: int
    height: int
    width: int
    fps: float

    def times(self, count: int) -> "Clips":
        """The same shape, `count` of them."""
        return Clips(count, self.frames, self.height, self.width, self.fps)

    def batch(self, captions: Sequence[str]) -> dict[str, Any]:
        """In the loader's form, on `meta`; captions go round."""
        shape = (self.count, 3, self.frames, self.height, self.width)
        return {
            "video": torch.empty(shape, dtype=torch.uint8, device="meta"),
            "fps": torch.full((self.count,), self.fps),
            "zoom": torch.ones(self.count),
            "caption": [captions[i % len(captions)] for i in range(self.count)],
            "position": torch.arange(self.count),
            "key": [str(i) for i in range(self.count)],
        }


class FrozenText(TextEncoder):
    """Stands for an encoder that is not trained: tokens of its width, as many as it reads."""

    def __init__(self, *, width: int, tokens: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.width, self.tokens, self.dtype = width, tokens, dtype

    def forward(self, captions: Sequence[str], *_: Any) -> TextFeatures:
        """Tokens without values."""
        shape = (len(captions), self.tokens)
        return TextFeatures(
            torch.empty(*shape, self.width, dtype=self.dtype, device="meta"),
            torch.empty(shape, dtype=torch.bool, device="meta"),
        )

    def check(self, prompt: str) -> None:
        """Every prompt."""

    def prepare(self) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How a step is run: on which kind of device, in which precision, what is kept beside it."""

    cuda: bool
    precision: str
    sigma_rels: tuple[float, ...]
    buckets: bool = False

    @property
    def half(self) -> torch.dtype | None:
        """Autocast's type on CUDA; none: no autocast."""
        if self.cuda and self.precision.endswith("-mixed"):
            return torch.bfloat16 if self.precision.startswith("bf16") else torch.float16
        return None


class DryStage:
    """A stage's config, built on `meta`."""

    def __init__(
        self, config: dict[str, Any], *, text_tokens: int, captions: Sequence[str]
    ) -> None:
        with torch.device("meta"):
            stage = hydra.utils.instantiate(copy.deepcopy(config), _convert_="all")
            stage.configure_model()
        self.stage: TrainableStage = stage
        self.module = as_module(stage)
        self.captions = list(captions)
        self.text = stage.text
        self.frozen_text = not any(p.requires_grad for p in stage.text.parameters())
        if self.frozen_text:
            stage.text = FrozenText(
                width=stage.text.width, tokens=text_tokens, dtype=torch.bfloat16
            )

    @property
    def checkpointing(self) -> bool:
        """Whether the network computes activations again in the backward pass."""
        return bool(getattr(self.stage.net, "checkpointing", False))

    @contextmanager
    def without_checkpointing(self) -> Iterator[None]:
        """Inside, nothing is computed twice."""
        net: Any = self.stage.net
        before = self.checkpointing
        if before:
            net.checkpointing = False
        try:
            yield
        finally:
            if before:
                net.checkpointing = True

    def loss(self, clips: Clips) -> Tensor:
        """The forward pass of a training step."""
        batch = clips.batch(self.captions)
        losses = self.stage.losses(batch, purpose="train")
        return losses.loss.mean()

    def flops(self, clips: Clips) -> int:
        """FLOPs of a step's two passes, with what checkpointing computes again."""
        with Kernels(cuda=False, half=None):
            count = training_flops(lambda: self.loss(clips))
        self.module.zero_grad()
        return count

    def optimizer_bytes(self) -> int:
        """Of the state that the recipe's optimizer keeps."""
        state = optimizer_state(self.stage.recipe.optimizer, self.module)
        return sum(t.numel() * t.element_size() for one in state.values() for t in one.values())

    @property
    def gathered(self) -> int:
        """Bytes that are whole at a time under sharding: the largest block and its gradients."""
        blocks = [
            block
            for module in self.module.modules()
            if isinstance(module, nn.ModuleList)
            for block in module
            if not isinstance(block, nn.ModuleList)
        ]
        return max(
            (2 * sum(p.numel() * p.element_size() for p in b.parameters()) for b in blocks),
            default=0,
        )

    def memory(
        self, clips: Clips, ways: Ways, *, frozen_bytes: int = 0, accumulating: bool = False
    ) -> StepMemory:
        """Bytes of one rank's step."""
        recipe = self.stage.recipe
        before = {p: p.dtype for p in self.module.parameters()}
        if ways.precision.endswith("-true") and not ways.precision.startswith("32"):
            self.stage.to(torch.bfloat16)
        kernels = Kernels(cuda=ways.cuda, half=ways.half)
        try:
            with kernels:
                return step_memory(
                    self.module,
                    lambda: self.loss(clips),
                    optimizer=recipe.optimizer,
                    sigma_rels=ways.sigma_rels,
                    frozen_bytes=frozen_bytes,
                    buckets=ways.buckets,
                    accumulating=accumulating,
                    cuda=ways.cuda,
                    on_forward_end=kernels.forget,
                )
        finally:
            for p, dtype in before.items():
                p.data = p.data.to(dtype)
