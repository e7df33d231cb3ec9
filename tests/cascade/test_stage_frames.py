"""Frames of stages on disk: what is read is what was written, whatever a kill left."""

import resource

import pytest
import torch

from cascade.grid import Grid
from cascade.sample_files import check_left
from cascade.stage_frames import StageFrames

GRIDS = {
    "base": Grid(frames=4, height=2, width=3, fps=4),
    "ssr1": Grid(frames=4, height=4, width=6, fps=4),
}


def opened(folder, depends=("a", "b"), videos=(0, 1)):
    return StageFrames(folder, grids=GRIDS, depends=depends, videos=videos)


def frames(count, height=2, width=3):
    return torch.randn(2, 3, count, height, width)


def test_frames_are_read_as_they_were_written(tmp_path):
    store, video = opened(tmp_path), frames(4)
    assert store.done() == {}
    store.append("base", 0, video[:, :, :3])
    assert torch.equal(opened(tmp_path).done()["base"], video[:, :, :3])
    opened(tmp_path).append("base", 2, video[:, :, 2:])
    assert torch.equal(opened(tmp_path).done()["base"], video)


def test_a_frame_that_was_half_written_is_written_again(tmp_path):
    store, video = opened(tmp_path), frames(4)
    store.append("base", 0, video[:, :, :3])
    file = next(tmp_path.glob("base-*"))
    with file.open("ab") as out:
        out.write(b"half a frame")
    again = opened(tmp_path)
    assert torch.equal(again.done()["base"], video[:, :, :3])
    again.append("base", 3, video[:, :, 3:])
    assert torch.equal(again.done()["base"], video)


def test_only_frames_that_all_videos_have_are_done(tmp_path):
    store, video = opened(tmp_path), frames(4)
    store.append("base", 0, video)
    sorted(tmp_path.glob("base-*"))[0].unlink()
    assert opened(tmp_path).done() == {}


@pytest.mark.parametrize(
    ("depends", "videos", "kept"),
    [
        (("a", "other"), (0, 1), {"base"}),
        (("other", "b"), (0, 1), set()),
        (("a", "b"), (2, 3), set()),
    ],
    ids=["a later stage's setting", "an earlier stage's setting", "other videos"],
)
def test_frames_are_of_a_stage_its_settings_and_those_before_it(tmp_path, depends, videos, kept):
    store = opened(tmp_path)
    store.append("base", 0, frames(4))
    store.append("ssr1", 0, frames(4, 4, 6))
    assert store.done().keys() == {"base", "ssr1"}
    assert opened(tmp_path, depends, videos).done().keys() == kept


def test_a_full_disk_is_said_with_the_way_out_and_what_was_written_stays(tmp_path):
    store, video = opened(tmp_path), frames(4)
    whole = store.left
    store.append("base", 0, video[:, :, :2])
    assert whole - store.left == video[:, :, :2].nbytes
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (video[0, :, :3].nbytes + 1, limit[1]))
    try:
        with pytest.raises(ValueError, match=r"base-.*f32: .* \(File too large\); free space"):
            store.append("base", 2, video[:, :, 2:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    opened(tmp_path).append("base", 2, video[:, :, 2:])
    assert torch.equal(opened(tmp_path).done()["base"], video)


def test_frames_that_find_no_room_are_refused_before_they_are_made(tmp_path):
    check_left(tmp_path, 0)
    with pytest.raises(ValueError, match=r"take 1e\+12 MB while they are made, and .* MB are free"):
        check_left(tmp_path, 10**18)
