"""A new cascade is a copy under its own name, and nothing is overwritten."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cascade.entry import CONF
from cascade.new import copy_cascade


@pytest.fixture
def conf(tmp_path):
    return Path(shutil.copytree(CONF, tmp_path / "conf"))


@pytest.mark.parametrize("of", ["demo", "minute", "single_gpu", "imagen_video"])
def test_a_copy_composes_to_the_same_stages(conf, of):
    made = copy_cascade("mine", of, conf)
    assert made[-1] == conf / "cascade/mine.yaml"
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        cascade = compose("params", ["cascade=mine"]).cascade
        assert cascade.name == "mine"
        assert sorted(path.stem for path in made[:-1]) == sorted(cascade.stages)
        for stage in cascade.stages:
            one, other = (compose("train", [f"stage={c}/{stage}"]).stage for c in ("mine", of))
            assert one == other


@pytest.mark.parametrize(
    ("name", "of", "message"),
    [
        (
            "mine",
            "dem",
            "FROM=dem: no such cascade; there are demo, imagen_video, minute, physics, single_gpu",
        ),
        ("demo", "demo", "CASCADE=demo: .*conf/stage/demo exists; choose another name"),
        ("My/own", "demo", "CASCADE=My/own: a cascade's name has letters, digits and _"),
    ],
)
def test_what_cannot_be_copied_is_refused_and_nothing_is_written(conf, name, of, message):
    before = sorted(conf.rglob("*"))
    with pytest.raises(ValueError, match=message):
        copy_cascade(name, of, conf)
    assert sorted(conf.rglob("*")) == before
