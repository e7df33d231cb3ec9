"""Whether the stages of a cascade meet, by their configs alone: before any of them is trained."""

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from cascade.entry import CONF
from cascade.grid import Grid
from cascade.stage import Kind


class Link(NamedTuple):
    """A stage of a chain: its name, the grid that it generates, and its kind."""

    name: str
    target: Grid
    kind: Kind


def check_links(links: Sequence[Link]) -> None:
    """Check that each stage takes the grid that the one before it generates.

    Raises:
        ValueError: two stages do not meet.
    """
    for before, after in itertools.pairwise(links):
        if not after.kind.takes_low:
            raise ValueError(f"stage {after.name} is a base and can only be the first stage")
        scale = after.kind.scale
        wanted = before.target.scaled(time=scale.time, space=scale.space)
        if after.target != wanted:
            raise ValueError(
                f"stages {before.name} and {after.name} do not meet: {before.name} generates "
                f"{before.target}, of which {after.name} makes {wanted}, but its target is "
                f"{after.target}; set the target of one of them"
            )


def stage_configs(choices: Sequence[str]) -> list[DictConfig]:
    """The configs `stage=<choice>`, inside a Hydra command and outside.

    They are composed at once, without the rest of a run's config: a compose takes longer than a
    stage in it.
    """
    inside = GlobalHydra.instance().is_initialized()
    configs = nullcontext() if inside else initialize_config_dir(CONF, version_base="1.3")
    with configs:
        composed = compose(None, [f"+stage@s{i}={choice}" for i, choice in enumerate(choices)])
    return [composed[f"s{i}"] for i in range(len(choices))]


def links(choices: Sequence[str]) -> list[Link]:
    """The links of configs `stage=<choice>`."""
    return [
        Link(cfg["name"], instantiate(cfg["target"]), instantiate(cfg["kind"]))
        for cfg in stage_configs(choices)
    ]


def check_neighbours(choice: str) -> None:
    """Check the config of a stage with those before and after it in its cascade.

    A stage that is in no cascade has no neighbours.

    Raises:
        ValueError: it does not meet one of them.
    """
    cascade, _, name = choice.rpartition("/")
    path = Path(CONF) / "cascade" / f"{cascade}.yaml"
    if not path.is_file():
        return
    names = list(OmegaConf.select(OmegaConf.load(path), "stages") or [])
    if name not in names:
        return
    place = names.index(name)
    around = [f"{cascade}/{one}" for one in names[max(place - 1, 0) : place + 2]]
    check_links(links([one for one in around if (Path(CONF) / "stage" / f"{one}.yaml").is_file()]))
