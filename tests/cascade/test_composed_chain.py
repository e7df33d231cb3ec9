"""A chain of configs is checked when it is composed: grids that do not meet are refused."""

import sys
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from cascade import composed_chain, params
from cascade.composed_chain import Link, check_links, check_neighbours, links
from cascade.entry import CONF
from cascade.grid import Grid
from stages.base import Base
from stages.ssr import SpatialSR
from stages.tsr import TemporalSR

BASE = Link("base", Grid(frames=8, height=24, width=40, fps=4), Base())


@pytest.fixture(autouse=True)
def conf():
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        yield


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (
            Link("ssr1", Grid(frames=8, height=60, width=80, fps=4), SpatialSR(factor=2)),
            "base generates 8×24×40 @ 4 fps, of which ssr1 makes 8×48×80 @ 4 fps, but its target "
            "is 8×60×80 @ 4 fps",
        ),
        (
            Link("tsr1", Grid(frames=16, height=24, width=40, fps=24), TemporalSR(factor=2)),
            "of which tsr1 makes 16×24×40 @ 8 fps, but its target is 16×24×40 @ 24 fps",
        ),
        (BASE._replace(name="late"), "stage late is a base and can only be the first stage"),
    ],
)
def test_stages_that_do_not_meet_are_refused_with_both_grids(after, said):
    with pytest.raises(ValueError, match=said):
        check_links([BASE, after])


def test_every_shipped_stage_meets_its_neighbours():
    for path in Path(CONF).glob("cascade/*.yaml"):
        check_links(links([f"{path.stem}/{name}" for name in OmegaConf.load(path).stages]))


def test_a_stage_of_no_cascade_has_no_neighbours():
    check_neighbours("nowhere/base")


def test_a_stage_is_checked_with_both_neighbours(monkeypatch):
    wrong = Grid(frames=16, height=60, width=32, fps=8)
    monkeypatch.setattr(
        composed_chain,
        "links",
        lambda choices: [
            one._replace(target=wrong) if one.name == "ssr1" else one for one in links(choices)
        ],
    )
    with pytest.raises(ValueError, match="stages tsr1 and ssr1 do not meet"):
        check_neighbours("demo/ssr1")
    with pytest.raises(ValueError, match="stages tsr1 and ssr1 do not meet"):
        check_neighbours("demo/tsr1")
    check_neighbours("demo/base")


def test_params_refuses_a_chain_that_does_not_meet(monkeypatch):
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["command", "cascade.stages=[base,ssr1]"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="stages base and ssr1 do not meet"):
        params.main()
