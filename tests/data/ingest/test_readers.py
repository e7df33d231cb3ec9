"""Every reader × every odd file: one right value for all of them, or the same reason.

The readers are `make shards` from a folder and from a list, the index of a tar, training, and the
prompts of sampling (`image=`, `video=`).
"""

import tarfile

import numpy as np
import pytest

from cascade.media.reason import DecodeError
from cascade.video import read_frames
from data.decode.decoder import Decoder
from data.ingest.make import make_part
from data.ingest.sources import find_sources
from data.shards.store import read_span
from tests.data import odd_files
from tests.data.sharded import indexed, module, tar

FILES = {odd.name: odd for odd in odd_files.odd_files()}
FILTERS = ("min_short_side", "black", "still", "motion", "text")
ALL_KEPT = ("windows.min_s=0.05", "shots.threshold=null", "encoding.crf=4")
ALL_KEPT += tuple(f"filters.{name}=null" for name in FILTERS)
ENCODED, DECODED = 10, 5
"""Largest mean differences of 255: where `make shards` encodes again, and where nobody does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All odd files, and a list of them."""
    path = tmp_path_factory.mktemp("odd")
    for odd in FILES.values():
        (path / odd.name).write_bytes(odd.data)
    listed = path.with_name("odd.csv")
    rows = "".join(f"{path.name}/{name},odd\n" for name in FILES)
    listed.write_text(f"path,caption\n{rows}")
    return path


@pytest.fixture(scope="module")
def decoder():
    one = Decoder()
    yield one
    one.close()


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """One shard of all odd files: none of them ends its indexing."""
    members = [
        member
        for odd in FILES.values()
        for member in ((odd.name, odd.data), (f"{odd.key}.txt", b"an odd file"))
    ]
    return tar(tmp_path_factory.mktemp("shard") / "00000.tar", members)


@pytest.fixture(scope="module")
def index(shard):
    rows, about = indexed(shard, "full")
    assert about["error"] == ""
    return {row["key"]: row for row in rows}


def decoded(decoder, data):
    """All frames of a clip, as training reads them."""
    return decoder.frames(decoder.open(data).times).numpy().copy()


@pytest.fixture(scope="module")
def made():
    """What `make shards` made of a file, by its path and size."""
    return {}


def by_make_shards(source, made, *given):
    """What is made of a source; a file that is listed too is made once."""
    if source.refused:
        raise DecodeError(source.refused)
    key = source.file, source.size
    if key not in made:
        try:
            made[key] = clip_of(source, *given)
        except DecodeError as error:
            made[key] = error
    if isinstance(made[key], DecodeError):
        raise made[key]
    return made[key]


def clip_of(source, decoder, part, recipe):
    """The frames of a source's clip in its part."""
    record = make_part(source.file, str(part), recipe, thumbnails=False)
    reasons = [record.get("detail"), *(window["reason"] for window in record["windows"])]
    if any(reasons):
        raise DecodeError(next(filter(None, reasons)))
    with tarfile.open(part) as clips:
        (clip,) = clips
        return decoded(decoder, clips.extractfile(clip).read())


#: Pictures of three frames, which sampling reads as videos.
ANIMATED = ("picture_moving_webp.webp", "picture_moving_png.png")


@pytest.fixture(params=["folder", "list", "index", "training", "prompt"])
def read(request, folder, tmp_path, make_recipe, made):
    """A reader: the frames of an odd file by its name, or a DecodeError with the reason."""

    def by_ingest(place):
        sources = {source.path.rpartition("/")[2]: source for source in find_sources(place).sources}
        recipe, decoder = make_recipe(*ALL_KEPT), request.getfixturevalue("decoder")
        return lambda name: by_make_shards(
            sources[name], made, decoder, tmp_path / "part.tar", recipe
        )

    def by_index(name):
        row = request.getfixturevalue("index")[FILES[name].key]
        if row["reason"]:
            raise DecodeError(row["reason"])
        return np.empty((row["frames"], row["height"], row["width"], 3), np.uint8)

    def by_training(name):
        row = request.getfixturevalue("index")[FILES[name].key]
        data = read_span(str(request.getfixturevalue("shard")), (row["offset"], row["size"]))
        return decoded(request.getfixturevalue("decoder"), data)

    if request.param in ("folder", "list"):
        return by_ingest(folder if request.param == "folder" else folder.with_name("odd.csv"))
    if request.param == "prompt":
        return lambda name: read_frames(folder / name)[0].numpy()
    return by_index if request.param == "index" else by_training


def test_every_reader_gives_the_one_right_value_or_the_reason(read, request):
    """One test a reader, and not one a file: a table of all that is wrong says more."""
    encoded = "folder" in request.node.name or "list" in request.node.name
    wrong = {}
    for name, odd in FILES.items():
        try:
            frames = read(name)
        except ValueError as error:
            if not odd.reason or odd.reason not in str(error) or "/proc/" in str(error):
                wrong[name] = f"refused: {error}"
            continue
        if "prompt" in request.node.name and name in ANIMATED:
            if len(frames) != 3:
                wrong[name] = f"has {len(frames)} frames"
        elif odd.reason:
            wrong[name] = f"read, but {odd.reason}"
        elif frames.shape != (odd.frames, *odd.shown.shape):
            wrong[name] = f"has the shape {frames.shape}"
        elif "index" not in request.node.name:
            apart = np.abs(frames[0].astype(int) - odd.shown).mean()
            if apart > (ENCODED if encoded else DECODED):
                wrong[name] = f"differs by {apart:.1f}"
    assert wrong == {}


def test_no_clip_ends_a_training(shard):
    """The shard is planned and read; what is unfit in it is dropped with its reason."""
    data = module(shard, val_share=0.0, max_dropped=1.0, depth="full")
    seen = {key for batch in data.train_loader(first=0, count=8) for key in batch["key"]}
    assert seen
    assert seen <= {odd.key for odd in FILES.values() if not odd.reason}


def test_frames_before_a_damaged_reference_are_sound_and_later_ones_are_refused(decoder):
    sound, damaged, _ = odd_files.damaged_reference()
    right = decoded(decoder, sound).astype(int)
    timing = decoder.open(damaged)
    given = {}
    for number in (*range(0, timing.frames, 2), *reversed(range(1, timing.frames, 2))):
        try:
            given[number] = decoder.frames([timing.times[number]])[0].numpy().astype(int)
        except DecodeError:
            continue
    assert 0 < len(given) < timing.frames
    assert sorted(given) == list(range(len(given)))
    for number, frame in given.items():
        assert np.abs(frame - right[number]).mean() < 1, number


@pytest.mark.parametrize("seed", range(6))
def test_a_frame_of_damaged_vp8_does_not_depend_on_the_order_of_reading(decoder, seed):
    data = odd_files.damaged_vp8(seed)
    try:
        times = decoder.open(data).times
        once = decoder.frames(times).numpy().copy()
    except DecodeError:
        return
    for number in (len(times) - 1, 14, 13, 0, len(times) // 2):
        decoder.open(data)
        assert (decoder.frames([times[number]])[0].numpy() == once[number]).all(), number
