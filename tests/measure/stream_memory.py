"""Measure memory and time of streamed sampling by length of the video: figures of RESULTS.md.

    python tests/measure/stream_memory.py --runs runs --seconds 5 60 600

Each length runs in a process of its own: its peak memory above that of the loaded pipeline, and the
seconds per second of video, of all stages together and of each.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from cascade.pipeline import Cascade
from cascade.request import Windows


def memory(name: str) -> float:
    """A figure of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {name}")


def run(args: argparse.Namespace, seconds: float) -> dict[str, object]:
    """The figures of one length, measured in this process."""
    chain = {"name": args.cascade, "stages": args.stages}
    cascade = Cascade.from_runs(args.runs, chain)
    windows = [Windows(frames=args.base_window)] + [Windows(frames=args.window)] * (
        len(args.stages) - 1
    )

    def frames_of(length: float) -> int:
        spent: Counter[str] = Counter()
        marks = [time.perf_counter()]

        def on_frames(name: str, _first: int, _frames: torch.Tensor) -> None:
            now = time.perf_counter()
            spent[name] += now - marks[-1]
            marks[-1] = now

        made = 0
        for part in cascade.stream(
            args.prompt,
            seconds=length,
            windows=windows,
            generator=torch.Generator().manual_seed(0),
            on_frames=on_frames,
        ):
            made += part.shape[2]
        by_stage.update(spent)
        return made

    by_stage: dict[str, float] = {}
    frames_of(2)  # what is allocated once is part of the loaded pipeline
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts here
    before = memory("VmRSS")
    start = time.perf_counter()
    made = frames_of(seconds)
    took = time.perf_counter() - start
    return {
        "seconds": seconds,
        "frames": made,
        "MiB above the pipeline": round(memory("VmHWM") - before, 1),
        "seconds per second": round(took / seconds, 3),
        "by stage": {name: round(value / seconds, 3) for name, value in by_stage.items()},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--cascade", default="demo")
    parser.add_argument("--stages", nargs="+", default=["base", "tsr1", "ssr1"])
    parser.add_argument("--seconds", nargs="+", type=float, default=[5, 60, 600])
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--base-window", type=int)
    parser.add_argument("--prompt", default="a small red circle moves left on a black background")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(run(args, args.seconds[0])))  # noqa: T201
        return
    for seconds in args.seconds:
        given = [word for word in sys.argv[1:] if word != "--here"]
        place = given.index("--seconds") if "--seconds" in given else len(given)
        end = place + 1
        while end < len(given) and not given[end].startswith("--"):
            end += 1
        words = [*given[:place], *given[end:], "--seconds", str(seconds), "--here"]
        subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
