import json
from collections import Counter
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cascade.grid import Grid
from data.worlds.attributes import BACKGROUNDS, HELD_OUT, TRAINED, VALUES, Attributes
from data.worlds.raster import SHAPES
from data.worlds.shapes import Shapes, ShapesState, heldout_prompts, prompt

WORLD = Shapes()


def grid(frames: int, size: int, fps: float, width: int | None = None) -> Grid:
    return Grid(frames=frames, height=size, width=width or size, fps=fps)


def test_every_resolution_shows_the_same_clip():
    for position in range(6):
        state = WORLD.sample(0, position)
        fine = torch.from_numpy(WORLD.render(state, grid(4, 64, 2)).astype(np.float32))
        coarse = WORLD.render(state, grid(4, 16, 2)).astype(np.float32)
        mean = F.avg_pool2d(fine.permute(0, 3, 1, 2), 4).permute(0, 2, 3, 1).numpy()
        assert np.abs(mean - coarse).max() < 1


def test_every_frame_rate_shows_the_same_moments():
    state = WORLD.sample(0, 3)
    fast = WORLD.render(state, grid(16, 32, 8))
    slow = WORLD.render(state, grid(8, 32, 4))
    np.testing.assert_array_equal(fast[::2], slow)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [16, 33, 64])
def test_coverage_is_an_area_wherever_the_object_is(shape: str, size: int):
    areas = {
        "circle": np.pi * (0.9 * 0.2) ** 2,
        "bar": 4 * 0.2 * 0.2 / 3,
        "cross": 4 * 0.2**2 * (2 / 4 - 1 / 16),
    }
    where = np.random.default_rng(0).uniform(-0.2, 0.2, (2, 20))
    covered = SHAPES[shape](where[0], where[1], 0.2, size, size)
    assert covered.min() >= 0
    assert covered.max() <= 1 + 1e-12
    np.testing.assert_allclose(covered.sum((1, 2)) / size**2, areas[shape], rtol=0.01)


@pytest.mark.parametrize("shape", ["bar", "cross"])
def test_the_centroid_is_where_the_state_says(shape: str):
    x = np.linspace(-0.2, 0.2, 7)
    covered = SHAPES[shape](x, -x, 0.2, 16, 16)
    centres = (np.arange(16) + 0.5) / 16 - 0.5
    weight = covered.sum((1, 2))
    np.testing.assert_allclose((covered.sum(1) @ centres) / weight, x, atol=0.005)
    np.testing.assert_allclose((covered.sum(2) @ centres) / weight, -x, atol=0.005)


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (40, 24)])
def test_the_object_is_whole_in_every_frame_of_any_aspect(size: tuple[int, int]):
    height, width = size
    for position in range(60):
        state = WORLD.sample(1, position)
        clip = WORLD.render(state, Grid(frames=17, height=height, width=width, fps=8))
        ground = np.array(BACKGROUNDS[state.attributes.background])
        weight = np.abs(clip.astype(int) - ground).sum((1, 2, 3))
        assert weight.min() >= 0.96 * weight.max()


def test_still_stands_and_the_others_go_their_way():
    moved = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
    for position in range(200):
        state = WORLD.sample(2, position)
        still = state.attributes.direction == "still"
        assert (state.speed == 0) == still
        assert still or 0.36 <= state.speed * state.duration <= 0.54
        assert moved[state.attributes.direction] is not None


def test_a_clip_longer_than_its_state_is_refused():
    with pytest.raises(ValueError, match=r"lasts 2 s.*at 2.125 s"):
        WORLD.render(WORLD.sample(0, 0), grid(18, 16, 8))
    with pytest.raises(ValueError, match="shorten travel"):
        Shapes(travel=(0.4, 0.8))


def test_training_never_draws_a_held_out_combination():
    drawn = {WORLD.sample(0, position).attributes for position in range(3000)}
    assert not drawn & set(HELD_OUT)
    assert len(drawn) > 0.95 * len(TRAINED)


def test_held_out_combinations_are_a_balanced_fixed_list():
    assert len(HELD_OUT) == 64
    assert len(HELD_OUT) + len(TRAINED) == 720
    assert asdict(HELD_OUT[1]) == {
        "shape": "circle",
        "colour": "red",
        "size": "large",
        "background": "gray",
        "direction": "down",
    }
    for name, values in VALUES.items():
        counts = Counter(getattr(words, name) for words in HELD_OUT)
        for value in values:
            assert abs(counts[value] * len(values) / 64 - 1) < 0.07
    for one, other in combinations(VALUES, 2):
        seen = Counter((getattr(w, one), getattr(w, other)) for w in TRAINED)
        pairs = len(VALUES[one]) * len(VALUES[other])
        assert len(seen) == pairs
        assert min(seen.values()) >= 0.87 * 720 / pairs


def test_prompts_name_every_attribute_in_every_phrasing():
    for words in (*HELD_OUT, *TRAINED):
        sentences = {prompt(words, phrasing) for phrasing in range(WORLD.phrasings)}
        assert len(sentences) == WORLD.phrasings >= 4
        for sentence in sentences:
            tokens = sentence.replace(",", " ").replace(":", " ").split()
            assert [value for value in words.to_dict().values() if value not in tokens] == []
        image = prompt(words, 0, moving=False).split()
        assert words.direction not in image
        assert words.shape in image


def test_heldout_prompts_are_distinct_and_even():
    prompts = heldout_prompts(256)
    assert len({text for text, _ in prompts}) == 256
    assert set(Counter(words for _, words in prompts).values()) == {4}
    for n in (6, 12, 32, 100):
        shapes = Counter(words.shape for _, words in heldout_prompts(n))
        assert all(abs(shapes[shape] - n / 3) <= 2 for shape in SHAPES)
        assert len({text for text, _ in heldout_prompts(n)}) == n
    with pytest.raises(ValueError, match="n must be from 1 to 256"):
        heldout_prompts(257)


def test_a_state_survives_json():
    state = WORLD.sample(5, 7)
    assert WORLD.from_json(json.loads(json.dumps(WORLD.to_json(state)))) == state
    assert isinstance(state, ShapesState)


def test_an_unknown_value_is_refused():
    with pytest.raises(ValueError, match="colour must be one of"):
        Attributes(shape="bar", colour="puce", size="small", background="black", direction="up")
