"""Measure how far the videos of one seed are apart however they are made: figures of RESULTS.md.

    python tests/measure/same_video.py OUT --runs runs

Prompts are sampled one by one from Python. The same videos are then made in a batch, in windows,
after an interruption, by the command line, and by `from=` from its file. OUT gets, per way, the
largest difference of a pixel (pixels are in [-1, 1], so 1/255 of their range is 0.0078). Frames of
files are compared with those of the file that Python wrote, so that H.264's loss does not count.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade.call import CallInterruptedError
from cascade.pipeline import Cascade
from cascade.request import Windows
from cascade.sample import main as sample
from cascade.sample_record import generators
from cascade.video import read_frames, write_mp4

PROMPTS = ("a small red circle moves left", "a large blue square stays", "a green triangle falls")
NEGATIVE = ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--cascade", default="demo")
    parser.add_argument("--stages", nargs="+", default=["base", "tsr1", "ssr1"])
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    cascade = Cascade.from_runs(args.runs, {"name": args.cascade, "stages": args.stages})
    alone = torch.cat([made(cascade, args, [n]) for n in range(args.videos)])
    off: dict[str, float] = {}

    def keep(way: str, videos: Tensor, wanted: Tensor = alone) -> None:
        off[way] = float((videos - wanted).abs().max())
        args.out.write_text(json.dumps(off, indent=1))
        print(f"{way}: {off[way]:.2g}", flush=True)  # noqa: T201

    keep("twice", made(cascade, args, [0]), alone[:1])
    keep(f"batch of {args.videos}", made(cascade, args, range(args.videos)))
    for size in (4, 8, 16):
        windows = [Windows(), *[Windows(frames=size)] * (len(args.stages) - 1)]
        keep(f"windows of {size}", made(cascade, args, [0], windows=windows), alone[:1])
    windows = [Windows(), *[Windows(frames=8, tile=16)] * (len(args.stages) - 1)]
    keep("windows of 8, tiles of 16", made(cascade, args, [0], windows=windows), alone[:1])
    keep("interrupted in each stage", interrupted(cascade, args), alone[:1])
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "python.mp4", alone[0], fps=cascade.grids()[-1].fps)
        wanted = frames_of(Path(folder) / "python.mp4")
        file = typed(args, Path(folder) / "typed", f"prompt='{PROMPTS[0]}'", *sizes(args))
        keep("command line", frames_of(file), wanted)
        keep("from=", frames_of(typed(args, Path(folder) / "from", f"from='{file}'")), wanted)


def prompts(numbers: Sequence[int]) -> list[str]:
    """Those of the videos of these numbers."""
    return [PROMPTS[number % len(PROMPTS)] for number in numbers]


def made(
    cascade: Cascade, args: argparse.Namespace, numbers: Sequence[int], **options: Any
) -> Tensor:
    """The videos of these numbers of seed 0, from Python."""
    options = {"num_inference_steps": args.steps, **options}
    return cascade(
        prompts(numbers),
        NEGATIVE,
        generator=generators(0, numbers),
        num_frames=args.frames,
        **options,
    ).videos


def interrupted(cascade: Cascade, args: argparse.Namespace) -> Tensor:
    """The first video, stopped in each stage and continued."""
    done: dict[str, Tensor] = {}
    windows = [Windows(), *[Windows(frames=8)] * (len(args.stages) - 1)]
    for name in args.stages:

        def stop(
            pipe: Cascade, _index: int, _t: float, at: dict[str, Any], name: str = name
        ) -> None:
            pipe.interrupt = at["stage"] == name

        try:
            made(cascade, args, [0], windows=windows, done=done, callback_on_step_end=stop)
        except CallInterruptedError as error:
            done = error.finished
    return made(cascade, args, [0], windows=windows, done=done)


def sizes(args: argparse.Namespace) -> list[str]:
    """The settings of the videos as they are typed."""
    steps = "null" if args.steps is None else args.steps
    return [f"num_frames={args.frames}", f"num_inference_steps={steps}", "seed=0", "window=8"]


def typed(args: argparse.Namespace, out: Path, *words: str) -> Path:
    """The file that the command makes, in this process."""
    sys.argv = [
        "sample",
        f"cascade={args.cascade}",
        f"paths.runs={args.runs}",
        f"out={out}",
        *words,
    ]
    sample()
    return next(out.glob("*.mp4"))


def frames_of(path: Path) -> Tensor:
    """The pixels of a file, in [-1, 1]."""
    return read_frames(path)[0].float() / 127.5 - 1


if __name__ == "__main__":
    main()
