"""Measure a trained demo at aspect ratios, sizes and lengths that it was not trained on.

    python tests/measure/aspect.py OUT [--runs runs] [--run base=wide ...] [--cases "4 s" ...]

Each case samples the same held-out prompts of the world of shapes, one video each, and reads them
after every stage: the share with all attributes right and with each, beside the parser's reading of
the ground truth on the same grid. In a video longer than the trained one, motion is read over the
whole video; `end` are all attributes but the direction, read from its last two seconds alone.
"""

import argparse
import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor

from cascade.eval.following import following
from cascade.grid import Grid
from cascade.pipeline import Cascade
from cascade.request import Windows
from cascade.video import to_uint8
from data.worlds.parse import parse
from data.worlds.shapes import heldout_prompts
from data.worlds.truth import shapes_truth
from stages import condition

#: Seconds of a training clip: a shorter video need not move further in its time than one of them.
TRAINED_S = 2.0
CHAIN = {"name": "demo", "stages": ("base", "tsr1", "ssr1")}
Way = Callable[[Cascade, Grid], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Videos of one grid of the last stage, and how the base samples them."""

    height: int = 32
    width: int = 32
    frames: int = 16
    window: int | None = None
    """Frames of a window of the base; None: the whole video."""
    overlap: int | None = None
    ways: tuple[str, ...] = ()
    """Changes of the sampler, of `WAYS`."""


def trained_size(cascade: Cascade, _: Grid) -> contextlib.AbstractContextManager[Any]:
    """The base reads the height and width of its target."""
    base, scalars = cascade.stages[0], condition.scalars

    def of_target(names: Sequence[str], grid: Grid, *rest: Any) -> Tensor:
        return scalars(names, base.target if "height" in names else grid, *rest)

    return mock.patch.object(condition, "scalars", of_target)


def counted(cascade: Cascade, _: Grid) -> contextlib.AbstractContextManager[Any]:
    """Rotary positions in time are counted on beyond the trained ones, not interpolated."""
    return mock.patch.object(cascade.stages[0].net, "trained_frames", None)


@contextlib.contextmanager
def shifted(cascade: Cascade, grid: Grid) -> Iterator[None]:
    """More noise where the base's video is larger: SD3's shift by the number of positions."""
    base = cascade.stages[0]
    share = math.prod(grid.shape) / math.prod(cascade.stages[-1].target.shape)
    schedule = base.diffusion.schedule
    with mock.patch.object(schedule, "logsnr_shift", schedule.logsnr_shift - math.log(share)):
        yield


WAYS: dict[str, Way] = {
    "trained size": trained_size,
    "positions counted": counted,
    "shifted": shifted,
}
SHAPES = {
    "1:1, trained": Case(),
    "16:9, 24×40": Case(height=24, width=40),
    "16:9, 32×56": Case(height=32, width=56),
    "9:16, 40×24": Case(height=40, width=24),
    "9:16, 56×32": Case(height=56, width=32),
    "2.4:1, 24×56": Case(height=24, width=56),
    "2.4:1, 32×80": Case(height=32, width=80),
    "1:1, 24×24": Case(height=24, width=24),
    "1:1, 48×48": Case(height=48, width=48),
    "1:1, 64×64": Case(height=64, width=64),
}
LENGTH_WAYS = {
    "": Case(),
    ", positions counted": Case(ways=("positions counted",)),
    ", shifted": Case(ways=("shifted",)),
    ", windows sharing 2": Case(window=8, overlap=2),
    ", windows sharing 4": Case(window=8, overlap=4),
}
LENGTHS = {"1 s": Case(frames=8)} | {
    f"{frames // 8} s{name}": replace(case, frames=frames)
    for frames in (32, 64)
    for name, case in LENGTH_WAYS.items()
}
CASES = SHAPES | LENGTHS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--run", nargs="*", default=[], help="stage=run, where it is not default")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--ways", nargs="*", default=[], choices=WAYS, help="in every case")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sheets", type=Path, help="a folder for pictures of each case")
    parser.add_argument("--stages", nargs="+", default=CHAIN["stages"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = dict(word.split("=", 1) for word in args.run)
    cascade = Cascade.from_runs(args.runs, CHAIN, run=runs)
    prompts = heldout_prompts(args.prompts)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        if name not in args.cases:
            continue
        start = time.process_time()
        videos, grid = sampled(cascade, case, [t for t, _ in prompts], args)
        seconds = time.process_time() - start
        truth = torch.stack([shapes_truth(a, grid, i) for i, (_, a) in enumerate(prompts)])
        videos["truth"] = truth
        found[name] = {"case": asdict(case), "ways": args.ways, "CPU seconds": round(seconds)}
        for stage, video in videos.items():
            found[name][stage] = readings(video, grid, prompts)
            shares = "  ".join(f"{n} {s['share']:.0%}" for n, s in found[name][stage].items())
            print(f"{name:24s} {stage:6s} {shares}", flush=True)  # noqa: T201
        args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False))
        if args.sheets is not None:
            args.sheets.mkdir(parents=True, exist_ok=True)
            last = [stage for stage in videos if stage != "truth"][-1]
            sheet(videos[last][:12], args.sheets / f"{name.replace('/', '-')}.png")


def sampled(
    cascade: Cascade, case: Case, prompts: Sequence[str], args: argparse.Namespace
) -> tuple[dict[str, Tensor], Grid]:
    """The videos of a case after each stage, and the last stage's grid."""
    grid = cascade.grids(num_frames=case.frames, height=case.height, width=case.width)[-1]
    windows = [Windows(frames=case.window, overlap=case.overlap)] + [Windows()] * 2
    scale = [math.prod(s.kind.scale.space for s in cascade.stages[i:]) for i in (1, 2, 3)]
    times = [math.prod(s.kind.scale.time for s in cascade.stages[i:]) for i in (1, 2, 3)]
    place = len(args.stages) - 1
    sizes = {
        "num_frames": case.frames // times[place],
        "height": case.height // scale[place],
        "width": case.width // scale[place],
        "fps": grid.fps / times[place],
    }
    parts: list[Mapping[str, Tensor]] = []
    with contextlib.ExitStack() as stack:
        for way in (*case.ways, *args.ways):
            stack.enter_context(WAYS[way](cascade, grid))
        for first in range(0, len(prompts), args.batch):
            rows = prompts[first : first + args.batch]
            generators = [torch.Generator().manual_seed(first + i) for i in range(len(rows))]
            parts.append(
                cascade(
                    rows,
                    generator=generators,
                    windows=windows[: place + 1],
                    stages=args.stages,
                    **sizes,
                ).stages
            )
    return {s: to_uint8(torch.cat([p[s] for p in parts])) for s in args.stages}, grid


def readings(
    video: Tensor, grid: Grid, prompts: Sequence[tuple[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The shares of right attributes of a case's videos, by name."""
    wanted = [attributes.to_dict() for _, attributes in prompts]
    fps = video.shape[2] / grid.duration
    duration = max(grid.duration, TRAINED_S)
    whole = following(video, wanted, partial(parse, duration=duration), fps=fps)
    shares = {name: share.to_json() for name, share in whole.shares().items()}
    looks = [{n: v for n, v in one.items() if n != "direction"} for one in wanted]
    end = following(video[:, :, -round(TRAINED_S * fps) :], looks, parse, fps=fps)
    return {**shares, "end": end.share().to_json()}


def sheet(videos: Tensor, path: Path) -> None:
    """A picture with one video a row: 8 frames of each, enlarged."""
    frames = [*range(0, videos.shape[2], max(videos.shape[2] // 8, 1))][:8]
    scale = max(1, 64 // min(videos.shape[3:]))
    rows = videos[:, :, frames].permute(0, 3, 2, 4, 1)  # b h f w c
    rows = torch.nn.functional.pad(rows, (0, 0, 1, 1, 0, 0, 1, 1), value=128)
    b, h, f, w, c = rows.shape
    image = Image.fromarray(rows.reshape(b * h, f * w, c).numpy())
    image.resize((f * w * scale, b * h * scale), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
