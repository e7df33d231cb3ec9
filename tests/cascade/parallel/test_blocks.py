"""Blocks are found in every network, and compiled ones compute what they did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cascade.nn.dit import DiT
from cascade.nn.hourglass import Hourglass
from cascade.optim import split
from cascade.parallel.blocks import blocks
from cascade.text.byte_text import ByteText

SIZES = {"in_channels": 3, "out_channels": 3, "text_width": 64, "num_scalars": 1}
# In a process of its own: in the tests' own, shapes are checked, which no compiler follows.
SCRIPT = """
import json, sys, torch
from cascade.nn.dit import DiT
from cascade.nn.hourglass import Hourglass
from cascade.parallel.blocks import blocks, compile_blocks
from torch._dynamo.utils import counters

def outputs(make, checkpointing, compiled):
    torch.manual_seed(0)
    net = make(checkpointing)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    names = sorted(net.state_dict())
    if compiled:
        compile_blocks(net, everywhere=True, backend="aot_eager")
    assert sorted(net.state_dict()) == names
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 3, 4, 8, 8, generator=g), torch.randn(2, 5, 64, generator=g)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    out = net(x, torch.zeros(2, 4), text, mask, torch.zeros(2, 1))
    out.square().mean().backward()
    return [out.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]

sizes = dict(in_channels=3, out_channels=3, text_width=64, num_scalars=1)
counts = {}
for name, make in {
    "DiT": lambda c: DiT(
        **sizes, width=64, depth=4, head_width=32, long_skips=True, checkpointing=c
    ),
    "Hourglass": lambda c: Hourglass(**sizes, widths=(32, 64), depths=(1, 2), checkpointing=c),
}.items():
    plain = outputs(make, False, False)
    for checkpointing in (False, True):
        for one, other in zip(plain, outputs(make, checkpointing, True), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
    counts[name] = counters["stats"]["unique_graphs"]
counts["breaks"] = list(counters["graph_break"])

import cascade.parallel.blocks as module
torch._dynamo.reset()
module.MAX_GRAPHS = 1
net = DiT(**sizes, width=64, depth=1, head_width=32)
compile_blocks(net, everywhere=True, backend="aot_eager")
counts["limit"] = ""
for frames in (2, 4, 6):
    x, text = torch.randn(1, 3, frames, 8, 8), torch.randn(1, 5, 64)
    try:
        net(x, torch.zeros(1, frames), text, torch.ones(1, 5, dtype=torch.bool), torch.zeros(1, 1))
    except RuntimeError as error:
        counts["limit"] = str(error)
        break
json.dump(counts, sys.stdout)
"""


def test_blocks_are_those_whose_matrices_are_muons():
    dit = DiT(**SIZES, width=32, depth=3, head_width=32)
    sr = Hourglass(**SIZES, widths=(16, 64), depths=(1, 2))
    for net, count in ((dit, 3), (sr, 4), (ByteText(width=64, depth=2), 2)):
        found = list(blocks(net))
        assert len(found) == count
        inside = {id(p) for block in found for p in block.parameters() if p.ndim >= 2}
        hidden, _ = split(net.named_parameters())
        assert {id(p) for p in hidden} <= inside


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_in_few_graphs_without_a_break():
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout)
    assert counts["breaks"] == []
    assert "needs more than 1 graphs" in counts["limit"]
    assert "stage.train.compile=false" in counts["limit"]
    assert counts["DiT"] <= 4  # with and without a skip, with and without checkpointing
    assert counts["Hourglass"] - counts["DiT"] <= 12


def test_what_is_computed_again_is_the_same(tmp_path):
    torch.manual_seed(0)
    nets = [DiT(**SIZES, width=32, depth=2, head_width=32, checkpointing=c) for c in (False, True)]
    for p in nets[0].parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    nets[1].load_state_dict(nets[0].state_dict())
    x, text = torch.randn(1, 3, 2, 8, 8), torch.randn(1, 3, 64)
    grads = []
    for net in nets:
        mask = torch.ones(1, 3, dtype=torch.bool)
        net(x, torch.zeros(1, 2), text, mask, torch.zeros(1, 1)).square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
