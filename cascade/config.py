"""Print the resolved config of a run: `python -m cascade.config stage=demo/tsr1`."""

import sys

import hydra
from omegaconf import DictConfig

from cascade.entry import CONF, check_choices


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def main(_: DictConfig) -> None:
    """Nothing: Hydra prints the config."""


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    sys.argv += ["--cfg", "job", "--resolve"]
    main()
