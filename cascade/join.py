"""Join the trained stages of a cascade in one folder: `python -m cascade.join out=…`.

`Cascade.from_pretrained` and `bundle=` open the folder, which needs no runs.
"""

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig

from cascade.cascade_bundle import save_cascade
from cascade.chain import check_chain, check_sampling, open_stage, runs_of
from cascade.entry import check_choices, command
from cascade.files.text import typed

log = logging.getLogger(__name__)


@command("bundle")
def main(cfg: DictConfig) -> None:
    """The command line."""
    paths, sampling = runs_of(cfg.paths.runs, cfg.cascade, cfg.run)
    stages = [open_stage(path) for path in paths]
    check_chain(stages)
    check_sampling(stages, sampling)
    bundles = dict(zip(cfg.cascade.stages, paths, strict=True))
    folder = save_cascade(
        Path(cfg.out), bundles=bundles, sampling=dict(zip(bundles, sampling, strict=True))
    )
    sampled = typed("ARGS", f"bundle={folder}")
    log.info("%s: %s; sample it: make sample %s", folder, ", ".join(bundles), sampled)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
