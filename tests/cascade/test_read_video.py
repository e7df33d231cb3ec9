"""A prompt's videos and images are read as training reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cascade.grid import Grid
from cascade.times import clip_length
from cascade.video import (
    covering,
    frame_size,
    load_clip,
    read_frames,
    read_image,
    resize,
    scale_frames,
    to_float,
    to_uint8,
    write_gif,
    write_mp4,
    write_png,
)
from data.decode.decoder import Decoder
from data.train.clip import Clipper
from tests.cascade.smooth_video import psnr, smooth

CLIPS = ("clips/bikes.mp4", "clips/hiker.mp4", "clips/jeep_turn.mp4", "clips/toy_robot.mp4")


HAZARDS = tuple(
    f"hazards/{name}"
    for name in ("two_video_streams.mp4", "plain_mpeg4_avi.avi", "vp9.webm", "edit_list_cut_2.mp4")
)


def test_pictures_are_upright_and_transparency_is_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (12, 8), (255, 0, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png")
    assert read.shape == (12, 8, 3)
    assert (read == 255).all()


def encode(path: Path, pictures: Sequence[np.ndarray], ticks: Sequence[int], rate: int) -> None:
    """A video whose frame i comes on at ticks[i] / rate seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, rate)
        for picture, tick in zip(pictures, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def different(count: int, height: int = 48, width: int = 80) -> list[np.ndarray]:
    """Pictures of which no two are alike."""
    small = np.random.default_rng(0).integers(0, 256, (count, height // 8, width // 8, 3))
    return list(small.repeat(8, 1).repeat(8, 2).astype(np.uint8))


def test_of_a_variable_frame_rate_the_nearest_frame_in_time_is_taken(tmp_path: Path) -> None:
    grey = [np.full((16, 16, 3), 20 * i, np.uint8) for i in range(6)]
    encode(tmp_path / "vfr.mkv", grey, [0, 100, 500, 550, 900, 1000], 1000)
    clip = load_clip(tmp_path / "vfr.mkv", Grid(frames=4, height=16, width=16, fps=4))
    shown = (to_uint8(clip).float().mean(dim=(0, 2, 3)) / 20).round().int()
    assert shown.tolist() == [0, 1, 2, 4]  # for 0, 250, 500 and 750 ms


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    one = Decoder()
    yield one
    one.close()


def as_the_loader_cuts_it(decoder: Decoder, path: Path, grid: Grid) -> Tensor:
    """The clip that training takes of a video where nothing is drawn at random."""
    decoder.open(path.read_bytes())
    frames = decoder.frames(np.arange(grid.frames) / grid.fps)
    size = covering(frames.shape[1], frames.shape[2], (grid.height, grid.width))
    cut = Clipper(seed=0, random=False).cut(scale_frames(frames, size), grid.height, grid.width, 0)
    return to_float(cut)


@pytest.mark.parametrize(
    ("own", "fps"), [(30, 24), (25, 24), (24, 16), (30, 8), (30, 16), (24, 24), (8, 16)]
)
def test_a_prompts_clip_is_the_loaders_bit_by_bit(
    tmp_path: Path, decoder: Decoder, own: int, fps: int
) -> None:
    encode(tmp_path / "a.mp4", different(2 * own), range(2 * own), own)
    for height, width in ((16, 16), (32, 20), (48, 80)):
        grid = Grid(frames=2 * fps - 1, height=height, width=width, fps=fps)
        loaded = load_clip(tmp_path / "a.mp4", grid)
        assert torch.equal(loaded, as_the_loader_cuts_it(decoder, tmp_path / "a.mp4", grid))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_prompts_clip_is_the_loaders_at_any_time_stamps(
    tmp_path: Path, decoder: Decoder, name: str
) -> None:
    steps = np.random.default_rng(1).choice([10, 33, 34, 80, 200], 40)
    ticks = np.cumsum(steps) - steps[0] if name != "a.avi" else np.arange(40)
    encode(tmp_path / name, different(40), ticks.tolist(), 1000 if name != "a.avi" else 25)
    seconds = decoder.open((tmp_path / name).read_bytes()).duration
    for fps in (7.0, 8.0, 24.0):
        grid = Grid(frames=clip_length(seconds, fps), height=24, width=24, fps=fps)
        loaded = load_clip(tmp_path / name, grid)
        assert torch.equal(loaded, as_the_loader_cuts_it(decoder, tmp_path / name, grid))
        with pytest.raises(ValueError, match=rf"of the {grid.frames + 1} frames required"):
            load_clip(tmp_path / name, replace(grid, frames=grid.frames + 1))


def test_single_frames_of_a_clip_are_those_of_the_whole(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", different(20), range(20), 10)
    grid = Grid(frames=16, height=24, width=24, fps=8)
    whole = load_clip(tmp_path / "a.mp4", grid)
    places = [11, 0, 7]
    assert torch.equal(load_clip(tmp_path / "a.mp4", grid, places=places), whole[:, places])
    assert load_clip(tmp_path / "a.mp4", replace(grid, frames=99), places=[15]).shape[1] == 1
    assert frame_size(tmp_path / "a.mp4") == (48, 80)


def test_a_frame_is_taken_at_its_very_time_stamp(tmp_path: Path) -> None:
    video = torch.linspace(-1, 1, 10)[None, :, None, None].expand(3, 10, 16, 16)
    write_mp4(tmp_path / "a.mp4", video, 10, crf=1)
    same = load_clip(tmp_path / "a.mp4", Grid(frames=10, height=16, width=16, fps=10))
    half = load_clip(tmp_path / "a.mp4", Grid(frames=5, height=16, width=16, fps=5))
    assert (same - video).abs().max() < 4 / 127.5
    assert torch.equal(half, same[:, ::2])


def test_a_clip_is_cropped_at_the_centre_not_squeezed(tmp_path: Path) -> None:
    image = -torch.ones(3, 20, 60)
    image[:, :, 20:40] = 1
    write_png(tmp_path / "a.png", image)
    clip = load_clip(tmp_path / "a.png", Grid(frames=1, height=10, width=10, fps=1))
    assert (clip[..., 1:-1] == 1).all()  # scaled before it is cropped, so its rim is mixed
    assert (clip > 0.5).all()
    assert load_clip(tmp_path / "a.png", Grid(frames=1, height=9, width=31, fps=1)).shape[1:] == (
        1,
        9,
        31,
    )


def test_pictures_and_gifs_are_clips(tmp_path: Path) -> None:
    video = smooth()
    write_gif(tmp_path / "a.gif", video, 8)
    Image.fromarray(to_uint8(video[:, 0]).permute(1, 2, 0).numpy()).save(tmp_path / "a.jpg")
    moving = load_clip(tmp_path / "a.gif", Grid(frames=4, height=24, width=32, fps=4))
    still = load_clip(tmp_path / "a.jpg", Grid(frames=1, height=24, width=32, fps=4))
    assert psnr(moving, resize(video[None, :, 0:8:2], 24, 32)[0]) > 25
    assert psnr(still, resize(video[None, :, :1], 24, 32)[0]) > 25


def test_a_clip_too_short_is_refused_with_both_lengths(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", smooth(frames=4), 4)
    load_clip(tmp_path / "a.mp4", Grid(frames=8, height=8, width=8, fps=8))
    with pytest.raises(
        ValueError, match=r"lasts 1\.000 s and gives 4 of the 5 frames required at 4 "
    ):
        load_clip(tmp_path / "a.mp4", Grid(frames=5, height=8, width=8, fps=4))
    write_png(tmp_path / "a.png", torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="lasts 0"):
        load_clip(tmp_path / "a.png", Grid(frames=2, height=8, width=8, fps=4))


@pytest.mark.media
@pytest.mark.parametrize("name", CLIPS + HAZARDS)
def test_real_clips_load_as_training_takes_them(media: Path, decoder: Decoder, name: str) -> None:
    grid = Grid(frames=8, height=36, width=64, fps=8)
    clip = load_clip(media / name, grid)
    assert clip.shape == (3, 8, 36, 64)
    assert clip.std() > 0.1
    assert torch.equal(clip, as_the_loader_cuts_it(decoder, media / name, grid))


@pytest.mark.media
def test_rotation_and_pixel_aspect_are_applied(media: Path) -> None:
    turned, _ = read_frames(media / "hazards" / "rotated_90.mov")
    assert turned.shape[1:3] == (568, 320)
    assert read_frames(media / "hazards" / "sar_2x1.mp4")[0].shape[1:3] == (360, 1280)


@pytest.mark.media
@pytest.mark.parametrize(
    ("name", "count"), [("plain_mpeg4_avi.avi", 164), ("edit_list_cut_2.mp4", 56), ("vp9.webm", 24)]
)
def test_frames_come_in_the_order_shown(media: Path, name: str, count: int) -> None:
    frames, times = read_frames(media / "hazards" / name)
    assert len(frames) == count
    assert times[0] == 0
    assert (times.diff() > 0).all()


@pytest.mark.media
def test_what_is_no_sound_video_is_refused(media: Path) -> None:
    for name in ("audio_only.mp4", "header_only.mp4", "claims_12336x12336.webm", "corrupted.mp4"):
        with pytest.raises(ValueError, match=name):
            read_frames(media / "hazards" / name)


def test_a_clip_may_be_the_last_seconds_of_a_video(tmp_path):
    levels = torch.linspace(-1, 1, 20).view(1, 20, 1, 1).expand(3, 20, 16, 16)
    write_mp4(tmp_path / "a.mp4", levels, fps=10)
    grid = Grid(frames=5, height=16, width=16, fps=10)
    last = load_clip(tmp_path / "a.mp4", grid, from_end=True)
    torch.testing.assert_close(last.mean((0, 2, 3)), levels[0, -5:, 0, 0], atol=0.03, rtol=0)
