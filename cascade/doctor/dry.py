"""A stage on torch's `meta` device: tensors have shapes but no values, so they take no memory.

A base of billions of parameters can thus be counted on a laptop. A frozen text encoder, whose
weights are not the stage's, is replaced by empty tokens of its width.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import hydra
import torch
from torch import Tensor, nn

from cascade.doctor.dry_kind import DryKind
from cascade.doctor.kernels import Kernels
from cascade.doctor.work import Work
from cascade.flops import training_and_recomputed_flops
from cascade.memory import Phase, StepMemory, optimizer_state, step_memory
from cascade.meta import on_meta
from cascade.stage import TrainableStage, as_module
from cascade.text.encoder import TextEncoder, TextFeatures


@dataclass(frozen=True)
class Clips:
    """A batch of `count` clips of one shape, frames × height × width."""

    count: int
    frames: int
    height: int
    width: int
    fps: float

    def times(self, count: int) -> "Clips":
        """A batch of `count` clips of the same shape."""
        return Clips(count, self.frames, self.height, self.width, self.fps)

    def batch(self, captions: Sequence[str]) -> dict[str, Any]:
        """The batch as a loader gives it, on `meta`; captions repeat."""
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
    """Stand-in for a frozen text encoder: empty tokens, `tokens` per caption, of its width."""

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
        """Accept every prompt."""

    def prepare(self) -> None:
        """Nothing to load."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a step is run: device type, precision, EMA widths, and DDP's gradient buckets."""

    cuda: bool
    precision: str
    sigma_rels: tuple[float, ...]
    buckets: bool = False

    @property
    def half(self) -> torch.dtype | None:
        """Autocast's dtype on CUDA; None without autocast."""
        if self.cuda and self.precision.endswith("-mixed"):
            return torch.bfloat16 if self.precision.startswith("bf16") else torch.float16
        return None


class DryStage:
    """A stage built on `meta` from its config."""

    def __init__(
        self, config: dict[str, Any], *, text_tokens: int, captions: Sequence[str]
    ) -> None:
        stage = hydra.utils.instantiate(copy.deepcopy(config), _convert_="all")
        with on_meta():
            stage.configure_model()
        stage.to("meta")
        stage.kind = DryKind(stage.kind)
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
        """Whether the network recomputes activations in the backward pass."""
        return bool(getattr(self.stage.net, "checkpointing", False))

    def loss(self, clips: Clips) -> Tensor:
        """The loss of a training step's forward pass."""
        batch = clips.batch(self.captions)
        losses = self.stage.losses(batch, purpose="train")
        return losses.loss.mean()

    def flops(self, clips: Clips) -> int:
        """FLOPs of a step's forward and backward pass, including what checkpointing recomputes."""
        return self.flops_with_recomputed(clips)[0]

    def flops_with_recomputed(self, clips: Clips) -> tuple[int, int]:
        """`flops`, and those of them that checkpointing recomputes."""
        with Kernels(cuda=False, half=None):
            counts = training_and_recomputed_flops(lambda: self.loss(clips))
        self.module.zero_grad()
        return counts

    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state."""
        state = optimizer_state(self.stage.recipe.optimizer, self.module)
        return sum(t.numel() * t.element_size() for one in state.values() for t in one.values())

    @property
    def gathered(self) -> int:
        """Bytes unsharded at one time under FSDP: the largest block's weights and gradients."""
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
        self,
        clips: Clips,
        execution: Execution,
        *,
        frozen_bytes: int = 0,
        accumulating: bool = False,
        work: Work | None = None,
    ) -> StepMemory:
        """Memory of one rank's step; `work` counts its operations."""
        recipe = self.stage.recipe
        before = {p: p.dtype for p in self.module.parameters()}
        if execution.precision.endswith("-true") and not execution.precision.startswith("32"):
            self.stage.to(torch.bfloat16)
        kernels = Kernels(cuda=execution.cuda, half=execution.half)

        def enter(phase: Phase) -> None:
            if phase == "backward":
                kernels.forget()
            if work is not None:
                work.enter(phase)

        try:
            with kernels, nullcontext() if work is None else work.observing(self.module):
                return step_memory(
                    self.module,
                    lambda: self.loss(clips),
                    optimizer=recipe.optimizer,
                    sigma_rels=execution.sigma_rels,
                    frozen_bytes=frozen_bytes,
                    buckets=execution.buckets,
                    accumulating=accumulating,
                    cuda=execution.cuda,
                    observe=work,
                    on_phase=enter,
                )
        finally:
            for p, dtype in before.items():
                p.data = p.data.to(dtype)
