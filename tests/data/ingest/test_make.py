"""One source to its part: encoding, bytes that are kept, scores, images, and hostile files."""

import io
import tarfile

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from cascade.video import read_frames
from data.ingest.frame_measures import perceptual_hash, text_share
from data.ingest.make import make_part


@pytest.fixture
def make(tmp_path, make_recipe):
    """The record and the clips of a file."""

    def made(file, *overrides, thumbnails=True):
        part = tmp_path / "part.tar"
        part.unlink(missing_ok=True)
        recipe = make_recipe(*overrides)
        record = make_part(str(file), str(part), recipe, thumbnails=thumbnails)
        clips = {}
        if part.exists():
            with tarfile.open(part) as tar:
                clips = {member.name: tar.extractfile(member).read() for member in tar}
        return record, clips

    return made


def header(data):
    """(width, height, rate, frames, seconds at most between key frames, B-frames, pix_fmt)."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        keys = [float(p.pts * stream.time_base) for p in packets if p.is_keyframe]
        end = len(packets) / stream.average_rate
        gap = max(np.diff([*keys, float(end)]))
        apart = sum(p.pts != p.dts for p in packets)
        size = (stream.width, stream.height)
        return *size, stream.average_rate, len(packets), gap, apart, stream.pix_fmt


def test_a_source_gives_the_same_bytes_every_time(make, videos):
    (first, clips), (second, again) = (make(videos / "some/video.1.mp4") for _ in range(2))
    assert clips == again
    assert first == second
    assert list(clips) == ["0000.mp4", "0001.mp4"]


def test_clips_are_short_gop_without_b_frames_and_cover_their_shots(make, videos):
    record, clips = make(videos / "some/video.1.mp4", "encoding.gop_s=0.5")
    for row, frames in zip(record["windows"], (26, 30), strict=True):
        found = header(clips[f"{row['window']:04d}.mp4"])
        assert found == (128, 96, 12, frames, pytest.approx(0.5), 0, "yuv420p")
        assert row["frames"] == frames
    assert record["reencoded"] == "2 windows"


def test_the_pictures_of_a_clip_are_those_of_its_source(make, make_scene, make_video, tmp_path):
    source = make_video(tmp_path / "v.mp4", make_scene(5, 40))
    _, clips = make(source, "encoding.crf=4")
    (tmp_path / "clip.mp4").write_bytes(clips["0000.mp4"])
    before, _ = read_frames(source)
    after, _ = read_frames(tmp_path / "clip.mp4")
    assert before.shape == after.shape
    difference = (before.float() - after.float()).abs().mean(dim=(1, 2, 3))
    assert difference.max() < 2.5


def test_a_short_side_is_capped_and_sides_are_even(make, make_scene, make_video, tmp_path):
    path = make_video(tmp_path / "w.mp4", make_scene(1, 20, 190, 250))
    record, clips = make(path, "encoding.short_side=96")
    assert header(clips["0000.mp4"])[:2] == (126, 96)
    assert (record["width"], record["height"]) == (250, 190)


def test_a_sound_video_keeps_its_bytes(make, make_scene, make_video, tmp_path):
    sound = make_video(tmp_path / "v.mp4", make_scene(1, 40), gop=12)
    record, clips = make(sound)
    assert record["reencoded"] == ""
    assert clips == {"0000.mp4": sound.read_bytes()}
    assert make(sound, "encoding.keep=false")[0]["reencoded"] == "encoding.keep is false"
    assert "too large" in make(sound, "encoding.short_side=64")[0]["reencoded"]
    assert "windows" in make(sound, "windows.max_s=2")[0]["reencoded"]
    assert "frames per second" in make(sound, "encoding.max_fps=6")[0]["reencoded"]
    assert "key frames" in make(sound, "encoding.keep_gop_s=0.5")[0]["reencoded"]
    other = make_video(tmp_path / "v.mkv", make_scene(1, 40), gop=12)
    assert "is not mp4" in make(other)[0]["reencoded"]


def test_a_variable_rate_becomes_constant_by_time_stamp(make, make_scene, make_video, tmp_path):
    pixels = make_scene(1, 30)
    times = [i / 12 if i < 20 else (20 + 4 * (i - 20)) / 12 for i in range(30)]
    record, clips = make(make_video(tmp_path / "v.mp4", pixels, times=times, bf="0"))
    assert record["reencoded"] == "its frame rate varies"
    (tmp_path / "clip.mp4").write_bytes(clips["0000.mp4"])
    frames, stamps = read_frames(tmp_path / "clip.mp4")
    assert np.ptp(np.diff(stamps.numpy())) < 1e-6
    shown = [
        max(i for i, time in enumerate(times) if time <= k / 12 + 1e-6) for k in range(len(frames))
    ]
    for frame, i in zip(frames.numpy(), shown, strict=True):
        assert np.abs(frame.astype(float) - pixels[i]).mean() < 8


@pytest.mark.media
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("rotated_90.mov", (320, 568)),
        ("rotated_180.mov", (568, 320)),
        ("rotated_90_sound.mp4", (464, 848)),
        ("sar_2x1.mp4", (1280, 360)),
        ("edit_list_cut_2.mp4", (640, 360)),
    ],
)
def test_clips_are_upright_with_square_pixels_and_show_what_the_source_shows(
    make, media, tmp_path, name, size
):
    options = ("windows.min_s=0.05", "encoding.short_side=null", "filters.motion=null")
    _, clips = make(media / "hazards" / name, *options)
    assert header(clips["0000.mp4"])[:2] == size
    (tmp_path / "clip.mp4").write_bytes(clips["0000.mp4"])
    before, after = (read_frames(f)[0] for f in (media / "hazards" / name, tmp_path / "clip.mp4"))
    assert (before[0].float() - after[0].float()).abs().mean() < 6


def test_every_filter_drops_and_null_switches_it_off(make, make_scene, make_video, tmp_path):
    black = make_video(tmp_path / "black.mp4", np.zeros((30, 64, 96, 3), dtype=np.uint8))
    frozen = make_video(tmp_path / "frozen.mp4", make_scene(1, 1).repeat(30, axis=0))
    moving = make_video(tmp_path / "moving.mp4", make_scene(1, 30))
    kept = ("filters.still=null", "filters.motion=null")
    for file, reason, off in (
        (black, "black", ("filters.black=null", *kept)),
        (frozen, "frozen", kept),
        (frozen, "low motion", kept),
        (moving, "too small", ("filters.min_short_side=null",)),
        (moving, "too short", ("windows.min_s=2",)),
    ):
        on = {
            "low motion": ("filters.still=null",),
            "too small": ("filters.min_short_side=97",),
            "too short": ("windows.min_s=3",),
        }
        record, clips = make(file, *on.get(reason, ()))
        (row,) = record["windows"]
        assert (row["reason"], clips) == (reason, {})
        assert row["thumbnail"]
        assert make(file, *off)[1], reason


def test_motion_is_measured_in_heights_per_second(make, make_scene, make_video, tmp_path):
    pixels = make_scene(
        1, 48, 192, 256
    )  # slides by 3 pixels in 1/12 s: 36 / 192 heights per second
    record, _ = make(make_video(tmp_path / "v.mp4", pixels), "measures.fps=12")
    assert record["windows"][0]["scores"]["motion"] == pytest.approx(36 / 192, rel=0.25)


def picture_of_text(lines):
    image = Image.new("RGB", (480, 320), (60, 90, 60))
    draw = ImageDraw.Draw(image)
    for i in range(lines):
        draw.text((20, 10 + 50 * i), "SUBSCRIBE NOW AND WIN", fill="white", font_size=36)
    return np.asarray(image)


def test_text_is_found_by_its_share_of_the_area():
    shares = [text_share(picture_of_text(lines), 320) for lines in (0, 1, 5)]
    assert shares[0] == 0
    assert 0.03 < shares[1] < shares[2] < 0.9


def test_a_clip_full_of_text_is_dropped(make, make_video, tmp_path):
    base = np.tile(picture_of_text(5), (1, 2, 1))
    pixels = np.stack([np.roll(base, 4 * i, axis=1)[:, :480] for i in range(24)])
    record, clips = make(
        make_video(tmp_path / "v.mp4", pixels),
        *("measures.text_side=320", "filters.text=0.15"),
        thumbnails=False,
    )
    (window,) = record["windows"]
    assert window["reason"] == "text"
    assert window["scores"]["text"] > 0.15
    assert window["thumbnail"]  # its picture is in the report of every set, however large
    assert clips == {}


def test_a_hash_changes_little_with_encoding_and_size(make_scene):
    first, second = (make_scene(seed, 1, 192, 256)[0] for seed in (1, 2))
    small = np.asarray(Image.fromarray(first).resize((128, 96)))
    a, b, c = (int(perceptual_hash(pixels), 16) for pixels in (first, small, second))
    assert (a ^ b).bit_count() <= 4
    assert (a ^ c).bit_count() > 12


def jpeg(size=(64, 48), **options):
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(file, "jpeg", **options)
    return file.getvalue()


def test_images_keep_their_bytes_or_become_upright_and_small(make, tmp_path):
    plain = jpeg()
    (tmp_path / "named.mp4").write_bytes(plain)  # a JPEG by another name
    record, clips = make(tmp_path / "named.mp4")
    assert (record["kind"], clips) == ("image", {"0000.jpg": plain})
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(jpeg(exif=exif))
    _, clips = make(tmp_path / "turned.jpg")
    assert Image.open(io.BytesIO(clips["0000.jpg"])).size == (48, 64)
    _, clips = make(tmp_path / "named.mp4", "encoding.short_side=36")
    assert Image.open(io.BytesIO(clips["0000.jpg"])).size == (48, 36)
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    _, clips = make(tmp_path / "clear.png")
    assert Image.open(io.BytesIO(clips["0000.png"])).getextrema() == ((255, 255),) * 3
    frames = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(9)]
    frames[0].save(tmp_path / "moves.webp", save_all=True, append_images=frames[1:])
    assert "convert them to a video" in make(tmp_path / "moves.webp")[0]["detail"]
    (tmp_path / "half.jpg").write_bytes(plain[: len(plain) // 2])
    assert make(tmp_path / "half.jpg")[0]["reason"] == "unreadable"


def test_a_playlist_in_disguise_opens_nothing(make, videos, tmp_path):
    target = videos / "some/video.1.mp4"
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4,\nfile://{target}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{target}'\n",
    ):
        (tmp_path / "v.mp4").write_text(text)
        record, clips = make(tmp_path / "v.mp4")
        assert (record["reason"], clips) == ("unreadable", {})


def test_a_damaged_video_is_dropped_with_its_reason(make, videos, tmp_path):
    data = bytearray((videos / "some/video.1.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    (tmp_path / "v.mp4").write_bytes(data)
    record, clips = make(tmp_path / "v.mp4")
    assert (record["reason"], clips) == ("unreadable", {})
    assert record["duration"] == pytest.approx(56 / 12, abs=0.2)
