"""Laws of the cost figures: FLOPs by hand, the same on meta, twice as many backward."""

import pytest
import torch
from torch import nn

from cascade.flops import (
    BF16_PEAKS,
    device_peak,
    forward_flops,
    measured_matmul_peak,
    named,
    parameter_count,
    training_flops,
)
from cascade.nn.dit import DiT


def test_a_linear_layer_costs_two_flops_per_weight_and_row() -> None:
    layer, x = nn.Linear(16, 8), torch.randn(4, 16, requires_grad=True)
    assert forward_flops(lambda: layer(x)) == 2 * 4 * 16 * 8
    assert training_flops(lambda: layer(x).sum()) == 3 * 2 * 4 * 16 * 8


def test_meta_costs_what_the_cpu_costs() -> None:
    counts = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            net = DiT(
                in_channels=3,
                out_channels=3,
                text_width=8,
                num_scalars=1,
                width=64,
                depth=1,
                head_width=32,
            )
            arguments = (
                torch.zeros(2, 3, 4, 16, 16),
                torch.zeros(2, 4),
                torch.zeros(2, 5, 8),
                torch.ones(2, 5, dtype=torch.bool),
                torch.zeros(2, 1),
            )
            counts.append(forward_flops(lambda n=net, a=arguments: n(*a)))
    assert counts[0] == counts[1] > 2 * 2 * 32 * parameter_count(net.blocks)


def test_frozen_parameters_are_not_counted() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1).requires_grad_(False))
    assert parameter_count(module) == 8


def test_a_device_has_the_figures_of_its_own_name_alone() -> None:
    names = {
        "NVIDIA H200": "H200",
        "NVIDIA GH200 480GB": "GH200",
        "NVIDIA H100 PCIe": "H100 PCIe",
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA A10": "A10",
        "NVIDIA L4": "L4",
        "NVIDIA L40": None,
        "NVIDIA RTX A1000": None,
        "NVIDIA A10G": None,
    }
    for device, key in names.items():
        assert named(BF16_PEAKS, device) == (key and BF16_PEAKS[key]), device


def test_peaks_come_from_the_table_or_from_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA H200")
    assert device_peak("cuda", torch.bfloat16) == 989e12
    assert device_peak("cuda", torch.float32) is None
    assert device_peak("cpu", torch.bfloat16) is None
    assert measured_matmul_peak("cpu", torch.float32, size=128, rounds=1) > 1e8
