"""A frame is the one shown at its time, as PyAV decodes it, or there is a reason why not."""

import io
import os
import pickle
import signal
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cascade.media.reason import MAX_PIXELS, DecodeError
from cascade.times import nearest
from data.decode.decoder import Decoder
from data.decode.frames import new_array
from data.decode.inspection import Inspection
from data.decode.pyav import StrictReader
from data.decode.sandbox import SandboxError
from tests.data.odd_files import MATRICES, video, with_matrix


@pytest.fixture(scope="module")
def decoder():
    one = Decoder()
    yield one
    one.close()


def moving(frames=60, group=10, codec="libx264", container="mp4", **options):
    """A video that no key frame resembles its neighbours in: noise that drifts."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 96 + frames, 3), dtype=np.uint8)
    picture = (
        picture // 2 + np.repeat(np.repeat(picture[::8, ::8], 8, 0), 8, 1)[:64, : 96 + frames] // 2
    )
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.gop_size, stream.options = group, options
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture[:, i : i + 96].copy(), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def in_order(data):
    """All frames by PyAV from the beginning, without any seek."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).mean()


def test_frames_are_the_nearest_in_time(decoder, make_mp4):
    timing = decoder.open(make_mp4(frames=8, fps=8))
    assert (timing.kind, timing.frames) == ("video", 8)
    assert timing.fps == pytest.approx(8)
    assert timing.duration == pytest.approx(1)
    frames = decoder.frames([0.0, 0.06, 0.07, 0.5, 0.5, 9.0, 0.25])
    assert frames.shape == (7, 32, 40, 3)
    grey = frames[:, 16, 30].float().mean(-1)
    assert (grey - torch.tensor([0.0, 0, 10, 40, 40, 70, 20])).abs().max() <= 3
    assert nearest(np.array([0.0, 1.0]), np.array([0.5, 0.51])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", {}),
        ("libx264", "matroska", {"x264-params": "open-gop=1:bframes=3"}),
        ("libx265", "mp4", {"x265-params": "log-level=none"}),
        ("libvpx-vp9", "webm", {}),
        ("libvpx", "webm", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("mpeg4", "avi", {}),
        ("mpeg2video", "mpegts", {"bf": "2"}),
    ],
)
def test_any_frame_is_what_reading_in_order_gives(decoder, codec, container, options):
    data = moving(codec=codec, container=container, **options)
    shown = in_order(data)
    timing = decoder.open(data)
    assert timing.frames == len(shown) == 60
    assert timing.times == pytest.approx(np.arange(60) / 10, abs=1e-3)
    for some in ([41, 42, 43], [59], [0, 1, 58], [19, 20, 21], [7, 9, 9, 30]):
        assert difference(decoder.frames(timing.times[some]), shown[some]) <= 0.01


def test_a_cut_at_an_open_group_begins_with_its_key_frame(decoder):
    """Frames stored after the key frame but shown before it need what was cut off."""
    file = io.BytesIO()
    options = {"x265-params": "log-level=none:open-gop=1:bframes=3"}
    whole = io.BytesIO(moving(codec="libx265", container="matroska", **options))
    with av.open(whole) as source, av.open(file, "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        second = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
        assert packets[second + 1].pts < packets[second].pts
        for packet in packets[second:]:
            packet.stream = stream
            target.mux(packet)
    shown = in_order(file.getvalue())
    timing = decoder.open(file.getvalue())
    assert timing.frames == len(shown)
    assert difference(decoder.frames(timing.times), shown) <= 0.01


def test_a_window_in_the_middle_is_not_decoded_from_the_start(tmp_path):
    path = tmp_path / "video"
    path.write_bytes(moving(frames=200, group=10))
    reader = StrictReader(str(path), max_pixels=MAX_PIXELS)
    reader.read(np.arange(155, 158), new_array)
    assert reader.decoded <= 3 + 10
    reader.read(np.array([158]), new_array)  # reading goes on, a chunk at a time
    assert reader.decoded <= 4 + 10
    reader.read(np.array([3, 190]), new_array)
    assert reader.decoded <= 4 + 3 * 10


def test_a_key_frame_that_is_none_is_not_believed(decoder):
    """The index of an MP4 that calls other frames key frames: random access must not trust it."""
    data = bytearray(moving())
    at = data.index(b"stss") + 8
    (count,) = struct.unpack(">I", data[at : at + 4])
    assert count == 6
    data[at + 4 : at + 28] = struct.pack(">6I", 1, 15, 26, 33, 48, 57)
    shown = in_order(bytes(data))
    timing = decoder.open(bytes(data))
    for some in ([16, 17], [50], [58, 59], [27, 34]):
        assert difference(decoder.frames(timing.times[some]), shown[some]) <= 0.01


def test_damage_is_an_error_not_a_concealed_frame(decoder):
    data = bytearray(moving(group=60))
    at = data.index(b"mdat")
    middle = at + (data.index(b"moov") - at) // 2
    data[middle : middle + 400] = b"\x55" * 400
    timing = decoder.open(bytes(data))
    decoder.frames([0.0])
    with pytest.raises(DecodeError, match="does not decode|damaged"):
        decoder.frames([timing.times[-1]])
    with pytest.raises(DecodeError, match="does not decode|damaged"):
        decoder.inspect(bytes(data), "full")


def test_what_is_cut_off_is_refused(decoder, make_mp4):
    for part in (b"", make_mp4()[:200], b"\x00" * 1000, moving(container="matroska")[:300]):
        with pytest.raises(DecodeError):
            decoder.open(part)
    data = moving(container="matroska")
    shown, cut = in_order(data), data[: len(data) // 2]
    timing = decoder.open(cut)
    assert 10 < timing.frames < 50
    assert difference(decoder.frames([0.5]), shown[5:6]) <= 0.01


def test_a_playlist_in_disguise_opens_nothing(decoder, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(moving(frames=5))
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    for text in (hls, f"ffconcat version 1.0\nfile '{secret}'\n"):
        with pytest.raises(DecodeError):
            decoder.open(text.encode())


def test_a_claimed_size_is_refused_before_it_is_allocated(make_mp4, make_jpeg):
    small = Decoder(max_pixels=100)
    with pytest.raises(DecodeError, match="claims 40×32 pixels, more than the limit of 100"):
        small.open(make_mp4())
    with pytest.raises(DecodeError, match="claims 40×32"):
        small.open(make_jpeg())
    small.close()
    with pytest.raises(DecodeError, match="each side must have at least 8"):
        Decoder().open(make_mp4(height=4, width=40))


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp"])
def test_an_image_is_a_clip_of_one_frame(decoder, suffix):
    file = io.BytesIO()
    Image.new("RGBA" if suffix != "jpeg" else "RGB", (20, 10), (200, 100, 50)).save(file, suffix)
    timing = decoder.open(file.getvalue())
    assert (timing.kind, timing.frames, timing.duration) == ("image", 1, 1.0)
    frames = decoder.frames([0.0, 0.1, 3.0])
    assert frames.shape == (3, 10, 20, 3)
    assert (frames[:, 5, 5].int() - torch.tensor([200, 100, 50])).abs().max() <= 4
    with pytest.raises(DecodeError):
        decoder.open(file.getvalue()[:40])


def test_exif_rotation_is_applied(decoder):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(file, "jpeg", exif=exif)
    found = decoder.inspect(file.getvalue(), "full")
    assert (found.kind, found.width, found.height) == ("image", 10, 20)
    decoder.open(file.getvalue())
    assert decoder.frames([0.0]).shape == (1, 20, 10, 3)


def test_a_gif_is_a_video(decoder):
    file = io.BytesIO()
    pages = [Image.new("L", (16, 16), v) for v in (0, 100, 200)]
    pages[0].save(file, "gif", save_all=True, append_images=pages[1:], duration=500)
    timing = decoder.open(file.getvalue())
    assert (timing.kind, timing.frames, timing.duration) == ("video", 3, 1.5)
    assert decoder.frames([0.5])[0].float().mean() == pytest.approx(100, abs=3)


def test_an_inspection_finds_the_same_at_every_depth(decoder):
    told = {"kind": "video", "codec": "h264", "width": 96, "height": 64}
    told |= {"frames": 60, "fps": 10.0, "duration": 6.0}
    for depth in ("probe", "keyframes", "full"):
        assert decoder.inspect(moving(), depth) == Inspection(**told), depth


def test_it_goes_on_after_its_process_is_lost(decoder):
    data = moving()
    timing = decoder.open(data)
    before = decoder.frames(timing.times[[5, 25]]).clone()
    os.kill(decoder._sandbox.call(os.getpid, deadline_s=20), signal.SIGKILL)
    assert torch.equal(decoder.frames(timing.times[[5, 25]]), before)
    with pytest.raises(SandboxError, match="deadline"):
        decoder._sandbox.call(signal.pause, deadline_s=0.2)
    assert torch.equal(decoder.frames(timing.times[[5, 25]]), before)


def test_memory_is_used_again_and_a_copy_has_its_own(decoder):
    timing = decoder.open(moving())
    first = decoder.frames(timing.times[:4])
    assert decoder.frames(timing.times[:4]).data_ptr() == first.data_ptr()
    copy = pickle.loads(pickle.dumps(decoder))
    copy.open(moving(frames=5))
    assert copy.frames([0.0]).data_ptr() != first.data_ptr()
    assert len(decoder.frames(timing.times[[59]])) == 1
    copy.close()


def test_nothing_is_read_before_it_is_opened(decoder):
    with pytest.raises(DecodeError, match="is empty"):
        decoder.open(b"")
    with pytest.raises(RuntimeError, match="no video or image is open"):
        decoder.frames([0.0])


@pytest.mark.media
def test_a_window_anywhere_in_two_minutes_of_1080p(media, tmp_path):
    path = media / "hazards" / "two_minutes_1080p.mp4"
    reader = StrictReader(str(path), max_pixels=MAX_PIXELS)
    for start in (600, 1811, 3600):
        before = reader.decoded
        frames = np.arange(start, start + 8)
        reader.read(frames, new_array)
        packets = reader.header.packets
        keys = packets.pts[packets.key]
        group = frames[0] - np.searchsorted(
            reader.header.pts, keys[keys <= reader.header.pts[start]][-1]
        )
        assert reader.decoded - before == group + 8
        assert reader.decoded - before < 260, Path(path).name


@pytest.fixture
def instead_of_decord(tmp_path, monkeypatch):
    """Another module named decord, for processes that start from here on."""

    def install(text):
        (tmp_path / "decord.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return Decoder(deadline_s=4.0)  # a child's imports take a second on a busy machine

    return install


FAKE = """
import logging as logging
logging.set_level = lambda level: None
logging.QUIET = 0
class DECORDError(Exception): pass
class VideoReader:
    def __init__(self, *args, **kwargs): {}
"""


def test_only_depth_decord_vouches_for_decord(decoder):
    pytest.importorskip("decord")
    data = moving()
    figures = {"kind": "video", "codec": "h264", "width": 96, "height": 64}
    figures |= {"frames": 60, "fps": 10.0, "duration": 6.0}
    for depth in ("probe", "keyframes", "full", "decord"):
        found = decoder.inspect(data, depth)
        assert found == Inspection(**figures, decord=depth == "decord"), depth
    open_groups = moving(**{"x264-params": "open-gop=1:bframes=3"})
    assert not decoder.inspect(open_groups, "decord").decord
    assert not decoder.inspect(moving(codec="mpeg4", container="avi"), "decord").decord


@pytest.mark.parametrize("matrix", [name for name in MATRICES if "mirr" in name or "trans" in name])
def test_a_mirrored_video_is_never_decords(decoder, matrix):
    """decord ignores what mirrors a video, so its frames differ."""
    pytest.importorskip("decord")
    assert not decoder.inspect(with_matrix(video(), *MATRICES[matrix]), "decord").decord


def test_strict_decoding_alone_suffices(decoder, instead_of_decord):
    pytest.importorskip("decord")
    data = moving()
    decoder.open(data, decord=True)
    both = decoder.frames(np.arange(60) / 10).clone()
    other = instead_of_decord("raise ImportError('no decord here')")
    assert not other.inspect(data, "decord").decord
    other.open(data, decord=True)
    assert difference(other.frames(np.arange(60) / 10), both) <= 2
    other.close()


@pytest.mark.parametrize(
    "fault",
    [
        "raise DECORDError('refused')",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import time; time.sleep(100)",
    ],
)
def test_where_decord_fails_a_video_is_decoded_strictly(instead_of_decord, caplog, fault):
    data = moving(frames=20)
    decoder = instead_of_decord(FAKE.format(fault))
    found = decoder.inspect(data, "decord")
    assert (found.frames, found.decord) == (20, False)
    assert decoder.open(data, decord=True).frames == 20
    assert "decoding strictly" in caplog.text
    assert difference(decoder.frames([0.5]), in_order(data)[5:6]) <= 0.01
    decoder.close()
