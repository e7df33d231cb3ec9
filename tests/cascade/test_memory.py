"""Laws of a step's memory: storages counted once, real steps met, parts that add up."""

import gc
import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from cascade.doctor.dry import Clips, DryStage, Execution
from cascade.doctor.micro_batch import Extrapolated
from cascade.ema import PowerEMA
from cascade.flops import parameter_count
from cascade.memory import Meter, optimizer_state
from cascade.optim import adamw, muon_adamw
from tests.composed import composed

CPU = Execution(cuda=False, precision="32-true", sigma_rels=(0.05, 0.1))
GPU = Execution(cuda=True, precision="bf16-mixed", sigma_rels=(0.05, 0.1))
CAPTION = "a small red circle moves left on a black background"


@pytest.fixture(scope="module")
def dry():
    """dry("demo/base", "stage.net.depth=2"): the stage on meta, and a batch of its shape."""

    def make(choice, *overrides):
        cfg = composed("train", f"stage={choice}", "logger=[]", *overrides)
        config = OmegaConf.to_container(cfg.stage, resolve=True)
        made = DryStage(config, text_tokens=16, captions=[CAPTION])
        shape = made.stage.recipe.crop or made.stage.target.shape
        return made, Clips(1, *shape, made.stage.target.fps)

    return make


def test_a_storage_is_counted_once_and_until_its_end():
    meter = Meter(block=64)
    with meter:
        with meter.holding("kept"):
            x = torch.empty(1000, device="meta")
        y = x.view(10, 100)[2:]
        assert meter.live == {"kept": 4032}  # rounded up to blocks of 64
        del x
        gc.collect()
        assert meter.live["kept"] == 4032  # the view holds it
        z = torch.empty(16, device="meta")
        meter.add(z, "named")
        del y
        gc.collect()
    assert {k: v for k, v in meter.live.items() if v} == {"named": 64}
    assert sum(meter.peak.values()) == 4032 + 64


def test_what_is_saved_is_what_hooks_see(dry):
    made, clips = dry("demo/base", "stage.net.depth=2")
    own = {p.untyped_storage()._cdata for p in made.stage.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_meta and storage._cdata not in own:
            seen[storage._cdata] = storage  # kept, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        made.loss(clips.times(4))
    hooked = sum(storage.nbytes() for storage in seen.values())
    assert made.memory(clips.times(4), CPU).saved == pytest.approx(hooked, rel=0.25)


@pytest.mark.parametrize("choice", ["demo/base", "demo/ssr1", "imagen_video/ssr3"])
def test_the_parts_are_what_is_kept(dry, choice):
    made, clips = dry(choice)
    step = made.memory(clips, CPU)
    trained = parameter_count(made.stage)
    assert step.peak == sum(step.parts.values())
    assert step.parts["weights"] == pytest.approx(4 * trained, rel=0.01)
    assert step.parts["averages"] == pytest.approx(2 * 4 * trained, rel=0.01)
    assert step.parts["optimizer"] == pytest.approx(made.optimizer_bytes(), rel=0.01)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_optimizer_keeps_what_it_really_keeps(optimizer):
    build = {"muon": muon_adamw, "adamw": partial(adamw, lr=1e-3)}[optimizer]
    real = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(24, 8)]), "out": nn.Linear(8, 8)})
    made = build(real)
    for p in real.parameters():
        p.grad = torch.ones_like(p)
    made.step()
    kept = sum(
        t.numel() * t.element_size() for state in made.state.values() for t in state.values()
    )
    state = optimizer_state(build, real)
    assert kept == sum(t.numel() * t.element_size() for one in state.values() for t in one.values())
    assert all(t.is_meta for one in state.values() for t in one.values())


@pytest.mark.slow
def test_checkpointing_costs_flops_and_saves_memory(dry):
    plain, clips = dry("demo/base")
    again, _ = dry("demo/base", "+stage.net.checkpointing=true")
    clips = clips.times(4)
    for execution in (CPU, GPU):
        less, more = again.memory(clips, execution), plain.memory(clips, execution)
        assert less.saved < 0.4 * more.saved
        assert less.peak < more.peak
    assert 1.2 < again.flops(clips) / plain.flops(clips) < 1.34
    total, recomputed = again.flops_with_recomputed(clips)
    assert total - recomputed == plain.flops(clips)
    assert plain.flops_with_recomputed(clips)[1] == 0


def test_cuda_keeps_half_precision_and_no_scores(dry):
    made, clips = dry("demo/base")
    full = made.memory(clips.times(16), Execution(cuda=True, precision="32-true", sigma_rels=()))
    half = made.memory(clips.times(16), Execution(cuda=True, precision="bf16-mixed", sigma_rels=()))
    assert 0.5 < half.saved / full.saved < 0.8  # norms keep float32 even there
    assert "averages" not in half.parts
    small, large = (made.memory(Clips(1, 8, side, side, 4.0), GPU).saved for side in (64, 128))
    assert large < 4.2 * small  # tokens × 4: scores would be × 16
    weights = made.memory(clips, GPU).parts["weights"]
    true = made.memory(clips, Execution(cuda=True, precision="bf16-true", sigma_rels=()))
    assert true.parts["weights"] == pytest.approx(weights / 2, rel=0.05)
    assert next(made.stage.parameters()).dtype == torch.float32  # as it was


@pytest.mark.slow
def test_many_clips_lie_on_the_line_through_fewer(dry):
    made, clips = dry("demo/ssr1")
    counted = Extrapolated(lambda n, again: made.memory(clips.times(n), CPU, accumulating=again))
    drawn = Extrapolated(counted.count, most=16)
    assert drawn(64, False).peak == pytest.approx(counted(64, False).peak, rel=0.005)
    assert drawn(64, True).peak == pytest.approx(counted(64, True).peak, rel=0.005)


def test_a_dry_run_leaves_the_world_as_it_was(dry):
    from cascade import keyed

    before = keyed.normals
    made, clips = dry("demo/base")
    made.memory(clips, CPU)
    assert keyed.normals is before
    assert all(p.grad is None and p.is_meta for p in made.stage.parameters())


REAL = """
import gc, json, sys, torch, hydra
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from cascade.bench.clips import training_batch
from cascade.ema import PowerEMA
from cascade.entry import CONF
from cascade.grid import Grid

activity = torch.profiler.ProfilerActivity.CPU
initialize_config_dir(version_base="1.3", config_dir=CONF)
for choice, count, accumulate, overrides in json.loads(sys.argv[1]):
    cfg = compose("train", overrides=[f"stage={choice}", "logger=[]", *overrides])
    config = OmegaConf.to_container(cfg.stage, resolve=True)
    with torch.profiler.profile(activities=[activity], profile_memory=True) as prof:
        stage = hydra.utils.instantiate(config, _convert_="all")
        stage.configure_model()
        optimizer, ema = stage.recipe.optimizer(stage), PowerEMA(stage, sigma_rels=(0.05, 0.1))
        f, h, w = stage.recipe.crop or stage.target.shape
        grid = Grid(frames=f, height=h, width=w, fps=stage.target.fps)
        for number in range(2):  # as Lightning: gradients live until the next forward pass is done
            for micro in range(accumulate):
                batch = training_batch(stage, grid, count)
                loss = stage.losses(batch, purpose="train").loss.mean()
                if micro == 0:
                    optimizer.zero_grad()
                loss.backward()
                del loss, batch
            optimizer.step()
            ema.update(stage, number + 1)
    live = peak = 0
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    print(peak)
    del stage, optimizer, ema, prof
    gc.collect()  # what is freed later would be missing from the next case's memory
"""


@pytest.mark.slow
def test_real_steps_peak_where_counted(dry):
    cases = [
        ("demo/base", 16, 1, []),
        ("demo/base", 16, 2, ["+stage.net.checkpointing=true"]),
        ("demo/ssr1", 4, 1, []),
        ("demo/tsr1", 2, 1, ["+stage.net.checkpointing=true"]),
    ]
    command = [sys.executable, "-c", REAL, json.dumps(cases)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    real = [int(line) for line in done.stdout.split()]
    assert len(real) == len(cases)
    for (choice, count, accumulate, overrides), peak in zip(cases, real, strict=True):
        made, clips = dry(choice, *overrides)
        counted = made.memory(clips.times(count), CPU, accumulating=accumulate > 1).peak
        assert counted == pytest.approx(peak, rel=0.03), (choice, overrides)


def test_averages_are_counted_as_they_are_made():
    net = nn.Linear(64, 64, device="meta")
    meter = Meter(block=1)
    with meter, meter.holding("averages"):
        for p in net.parameters():
            meter.add(p, "weights")
        kept = PowerEMA(net, sigma_rels=(0.05, 0.1, 0.2))
    assert meter.live["averages"] == 3 * 4 * (64 * 64 + 64)
    del kept
