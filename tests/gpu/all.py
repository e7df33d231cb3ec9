"""All that a few minutes on a GPU can teach, in one process; not collected by pytest.

    PYTHONPATH=. python tests/gpu/all.py --out DIR [--minutes 8] [--small] [--legs 60] …

Sections with deadlines: ceilings of the machine, correctness against float64, attention, products,
the optimizer of a large network, real training steps compiled and eager, super-resolution, the
loader, and with --legs short trainings with their videos. Every row is appended to DIR/rows.jsonl
at once; the same command goes on after the last one, also after a kill. An out-of-memory error is a
row. The table comes last, on the screen and in DIR/table.md; DIR/M.json.gz is a trace for Perfetto.
`--small` tries it on a CPU. `tests/gpu/carry.py` packs what a bare machine lacks, and the clips.
"""

import argparse
import logging
import os
import time
import warnings
from pathlib import Path

import torch

from tests.gpu import correct, products, runs, training, updates
from tests.gpu.rows import Rows, Section, measure_all, say, table_at_the_end

#: Seconds that importing has taken before `main` starts its clock.
IMPORTS_S = 10.0


def sections(options: argparse.Namespace) -> list[Section]:
    """The sections in order, with the seconds of each in a call of 480."""
    small, clips = options.small, options.clips or options.out / "clips"
    found = [
        Section("ceilings", 20, products.ceilings(small)),
        Section("correctness", 35, correct.correctness(small)),
        Section("attention", 45, products.attention(small)),
        Section("products", 30, products.products(small)),
        Section("optimizer", 30, updates.optimizers(small)),
        Section("steps", 230, training.steps(small, options.out)),
        Section("super-resolution", 65, training.super_resolution(small)),
        Section("loader", 25, runs.loaders(small, clips)),
    ]
    if options.legs:
        rows = runs.legs(small, clips, options.out, options.legs)
        found.append(Section("legs", 1.5 * options.legs * len(rows), rows))
    if options.sections:
        found = [one for one in found if one.title in options.sections.split(",")]
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="of this call")
    parser.add_argument("--clips", type=Path, help="the folder of ready clips")
    parser.add_argument("--legs", type=float, default=0.0, help="seconds of training of each stage")
    parser.add_argument("--sections", help="some sections alone: their titles, with commas")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if not (torch.cuda.is_available() or options.small):
        raise SystemExit("all: needs CUDA, but this machine has none; try it with --small")
    if options.small:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    options.out = options.out.resolve()
    options.clips = options.clips and options.clips.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    rows, spent = Rows(options.out / "rows.jsonl"), 60 * options.minutes - IMPORTS_S
    began = time.monotonic()
    with table_at_the_end(rows, options.out / "table.md", spent):
        measure_all(sections(options), rows, spent)
    say(f"{len(rows.all)} rows in {options.out / 'rows.jsonl'}; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
