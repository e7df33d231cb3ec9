import io

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cascade.grid import Grid
from data.worlds.encode_clip import encode_mp4
from data.worlds.parse import NONE, parse
from data.worlds.shapes import Shapes

WORLD = Shapes()


def clip(position: int, frames: int = 8, size: int = 16, fps: float = 4) -> Tensor:
    grid = Grid(frames=frames, height=size, width=size, fps=fps)
    return torch.from_numpy(WORLD.render(WORLD.sample(9, position), grid)).permute(3, 0, 1, 2)


def truth(position: int) -> dict[str, str]:
    return WORLD.sample(9, position).attributes.to_dict()


def to_float(video: Tensor) -> Tensor:
    return video.float() / 127.5 - 1


@pytest.mark.parametrize(
    ("frames", "size", "fps", "clips"),
    [(8, 16, 4, 25), (16, 16, 8, 12), (16, 32, 8, 12), (16, 64, 8, 12), (8, 37, 4, 12)],
)
def test_the_truth_is_read_back_at_every_size_and_rate(
    frames: int, size: int, fps: float, clips: int
):
    for position in range(clips):
        assert parse(clip(position, frames, size, fps), fps) == truth(position)


def test_the_truth_survives_the_shards_codec():
    for position in range(12):
        pixels = clip(position, 16, 32, 8).permute(1, 2, 3, 0).numpy()
        with av.open(io.BytesIO(encode_mp4(pixels, 8))) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert parse(torch.from_numpy(np.stack(decoded)).permute(3, 0, 1, 2), 8) == truth(position)


def test_the_truth_survives_noise_and_rescaling():
    noise = torch.Generator().manual_seed(0)
    for position in range(12):
        video = to_float(clip(position))
        noisy = video + 0.1 * torch.randn(video.shape, generator=noise)
        assert parse(noisy, 4) == truth(position)
        enlarged = F.interpolate(video.transpose(0, 1), scale_factor=2.0, mode="bilinear")
        assert parse(enlarged.transpose(0, 1), 4) == truth(position)


@pytest.mark.parametrize(("height", "width"), [(16, 28), (28, 16)])
def test_the_aspect_ratio_changes_nothing(height: int, width: int):
    for position in range(10):
        grid = Grid(frames=8, height=height, width=width, fps=4)
        pixels = WORLD.render(WORLD.sample(9, position), grid)
        assert parse(torch.from_numpy(pixels).permute(3, 0, 1, 2), 4) == truth(position)


def test_an_empty_frame_has_a_background_and_nothing_else():
    read = parse(torch.full((3, 8, 16, 16), 112, dtype=torch.uint8), 4)
    assert read == {**dict.fromkeys(read, NONE), "background": "gray"}


def test_noise_alone_is_nothing():
    noise = torch.randn(3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    read = parse(noise, 4)
    assert {read[name] for name in ("shape", "colour", "size", "direction")} == {NONE}


def test_a_colour_that_changes_is_the_one_shown_longest():
    state = WORLD.sample(9, 0)
    grid = Grid(frames=8, height=16, width=16, fps=4)
    words = state.attributes.to_dict()
    clips = {}
    for colour in ("red", "cyan"):
        record = WORLD.to_json(state)
        record["attributes"] = {**words, "colour": colour, "background": "black"}
        clips[colour] = WORLD.render(WORLD.from_json(record), grid)
    mixed = np.concatenate([clips["red"][:2], clips["cyan"][2:]])
    assert parse(torch.from_numpy(mixed).permute(3, 0, 1, 2), 4)["colour"] == "cyan"


def test_an_object_that_leaps_about_has_no_direction():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    moving = next(p for p in range(50) if truth(p)["direction"] == "left")
    video = clip(moving, 16, 16, 8)
    assert parse(video, 8)["direction"] == "left"
    assert parse(video.flip(1), 8)["direction"] == "right"
    leaping = video.clone()
    leaping[:, ::2] = video[:, ::2].flip(2).flip(3)
    assert parse(leaping[:, order], 8)["direction"] in {NONE, "still"}


def test_one_frame_has_no_direction():
    read = parse(clip(0)[:, :1])
    assert read["direction"] == NONE
    assert read["colour"] == truth(0)["colour"]


def test_an_object_seen_in_few_frames_is_none():
    video = clip(0).clone()
    video[:, 3:] = video[:, :1, :1, :1]
    assert parse(video, 4)["shape"] == NONE
