"""Every config composes, and every `_target_` takes the keys that it is given."""

import functools
import inspect
import itertools
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cascade import values
from cascade.chain import check_chain
from cascade.command_values import COMMANDS
from cascade.diffusion.sampler import Step
from cascade.diffusion.schedule import CosineVP, UniformTime
from cascade.entry import CONF
from cascade.params import build_on_meta
from cascade.shrink import ignored_overrides
from data.plan.clip_shapes import native

STAGES = sorted(
    str(path.relative_to(Path(CONF) / "stage").with_suffix(""))
    for path in Path(CONF).glob("stage/*/*.yaml")
)
CASCADES = sorted(path.stem for path in Path(CONF).glob("cascade/*.yaml"))
EXPERIMENTS = sorted(
    str(path.relative_to(Path(CONF) / "experiment").with_suffix(""))
    for path in Path(CONF).glob("experiment/*/*/*.yaml")
)


@pytest.fixture(autouse=True)
def conf():
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        yield


@functools.cache
def built(choice):
    """A stage on the meta device, and its number of parameters."""
    (found,) = build_on_meta([choice])
    return found


def nodes(node, where=""):
    """Every mapping with a `_target_`, and where it stands."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for name, value in node.items():
            yield from nodes(value, f"{where}.{name}")


def check_targets(config):
    count = 0
    for where, node in nodes(config):
        found = hydra.utils.get_object(node["_target_"])
        keys = {k: None for k in node if not k.startswith("_")}
        signature = inspect.signature(found)
        try:
            signature.bind_partial(**keys)
        except TypeError as error:
            pytest.fail(f"{where}: {node['_target_']}: {error}")
        if not node.get("_partial_"):
            missing = [
                name
                for name, p in signature.parameters.items()
                if p.default is p.empty
                and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
                and name not in keys
            ]
            assert missing == [], f"{where}: {node['_target_']} also needs {missing}"
        count += 1
    return count


def crossed(stages, trainers):
    """All pairs; the fast ones have every stage once, and every trainer with several stages."""
    for i, stage in enumerate(stages):
        for j, trainer in enumerate(trainers):
            fast = i % len(trainers) == j
            yield pytest.param(stage, trainer, marks=[] if fast else pytest.mark.slow)


@pytest.mark.parametrize(
    ("stage", "trainer"), [*crossed(STAGES, ["auto", "cpu", "cpu2", "gpu", "ddp"])]
)
def test_every_stage_composes_with_every_trainer_and_keeps_the_rules(stage, trainer):
    cfg = compose("train", overrides=[f"stage={stage}", f"trainer={trainer}", "data.shards=a"])
    values.check(cfg, COMMANDS["train"])
    cfg.logger = {}
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert check_targets(config) > 15
    assert config["data"]["global_batch"] == config["stage"]["train"]["global_batch"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_with_its_own_stage(experiment):
    cascade, stage, _ = experiment.split("/")
    overrides = [f"stage={cascade}/{stage}", f"experiment={experiment}", "logger=[]"]
    cfg = compose("train", overrides=overrides)
    assert check_targets(OmegaConf.to_container(cfg, resolve=True)) > 15


@pytest.mark.parametrize("root", ["demo", "evaluate", "sample", "params", "bench"])
@pytest.mark.parametrize("cascade", CASCADES)
def test_every_root_composes(root, cascade):
    extra = ["prompt=a"] if root == "sample" else []
    overrides = extra if root == "bench" else [f"cascade={cascade}", *extra]
    cfg = compose(root, overrides=[*overrides, *(["logger=[]"] if root == "bench" else [])])
    check_targets(OmegaConf.to_container(cfg, resolve=True))


ROOTS = {
    "plan": [],
    "prove": [],
    "shards": ["from=a"],
    "index": ["shards=a"],
    "captions": ["shards=a", "model=m"],
    "embeddings": ["shards=a", "encoder=e"],
    "reconstruct": ["run=a", "width=0.07"],
}


@pytest.mark.parametrize("root", ROOTS)
def test_every_other_root_composes(root):
    cfg = compose(root, overrides=ROOTS[root])
    check_targets(OmegaConf.to_container(cfg, resolve=False))


@pytest.mark.parametrize("cascade", CASCADES)
def test_the_stages_of_every_cascade_meet(cascade):
    names = compose("params", overrides=[f"cascade={cascade}"])["cascade"]["stages"]
    assert sorted(f"{cascade}/{name}" for name in names) == [
        s for s in STAGES if s.startswith(f"{cascade}/")
    ]
    stages = [built(f"{cascade}/{name}")[0] for name in names]
    check_chain(stages)
    for stage, name in zip(stages, names, strict=True):
        assert stage.name == name
        stage.check_grid(stage.target)
    for before, after in itertools.pairwise(stages):
        assert after.low_grid == before.target


def test_imagen_video_has_the_published_sizes():
    chain = compose("params", overrides=["cascade=imagen_video"])["cascade"]
    for name in chain["stages"]:
        _, count = built(f"imagen_video/{name}")
        assert 0.9 < count / chain["published"][name] < 1.1, name


def test_imagen_video_has_the_published_diffusion_and_text():
    chain = compose("params", overrides=["cascade=imagen_video"])["cascade"]
    for name in chain["stages"]:
        stage, _ = built(f"imagen_video/{name}")
        assert isinstance(stage.diffusion.schedule, CosineVP), name
        assert stage.diffusion.schedule.logsnr_shift == 0, name
        assert isinstance(stage.diffusion.times, UniformTime), name
        assert stage.diffusion.target == "v", name
        assert stage.text.width == 4096, name
        assert stage.sampling.guidance.threshold.percentile == 99.5, name
        assert stage.sampling.steps == (256 if name == "base" else 128), name


def test_imagen_video_oscillates_guidance_on_the_base_and_the_first_two_stages_after_it():
    chain = compose("params", overrides=["cascade=imagen_video"])["cascade"]["stages"]
    found = []
    for name in chain:
        guidance = built(f"imagen_video/{name}")[0].sampling.guidance
        if guidance.oscillate is not None:
            found.append(name)
            scales = {guidance.scale_at(Step(i, 128, 0.5, 0.0)) for i in range(128)}
            assert scales == {1 + 15, 1 + 1}, name  # the paper's weights are of (1 + w) and w
    assert found == chain[:3] == ["base", "tsr1", "ssr1"]


def test_half_of_a_base_s_clips_have_something_given_unless_its_own_config_says_otherwise():
    for stage in ("single_gpu/base", "imagen_video/base"):
        modes = compose("train", overrides=[f"stage={stage}"])["stage"]["train"]["modes"]
        assert hydra.utils.instantiate(modes).probabilities(16)["text"] == pytest.approx(0.5)


@pytest.mark.parametrize("stage", [s for s in STAGES if not s.endswith("base")])
def test_a_crop_is_wider_than_what_a_pixel_sees(stage):
    made, _ = built(stage)
    cfg = compose("train", overrides=[f"stage={stage}"])["stage"]
    if cfg["train"]["crop"] is not None:
        _, pixels = made.net.receptive_field
        crop = cfg["train"]["crop"]
        if tuple(crop[1:]) != made.target.shape[1:]:
            assert 2 * pixels < min(crop[1:])
        made.check_grid(type(made.target)(frames=crop[0], height=crop[1], width=crop[2], fps=1))


def test_overrides_that_shrink_replaces_are_reported():
    kept = ["stage.train.optimizer.muon_lr=0.1", "seed=3", "debug=smoke"]
    given = ["text@stage.text=t5", "stage.net.width=128", *kept]
    cfg = compose("train", overrides=["stage=demo/base", *given])
    text, width = ignored_overrides(cfg, given)
    assert text.startswith("text@stage.text=t5 is ignored: shrink sets {")
    assert width == "stage.net.width=128 is ignored: shrink sets 64"
    assert ignored_overrides(compose("train", overrides=["stage=demo/base"]), given) == []


def test_the_aspect_ratios_of_the_shapes_are_those_of_the_bases_buckets():
    cfg = compose("train", overrides=["stage=demo/base", "data=shapes_aspects"])
    target = cfg.stage.target
    sides = native(target.height, target.width, (2, 4, 4), cfg.data.clips.max_aspect)
    smallest = compose("train", overrides=["stage=demo/ssr1"]).stage.target.height
    for height, width, _ in cfg.data.make.others:
        assert any(height * b == width * a for a, b in sides)
        assert min(height, width) >= smallest  # a super-resolution stage can cut its crop
