"""Speed of a stage on this machine, CPU or GPU: `python -m cascade.bench stage=demo/base`.

A few real steps of Lightning's trainer with the run's callbacks, on batches of its loader: the time
of a step and of its parts, the share of the device's matrix peak, of its idle time, the longest
kernels, memory, compilation, and a few sampler steps. `bench.trace=FILE.json.gz` leaves a trace for
Perfetto (ui.perfetto.dev) or Chrome, `bench.json=true` prints the figures as JSON.
"""

import json
import sys

from omegaconf import DictConfig

from cascade.bench.show import show
from cascade.bench.speed import bench
from cascade.entry import check_choices, command
from cascade.parallel.ranks import is_first


@command("bench")
def main(cfg: DictConfig) -> None:
    """The command line."""
    figures = bench(cfg)
    if not is_first():
        return
    if cfg.bench.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    else:
        show(figures)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
