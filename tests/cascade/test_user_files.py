"""A user's pictures of any kind are fitted to the grid by a stated rule, or refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from cascade import conditioning
from cascade.grid import Grid
from cascade.video import (
    frame_size,
    load_clip,
    read_frames,
    read_image,
    video_length,
    write_mp4,
    write_png,
)

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


@pytest.mark.parametrize("suffix", ["webp", "avif", "png"])
def test_an_animated_image_is_a_video_by_the_times_of_its_pictures(tmp_path, suffix):
    greys = [0, 80, 160, 240]
    first, *rest = (Image.new("RGB", (32, 16), (grey, grey, grey)) for grey in greys)
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    lasting = [125, 250, 125, 125]
    first.save(path, save_all=True, append_images=rest, duration=lasting, **options)
    frames, times = read_frames(path)
    assert times.tolist() == pytest.approx([0, 0.125, 0.375, 0.5], abs=1e-3)
    assert (frames.float().mean((1, 2, 3)) - torch.tensor(greys)).abs().max() <= 2
    assert video_length(path, 8) == 5
    shown = (load_clip(path, GRID).mean((0, 2, 3)) + 1) * 127.5
    assert shown.tolist() == pytest.approx([0, 80, 80, 160], abs=2)
    last = (load_clip(path, GRID, places=[0], from_end=True).mean() + 1) * 127.5
    assert last.item() == pytest.approx(80, abs=2)


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_avif_is_read_upright(tmp_path, orientation):
    picture = Image.new("RGB", (32, 16), "black")
    picture.paste("white", (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x112] = orientation
    picture.save(tmp_path / "a.avif", exif=exif)
    read = read_image(tmp_path / "a.avif").float().mean(2)
    assert read.shape == ((16, 32) if orientation == 1 else (32, 16))
    start, end = (read[:, 2], read[:, -2]) if orientation == 1 else (read[2], read[-2])
    assert start.min() > 200 > 50 > end.max()


def test_a_damaged_png_is_refused_wherever_the_damage_is(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (16, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    sound = (tmp_path / "a.png").read_bytes()
    for place in range(60, len(sound) - 16, 97):
        (tmp_path / "b.png").write_bytes(sound[:place] + b"x" + sound[place + 1 :])
        with pytest.raises(ValueError, match=r"b.png: does not decode"):
            read_image(tmp_path / "b.png")


def test_a_mask_is_one_picture(tmp_path):
    write_mp4(tmp_path / "a.mp4", torch.ones(3, 24, 32, 32), 8)
    video = str(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"mask=.*a.mp4: a mask is one picture, .* several"):
        conditioning.prompt(GRID, video=video, mask=video)


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
    "huge.png": "claims more than the limit of 80000000 pixels",
    "large.png": "claims more than the limit of 80000000 pixels",
    "pages.tif": "has 3 images; convert them to a video",
    "none.mp4": "no such file",
    "folder.mp4": "is a folder",
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.mp4").write_text("this is a text that is named mp4")
    (folder / "empty.mp4").touch()
    for name, side in (("huge", 30_000), ("large", 10_000)):
        Image.new("1", (side, side)).save(folder / f"{name}.png")
    frames = [Image.new("RGB", (16, 16), (i * 90, 0, 0)) for i in range(3)]
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    (folder / "folder.mp4").mkdir()
    write_mp4(folder / "good.mp4", torch.ones(3, 24, 32, 32), 8)
    return folder


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
