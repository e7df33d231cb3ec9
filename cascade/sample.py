"""Sample videos from a trained cascade: `python -m cascade.sample prompt='…'`.

Besides text, a prompt may have the sources `image= last_image= video= connect= mask= indices=
strength=`; the way to prompt, `way=`, reads them (conf/sample.yaml lists the sources of each way).
`batch=requests.yaml` samples many requests; with `-m part=0,1 parts=2`, each part in its process.
"""

import sys

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cascade import launch
from cascade.entry import check_choices, command
from cascade.sample_batch import Cascades, check_batch, run_batch
from cascade.sample_record import restored
from cascade.sample_request import ask, check
from cascade.sample_run import run


def check_part(cfg: DictConfig) -> None:
    """Check which part of a batch is asked for.

    Raises:
        ValueError: there is no such part, or no batch.
    """
    if cfg.part >= cfg.parts:
        raise ValueError(
            f"part={cfg.part}: must be less than parts={cfg.parts}, since parts are numbered from 0"
        )
    if cfg.parts > 1 and cfg.batch is None:
        raise ValueError(f"parts={cfg.parts}: needs a batch to divide: batch=requests.yaml")


@command("sample", before=restored)
def main(cfg: DictConfig) -> None:
    """The command line."""
    check_part(cfg)
    if cfg.batch is not None:
        typed = list(HydraConfig.get().overrides.task)
        run_batch(cfg.batch, check_batch(cfg, typed), run)
        return
    asked = ask(cfg)
    if asked.missing:
        run(check(asked, Cascades().of(asked)))


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    if {"-m", "--multirun"} & {*sys.argv[1:]}:
        launch.register()
    main()
