"""The world of physics: its laws conserve what they must, its parsers have the published floors."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cascade.eval.motion import motion
from cascade.grid import Grid
from data.worlds.dynamics import GRAVITY, LAWS, Ball, bounced, impact, whole
from data.worlds.physics import GIVEN, Physics, PhysicsState, quantities
from data.worlds.read_physics import READERS
from data.worlds.world_shards import make_physics

TIMES = np.arange(32) / 10


def grid(size: int) -> Grid:
    return Grid(frames=32, height=size, width=size, fps=10)


def video(state: PhysicsState, size: int) -> torch.Tensor:
    pixels = Physics(state.law).render(state, grid(size))
    return torch.from_numpy(pixels).permute(3, 0, 1, 2)


@pytest.mark.parametrize("law", LAWS)
def test_a_state_is_drawn_by_its_key_alone(law: str) -> None:
    world = Physics(law)
    assert world.sample(0, 5) == Physics(law).sample(0, 5)
    assert world.sample(0, 5) != world.sample(0, 6)
    assert world.sample(0, 5) != world.sample(1, 5)
    state = world.sample(0, 5)
    assert world.from_json(world.to_json(state)) == state


@pytest.mark.parametrize("law", LAWS)
def test_training_and_every_level_draw_from_their_own_ranges(law: str) -> None:
    values = LAWS[law]
    for outside in ((), *values.levels):
        world = Physics(law, outside=outside)
        for position in range(40):
            state = world.sample(0, position)
            drawn = {"r": [b.radius for b in state.balls], "v": [abs(b.speed) for b in state.balls]}
            for name in quantities(law):
                number = int(name[1:] or 1) - 1
                ranges = (values.outside if name in outside else values.inside)[name[0]]
                value = drawn[name[0]][number]
                assert any(low - 1e-9 <= value <= high + 1e-9 for low, high in ranges), name


@pytest.mark.parametrize("law", LAWS)
def test_balls_are_whole_in_the_first_frame(law: str) -> None:
    for outside in ((), *LAWS[law].levels):
        for position in range(30):
            state = Physics(law, outside=outside).sample(0, position)
            assert whole(state.places(TIMES), state.radii)[:, 0].all()


def test_a_thrown_ball_falls_with_the_stated_gravity() -> None:
    state = Physics("parabola").sample(0, 0)
    y = state.places(TIMES)[0, :, 1]
    np.testing.assert_allclose(np.diff(y, 2) * 100, GRAVITY, rtol=1e-9)


def test_a_collision_conserves_momentum_and_energy_and_no_ball_enters_another() -> None:
    world = Physics("collision")
    for position in range(50):
        state = world.sample(0, position)
        one, two = state.balls
        after = bounced(one, two)
        before = (one.speed, two.speed)
        for power in (1, 2):
            sums = [
                sum(b.mass * v**power for b, v in zip(state.balls, vs, strict=True))
                for vs in (before, after)
            ]
            np.testing.assert_allclose(*sums, rtol=1e-9)
        places = state.places(np.linspace(0, 3.1, 400))
        gap = places[1, :, 0] - places[0, :, 0]
        assert gap.min() >= one.radius + two.radius - 1e-9
        assert 0.2 < impact(one, two) < 3.1


def test_balls_that_part_never_meet() -> None:
    slow = Ball(radius=1.0, x=2.0, y=5.0, speed=1.0)
    assert impact(slow, Ball(radius=1.0, x=6.0, y=5.0, speed=2.0)) == float("inf")


@pytest.mark.parametrize("law", LAWS)
def test_a_fine_render_averages_to_the_coarse_one(law: str) -> None:
    state = Physics(law).sample(0, 1)
    fine, coarse = video(state, 64).double(), video(state, 32).double()
    mean = fine.unflatten(2, (32, 2)).unflatten(4, (32, 2)).mean((3, 5))
    assert (mean - coarse).abs().max() <= 1.0


FLOORS = {("unbiased", 32): 0.018, ("unbiased", 64): 0.0052, ("unbiased", 128): 0.0044}
PUBLISHED = {("published", 32): 0.30, ("published", 64): 0.098, ("published", 128): 0.040}


@pytest.mark.parametrize(("case", "floor"), {**FLOORS, **PUBLISHED}.items())
def test_the_parsers_have_the_floors_that_were_published(
    case: tuple[str, int], floor: float
) -> None:
    """Velocity errors of the truth: ours are no larger, the paper's about as large."""
    name, size = case
    errors = []
    for position in range(16):
        state = Physics("uniform").sample(0, position)
        counted = whole(state.places(TIMES), state.radii)
        counted[:, : GIVEN - 1] = False
        read = READERS[name](video(state, size), 1)
        found = motion(read, state.places(TIMES), counted, fps=10, masses=[1.0])
        assert found.lost == 0
        if not np.isnan(found.velocity):
            errors.append(found.velocity)
    mean = float(np.mean(errors))
    assert mean <= 1.2 * floor
    if name == "published":
        assert mean >= 0.8 * floor


def test_a_velocity_that_is_scaled_is_measured_as_that_error() -> None:
    state = Physics("uniform").sample(0, 2)
    true = state.places(TIMES)
    wrong = true[:, :1] + 1.1 * (true - true[:, :1])
    counted = np.ones((1, 32), dtype=bool)
    found = motion(wrong, true, counted, fps=10, masses=[state.balls[0].mass])
    assert found.velocity == pytest.approx(0.1 * state.balls[0].speed)
    assert found.momentum == pytest.approx(0.1)
    assert found.energy == pytest.approx(0.21)


def test_a_ball_that_vanishes_is_counted_as_lost() -> None:
    state = Physics("uniform").sample(0, 2)
    pixels = video(state, 32)
    pixels[:, 10:] = 255
    true = state.places(TIMES)
    counted = np.ones((1, 32), dtype=bool)
    read = READERS["unbiased"](pixels, 1)
    found = motion(read, true, counted, fps=10, masses=[1.0])
    assert found.lost == pytest.approx(22 / 31)


def test_unknown_laws_and_quantities_are_refused() -> None:
    with pytest.raises(ValueError, match="law must be one of .*'magnetism'"):
        Physics("magnetism")
    with pytest.raises(ValueError, match=r"\['r1'\]; levels: \[\['r'\], \['v'\]"):
        Physics("uniform", outside=["r1"])


def test_shards_have_the_state_and_the_centres_of_every_clip(tmp_path: Path) -> None:
    make_physics(tmp_path, law="collision", clips=2, grid=grid(16), shard_size=2, workers=1)
    with tarfile.open(next(tmp_path.glob("*.tar"))) as shard:
        names = [name for name in shard.getnames() if name.endswith(".json")]
        for name in names:
            record = json.load(shard.extractfile(name))
            state = Physics("collision").from_json(record["state"])
            x = state.places(TIMES)[..., 0]
            np.testing.assert_allclose(record["track"]["x"], x, atol=1e-4)
    assert len(names) == 2


def test_the_frame_is_the_square_at_the_centre_of_a_wide_one() -> None:
    state = Physics("uniform").sample(0, 3)
    wide = torch.from_numpy(
        Physics("uniform").render(state, Grid(frames=4, height=32, width=48, fps=10))
    ).permute(3, 0, 1, 2)
    read = READERS["unbiased"](wide, 1)
    np.testing.assert_allclose(read[0], state.places(TIMES[:4])[0], atol=0.03)
