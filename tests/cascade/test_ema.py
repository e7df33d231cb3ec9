"""Laws of the weight averages: their width is the one asked for, and weights come back unharmed."""

import pytest
import torch
from torch import nn

from cascade.ema import PowerEMA, exponent


class Track(nn.Module):
    """One parameter that is a one-hot of the step, so that its average is the profile itself."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(steps, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def at(self, step: int) -> None:
        self.weight.data.zero_()[step - 1] = 1


def averaged(steps: int, sigma_rels: tuple[float, ...]) -> tuple[Track, PowerEMA]:
    track = Track(steps)
    ema = PowerEMA(track, sigma_rels)
    for step in range(1, steps + 1):
        track.at(step)
        ema.update(track, step)
    return track, ema


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.2])
def test_the_profile_has_the_width_asked_for(sigma_rel: float) -> None:
    track, ema = averaged(2000, (0.05, 0.10, 0.2))
    ema.copy_to(track, sigma_rel)
    time = torch.arange(1, 2001) / 2000
    profile = track.weight.detach()
    assert profile.sum() == pytest.approx(1, abs=1e-5)
    mean = (profile * time).sum()
    width = (profile * (time - mean).square()).sum().sqrt()
    assert width == pytest.approx(sigma_rel, rel=0.01)


def test_the_first_average_is_the_first_weights() -> None:
    track, ema = averaged(1, (0.1,))
    ema.copy_to(track, 0.1)
    assert track.weight.item() == 1


def test_swapped_weights_come_back_even_after_an_error() -> None:
    track, ema = averaged(5, (0.1,))
    own = track.weight.detach().clone()

    def fail() -> None:
        with ema.swapped(track, 0.1):
            assert not torch.equal(track.weight, own)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.equal(track.weight, own)


def test_averages_resume_through_a_safe_load(tmp_path: object) -> None:
    track, ema = averaged(5, (0.05, 0.1))
    path = f"{tmp_path}/ema.pt"
    torch.save(ema.state_dict(), path)
    other = PowerEMA(Track(5), (0.05, 0.1))
    other.load_state_dict(torch.load(path, weights_only=True))
    for one in (ema, other):
        one.update(track, 6)
    torch.testing.assert_close(ema.state_dict(), other.state_dict(), atol=0, rtol=0)
    assert "frozen" not in ema.state_dict()["averages"][0]


def test_other_widths_and_other_modules_are_refused() -> None:
    _, ema = averaged(5, (0.1,))
    with pytest.raises(ValueError, match=r"widths \[0.1\], the config \[0.2\]"):
        PowerEMA(Track(5), (0.2,)).load_state_dict(ema.state_dict())
    with pytest.raises(ValueError, match="different parameters: \\['weight'\\]"):
        PowerEMA(Track(6), (0.1,)).load_state_dict(ema.state_dict())
    with pytest.raises(ValueError, match=r"width 0.3 is not tracked"):
        ema.copy_to(Track(5), 0.3)
    with pytest.raises(ValueError, match=r"got 0\.5"):
        exponent(0.5)


def test_averages_of_half_precision_weights_are_kept_in_float32() -> None:
    module = nn.Linear(2, 2).bfloat16()
    ema = PowerEMA(module, (0.1,))
    ema.update(module, 3)
    assert all(t.dtype == torch.float32 for t in ema.state_dict()["averages"][0].values())
    ema.copy_to(module, 0.1)
    assert module.weight.dtype == torch.bfloat16
