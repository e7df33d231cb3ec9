"""Sweeps: what they run, what they call it, and that one failure does not end the rest."""

import signal
import time
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cascade.entry import CONF
from cascade.flops import training_flops
from cascade.launch.label import named, parts
from cascade.launch.local_launcher import share
from cascade.sweep import known, read, resolve, searches, selected
from data.worlds.world_shards import make_shapes
from tests import commands
from tests.commands import Command

SWEEPS = sorted(
    str(path.relative_to(Path(CONF) / "sweep").with_suffix(""))
    for path in Path(CONF).glob("sweep/**/*.yaml")
)
STAGE = {"noise_augmentation": "demo/ssr1"}


def stage_of(choice):
    return STAGE.get(choice, choice.rpartition("/")[0] or "demo/base")


def jobs_of(choice):
    """Every job's overrides of a grid, and the root config that they are for."""
    root = "evaluate" if selected(choice, "hydra.job.name") == "evaluate" else "train"
    task = [f"stage={stage_of(choice)}", "logger=[]"] if root == "train" else ["cascade=demo"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        given = [*task, f"sweep=[{choice}]"]
        cfg = compose(root, overrides=given, return_hydra_config=True)
        params = OmegaConf.to_container(cfg.hydra.sweeper.params)
    params = {key: str(value).replace("${stage_name}", "base") for key, value in params.items()}
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    jobs = [given]
    for override in parsed:
        key = override.get_key_element()
        if override.is_interval_sweep():
            low, high = override.value().start, override.value().end
            values = [str(low), str(high)]
        else:
            values = list(override.sweep_string_iterator())
        jobs = [[*job, f"{key}={value}"] for job in jobs for value in values]
    return root, [override.get_key_element() for override in parsed], jobs


@pytest.mark.parametrize("choice", SWEEPS)
def test_every_run_of_every_sweep_composes_and_has_a_name_of_its_own(choice):
    root, swept, jobs = jobs_of(choice)
    assert len(named(jobs, swept=swept, sweep="s")) == len(jobs) >= 2
    seen = []
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        for job in jobs:
            cfg = compose(root, overrides=job)
            if root == "train":
                stage = OmegaConf.to_container(cfg.stage, resolve=True)
                hydra.utils.instantiate(stage, _convert_="all")
            swept_part = cfg.stage if root == "train" else cfg.cascade
            seen.append(OmegaConf.to_container(swept_part, resolve=True))
    assert all(one not in seen[:i] for i, one in enumerate(seen))  # no value is swept in vain


def test_what_was_asked_for_is_shipped():
    asked = {"lr", "size", "prediction", "schedule_shift", "mask_mix", "skips", "optimizer"}
    assert asked | {"guidance", "noise_augmentation", "lr_search"} <= set(known("demo/base"))
    assert searches("lr_search")
    assert resolve("size", "demo/ssr1") == "demo/ssr1/size"


@pytest.mark.parametrize(("choice", "most"), [("demo/base/size", 3.0), ("demo/ssr1/size", 30.0)])
def test_sizes_cost_what_they_say(choice, most):
    text = (Path(CONF) / f"sweep/{choice}.yaml").read_text()
    _, _, jobs = jobs_of(choice)
    found = []
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        for job in jobs[:2]:  # the largest takes half a minute
            stage = OmegaConf.to_container(compose("train", overrides=job).stage, resolve=True)
            built = hydra.utils.instantiate(stage, _convert_="all")
            built.configure_model()
            found.append(flops(built) / 1e9)
    for count in found:
        assert f"{count:.2f}" in text
    assert found[0] < most
    assert 3.5 < found[1] / found[0] < 4.2


def flops(stage):
    """Of a training step, per clip."""
    from cascade.bench.clips import training_batch
    from cascade.grid import Grid

    frames, height, width = stage.recipe.crop or stage.target.shape
    grid = Grid(frames=frames, height=height, width=width, fps=stage.target.fps)
    batch = training_batch(stage, grid, 2)
    return training_flops(lambda: stage.losses(batch, purpose="bench").loss.mean()) / 2


def test_runs_are_called_by_what_is_swept_alone():
    jobs = [["stage=demo/base", "name='lr'", "+a.b=1", "optim@stage.train.optimizer=muon"]]
    ((name, overrides),) = named(jobs, swept=["+a.b", "optim@stage.train.optimizer"], sweep="lr")
    assert name == "lr/b=1,optim=muon"
    assert overrides[-1] == "name='lr/b=1,optim=muon'"
    assert sum(override.startswith("name=") for override in overrides) == 1
    assert parts("net", "{width:128,depth:6}") == ["width=128", "depth=6"]
    assert parts("widths", "[32,64]") == ["widths=32x64"]
    assert parts("path", "'a/b c'") == ["path=a_b_c"]
    assert parts("shift", "-1.4") == ["shift=-1.4"]
    ((name, _),) = named([["a.x=1", "b.x=2"]], swept=["a.x", "b.x"], sweep="s")
    assert name == "s/a.x=1,b.x=2"
    with pytest.raises(ValueError, match="two runs would be named s/x=a_b"):
        named([["x='a/b'"], ["x='a b'"]], swept=["x"], sweep="s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=demo/base"], "no sweep was given.*lr, lr_search, mask_mix"),
        (
            ["stage=demo/base", "sweep=nothing"],
            "no such sweep of demo/base; there are guidance, lr",
        ),
        (["stage=demo/nothing", "sweep=lr"], "no such stage"),
        (["stage=demo/base", "sweep=guidance lr"], "cannot be crossed"),
        (
            ["stage=demo/base", "sweep=lr_search prediction"],
            "lr_search: a search .* cannot be crossed with prediction",
        ),
        (
            ["stage=demo/base", "sweep=prediction lr_search"],
            "lr_search: a search .* cannot be crossed with prediction",
        ),
        (["stage=demo/base", "sweep=guidance", "cluster=slurm"], "runs on this machine"),
    ],
)
def test_a_sweep_that_there_is_not_is_refused(arguments, message):
    with pytest.raises(SystemExit, match=message):
        read(arguments)


def test_a_file_that_names_no_sweeper_is_no_search(tmp_path, monkeypatch):
    monkeypatch.setattr("cascade.sweep.CONF", str(tmp_path))
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/own.yaml").write_text("# @package _global_\nseed: 1\n")
    assert not searches("own")


def test_a_cluster_gets_its_launcher_and_a_search_waits():
    lr = read(["stage=demo/tsr1", "sweep=lr", "cluster=slurm", "name=''"])
    assert {"hydra/launcher=slurm", "cluster=slurm"} <= {*lr.arguments}
    assert "name='lr'" in lr.arguments
    assert "+group='demo/tsr1/lr'" in lr.arguments
    assert not any("wait" in part for part in lr.arguments)
    search = read(["stage=demo/tsr1", "sweep=lr_search", "cluster=slurm", "jobs=4"])
    assert {"hydra.launcher.wait=true", "hydra.sweeper.n_jobs=4"} <= {*search.arguments}
    both = read(["stage=demo/ssr1", "sweep=prediction noise_augmentation", "jobs=2", "seed=1"])
    assert both.name == "prediction+noise_augmentation"
    assert {"hydra.launcher.jobs=2", "seed=1"} <= {*both.arguments}


def test_gpus_are_shared_out():
    gpus = ["0", "1", "2", "3", "4"]
    assert [share(gpus, slot, 2) for slot in range(2)] == [["0", "1"], ["2", "3"]]
    assert [share(["0", "1"], slot, 3) for slot in range(3)] == [["0"], ["1"], ["0"]]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Runs a sweep of tiny runs to its end, or begins one: sweep("lr", "seed=1")."""
    home = tmp_path_factory.mktemp("sweep")
    make_shapes(home / "shards", clips=24, shard_size=12)

    def command(name, *overrides, stage="demo/base"):
        given = (f"stage={stage}", f"sweep={name}", f"paths.runs={home}/runs", *overrides)
        return ["cascade.sweep", *given]

    def begin(name, *overrides, stage="demo/ssr1"):
        data = (f"data.shards={home}/shards", "data.make=null", "logger=csv", "debug=smoke")
        return Command(*run.command(name, *data, *overrides, stage=stage), merged=True)

    def run(name, *overrides, **options):
        process = begin(name, *overrides, **options)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    run.command, run.begin, run.runs = command, begin, home / "runs/demo"
    return run


@pytest.mark.slow
def test_one_failure_does_not_end_the_rest_and_a_second_call_runs_what_is_missing(sweep):
    swept = ["stage.diffusion.target=x", "stage.augment.max_t=0.25,1.5"]
    code, output = sweep("prediction noise_augmentation", *swept, "name=two", "jobs=2")
    folder = sweep.runs / "ssr1/two"
    good = folder / "target=x,max_t=0.25"  # one value sweeps nothing, and is in no name
    good = good if good.is_dir() else folder / "max_t=0.25"
    bad = good.with_name(good.name.replace("0.25", "1.5"))
    assert code != 0
    assert (good / "bundle").is_dir(), output
    assert not (bad / "bundle").exists()
    assert f"{bad.name} failed: error: NoiseAugment: 0 <= min_t <= max_t <= 1" in output
    assert "1 of 2 runs failed" in output
    assert (folder / "index.html").read_text().count("<video") >= 1
    written = (good / "bundle/card.json").stat().st_mtime_ns
    code, output = sweep(
        "prediction noise_augmentation", swept[0], "stage.augment.max_t=0.25,0.5", "name=two"
    )
    assert code == 0, output
    assert "1 of 2 runs are finished already" in output
    assert (good / "bundle/card.json").stat().st_mtime_ns == written
    assert (good.with_name(good.name.replace("0.25", "0.5")) / "bundle").is_dir()


@pytest.mark.slow
def test_a_sweep_that_is_stopped_stops_its_runs_whole(sweep):
    process = sweep.begin("noise_augmentation", "name=stopped", "shrink.steps=100000")
    run = sweep.runs / "ssr1/stopped/max_t=0.0"
    deadline = time.monotonic() + 240
    while not list(run.glob("metrics/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "stopped; run the same command to resume" in output
    assert "stopped at step" in output
    assert list((run / "checkpoints").iterdir())
    assert not (run.parent / "max_t=0.25").exists()


@pytest.mark.slow
def test_guidance_samples_a_trained_cascade_at_several_scales(sweep, bundle_of):
    for stage in ("base", "tsr1", "ssr1"):
        bundle_of(f"demo/{stage}", sweep.runs / stage / "default/bundle")
    scales = ",".join(f"{{base:{{guidance_scale:{scale}}}}}" for scale in (1.0, 3.0))
    command = sweep.command(
        "guidance", f"+cascade.sampling={scales}", "prompts.n=2", "name=''", "world=null"
    )
    done = commands.run(*command, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = sweep.runs / "base/guidance"
    reports = [folder / f"guidance_scale={scale}/evaluation.json" for scale in ("1.0", "3.0")]
    assert all(report.is_file() for report in reports)
    assert "ssr1/prompts/all" in done.stdout


@pytest.mark.slow
def test_a_search_counts_what_there_is(sweep):
    pytest.importorskip("optuna")
    asked = ["name=search", "hydra.sweeper.sampler.n_startup_trials=1"]
    code, output = sweep("lr_search", *asked, "hydra.sweeper.n_trials=1", stage="demo/base")
    assert code == 0, output
    folder = sweep.runs / "base/search"
    (first,) = folder.glob("muon_lr=*,adamw_lr=*")
    code, output = sweep("lr_search", *asked, "hydra.sweeper.n_trials=2", stage="demo/base")
    assert code == 0, output
    assert "1 of 2 trials are finished already" in output
    runs = set(folder.glob("muon_lr=*,adamw_lr=*"))
    assert len(runs) == 2
    assert first in runs
    assert "Best value" in output
