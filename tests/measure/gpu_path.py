"""What a training step asks of a GPU, counted without one; not collected by pytest.

    python tests/measure/gpu_path.py [--stages single_gpu/base,single_gpu/ssr1] [--single]

The step runs on torch's `meta` device in place of the GPU, with CUDA's kernels and autocast
imitated. Per stage and part of a step it counts kernels (operations that compute, before any are
fused), the bytes that they read and write, apart for matrix products, and copies between CPU and
GPU: queued ones, and those for which the CPU waits, each with its line. Noise is drawn by one
kernel per clip, which `meta` does not show. Then blocks are compiled for three shapes, two lengths
of text and a pass without gradients, and their graphs are counted.
"""

import argparse
import json
import subprocess
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cascade.doctor.dry import Clips, DryStage
from cascade.doctor.kernels import Kernels
from cascade.doctor.work import Part, Work
from cascade.entry import CONF
from cascade.shrink import shrink

CAPTION = "a small red circle moves left on a black background"
ROOT = Path(__file__).parents[2]


@dataclass
class Counted:
    """Counts of one part of a step; `waits` are lines of code at which the CPU waits."""

    work: Work = field(default_factory=Work)
    queued: int = 0
    waits: Counter[str] = field(default_factory=Counter)

    @property
    def part(self) -> Part:
        """The operations; `Work` is in its first phase."""
        return self.work.parts["forward"]

    @property
    def kernels(self) -> int:
        """Operations that compute."""
        return self.part.eager.kernels + self.part.products.total()

    @property
    def product_bytes(self) -> int:
        """Bytes that products, convolutions and attention read and write."""
        return sum(product.bytes * count for product, count in self.part.products.items())

    @property
    def other_bytes(self) -> int:
        """Bytes that all other kernels read and write."""
        return self.part.eager.bytes


class Meter(TorchDispatchMode):
    """Counts copies from and to `meta` by the part of the step; `Work` counts all else."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: defaultdict[str, Counted] = defaultdict(Counted)
        self._part = "preparing"

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Inside, operations belong to this part."""
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)]
        here = self.parts[self._part]
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense" and tensors[0].is_meta:
            here.waits[_line()] += 1
            return 0.0
        out = func(*args, **kwargs)
        made = [one for one in tree_iter(out) if isinstance(one, Tensor)]
        if not any(one.is_meta for one in (*made, *tensors)):
            return out
        sent = name in ("_to_copy", "copy_") and any(not one.is_meta for one in tensors)
        if sent and kwargs.get("non_blocking", False):
            here.queued += 1
        elif sent and sum(one.numel() for one in tensors) > 0:
            here.waits[_line()] += 1
        else:
            here.work(func, args, kwargs, out)
        return out


def _line() -> str:
    """The line of the product that called an operation."""
    ours = tuple(str(ROOT / folder) for folder in ("cascade", "stages"))
    imitation = str(ROOT / "cascade/doctor")
    stack = [frame for frame in traceback.extract_stack() if frame.filename.startswith(ours)]
    frames = [frame for frame in stack if not frame.filename.startswith(imitation)]
    if not frames:
        return "elsewhere"
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}"


def composed(stage: str) -> dict[str, Any]:
    """The plain config of a stage."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        plain: Any = OmegaConf.to_container(
            compose("train", [f"stage={stage}"]).stage, resolve=True
        )
    return dict(plain)


def counts(stage: str, *, half: bool = True, clips: int | None = None) -> dict[str, Counted]:
    """The counts of one step of a stage, by part."""
    dry = DryStage(composed(stage), text_tokens=32, captions=[CAPTION])
    recipe = dry.stage.recipe
    shape = recipe.crop or dry.stage.target.shape
    batch = Clips(clips or recipe.global_batch, *shape, dry.stage.target.fps).batch([CAPTION])
    for name in ("fps", "zoom"):
        batch[name] = batch[name].to("meta")
    counter = Meter()
    predict = dry.stage.predict

    def counted(*arguments: Any) -> Tensor:
        with counter.part("forward"):
            return predict(*arguments)

    object.__setattr__(dry.stage, "predict", counted)
    kernels = Kernels(cuda=True, half=torch.bfloat16 if half else None)
    with kernels, counter:
        loss = dry.stage.losses(batch, purpose="train").loss.mean()
        kernels.forget()
        with counter.part("backward"):
            torch.autograd.backward(loss)
    return dict(counter.parts)


GRAPHS = """
import json, sys, torch
from hydra.utils import instantiate
from cascade.parallel.blocks import compile_blocks
from torch._dynamo.utils import counters

net = instantiate(json.loads(sys.argv[1]), _convert_="all")(
    in_channels=3, out_channels=3, text_width=64, num_scalars=1
)
multiple = net.multiple
compile_blocks(net, everywhere=True, backend="aot_eager")
found = []
def step(batch, frames, side, words, grad=True):
    f, h, w = frames * multiple[0], side * multiple[1], side * multiple[2]
    x, text = torch.randn(batch, 3, f, h, w), torch.randn(batch, words, 64)
    mask = torch.ones(batch, words, dtype=torch.bool)
    with torch.set_grad_enabled(grad):
        out = net(x, torch.zeros(batch, f), text, mask, torch.zeros(batch, 1))
    if grad:
        out.square().mean().backward()
    found.append(counters["stats"]["unique_graphs"])
step(2, 2, 2, 15, grad=False)
for shape in ((4, 2, 2), (8, 1, 2), (2, 2, 3)):
    for words in (15, 31):
        step(*shape, words)
step(3, 1, 1, 7, grad=False)
json.dump({"graphs": found, "breaks": sum(counters["graph_break"].values())}, sys.stdout)
"""


def graphs(stage: str) -> dict[str, Any]:
    """The graphs of a small network of a stage's kind after each step, and graph breaks."""
    net = shrink(composed(stage))["net"]
    done = subprocess.run(
        [sys.executable, "-c", GRAPHS, json.dumps(net)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default="single_gpu/base,single_gpu/tsr1,single_gpu/ssr1")
    parser.add_argument("--single", action="store_true", help="float32 instead of bf16-mixed")
    options = parser.parse_args()
    for stage in options.stages.split(","):
        for part, one in counts(stage, half=not options.single).items():
            sys.stdout.write(
                f"{stage:18} {part:10} {one.kernels:5} kernels, "
                f"{one.product_bytes / 1e9:7.2f} GB for products, {one.other_bytes / 1e9:7.2f} GB "
                f"else; copies: {one.queued} queued, {sum(one.waits.values())} waited for"
                f"{''.join(f'; {line} ×{n}' for line, n in one.waits.items())}\n"
            )
        made = graphs(stage)
        sys.stdout.write(f"{stage:18} graphs     {made['graphs']}, breaks {made['breaks']}\n")


if __name__ == "__main__":
    main()
