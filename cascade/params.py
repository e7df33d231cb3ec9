"""A table of a cascade's stages, without building their weights: `python -m cascade.params`."""

import sys

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from cascade.composed_chain import Link, check_links
from cascade.entry import CONF, check_choices, command
from cascade.meta import on_meta
from cascade.stage import TrainableStage


def build_on_meta(choice: str) -> tuple[TrainableStage, int]:
    """The stage of config `stage=<choice>` on the meta device, and its number of parameters."""
    if not GlobalHydra.instance().is_initialized():
        initialize_config_dir(version_base="1.3", config_dir=CONF)
    config = compose("train", overrides=[f"stage={choice}"])["stage"]
    config = {name: value for name, value in config.items() if name != "train"}
    with on_meta():
        stage = hydra.utils.instantiate(config, _convert_="all")
        stage.configure_model()
    return stage, sum(p.numel() for p in stage.parameters())


@command("params")
def main(cfg: DictConfig) -> None:
    """The command line."""
    table = Table(title=f"cascade {cfg.cascade.name}")
    for column in ("stage", "frames×height×width", "fps", "parameters", "published", "ratio"):
        table.add_column(column, justify="right" if column != "stage" else "left")
    GlobalHydra.instance().clear()
    built = {name: build_on_meta(f"{cfg.cascade.name}/{name}") for name in cfg.cascade.stages}
    check_links([Link(name, stage.target, stage.kind) for name, (stage, _) in built.items()])
    for name, (stage, count) in built.items():
        grid = stage.target
        published = cfg.cascade.get("published", {}).get(name)
        table.add_row(
            name,
            "×".join(str(side) for side in grid.shape),
            f"{grid.fps:g}",
            f"{count / 1e6:,.1f} M",
            f"{published / 1e6:,.0f} M" if published else "–",
            f"{count / published:.3f}" if published else "–",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
