"""A user's pictures of any kind are fitted to the grid by a stated rule, or refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from cascade import conditioning
from cascade.grid import Grid
from cascade.video import frame_size, load_clip, read_image, write_mp4, write_png

GRID = Grid(frames=4, height=16, width=32, fps=8)


@pytest.fixture
def tall(tmp_path):
    """A white picture of twice the grid's height and half its width."""
    write_png(tmp_path / "tall.png", torch.ones(3, 64, 32))
    return str(tmp_path / "tall.png")


def test_a_padded_picture_is_whole_and_its_bars_are_not_given(tall, caplog):
    caplog.set_level("INFO")
    given = conditioning.prompt(GRID, image=tall, fit="pad").given
    given.check((1, 3, 4, 16, 32))
    assert given.mask[0, 0, 0].sum() == 16 * 8
    assert given.mask[0, 0, 0, :, 12:20].all()
    assert (given.frames[:, :, :1] == given.mask[:, :, :1]).all()
    assert "64×32 (height×width): resized to 16×8 and padded" in caplog.text


def test_a_cropped_picture_fills_the_grid_and_what_is_kept_is_said(tall, caplog):
    caplog.set_level("INFO")
    given = conditioning.prompt(GRID, image=tall).given
    assert given.mask[0, 0, 0].all()
    assert "cropped to the centre 16×32 for 1 frame of 16×32 at 8 fps (fit=crop)" in caplog.text


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_picture_of_the_grids_aspect_is_the_same_by_either_rule(tmp_path, fit):
    write_png(tmp_path / "a.png", torch.rand(3, 32, 64) * 2 - 1)
    given = conditioning.prompt(GRID, image=str(tmp_path / "a.png"), fit=fit).given
    assert given.mask[:, :, 0].all()
    assert torch.equal(given.frames[0, :, :1], load_clip(tmp_path / "a.png", GRID, places=[0]))


def test_every_way_takes_padded_files(tmp_path):
    video = torch.ones(3, 24, 32, 32)
    write_mp4(tmp_path / "a.mp4", video, 8)
    half = torch.ones(3, 32, 32)
    half[..., 16:] = -1
    write_png(tmp_path / "m.png", half)
    source = {"video": str(tmp_path / "a.mp4"), "fit": "pad"}
    region = conditioning.prompt(GRID, mask=str(tmp_path / "m.png"), **source).given
    assert region.mask[..., 8:16].all()
    assert region.mask.sum() == 4 * 16 * 8
    restyled = conditioning.prompt(GRID, strength=0.5, **source)
    assert restyled.start.shape == (1, 3, 4, 16, 32)
    assert (restyled.start[..., :8] == -1).all()
    for way in ("loop", "extend_forward", "extend_backward"):
        given = conditioning.prompt(GRID, way=way, **source).given
        assert given.mask.amax((0, 1, 2, 3)).tolist() == [0] * 8 + [1] * 16 + [0] * 8


@pytest.mark.parametrize("kind", ["L", "CMYK", "I;16", "P", "1", "LA"])
def test_pictures_of_any_mode_are_read_as_they_look(tmp_path, kind):
    grey = np.full((16, 32), 128, np.uint8)
    if kind == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 256)
    else:
        picture = (
            Image.fromarray(np.full_like(grey, 255) if kind == "1" else grey)
            .convert("RGB" if kind == "CMYK" else "L")
            .convert(kind)
        )
    name = tmp_path / ("a.tif" if kind == "CMYK" else "a.png")
    picture.save(name)
    wanted = 255 if kind == "1" else 128
    assert (read_image(name).int() - wanted).abs().max() <= 4


BAD = {
    "text.mp4": "a text, not a video or image",
    "empty.mp4": "is empty: it has 0 bytes",
    "huge.png": r"30000×30000 pixels, more than|\(900000000 pixels\) exceeds limit",
    "animated.webp": "has 3 images; convert them to a video",
    "a.avif": "an AVIF image",
    "none.mp4": "no such file",
    "folder.mp4": "no such file",
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.mp4").write_text("this is a text that is named mp4")
    (folder / "empty.mp4").touch()
    Image.new("1", (30_000, 30_000)).save(folder / "huge.png")
    frames = [Image.new("RGB", (16, 16), (i * 90, 0, 0)) for i in range(3)]
    frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:])
    Image.new("RGB", (16, 16)).save(folder / "a.avif")
    (folder / "folder.mp4").mkdir()
    write_mp4(folder / "good.mp4", torch.ones(3, 24, 32, 32), 8)
    return folder


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("source", ["image", "last_image", "video", "mask"])
def test_a_bad_file_is_refused_by_its_name_and_reason_in_every_source(bad, name, source):
    sources = {source: str(bad / name)}
    if source == "mask":
        sources["video"] = str(bad / "good.mp4")
    with pytest.raises(ValueError, match=f"{name}: .*({BAD[name]})"):
        conditioning.prompt(GRID, **sources)


READ = ("alpha_60fps.webm", "portrait.mp4", "rotated_90.mov", "sar_2x1.mp4", "vfr_dropped.mp4")
REFUSED = ("audio_only.mp4", "header_only.mp4", "one_pixel.mp4", "claims_12336x12336.webm")


@pytest.mark.media
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("name", READ)
def test_a_real_video_of_any_shape_fills_its_part_of_the_grid(media, name, fit):
    path = media / "hazards" / name
    given = conditioning.prompt(GRID, image=str(path), fit=fit).given
    given.check((1, 3, 4, 16, 32))
    height, width = frame_size(path)
    aspect = (width / height) / 2
    share = given.mask[:, :, 0].mean().item()
    assert share == pytest.approx(1 if fit == "crop" else min(aspect, 1 / aspect), abs=0.07)


@pytest.mark.media
@pytest.mark.parametrize("name", REFUSED)
def test_a_real_hazard_is_refused_by_name(media, name):
    with pytest.raises(ValueError, match=name):
        conditioning.prompt(GRID, image=str(media / "hazards" / name))
