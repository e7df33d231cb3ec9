"""A clip has one window and one crop, at the right times, and both decoders give the same."""

import io
import json
import sys
import time

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cascade.grid import Grid
from data.caption import Captions
from data.clip import Clipper
from data.decode import _by_pyav, decode, nearest
from data.probe import DecodeError, read_header

GRID = Grid(frames=4, height=16, width=16, fps=8)


def clipper(**options):
    options = {"grid": GRID, "crop": None, "align": (1, 1, 1), "seed": 0, "random": True} | options
    return Clipper(**options)


def test_frames_are_the_nearest_in_time(make_mp4):
    data = make_mp4(frames=8, fps=8)
    header = read_header(data)
    assert (header.frames, header.fps, header.duration) == (8, 8.0, 1.0)
    frames = decode(data, header, [0.0, 0.06, 0.07, 0.5, 0.5, 9.0])
    assert frames.shape == (6, 32, 40, 3)
    grey = frames[:, 16, 30].float().mean(-1)
    assert (grey - torch.tensor([0.0, 0, 10, 40, 40, 70])).abs().max() <= 3
    assert nearest(np.array([0.0, 1.0]), np.array([0.5, 0.51])).tolist() == [0, 1]


@pytest.mark.parametrize("frames", [3, 40])
def test_both_decoders_agree(make_mp4, frames):
    data = make_mp4(frames=frames, fps=8)
    header = read_header(data)
    last = np.array([0, frames - 1])
    mine = decode(data, header, header.times[last]).numpy()
    other = _by_pyav(data, header, last, time.monotonic() + 10)
    assert np.abs(mine.astype(int) - other).mean() <= 2


def test_pyav_alone_suffices(make_mp4, monkeypatch):
    data = make_mp4()
    header = read_header(data)
    both = decode(data, header, header.times)
    monkeypatch.setattr(sys.modules["data.decode"], "decord", None)
    alone = decode(data, header, header.times)
    assert (both.int() - alone.int()).abs().float().mean() <= 2


def test_deadline_and_damage_are_errors_not_frames(make_mp4, monkeypatch):
    data = make_mp4()
    header = read_header(data)
    monkeypatch.setattr(sys.modules["data.decode"], "decord", None)
    with pytest.raises(DecodeError, match="deadline"):
        decode(data, header, [0.0], deadline_s=-1.0)
    with pytest.raises(DecodeError):
        decode(data[: len(data) // 3], header, [0.9])


def test_a_claimed_size_is_refused_before_it_is_allocated(make_mp4, make_jpeg):
    with pytest.raises(DecodeError, match="claims 40×32 pixels, more than the limit of 100"):
        read_header(make_mp4(), max_pixels=100)
    with pytest.raises(DecodeError, match="claims 40×32"):
        read_header(make_jpeg(), max_pixels=100)
    with pytest.raises(DecodeError, match="less than 8 on a side"):
        read_header(make_mp4(height=4, width=40))


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp"])
def test_an_image_is_a_clip_of_one_frame(suffix):
    file = io.BytesIO()
    Image.new("RGBA" if suffix != "jpeg" else "RGB", (20, 10), (200, 100, 50)).save(file, suffix)
    header = read_header(file.getvalue())
    assert (header.kind, header.frames, header.width, header.height) == ("image", 1, 20, 10)
    frames = decode(file.getvalue(), header, [0.0])
    assert (frames[0, 5, 5].int() - torch.tensor([200, 100, 50])).abs().max() <= 4


def test_exif_rotation_is_applied():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(file, "jpeg", exif=exif)
    header = read_header(file.getvalue())
    assert (header.width, header.height) == (10, 20)
    assert decode(file.getvalue(), header, [0.0]).shape == (1, 20, 10, 3)


def test_a_gif_is_a_video():
    file = io.BytesIO()
    pages = [Image.new("L", (16, 16), v) for v in (0, 100, 200)]
    pages[0].save(file, "gif", save_all=True, append_images=pages[1:], duration=500)
    header = read_header(file.getvalue())
    assert (header.kind, header.frames, header.duration) == ("video", 3, 1.5)
    assert decode(file.getvalue(), header, [0.5])[0].float().mean() == pytest.approx(100, abs=3)


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


REFUSED = {
    "one_pixel.mp4",
    "audio_only.mp4",
    "header_only.mp4",
    "claims_12336x12336.webm",
    "corrupted.mp4",
}


@pytest.mark.media
@pytest.mark.slow
def test_hazards_give_the_frames_shown_or_are_refused(media):
    for name, told in json.loads((media / "hazards" / "hazards.json").read_text()).items():
        data = (media / "hazards" / name).read_bytes()
        try:
            header = read_header(data)
            some = np.unique(np.linspace(0, min(header.frames, 90) - 1, 4).round().astype(int))
            mine = decode(data, header, header.times[some])
        except DecodeError:
            assert name in REFUSED, name
            continue
        assert name not in REFUSED, name
        assert header.frames == told["frames_shown"], name
        other = _in_order(data, header, some)
        assert np.abs(mine.numpy().astype(int) - other).reshape(len(some), -1).mean(1).max() <= 2


def _in_order(data, header, some):
    """Frames by PyAV from the beginning, without any seek."""
    frames = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(container.streams.video[0]):
            if frame.pts in set(header.pts[some].tolist()):
                rgb = frame.to_ndarray(format="rgb24", width=header.width, height=header.height)
                frames.append(np.rot90(rgb, round(frame.rotation / 90) % 4))
            if len(frames) == len(some):
                return np.stack(frames)
    raise AssertionError("fewer frames than told")
