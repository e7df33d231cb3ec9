"""A table of a cascade's stages, without building their weights: `python -m cascade.params`."""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from cascade.composed_chain import Link, check_links, stage_configs
from cascade.entry import check_choices, command
from cascade.meta import on_meta
from cascade.stage import TrainableStage


def build_on_meta(choices: Sequence[str]) -> list[tuple[TrainableStage, int]]:
    """The stages of configs `stage=<choice>` on the meta device, and their parameters, counted."""
    built = []
    for cfg in stage_configs(choices):
        config = {name: value for name, value in cfg.items() if name != "train"}
        with on_meta():
            stage = hydra.utils.instantiate(config, _convert_="all")
            stage.configure_model()
        built.append((stage, sum(p.numel() for p in stage.parameters())))
    return built


@command("params")
def main(cfg: DictConfig) -> None:
    """The command line."""
    table = Table(title=f"cascade {cfg.cascade.name}")
    for column in ("stage", "frames×height×width", "fps", "parameters", "published", "ratio"):
        table.add_column(column, justify="right" if column != "stage" else "left")
    names = list(cfg.cascade.stages)
    built = build_on_meta([f"{cfg.cascade.name}/{name}" for name in names])
    check_links(
        [
            Link(name, stage.target, stage.kind)
            for name, (stage, _) in zip(names, built, strict=True)
        ]
    )
    for name, (stage, count) in zip(names, built, strict=True):
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
