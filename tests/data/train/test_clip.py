"""A clip has one rate, one window and one crop, keyed by its position."""

from collections import Counter

import pytest
import torch

from cascade.grid import Grid
from cascade.video import covering, scale_frames
from data.plan.fit import Fitter
from data.train.clip import Clipper


def clipper(**options):
    return Clipper(**({"seed": 0, "random": True} | options))


def test_clip_is_the_plain_antialiased_resize():
    frames = torch.randint(0, 256, (3, 48, 64, 3), dtype=torch.uint8)
    scaled = scale_frames(frames, (16, 21))
    assert scaled.shape == (3, 3, 16, 21)
    plain = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2).double(), size=(16, 21), mode="bilinear", antialias=True
    )
    assert (scaled.transpose(0, 1) - plain).abs().max() <= 1.01


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (15, 40), (100, 9), (16, 100)])
@pytest.mark.parametrize("zoom", [1, 2])
def test_odd_sizes_cover_the_shape(size, zoom):
    height, width = covering(*size, (16, 16), zoom)
    assert min(height, width) == 16 * zoom
    assert abs(height / width - size[0] / size[1]) < 0.05 * size[0] / size[1]
    frames = torch.zeros(2, *size, 3, dtype=torch.uint8)
    assert clipper().cut(scale_frames(frames, (height, width)), 16, 16, 0).shape == (3, 2, 16, 16)


def test_one_crop_for_the_whole_clip():
    coordinates = torch.stack(torch.meshgrid(torch.arange(40), torch.arange(50), indexing="ij")).to(
        torch.uint8
    )
    scaled = torch.cat([coordinates, coordinates[:1]])[:, None].expand(3, 4, 40, 50)
    corners = set()
    for position in range(60):
        clip = clipper().cut(scaled, 8, 12, position)
        assert clip.shape == (3, 4, 8, 12)
        assert (clip == clip[:, :1]).all()
        corners.add((int(clip[0, 0, 0, 0]), int(clip[1, 0, 0, 0])))
        assert torch.equal(clip, clipper().cut(scaled, 8, 12, position))
    assert len(corners) > 50
    assert clipper(random=False).cut(scaled, 8, 12, 1)[:2, 0, 0, 0].tolist() == [16, 19]


def test_windows_are_uniform_and_inside():
    starts = Counter(clipper().start(9, 4, position) for position in range(600))
    assert set(starts) == set(range(6))
    assert min(starts.values()) > 70
    assert clipper(random=False).start(9, 4, 5) == 0
    assert clipper().start(4, 4, 3) == 0


def test_rates_and_zooms_are_drawn_by_weight_among_those_that_suit():
    cut = clipper(rates=[[1, 3], [0.5, 1], [2, 4]], zooms=[[1, 1], [2, 1]])
    assert cut.varies
    assert not clipper().varies
    drawn = Counter(cut.rate(lambda rate: rate <= 1, p) for p in range(800))
    assert set(drawn) == {1.0, 0.5}
    assert 0.70 < drawn[1.0] / 800 < 0.80
    assert {cut.zoom(lambda zoom: zoom < 2, p) for p in range(20)} == {1.0}
    assert {cut.zoom(lambda zoom: True, p) for p in range(20)} == {1.0, 2.0}
    assert cut.rate(lambda rate: False, 0) == 1.0
    still = clipper(rates=[[0.5, 1], [2, 4]], random=False)
    assert {still.rate(lambda rate: True, p) for p in range(20)} == {0.5}
    with pytest.raises(ValueError, match="data.clips.zooms must be at least 1"):
        clipper(zooms=[[0.5, 1]])
    with pytest.raises(ValueError, match="data.clips.rates must be pairs of a positive value"):
        clipper(rates=[[0, 1]])


def test_a_crop_that_does_not_fit_is_refused():
    grid = Grid(frames=4, height=16, width=16, fps=8)
    with pytest.raises(ValueError, match="height 32 is outside 1 to 16 of 4×16×16"):
        Fitter(grid=grid, multiple=(1, 1, 1), crop=(4, 32, 16), batching="fixed", lengths=(4,))
