"""The videos that an evaluation measures: generated in batches, kept, and never out of date."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cascade.checkpoint.origin import commit
from cascade.conditioning import Given, give, to_grid
from cascade.eval.measure import Generated
from cascade.files.atomic import replacing
from cascade.grid import Grid
from cascade.pipeline import Cascade
from cascade.video import to_float, to_uint8

Render = Callable[[Any, Grid, int], Shaped[Tensor, "c f h w"]]
"""(content, grid, number of the prompt) → a video that shows the content."""
#: The parts of a stage, besides its weights, on which its videos depend.
PARTS = (
    *("name", "kind", "target", "diffusion", "sampling", "augment", "codec", "text", "net"),
    "residual",
)
#: Attributes that count what has happened, so that they change though no video does.
COUNTERS = ("truncated",)


def settings(part: Any) -> Any:
    """A part of a stage as plain values: its class and its public attributes, recursively.

    Equal parts have equal settings in every process: no value holds an address.
    """
    if isinstance(part, Mapping):
        return {str(name): settings(value) for name, value in sorted(part.items())}
    if isinstance(part, list | tuple):
        return [settings(value) for value in part]
    if isinstance(part, Tensor | np.ndarray):
        values = np.ascontiguousarray(torch.as_tensor(part).detach().cpu().float().numpy())
        return [list(values.shape), hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()]
    if isinstance(part, functools.partial):
        return [settings(one) for one in (part.func, part.args, part.keywords)]
    if hasattr(part, "__qualname__"):  # a class, a function or a method
        return f"{part.__module__}.{part.__qualname__}"
    if hasattr(part, "__dict__"):
        public = {name: value for name, value in vars(part).items() if not name.startswith("_")}
        public = {name: value for name, value in public.items() if name not in COUNTERS}
        if isinstance(part, nn.Module):
            public |= dict(part.named_children())
        inner = {name: settings(value) for name, value in sorted(public.items())}
        return {"class": type(part).__qualname__, **inner}
    return repr(part)


def fingerprint(cascade: Cascade, prompts: Sequence[str], draw: Any) -> str:
    """A hash of all that videos depend on: weights, parts, sampling, prompts, draw, code.

    `draw` is everything else of the call, as JSON.
    """
    digest = hashlib.blake2b(digest_size=8)
    for stage in cascade.stages:
        for name, value in sorted(stage.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        parts = [getattr(stage, name) for name in PARTS]
        identity = stage.text.identity()
        digest.update(json.dumps([[settings(part) for part in parts], identity]).encode())
    call = [cascade.sampling, list(prompts), draw, str(cascade.dtype), cascade.device.type]
    code = [torch.__version__, commit()]
    digest.update(json.dumps([call, code], default=str).encode())
    return digest.hexdigest()


def to_generate(
    cascade: Cascade,
    prompts: Sequence[tuple[str, Any]],
    *,
    render: Render,
    given: int = 0,
    joints: bool = False,
) -> Generated:
    """What `generate` makes, still without videos: one per prompt, as (text, content).

    The first `given` frames, on the last stage's grid, are those that `render` makes. With `joints`
    there are also the videos of each super-resolution stage from the reduced right video, under
    `joint(name)`: what it loses beside them is the joint's.

    Raises:
        ValueError: all frames would be given.
    """
    made = Generated(
        videos={},
        grids={stage.name: stage.target for stage in cascade.stages},
        prompts=[text for text, _ in prompts],
        contents=[content for _, content in prompts],
        render=render,
        given=given,
    )
    frames = cascade.stages[-1].target.frames
    if not 0 <= given < frames:
        raise ValueError(
            f"evaluate: given must be from 0 to {frames - 1}, fewer than the videos' frames, got "
            f"{given}"
        )
    return replace(made, grids=_with_joints(made.grids)) if joints else made


def generate(
    cascade: Cascade, made: Generated, *, folder: Path, seed: int, batch_size: int
) -> Generated:
    """`made` with its videos; batches that are already in `folder` are reused."""
    right = settings([made.contents, made.render])  # contents of one prompt may differ
    draw = [seed, made.given, [*made.grids], right]
    folder = folder / fingerprint(cascade, made.prompts, draw)
    folder.mkdir(parents=True, exist_ok=True)
    count, parts = len(made.prompts), []
    for first in track(range(0, count, batch_size), description="generating"):
        numbers = range(first, min(first + batch_size, count))
        path = folder / f"{first:06d}-{len(numbers)}.safetensors"
        if not path.is_file():
            with replacing(path) as part:
                save_file(_batch(cascade, made, numbers, seed), part)
        parts.append(load_file(path))
    videos = {name: torch.cat([part[name] for part in parts]) for name in made.grids}
    return replace(made, videos=videos)


def _with_joints(grids: Mapping[str, Grid]) -> dict[str, Grid]:
    """The grids, with each super-resolution stage's joint before it."""
    base, *others = grids.items()
    pairs = [pair for name, grid in others for pair in ((joint(name), grid), (name, grid))]
    return dict([base, *pairs])


def joint(stage: str) -> str:
    """The name of a super-resolution stage's videos from right input."""
    return f"{stage}, true input"


def _batch(
    cascade: Cascade, made: Generated, numbers: Sequence[int], seed: int
) -> dict[str, UInt8[Tensor, "n c _f _h _w"]]:
    """The videos of these prompts after each stage."""
    last = cascade.stages[-1].name
    given = _beginning(made, last, numbers) if made.given else None

    def call(**request: Any) -> Mapping[str, Tensor]:
        return cascade(
            [made.prompts[n] for n in numbers],
            generator=[torch.Generator().manual_seed(seed + n) for n in numbers],
            **request,
        ).stages

    videos = dict(call(given=given))
    for stage in cascade.stages[1:]:
        if joint(stage.name) in made.grids:
            own = None if given is None else to_grid(given, stage.target, torch.device("cpu"))
            low = stage.kind.reduce(_right(made, stage.name, numbers))
            made_of_truth = call(given=own, low=low, stages=[stage.name])
            videos[joint(stage.name)] = made_of_truth[stage.name]
    return {name: to_uint8(video).contiguous() for name, video in videos.items()}


def _right(made: Generated, stage: str, numbers: Sequence[int]) -> Float[Tensor, "n c f h w"]:
    """Right videos for these prompts, in [-1, 1]."""
    right = torch.stack([made.truth(stage, n) for n in numbers])
    return right if right.is_floating_point() else to_float(right)


def _beginning(made: Generated, stage: str, numbers: Sequence[int]) -> Given:
    """The first frames of right videos, given on the last stage's grid."""
    known = _right(made, stage, numbers)[:, :, : made.given]
    return give.extend_forward(known, made.grids[stage].frames)
