"""Videos are resampled as equations say, and files keep what is written to them."""

from pathlib import Path

import pytest
import torch

from cascade.grid import Grid
from cascade.video import (
    bicubic,
    downsample,
    every,
    frame_times,
    hold,
    linear,
    read_frames,
    read_image,
    resize,
    to_float,
    to_uint8,
    upsample,
    write_mp4,
    write_png,
    write_video,
)
from tests.cascade.smooth_video import as_video, psnr, smooth

# Space


def test_resampling_keeps_a_flat_video_and_the_mean() -> None:
    flat = torch.full((2, 3, 2, 12, 8), 0.25)
    for made in (resize(flat, 5, 7), bicubic(flat, 24, 3), downsample(flat, 4), upsample(flat, 2)):
        torch.testing.assert_close(made, torch.full_like(made, 0.25))
    x = torch.rand(1, 3, 2, 16, 16)
    torch.testing.assert_close(resize(x, 16, 16), x)
    assert downsample(x, 4).mean().item() == pytest.approx(x.mean().item(), abs=0.02)


def test_downsampling_is_antialiased() -> None:
    stripes = torch.ones(1, 3, 1, 32, 32)
    stripes[..., ::2] = -1
    inner = downsample(stripes, 4)[..., 1:-1]
    assert inner.abs().max() < 0.05


def test_resampling_treats_each_frame_alone() -> None:
    x = torch.randn(2, 3, 4, 8, 8)
    torch.testing.assert_close(resize(x, 5, 6)[1:, :, 2:3], resize(x[1:, :, 2:3], 5, 6))
    assert bicubic(x.sign(), 32, 32).abs().max() <= 1


def test_downsampling_refuses_what_does_not_divide() -> None:
    with pytest.raises(ValueError, match=r"multiples of the factor 4, got 10×8"):
        downsample(torch.zeros(1, 3, 1, 10, 8), 4)


# Time


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_every_undoes_hold_and_linear(factor: int) -> None:
    x = torch.randn(1, 3, 4, 2, 2)
    for raise_rate in (hold, linear):
        made = raise_rate(x, factor)
        assert made.shape[2] == 4 * factor
        assert torch.equal(every(made, factor), x)


def test_linear_is_exact_on_a_ramp_and_holds_the_last_frame() -> None:
    ramp = torch.arange(6.0).reshape(1, 1, 6, 1, 1)
    made = linear(every(ramp, 2), 2)
    assert made.flatten().tolist() == [0, 1, 2, 3, 4, 4]


def test_frame_times_are_seconds() -> None:
    times = frame_times(Grid(frames=3, height=1, width=1, fps=8))
    assert times.tolist() == [0, 0.125, 0.25]
    assert times.dtype == torch.float64


# Pixels


def test_bytes_survive_the_way_through_floats() -> None:
    every_byte = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every_byte)), every_byte)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


# Files


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 33)])
@pytest.mark.parametrize("fps", [8.0, 29.97])
def test_mp4_keeps_frames_times_and_pixels(
    tmp_path: Path, height: int, width: int, fps: float
) -> None:
    video = smooth(height=height, width=width)
    write_mp4(tmp_path / "a.mp4", video, fps)
    frames, times = read_frames(tmp_path / "a.mp4")
    assert frames.shape == (9, height + height % 2, width + width % 2, 3)
    torch.testing.assert_close(times, torch.arange(9).double() / fps, atol=1e-4, rtol=0)
    assert psnr(as_video(frames)[..., :height, :width], video) > 35


def test_mp4_keeps_saturated_colours(tmp_path: Path) -> None:
    colours = torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1], [1, 1, 1.0]])
    video = colours.T[:, :, None, None].expand(3, 5, 32, 32)
    write_mp4(tmp_path / "a.mp4", video, 4, crf=1)
    frames, _ = read_frames(tmp_path / "a.mp4")
    assert (as_video(frames) - video).abs().max() < 8 / 127.5


def test_gif_keeps_frames_and_time(tmp_path: Path) -> None:
    video = smooth()
    write_video(tmp_path / "a.gif", video, 8)
    frames, times = read_frames(tmp_path / "a.gif")
    assert frames.shape == (9, 48, 64, 3)
    torch.testing.assert_close(times, torch.arange(9).double() / 8, atol=0.0051, rtol=0)
    assert psnr(as_video(frames), video) > 25


def test_png_is_lossless(tmp_path: Path) -> None:
    image = smooth(1, 33, 17)[:, 0]
    write_png(tmp_path / "a.png", image)
    assert torch.equal(read_image(tmp_path / "a.png").permute(2, 0, 1), to_uint8(image))
    write_video(tmp_path / "b.png", image[:, None], 8)
    assert torch.equal(read_frames(tmp_path / "b.png")[0][0], read_image(tmp_path / "a.png"))


def test_a_name_that_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one frame, got 9"):
        write_video(tmp_path / "a.png", smooth(), 8)
    with pytest.raises(ValueError, match=r"got '\.webm'"):
        write_video(tmp_path / "a.webm", smooth(), 8)
    with pytest.raises(ValueError, match="no such file"):
        read_frames(tmp_path / "a.mp4")
    for name in ("a.mp4", "a.png"):
        (tmp_path / name).write_bytes(b"these are not pixels")
        with pytest.raises(ValueError, match=rf"{name}: is a text, not a video or image"):
            read_frames(tmp_path / name)


# Clips on a grid
