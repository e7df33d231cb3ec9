"""A clip has one window and one crop, at the right times."""

import pytest
import torch

from cascade.grid import Grid
from data.caption import Captions
from data.clip import Clipper

GRID = Grid(frames=4, height=16, width=16, fps=8)


def clipper(**options):
    options = {"grid": GRID, "crop": None, "align": (1, 1, 1), "seed": 0, "random": True} | options
    return Clipper(**options)


def test_clip_is_the_plain_antialiased_resize():
    frames = torch.randint(0, 256, (3, 48, 64, 3), dtype=torch.uint8)
    scaled = clipper().scale(frames)
    assert scaled.shape == (3, 3, 16, 21)
    plain = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2).double(), size=(16, 21), mode="bilinear", antialias=True
    )
    assert (scaled.transpose(0, 1) - plain).abs().max() <= 1.01


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (15, 40), (100, 9), (16, 100)])
def test_odd_sizes_cover_the_grid(size):
    frames = torch.zeros(2, *size, 3, dtype=torch.uint8)
    height, width = clipper().scaled_size(*size)
    assert height >= 16
    assert width >= 16
    assert min(height - 16, width - 16) == 0
    assert clipper().cut(clipper().scale(frames), 0).shape == (3, 2, 16, 16)


def test_one_crop_for_the_whole_clip():
    coordinates = torch.stack(torch.meshgrid(torch.arange(40), torch.arange(50), indexing="ij")).to(
        torch.uint8
    )
    scaled = torch.cat([coordinates, coordinates[:1]])[:, None].expand(3, 4, 40, 50)
    cut = clipper(crop=(4, 8, 12), align=(1, 4, 2))
    corners = set()
    for position in range(60):
        clip = cut.cut(scaled, position)
        assert clip.shape == (3, 4, 8, 12)
        assert (clip == clip[:, :1]).all()
        corners.add((int(clip[0, 0, 0, 0]), int(clip[1, 0, 0, 0])))
        assert torch.equal(clip, cut.cut(scaled, position))
    assert len(corners) > 20
    assert all(top % 4 == 0 and left % 2 == 0 for top, left in corners)
    still = clipper(crop=(4, 8, 12), align=(1, 4, 2), random=False)
    assert still.cut(scaled, 1)[:2, 0, 0, 0].tolist() == [16, 18]


def test_windows_are_uniform_aligned_and_inside():
    cut = clipper(align=(2, 1, 1))
    starts = [cut.start(9, position) for position in range(300)]
    assert set(starts) == {0, 2, 4}
    assert min(starts.count(s) for s in (0, 2, 4)) > 70
    assert clipper(random=False).start(9, 5) == 0
    assert cut.start(4, 3) == 0
    assert cut.times(2, 3).tolist() == [0.25, 0.375, 0.5]


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="height 32 is outside 1 to 16 of 4×16×16"):
        clipper(crop=(4, 32, 16))
    with pytest.raises(ValueError, match="width 10 is not a multiple of 4 in align"):
        clipper(crop=(4, 8, 10), align=(1, 4, 4))
    with pytest.raises(ValueError, match=r"crop and align are \(frames, height, width\)"):
        clipper(crop=(4, 8))


def test_captions_are_drawn_by_weight_among_those_there():
    state = {"long": "a long one", "short": "short", "caption": "from json"}
    drawn = Captions(long=0.9, short=0.1, missing=5.0)
    said = [drawn("", state, seed=0, position=p) for p in range(500)]
    assert 0.84 < said.count("a long one") / 500 < 0.96
    assert set(said) == {"a long one", "short"}
    assert Captions()(" text ", state, seed=0, position=0) == "text"
    assert Captions()("", state, seed=0, position=0) == "from json"
    assert Captions(long=1.0)("text", {}, seed=0, position=0) == "text"
    with pytest.raises(ValueError, match="weights must be positive"):
        Captions(long=-1.0)
