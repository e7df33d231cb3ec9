"""The windows that a stage gets for a given memory."""

import pytest

from cascade.grid import Grid
from cascade.request import Windows
from cascade.windows import GIB, TooLargeError, bytes_of, windows_for

GRID = Grid(frames=96, height=64, width=64, fps=8)


@pytest.fixture(scope="module")
def ssr(bundle_of, tmp_path_factory):
    from cascade.chain import open_stage

    return open_stage(bundle_of("demo/ssr1", tmp_path_factory.mktemp("b") / "bundle"))


def test_less_memory_gives_smaller_windows_down_to_tiles_and_then_an_error(ssr):
    whole = bytes_of(ssr, GRID, Windows())
    found = [
        windows_for(ssr, GRID, videos=1, memory=memory)
        for memory in (whole, whole - 1, whole / 2.5, whole / 8)
    ]
    assert found[0] == Windows()
    sizes = [GRID.frames if one.frames is None else one.frames for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < GRID.frames
    for memory, one in zip((whole, whole - 1, whole / 2.5, whole / 8), found, strict=True):
        assert bytes_of(ssr, GRID, one) <= memory
    with pytest.raises(TooLargeError, match=r"stage ssr1: 1 video\(s\) of 96×64×64 .* need"):
        windows_for(ssr, GRID, videos=1, memory=1e5)


def test_memory_does_not_grow_with_the_length_of_a_video_in_windows(ssr):
    windows = Windows(frames=8)
    lengths = [
        bytes_of(ssr, Grid(frames=frames, height=64, width=64, fps=8), windows)
        for frames in (240, 2400)
    ]
    assert lengths[0] == lengths[1]


def test_more_videos_at_once_get_smaller_windows(ssr):
    memory = bytes_of(ssr, GRID, Windows())
    assert windows_for(ssr, GRID, videos=2, memory=memory) != Windows()
    assert windows_for(ssr, GRID, videos=2, memory=100 * GIB) == Windows()
