"""Evaluate how well a trained cascade follows held-out prompts, after each stage.

`python -m cascade.evaluate cascade=demo` generates a video per prompt, reads its attributes from
the pixels and writes `evaluation.json`. A stopped evaluation resumes at the batch where it was.
"""

import functools
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from jaxtyping import UInt8
from omegaconf import DictConfig
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cascade.bundle import read_card
from cascade.checkpoint.origin import commit
from cascade.entry import check_choices, command
from cascade.eval.following import Following, following
from cascade.eval.long_video import LongVideos
from cascade.files.atomic import replacing
from cascade.long_page import write_page
from cascade.opening import bundles_named, open_cascade
from cascade.pipeline import Cascade
from cascade.video import to_uint8

log = logging.getLogger(__name__)
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


def fingerprint(cascade: Cascade, prompts: Sequence[str], seed: int) -> str:
    """A hash of all that the videos depend on: weights, parts, sampling, prompts, seed, code."""
    digest = hashlib.blake2b(digest_size=8)
    for stage in cascade.stages:
        for name, value in sorted(stage.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        parts = [getattr(stage, name) for name in PARTS]
        identity = stage.text.identity()
        digest.update(json.dumps([[settings(part) for part in parts], identity]).encode())
    call = [cascade.sampling, list(prompts), seed, str(cascade.dtype), cascade.device.type]
    code = [torch.__version__, commit()]
    digest.update(json.dumps([call, code], default=str).encode())
    return digest.hexdigest()


def generate(
    cascade: Cascade, prompts: Sequence[str], *, folder: Path, seed: int, batch_size: int
) -> dict[str, UInt8[Tensor, "n c f h w"]]:
    """A video per prompt after each stage; batches already in `folder` are reused."""
    folder = folder / fingerprint(cascade, prompts, seed)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in track(range(0, len(prompts), batch_size), description="generating"):
        rows = prompts[first : first + batch_size]
        path = folder / f"{first:06d}-{len(rows)}.safetensors"
        if not path.is_file():
            generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(rows))]
            made = cascade(rows, generator=generators).stages
            pixels = {name: to_uint8(video).contiguous() for name, video in made.items()}
            with replacing(path) as part:
                save_file(pixels, part)
        parts.append(load_file(path))
    return {s.name: torch.cat([part[s.name] for part in parts]) for s in cascade.stages}


def follow(
    cascade: Cascade,
    videos: Mapping[str, UInt8[Tensor, "n c f h w"]],
    prompts: Sequence[tuple[str, Any]],
    parser: Callable[..., Any],
) -> dict[str, Following]:
    """How well the videos of each stage follow the prompts, given as (text, attributes)."""
    texts = [text for text, _ in prompts]
    wanted = [attributes.to_dict() for _, attributes in prompts]
    return {
        stage.name: following(
            videos[stage.name], wanted, parser, fps=stage.target.fps, prompts=texts
        )
        for stage in cascade.stages
    }


def write_report(path: Path, report: Mapping[str, Following]) -> None:
    """Write shares with 95 % intervals, confusion tables and every reading, per stage, as JSON."""
    content = {stage: found.to_json() for stage, found in report.items()}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def check_world(bundles: Sequence[str | Path], world: str | None) -> None:
    """Check that stages were trained on the world whose prompts are scored; None: do not check.

    Raises:
        ValueError: one was trained on other clips.
    """
    for folder in bundles if world is not None else ():
        found = read_card(Path(folder)).get("world")
        if found != world:
            raise ValueError(
                f"{folder}: was trained on {found or 'clips that no world made'}, but the prompts "
                f"are of the world {world}; name runs that were trained on it, or set world=null "
                "to score these all the same"
            )


def measure_long(
    cfg: DictConfig,
    cascade: Cascade,
    videos: Mapping[str, UInt8[Tensor, "n c _f _h _w"]],
    prompts: Sequence[tuple[str, Any]],
) -> dict[str, LongVideos]:
    """The measures of long videos, which go to `long.json` and a page; none without `cfg.long`."""
    if cfg.long is None:
        return {}
    render, out = hydra.utils.instantiate(cfg.truth), Path(cfg.out)
    grids = {stage.name: stage.target for stage in cascade.stages}
    measured = hydra.utils.instantiate(cfg.long)(
        videos,
        {name: grid.fps for name, grid in grids.items()},
        lambda name, i: render(prompts[i][1], grids[name], i),
        [content.order() for _, content in prompts],
    )
    report = {name: one.to_json() for name, one in measured.items()}
    (out / "long.json").write_text(json.dumps(report, indent=1) + "\n")
    write_page(out / "long.html", f"{cfg.cascade.name}: long videos", measured)
    return dict(measured)


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """The command line."""
    check_world(bundles_named(cfg)[0], cfg.world)
    cascade = open_cascade(cfg)
    prompts = hydra.utils.instantiate(cfg.prompts)
    out = Path(cfg.out)
    texts = [text for text, _ in prompts]
    videos = generate(cascade, texts, folder=out, seed=cfg.seed, batch_size=cfg.batch_size)
    report = follow(cascade, videos, prompts, hydra.utils.instantiate(cfg.parser))
    write_report(out / "evaluation.json", report)
    for stage, found in report.items():
        shares = "  ".join(f"{name} {share}" for name, share in found.shares().items())
        log.info("%s: %s", stage, shares)
    for stage, one in measure_long(cfg, cascade, videos, prompts).items():
        log.info("%s: %s", stage, "  ".join(f"{n} {share}" for n, share in one.shares.items()))


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
