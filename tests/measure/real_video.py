"""Measure trained super-resolution stages on real videos, in windows: figures of RESULTS.md.

    python tests/measure/real_video.py OUT --videos a.mp4 b.mp4 [--runs runs] [--run tsr1=real ...]

Each video is read at the last stage's frame rate, reduced as the stages reduce their training
clips, and raised again by the stages (in windows, and whole) and by the baseline: linear
interpolation in time, bicubic in space. All are compared with the video as it was read:

- PSNR (dB) and SSIM;
- `agreement`: PSNR of the result, reduced again, with the reduced video;
- `temporal error`: mean |Δ result − Δ video| of consecutive frames, pixels in [-1, 1].
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade.eval.fidelity import psnr, ssim
from cascade.grid import Grid
from cascade.pipeline import Cascade
from cascade.request import Windows
from cascade.stage import Stage
from cascade.video import load_clip

CHAIN = {"name": "demo", "stages": ("base", "tsr1", "ssr1")}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--videos", nargs="+", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--run", nargs="*", default=[], help="stage=run, where it is not default")
    parser.add_argument("--chains", nargs="+", default=["tsr1", "ssr1", "tsr1+ssr1"])
    parser.add_argument("--grid", nargs=3, type=int, default=(32, 96, 160))
    parser.add_argument("--window", type=int, default=8, help="0: only the whole")
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--captions", action="store_true", help="read KEY.txt beside KEY.mp4")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = dict(word.split("=", 1) for word in args.run)
    cascade = Cascade.from_runs(args.runs, CHAIN, run=runs)
    frames, height, width = args.grid
    rows: list[dict[str, Any]] = []
    for path in args.videos:
        prompt = path.with_suffix(".txt").read_text().strip() if args.captions else ""
        for chain in args.chains:
            fps = cascade.stages[-1].target.fps
            grid = Grid(frames=frames, height=height, width=width, fps=fps)
            video = load_clip(path, grid)[None]
            row = {"video": path.stem, "stages": chain}
            rows.append(row | measure(cascade, chain.split("+"), video, prompt, args))
            print(json.dumps(rows[-1]), flush=True)  # noqa: T201
            args.out.write_text(json.dumps(rows, indent=1))


def measure(
    cascade: Cascade, names: Sequence[str], video: Tensor, prompt: str, args: argparse.Namespace
) -> dict[str, Any]:
    """The figures of one video through these stages."""
    stages = cascade.named(names)
    low = reduced(stages, video)
    windows = Windows(frames=args.window, tile=args.tile) if args.window else None

    def raised(some: Windows | None) -> tuple[Tensor, float]:
        start = time.process_time()
        generator = torch.Generator().manual_seed(0)
        made = cascade(prompt, low=low, stages=names, windows=some, generator=generator)
        return made.videos, time.process_time() - start

    whole, seconds = raised(None)
    result, in_windows = raised(windows) if windows else (whole, seconds)
    plain = low
    for stage in stages:
        plain = stage.kind.baseline(plain)
    return {
        "windows - whole": float((result - whole).abs().max()),
        "CPU seconds": {"whole": round(seconds, 1), "in windows": round(in_windows, 1)},
        "stages' own": figures(stages, result, video, low),
        "baseline": figures(stages, plain, video, low),
    }


def reduced(stages: Sequence[Stage], video: Tensor) -> Tensor:
    """A video as the first of these stages takes it."""
    for stage in reversed(stages):
        video = stage.kind.reduce(video)
    return video


def figures(stages: Sequence[Stage], made: Tensor, video: Tensor, low: Tensor) -> dict[str, float]:
    """How near a result comes to the video."""
    new = [stage for stage in stages if stage.kind.scale.time > 1]
    own, wanted = (made, video) if not new else (new[0].kind.new_frames(v) for v in (made, video))
    return {
        "PSNR": float(psnr(made, video)),
        "PSNR of new frames": float(psnr(own, wanted)),
        "SSIM": float(ssim(made, video)),
        "agreement": float(psnr(reduced(stages, made), low)),
        "temporal error": float((made.diff(dim=2) - video.diff(dim=2)).abs().mean()),
    }


if __name__ == "__main__":
    main()
