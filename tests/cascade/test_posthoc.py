"""Laws of averages made after training, from snapshots of the tracked ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cascade import posthoc
from cascade.ema import PowerEMA, exponent
from cascade.posthoc import Profile, fit, path_of, reconstruct, remove_after, write_snapshot

STEPS, EVERY, TRACKED = 400, 25, (0.05, 0.10)


class Walk(nn.Module):
    """Weights that are independent noise at every step: no average is near another by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.zeros(40, 50))
        self.other = nn.Parameter(torch.zeros(8))

    def at(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)


def trained(folder: Path, *, steps: int = STEPS, first: int = 0, ema: PowerEMA | None = None):
    """Train from step `first`, with a snapshot every few steps; the averages of many widths."""
    walk = Walk()
    ema = ema or PowerEMA(walk, (*TRACKED, 0.04, 0.07, 0.15))
    for step in range(first + 1, steps + 1):
        walk.at(step)
        ema.update(walk, step)
        if step % EVERY == 0:
            write_snapshot(folder, step, {sigma: ema.average(sigma) for sigma in TRACKED})
    return ema


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ema")
    return folder, trained(folder)


def distance(made: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The root mean square of their difference, relative to what is wanted."""
    assert made.keys() == wanted.keys()
    off, size = (
        torch.cat([value.flatten() for value in values]).norm()
        for values in ([made[n] - wanted[n] for n in wanted], wanted.values())
    )
    return (off / size).item()


@pytest.mark.parametrize("sigma_rel", TRACKED)
def test_a_tracked_width_is_the_tracked_average(run, sigma_rel):
    folder, ema = run
    made, found = reconstruct(folder, sigma_rel, STEPS)
    assert found.error < 1e-6
    assert distance(made, ema.average(sigma_rel)) < 1e-6


@pytest.mark.parametrize(("sigma_rel", "tolerance"), [(0.04, 0.02), (0.07, 0.005), (0.15, 0.01)])
def test_another_width_is_its_average_over_the_whole_trajectory(run, sigma_rel, tolerance):
    folder, ema = run
    made, found = reconstruct(folder, sigma_rel, STEPS)
    off = distance(made, ema.average(sigma_rel))
    assert off < tolerance
    assert off == pytest.approx(found.error, rel=0.1)  # the error that the fit itself states
    nearest = min(distance(ema.average(other), ema.average(sigma_rel)) for other in TRACKED)
    assert off < nearest / 5


def test_weights_that_do_not_move_are_their_own_average(tmp_path):
    walk = Walk()
    walk.at(1)
    ema = PowerEMA(walk, TRACKED)
    for step in range(1, 7):
        ema.update(walk, step)
        write_snapshot(tmp_path, step, {sigma: ema.average(sigma) for sigma in TRACKED})
    made, found = reconstruct(tmp_path, 0.07, 6)
    assert found.error > 0.01
    assert distance(made, dict(walk.state_dict())) < 1e-6


def test_an_earlier_step_is_averaged_from_the_snapshots_up_to_it(run, tmp_path):
    half = trained(tmp_path, steps=STEPS // 2)
    made, _ = reconstruct(run[0], 0.07, STEPS // 2)
    assert distance(made, half.average(0.07)) < 0.02


def test_more_snapshots_give_a_smaller_error():
    wanted = Profile(0.07, 960)
    errors = [
        fit([Profile(s, step) for step in range(e, 961, e) for s in TRACKED], wanted).error
        for e in (480, 240, 120, 60, 30)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 20


def test_the_fit_is_the_least_squares_of_profiles_on_a_grid():
    known = [Profile(0.05, 60), Profile(0.10, 60), Profile(0.05, 100), Profile(0.10, 100)]
    wanted = Profile(0.08, 100)
    tau = (np.arange(200_000) + 0.5) / 200_000 * 100

    def sampled(profile: Profile) -> np.ndarray:
        gamma, t = exponent(profile.sigma_rel), profile.step
        return np.where(tau <= t, (gamma + 1) * (tau / t) ** gamma / t, 0.0)

    matrix, right = np.stack([sampled(p) for p in known], 1), sampled(wanted)
    last = matrix[:, -1:]  # the coefficients add up to 1: the last is what the others leave
    others, *_ = np.linalg.lstsq(matrix[:, :-1] - last, right - last[:, 0], rcond=None)
    expected = np.append(others, 1 - others.sum())
    off = np.linalg.norm(matrix @ expected - right) / np.linalg.norm(right)
    found = fit(known, wanted)
    assert found.coefficients == pytest.approx(expected.tolist(), rel=1e-3)
    assert found.error == pytest.approx(off, rel=1e-3)


def test_a_run_killed_and_resumed_leaves_the_snapshots_of_an_unbroken_one(run, tmp_path):
    ema = trained(tmp_path, steps=110)
    saved = ema.state_dict()
    saved = {**saved, "averages": [{n: v.clone() for n, v in a.items()} for a in saved["averages"]]}
    trained(tmp_path, steps=160, first=110, ema=ema)  # goes on, and is killed while it writes
    for name in (f".{path_of(tmp_path, 175).name}.0123abcd.part", ".tmp0a1B2c"):
        (tmp_path / name).write_bytes(b"half")
    again = PowerEMA(Walk(), ema.sigma_rels)
    again.load_state_dict(saved)
    remove_after(tmp_path, 110)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        path_of(tmp_path, step).name for step in (25, 50, 75, 100)
    ]
    trained(tmp_path, first=110, ema=again)
    unbroken = {path.name: path.read_bytes() for path in run[0].iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == unbroken


def test_what_cannot_be_written_is_an_error_of_the_disk_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(posthoc, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_snapshot(tmp_path, 25, {0.05: {"one": torch.zeros(3)}})
    assert list(tmp_path.iterdir()) == []


def copied(run, folder: Path, steps: list[int]) -> Path:
    for step in steps:
        path_of(folder, step).write_bytes(path_of(run[0], step).read_bytes())
    return folder


def test_a_width_that_the_snapshots_cannot_give_is_refused_with_those_that_they_can(run, tmp_path):
    with pytest.raises(
        ValueError, match=r"width 0\.01 with an error of .*limit is 3%; take one fr"
    ):
        reconstruct(run[0], 0.01, STEPS)
    with pytest.raises(ValueError, match=r"sigma_rel must lie in \(0, 0\.288\], got 0\.4"):
        reconstruct(run[0], 0.4, STEPS)
    alone = copied(run, tmp_path, [STEPS])
    with pytest.raises(
        ValueError, match=r"fit to 1 snapshots of widths 0\.05, 0\.1 .*snapshot_every"
    ):
        reconstruct(alone, 0.2, STEPS)
    assert reconstruct(alone, 0.10, STEPS)[1].error < 1e-6


def test_missing_damaged_and_foreign_snapshots_are_refused_by_name(run, tmp_path):
    with pytest.raises(
        ValueError, match=r"needs a snapshot of that step, but there is none; train"
    ):
        reconstruct(tmp_path, 0.07, STEPS)
    folder = copied(run, tmp_path, [350, 375])
    with pytest.raises(ValueError, match=r"but the newest is of step 375"):
        reconstruct(folder, 0.07, STEPS)
    copied(run, folder, [STEPS])
    whole = path_of(folder, 350).read_bytes()
    path_of(folder, 350).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"00000350\.safetensors is damaged .*remove it"):
        reconstruct(folder, 0.07, STEPS)
    foreign = load_file(path_of(folder, STEPS))
    foreign["0.05/one"] = foreign["0.05/one"][1:]
    foreign["0.1/one"] = foreign["0.1/one"][1:]
    about = {"snapshot": '{"step": 350, "sigma_rels": [0.05, 0.1]}'}
    save_file(foreign, path_of(folder, 350), about)
    with pytest.raises(ValueError, match=r"of another network: one is \[40, 50\], in others \[39"):
        reconstruct(folder, 0.07, STEPS)
