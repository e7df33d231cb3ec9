"""What a plan of very many samples costs: `python tests/data/scale.py FOLDER --shards 1000`.

Prints one JSON: CPU seconds and peak memory of loading the indices and laying the plan, then CPU
seconds to the draws and index lines of the batch at a step far on, in a process of their own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def cpu() -> float:
    """CPU seconds of this process so far, its start and imports included."""
    return time.process_time()


def measure(folder: Path, batching: str, step: int) -> dict[str, float]:
    """Lay the plan, and take the batch at `step`."""
    from cascade.grid import Grid
    from data.train.module import ShardData
    from data.train.options import ClipOptions, SelectionOptions

    began = cpu()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = ShardData(
        shards=[str(path).replace(".index.parquet", ".tar") for path in sorted(folder.iterdir())],
        grid=Grid(frames=16, height=256, width=256, fps=8),
        multiple=(2, 8, 8),
        global_batch=256,
        batching=batching,
        clips=ClipOptions(lengths=(8, 4)),
        selection=SelectionOptions(image_share=0.1),
    )
    data.sets["all"].__class__.found = lambda one: list(one.shards)
    data._ensure_index = lambda shards, **_: [
        Path(shard.replace(".tar", ".index.parquet")) for shard in shards
    ]
    data.setup()
    laid = cpu()
    draws = data.plan.share(step, part=0, parts=8)
    lines = [data.chosen.index.row(draw.row) for draw in draws]
    return {
        "samples": len(data.chosen.index),
        "train": len(data.pool.rows),
        "imports_cpu_s": began,
        "plan_cpu_s": laid - began,
        "batch_cpu_s": cpu() - laid,
        "drawn": len(lines),
        "imports_bytes": before * 1024,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=10_000, help="per shard")
    parser.add_argument("--step", type=int, default=1_000_000)
    parser.add_argument("--batching", default=None, help="buckets or packing; both if not given")
    chosen = parser.parse_args()
    if chosen.batching:
        sys.stdout.write(json.dumps(measure(chosen.folder, chosen.batching, chosen.step)) + "\n")
        return
    if not chosen.folder.is_dir():
        from synthetic import write_synthetic

        chosen.folder.mkdir(parents=True)
        write_synthetic(chosen.folder, shards=chosen.shards, samples=chosen.samples)
    for batching in ("buckets", "packing"):
        told = [sys.executable, __file__, str(chosen.folder), "--batching", batching]
        done = subprocess.run(
            [*told, "--step", str(chosen.step)], capture_output=True, text=True, check=True
        )
        told = {"batching": batching, **json.loads(done.stdout.splitlines()[-1])}
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
