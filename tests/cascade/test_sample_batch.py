"""A batch of requests makes what each makes alone; a fault is found before the first is sampled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode

from cascade import sample_batch, sample_run
from cascade.entry import CONF
from cascade.grid import Grid
from cascade.launch.local_launcher import planned
from cascade.launch.slurm_launcher import SlurmLauncher
from cascade.sample import main
from cascade.sample_files import check_folder
from cascade.stage_frames import StageFrames
from cascade.video import read_frames, read_metadata, write_png

STAGES = ("base", "tsr1", "ssr1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bundle_of):
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        bundle_of(f"demo/{stage}", folder / "demo" / stage / "default" / "bundle")
    write_png(folder / "first.png", torch.linspace(-1, 1, 32).expand(3, 32, 32))
    return folder


@pytest.fixture
def sample(runs, tmp_path, monkeypatch):
    """The command in this process, with a batch of entries if there are any: its files by name."""

    def run(out: str, *arguments: str, entries=None) -> dict[str, Path]:
        words = [f"paths.runs={runs}", f"out={tmp_path / out}", "device=cpu"]
        words += ["num_inference_steps=1", *arguments]
        if entries is not None:
            (tmp_path / "batch.yaml").write_text(yaml.safe_dump(entries))
            words.append(f"batch={tmp_path}/batch.yaml")
        monkeypatch.setattr(sys, "argv", ["sample", *words])
        main()
        return {one.name: one for one in (tmp_path / out).iterdir() if one.is_file()}

    return run


def frames(path):
    return read_frames(path)[0]


def test_a_batch_makes_the_videos_that_its_entries_make_alone(sample, runs, monkeypatch):
    opened = []
    opening = sample_batch.open_cascade
    monkeypatch.setattr(
        sample_batch, "open_cascade", lambda cfg, **more: opened.append(1) or opening(cfg, **more)
    )
    timeline = [{"from": 0, "to": 0.5, "prompt": "c"}, {"from": 0.5, "to": 1, "prompt": "d"}]
    entries = [
        {"prompt": "a ${ball}", "seed": 3},
        {"prompt": "b", "image": f"{runs}/first.png", "num_videos": 2},
        {"timeline": timeline},
    ]
    together = sample("batch", "prompt=e", entries=entries)
    assert len(opened) == 1
    sample("alone", "prompt='a \\${ball}'", "seed=3")
    sample("alone", "prompt=b", f"image={runs}/first.png", "num_videos=2")
    (runs / "t.json").write_text(json.dumps(timeline))
    alone = sample("alone", f"timeline={runs}/t.json")
    assert {*together} == {*alone}
    assert len(alone) == 4
    for name, path in together.items():
        assert torch.equal(frames(path), frames(alone[name]))
        assert read_metadata(path) == read_metadata(alone[name])


def test_parts_share_a_batch_and_what_exists_is_kept(sample):
    entries = [{"prompt": name} for name in "abc"]
    first = sample("out", "parts=2", "part=1", entries=entries)
    assert {name[0] for name in first} == {"b"}
    times = {name: path.stat().st_mtime_ns for name, path in first.items()}
    whole = sample("out", entries=entries)
    assert {name[0] for name in whole} == {*"abc"}
    assert {name: whole[name].stat().st_mtime_ns for name in first} == times


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"prompt": "a"}, {"prompt": "b", "sed": 1}], "entry 2: sed: no such key"),
        ([{"prompt": "a"}, {"prompt": "b", "seed": -1}], "entry 2: seed=-1: must be a whole"),
        ([{"prompt": "a"}, {"image": "none.png"}], "entry 2: prompt and timeline: give one"),
        ([{"prompt": "a"}, {"prompt": "a", "image": "none.png"}], "entry 2: none.png: no such"),
        ([{"prompt": "a"}, {"prompt": "b" * 600}], "entry 2: ByteText: takes at most 512 bytes"),
        ([{"prompt": "a"}, {"prompt": "b", "height": 15}], "entry 2: height=15: must be"),
        ([{"prompt": "a"}, {"prompt": "b", "way": "loop"}], "entry 2: way=loop needs video"),
        ([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}], "entry 3: makes the same .* entry 1"),
        ([{"prompt": "a", "cascade": "single_gpu"}], "entry 1: cascade: is of the whole command"),
        ([{"prompt": "a"}, {"prompt": "b", "from": "c.mp4"}], "entry 2: .*c.mp4"),
        ([{"prompt": "a"}, "b"], "entry 2: must be a mapping"),
        ([], "must be a list, got"),
        ({"prompt": "a"}, "must be a list, got"),
    ],
)
def test_a_faulty_entry_is_named_before_the_first_is_sampled(sample, entries, message, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: batch=.*batch.yaml: {message}"):
        sample("out", entries=entries)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".mp4", ".f32")]


def test_a_part_that_does_not_exist_is_refused(sample):
    with pytest.raises(SystemExit, match="part=2: must be less than parts=2"):
        sample("out", "part=2", "parts=2", entries=[{"prompt": "a"}])
    with pytest.raises(SystemExit, match="parts=2: needs a batch"):
        sample("out", "parts=2", "prompt=a")


def test_the_parts_of_a_batch_share_the_gpus(sample, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    entries = [{"prompt": name} for name in "abcd"]
    for part in range(4):
        # this machine may have no such GPU, so that the message names it
        monkeypatch.setattr(torch, "zeros", refuse_device)
        with pytest.raises(SystemExit, match=f"device=cuda:{part % 2}: cannot be used"):
            sample("out", "device=auto", "parts=4", f"part={part}", entries=entries)


def refuse_device(*_, device):
    raise RuntimeError(f"no {device}")


def test_an_entry_that_fails_does_not_end_the_others(sample, monkeypatch, tmp_path):
    making = sample_run.make

    def make(cascade, prompts, *rest, **more):
        if prompts[0] == ["b"]:
            raise torch.OutOfMemoryError("out of memory\nand more")
        making(cascade, prompts, *rest, **more)

    monkeypatch.setattr(sample_run, "make", make)
    entries = [{"prompt": name} for name in "abc"]
    failed = r"entry 2: OutOfMemoryError: out of memory\nerror: 1 of 3 requests failed"
    with pytest.raises(SystemExit, match=failed):
        sample("out", entries=entries)
    assert {path.name[0] for path in (tmp_path / "out").glob("*.mp4")} == {"a", "c"}
    monkeypatch.setattr(sample_run, "make", making)
    assert len(sample("out", entries=entries)) == 3


def test_two_processes_write_the_frames_of_a_stage_once(tmp_path):
    check_folder(tmp_path)
    grid = Grid(frames=8, height=2, width=2, fps=8)
    video = torch.rand(1, 3, 8, 2, 2)
    one, other = (
        StageFrames(tmp_path, grids={"base": grid}, depends=[0], videos=[0]) for _ in range(2)
    )
    for first in (0, 4):
        for store in (one, other):
            store.append("base", first, video[:, :, first : first + 4])
    assert torch.equal(one.done()["base"], video)
    one.remove("base")
    other.append("base", 4, video[:, :, 4:])
    assert "base" not in one.done()  # frames without those before them are none


@pytest.fixture
def parts(tmp_path):
    """Hydra's context and config of `python -m cascade.sample -m …`, and the parts' overrides."""
    before = HydraConfig.instance().cfg
    own = [f"batch={tmp_path}/b.yaml", f"out={tmp_path}/out", "parts=2", "cluster=slurm"]
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        loader = GlobalHydra.instance().hydra.config_loader
        given = ["hydra.job.name=sample", "hydra/launcher=slurm", *own]
        config = loader.load_configuration("sample", given, run_mode=RunMode.MULTIRUN)
        HydraConfig.instance().set_config(config)
        context = HydraContext(config_loader=loader, callbacks=None)
        yield context, config, [[*own, f"part={part}"] for part in (0, 1)]
    HydraConfig.instance().cfg = before


def test_each_part_has_a_folder_of_its_own_in_out_for_its_log(parts, tmp_path):
    context, config, overrides = parts
    folders = [planned(context, config, one).folder for one in overrides]
    assert [folder.name for folder in folders] == ["0-of-2", "1-of-2"]
    assert all(folder.is_relative_to(tmp_path / "out" / ".parts") for folder in folders)


def test_each_part_is_a_slurm_job_of_one_process(parts, tmp_path, monkeypatch):
    context, config, overrides = parts
    (tmp_path / "bin").mkdir()
    for name, text in (
        (
            "sbatch",
            f'cp "$1" {tmp_path}/script-$(ls {tmp_path} | wc -l)\necho Submitted batch job 7',
        ),
        ("squeue", "echo PENDING"),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    launcher = SlurmLauncher(
        cluster=config.hydra.launcher.cluster, follow=False, wait=False, poll_s=0.01
    )
    launcher.setup(hydra_context=context, task_function=print, config=config)
    launcher.launch(overrides, initial_job_idx=0)
    scripts = [path.read_text() for path in sorted(tmp_path.glob("script-*"))]
    assert len(scripts) == 2
    for part, script in enumerate(scripts):
        assert f"part={part}" in script
        assert "-m cascade.sample" in script
        assert "--ntasks-per-node=1" in script
        assert "cascade.job" not in script
        assert "scontrol requeue" not in script


@pytest.mark.slow
def test_a_batch_is_spread_over_processes_and_a_part_that_fails_does_not_end_the_others(
    runs, tmp_path
):
    entries = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c", "height": 15}]
    (tmp_path / "b.json").write_text(json.dumps(entries))
    words = ["-m", f"batch={tmp_path}/b.json", f"paths.runs={runs}", f"out={tmp_path}/out"]
    words += ["num_inference_steps=1", "parts=2", "part=range(2)", "hydra/launcher=local"]
    command = [sys.executable, "-m", "cascade.sample", *words, "hydra.launcher.jobs=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "entry 3: height=15: must be a positive multiple" in done.stderr
    assert {path.name[0] for path in (tmp_path / "out").glob("*.mp4")} == {"b"}
