"""Gradients are clipped by the norm that the guard has computed, as torch clips them."""

import copy

import pytest
import torch

from cascade.callbacks.guard import total_norm


@pytest.mark.parametrize("limit", [1e-2, 1e6])
def test_the_norm_of_a_step_is_computed_once_and_clips_as_torch_does(build, limit):
    stage = build("demo/base")
    generator = torch.Generator().manual_seed(0)
    for parameter in stage.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    other = copy.deepcopy(stage)
    for one, two in zip(stage.parameters(), other.parameters(), strict=True):
        two.grad = one.grad.clone()
    torch.nn.utils.clip_grad_norm_(other.parameters(), limit)
    stage.gradient_norm = total_norm([p.grad for p in stage.parameters()])
    optimizer = torch.optim.SGD(stage.parameters(), lr=1.0)
    stage.configure_gradient_clipping(optimizer, limit, "norm")
    for one, two in zip(stage.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    assert stage.gradient_norm is None  # the next step has another
