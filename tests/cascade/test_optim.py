"""Laws of the optimizers: what goes where, orthogonal updates, exact resume, warm-up that ends."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from cascade.nn.dit import DiT
from cascade.nn.hourglass import Hourglass
from cascade.optim import MuonAdamW, WarmupDecay, adamw, muon_adamw, split
from cascade.orthogonal import orthogonalize


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2))
        self.out = nn.Linear(8, 1)

    def loss(self, seed: int) -> torch.Tensor:
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(seed))
        y = self.embed(x)
        for block in self.blocks:
            y = y + block(y)
        loss: torch.Tensor = (self.out(y) - x.abs().mean(1, keepdim=True)).square().mean()
        return loss


def train(module: Small, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = module.loss(step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    sizes = {"in_channels": 3, "out_channels": 3, "text_width": 8, "num_scalars": 1}
    dit = DiT(**sizes, width=32, depth=2, head_width=32)
    sr = Hourglass(**sizes, widths=(16, 32), depths=(1, 1), head_width=32)
    for net, per_block, blocks in ((dit, 7, 2), (sr, 2, 3)):
        hidden, rest = split(net.named_parameters())
        names = {id(p): name for name, p in net.named_parameters()}
        assert len(hidden) + len(rest) == len(names)
        assert len(hidden) == per_block * blocks + (3 if net is sr else 0)  # and text, once
        assert all("blocks." in names[id(p)] and p.ndim >= 2 for p in hidden)
        assert {"out.weight", "embed.weight"} <= {names[id(p)] for p in rest}


def test_frozen_parameters_are_left_out() -> None:
    module = Small().requires_grad_(False)
    assert split(module.named_parameters()) == ([], [])


def test_muons_first_step_is_the_orthogonalised_gradient() -> None:
    weight = nn.Parameter(torch.zeros(16, 2, 3, 3))
    grad = torch.randn(16, 2, 3, 3)
    weight.grad = grad.clone()
    MuonAdamW([("blocks.0.weight", weight)], muon_lr=0.5).step()
    update = orthogonalize(grad.view(1, 16, 18)).view_as(grad)
    torch.testing.assert_close(weight.data, -0.5 * update, atol=1e-5, rtol=1e-4)


def test_the_adamw_part_is_torchs_adamw() -> None:
    ours, theirs = Small(), Small()
    one = MuonAdamW([(n.replace("blocks", "b"), p) for n, p in ours.named_parameters()])
    other = torch.optim.AdamW(theirs.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    train(ours, one, range(5))
    train(theirs, other, range(5))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_both_optimizers_learn() -> None:
    for factory in (
        lambda m: muon_adamw(m, muon_lr=0.02, adamw_lr=1e-2),
        lambda m: adamw(m, lr=1e-2, weight_decay=0.01),
    ):
        module = Small()
        before = module.loss(999).item()
        train(module, factory(module), range(60))
        assert module.loss(999).item() < 0.8 * before


def test_a_resume_through_a_safe_load_is_exact(tmp_path: Path) -> None:
    whole, first, second = Small(), Small(), Small()
    losses = train(whole, muon_adamw(whole, weight_decay=0.1), range(8))
    optimizer = muon_adamw(first, weight_decay=0.1)
    train(first, optimizer, range(4))
    saved = {"net": first.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    optimizer = muon_adamw(second, weight_decay=0.1)
    second.load_state_dict(loaded["net"])
    optimizer.load_state_dict(loaded["optimizer"])
    assert train(second, optimizer, range(4, 8)) == losses[4:]


def test_parameters_without_a_gradient_stay() -> None:
    module = Small()
    before = [p.detach().clone() for p in module.parameters()]
    muon_adamw(module, weight_decay=0.5).step()
    torch.testing.assert_close(list(module.parameters()), before)


def test_the_warm_up_ends_and_the_decay_arrives() -> None:
    for decay in ("linear", "cosine"):
        factor = WarmupDecay(warmup_steps=4, total_steps=20, decay=decay, decay_steps=10, final=0.1)
        values = [factor(step) for step in range(25)]
        assert values[0] > 0
        assert values[:4] == sorted(values[:4])
        assert values[4:11] == [1.0] * 7
        assert values[10:21] == sorted(values[10:21], reverse=True)
        assert values[20:] == pytest.approx([0.1] * 5)
    constant = WarmupDecay(warmup_steps=4, total_steps=20)
    assert [constant(step) for step in (4, 19, 100)] == [1.0, 1.0, 1.0]


def test_where_warm_up_and_decay_overlap_the_smaller_holds() -> None:
    factor = WarmupDecay(warmup_steps=4, total_steps=10, decay="linear", decay_steps=10)
    assert [factor(step) for step in range(1, 6)] == pytest.approx([0.4, 0.6, 0.7, 0.6, 0.5])
    assert WarmupDecay(warmup_steps=50, total_steps=2, decay="linear")(0) > 0


def test_a_resumed_schedule_is_the_configs_not_the_checkpoints() -> None:
    def scheduler(total: int) -> torch.optim.lr_scheduler.LambdaLR:
        factor = WarmupDecay(warmup_steps=0, total_steps=total, decay="linear")
        return torch.optim.lr_scheduler.LambdaLR(adamw(Small(), lr=1.0), factor)

    longer = scheduler(100)
    longer.load_state_dict(scheduler(10).state_dict())
    assert longer.lr_lambdas[0](50) == 0.5


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="5 steps of warm-up and 12 of decay do not fit in 10"):
        WarmupDecay(warmup_steps=5, total_steps=10, decay="linear", decay_steps=12)
    with pytest.raises(ValueError, match="got 'step'"):
        WarmupDecay(warmup_steps=5, total_steps=10, decay="step")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"muon_lr": -0.1}, "muon_lr must be a finite number of at least 0, got -0.1"),
        ({"adamw_lr": float("nan")}, "adamw_lr must be a finite number of at least 0, got nan"),
        (
            {"weight_decay": float("inf")},
            "weight_decay must be a finite number of at least 0, got inf",
        ),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"betas": (0.9, -1)}, r"betas\[1\] must be at least 0 and below 1, got -1"),
    ],
)
def test_settings_that_train_nothing_or_backwards_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        muon_adamw(torch.nn.Linear(2, 2), **settings)


def test_settings_of_adamw_that_train_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="lr must be a finite number of at least 0, got -1"):
        adamw(torch.nn.Linear(2, 2), lr=-1)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_adamw_leaves_unscaling_and_clipping_to_the_trainer(precision) -> None:
    module = nn.Linear(3, 2)
    optimizer = adamw(module, lr=0.1)
    module(torch.full((1, 3), 100.0)).sum().backward()
    MixedPrecision(precision, "cpu").clip_gradients(optimizer, clip_val=1.0)
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters()])
    torch.testing.assert_close(norm, torch.tensor(1.0), rtol=1e-4, atol=0)


def test_a_warm_up_that_the_run_does_not_end_is_said() -> None:
    assert WarmupDecay(warmup_steps=14, total_steps=15).shortfall is None
    said = WarmupDecay(warmup_steps=50, total_steps=15, decay_steps=0).shortfall
    assert "warm-up of 50 steps is not shorter than the run of 15" in str(said)
    assert "only 0.29 of its value; set stage.train.lr_factor.warmup_steps=1" in str(said)
