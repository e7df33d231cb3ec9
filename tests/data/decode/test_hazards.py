"""Every hazard of the wild comes as it is told: the frames PyAV shows, or a reason why not."""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cascade.media.reason import DecodeError
from data.decode.decoder import Decoder

pytestmark = pytest.mark.media

LIST = Path(os.environ.get("CASCADE_MEDIA", "")) / "hazards" / "hazards.json"
TOLD = json.loads(LIST.read_text()) if LIST.is_file() else {}
REFUSED = {
    "one_pixel.mp4": "has 1×1 pixels; each side must have at least 8",
    "audio_only.mp4": "no video stream",
    "header_only.mp4": "no frame is shown",
    "claims_12336x12336.webm": "claims 12336×12336 pixels",
}
SHOWN_AS = {
    "rotated_90.mov": (320, 568),
    "rotated_90_sound.mp4": (464, 848),
    "sar_2x1.mp4": (1280, 360),
}
FIRST = 70


@pytest.fixture(scope="module")
def folder(media):
    return media / "hazards"


@pytest.fixture(scope="module")
def oracle():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        yield importlib.import_module("oracle")


@pytest.fixture(scope="module")
def decoder():
    one = Decoder()
    yield one
    one.close()


@pytest.mark.parametrize("name", sorted(TOLD.keys() - REFUSED - {"corrupted.mp4"}))
def test_it_gives_the_frames_that_pyav_shows(folder, decoder, oracle, name):
    path, told = folder / name, TOLD[name]
    timing = decoder.open(path.read_bytes())
    assert timing.frames == told["frames_shown"]
    if told["duration_s"]:
        assert timing.duration == pytest.approx(told["duration_s"], rel=0.02, abs=0.1) or name in (
            "two_video_streams.mp4",  # told of the longer stream
        )
    pts, size = oracle.stamps(str(path))
    some = np.unique([0, 1, timing.frames // 3, timing.frames - 1]).clip(0, FIRST - 10)
    wanted = [pts[number] for number in some]
    times, frames = oracle.shown(str(path), size=size, wanted=wanted, first=FIRST)
    assert pts[: len(times) - 5] == times[: len(times) - 5]
    mine = decoder.frames(timing.times[some]).numpy()
    assert mine.shape[1:3] == SHOWN_AS.get(name, (told["width"], told["height"]))[::-1]
    for picture, stamp in zip(mine, wanted, strict=True):
        assert np.abs(picture.astype(int) - frames[stamp]).mean() <= 2


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_its_reason(folder, name):
    decoder = Decoder(memory_bytes=2**28)
    with pytest.raises(DecodeError, match=REFUSED[name]):
        decoder.open((folder / name).read_bytes())
    status = decoder._sandbox.call(Path.read_text, Path("/proc/self/status"), deadline_s=20)
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 150_000  # one frame of 12336×12336 has 223,000 in YUV
    decoder.close()


def test_of_a_corrupt_video_the_sound_frames_are_read(folder, decoder, oracle):
    path = folder / "corrupted.mp4"
    timing = decoder.open(path.read_bytes())
    pts, size = oracle.stamps(str(path))
    _, frames = oracle.shown(str(path), size=size, wanted=pts)
    read = 0
    for number, seconds in [*enumerate(timing.times)][::6]:
        try:
            (mine,) = decoder.frames([seconds]).numpy()
        except DecodeError:
            continue
        read += 1
        assert np.abs(mine.astype(int) - frames[pts[number]]).mean() <= 2
    assert 0 < read <= TOLD["corrupted.mp4"]["frames_shown"]
    with pytest.raises(DecodeError, match="packet 30 is damaged"):
        decoder.inspect(path.read_bytes(), "full")


def test_two_streams_give_one_and_every_frame_has_one_size(folder, decoder):
    for name in ("two_video_streams.mp4", "resolution_changes.mkv"):
        data = (folder / name).read_bytes()
        times = decoder.open(data).times
        once = decoder.frames(times[::8]).clone()
        decoder.open(data)
        assert (decoder.frames(times[::8]) == once).all()
