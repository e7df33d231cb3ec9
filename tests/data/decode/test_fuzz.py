"""Damaged bytes: each video agrees with PyAV on the same bytes, or is refused with a reason.

Whatever the order of reading, a frame has the same pixels. The fast tests try a few mutations; the
slow ones, each with a table, as many as two variables say, of anything in real videos and of the
headers of small files of every container:
`CASCADE_FUZZ=400 CASCADE_FUZZ_HEADERS=5000 pytest -m slow tests/data/decode/test_fuzz.py`.
"""

import importlib
import os
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rich
from rich.table import Table

from cascade.media.reason import DecodeError
from data.decode.decoder import Decoder
from data.decode.sandbox import Sandbox, SandboxError
from tests.data.decode import containers

VIDEOS = (
    "clips/basketball.mp4",
    "clips/dog_snow.mkv",
    "hazards/vp9.webm",
    "hazards/plain_mpeg4_avi.avi",
    "clips/sign_eat.mkv",
    "clips/toy_robot.mp4",
    "hazards/av1.mkv",
    "hazards/edit_list_cut_2.mp4",
    "hazards/hevc_10bit.mp4",
    "hazards/wrong_extension.mkv",
    "hazards/tiny_32x32.avi",
    "clips/pancake.mkv",
)
DEADLINE_S = 20.0
CLOSE_S = 1e-3
UNFORESEEN = ("AttributeError", "TypeError", "KeyError", "IndexError", "AssertionError")
UNFORESEEN += ("ZeroDivisionError", "NameError", "OverflowError", "UnboundLocalError")


def flip(data, rng):
    """A few bytes changed."""
    damaged = bytearray(data)
    for place in rng.integers(0, len(data), 2 ** rng.integers(0, 7)):
        damaged[place] ^= rng.integers(1, 256)
    return bytes(damaged)


def cut(data, rng):
    """The end missing, or a piece in the middle."""
    start = int(rng.integers(1, len(data)))
    gap = len(data) if rng.random() < 0.5 else int(rng.integers(1, len(data) // 4))
    return data[:start] + data[start + gap :]


def overwrite(data, rng):
    """A stretch of noise, one time in three in the first bytes, where the structure is."""
    length = int(2 ** rng.uniform(2, 12))
    start = int(rng.integers(0, 4096 if rng.random() < 0.33 else len(data)))
    return data[:start] + rng.bytes(min(length, len(data) - start)) + data[start + length :]


def mutation(media, number):
    """(video, kind, bytes) of a number; the same each time."""
    rng = np.random.default_rng([7, number])
    name, kind = VIDEOS[number % len(VIDEOS)], (flip, cut, overwrite)[number // len(VIDEOS) % 3]
    return media / name, kind.__name__, kind((media / name).read_bytes(), rng)


class Oracle:
    """PyAV in a sandbox of its own, on the bytes that were put down last."""

    def __init__(self, path):
        self.path, self.box, self.module = path, Sandbox(), importlib.import_module("oracle")

    def stamps(self):
        return self.box.call(self.module.stamps, str(self.path), deadline_s=60)

    def sound(self, path, size, stamp):
        work = {"size": size, "wanted": [stamp], "deadline_s": 60}
        return self.box.call(self.module.shown, str(path), **work)[1].get(stamp)

    def strictly(self, size):
        return self.box.call(self.module.strictly, str(self.path), size=size, deadline_s=60)

    def shown(self, **options):
        return self.box.call(self.module.shown, str(self.path), deadline_s=60, **options)[1]


@pytest.fixture
def oracle(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        one = Oracle(tmp_path / "video")
        yield one
        one.box.close()


def near(a, b):
    return b is not None and np.abs(a.astype(int) - b).mean() <= 2


def same(a, b):
    return a is b or (a is not None and near(a, b))


def outcome(decoder, oracle, sound, data, seed):
    """What became of damaged bytes; WRONG and HANGS are defects.

    A loop of PyAV ends at the first damage; for later frames the undamaged video is the oracle.

    Where wavefronts of HEVC are damaged, PyAV gives other frames each time, without an error: then
    it is no oracle, and the row says so.
    """
    rng, read, unstable = np.random.default_rng([8, seed]), 0, False
    oracle.path.write_bytes(data)
    try:
        times = decoder.open(data).times
        pts, size = oracle.stamps()
        some = np.unique(rng.integers(0, len(times), 3))
        wanted = [pts[number] for number in some]
        frames = oracle.shown(size=size, wanted=wanted)
        for number, stamp in zip(some, wanted, strict=True):
            try:
                mine = decoder.frames([times[number]])[0].numpy().copy()
            except SandboxError:
                raise
            except DecodeError as error:
                foreseen(error)
                refused = error
                continue
            read += 1
            if near(mine, frames.get(stamp)):
                continue
            threads = (1, 0, 0, 0, 0, 0, 0)
            others = [
                oracle.shown(size=size, wanted=[stamp], threads=n).get(stamp) for n in threads
            ]
            if others[0] is None and near(mine, oracle.sound(sound, size, stamp)):
                continue
            if all(same(others[0], other) for other in others[1:]):
                return f"WRONG: not what PyAV shows at {stamp}"
            unstable = True
    except SandboxError as error:
        return f"HANGS or crashes: {error}"
    except DecodeError as error:
        foreseen(error)
        return f"refused: {error}"
    if not read:
        return f"refused: {refused}"
    if unstable:
        return "agrees, unlike PyAV with itself"
    return "agrees" if read == len(some) else "agrees in part"


def rewrite(data, places, rng):
    """A few bytes of the structure changed: flipped, zeroed, or the largest number."""
    damaged = bytearray(data)
    for place in rng.choice(places, int(2 ** rng.integers(0, 3))):
        width = int(2 ** rng.integers(0, 3))
        value = (rng.bytes(width), bytes(width), b"\xff" * width)[rng.integers(3)]
        damaged[place : place + width] = value[: len(data) - place]
    return bytes(damaged)


def header_mutation(files, number):
    """(file, kind, bytes) of a number; the same each time."""
    rng, name = np.random.default_rng([9, number]), sorted(files)[number % len(files)]
    return name, "header", rewrite(files[name], containers.header_places(files[name]), rng)


def readings(decoder, data, numbers):
    """Each frame by its number, read one at a time in this order; None: refused."""
    times, found = decoder.open(data).times, {}
    for number in numbers:
        try:
            found[number] = decoder.frames([times[number]])[0].numpy().copy()
        except SandboxError:
            raise
        except DecodeError as error:
            found[number] = None
            foreseen(error)
    return found


def foreseen(error):
    """Raise again what no reader foresees."""
    if any(f"({name}" in str(error) for name in UNFORESEEN):
        raise AssertionError(f"UNFORESEEN: {error}") from error


def header_outcome(decoder, oracle, name, data, seed):
    """What became of a file whose structure is damaged; WRONG, HANGS and UNFORESEEN are defects."""
    oracle.path.write_bytes(data)
    rng = np.random.default_rng([10, seed])
    try:
        timing = decoder.open(data)
        if timing.frames > 1 and np.diff(timing.times).min() < CLOSE_S:
            return "refused: frames are too close in time to ask for one of them"
        some = np.unique(rng.integers(0, timing.frames, 6)).tolist()
        once = readings(decoder, data, some)
        again = readings(decoder, data, rng.permutation(some).tolist())
        if timing.kind == "video":
            pts, size = oracle.stamps()
            strict = oracle.strictly(size)
    except SandboxError as error:
        kind = "refused" if "memory limit" in str(error) else "HANGS or crashes"
        return f"{kind}: {error}"
    except DecodeError as error:
        foreseen(error)
        return f"refused: {error}"
    for number in some:
        a, b = once[number], again[number]
        if (a is None) != (b is None) or (a is not None and not np.array_equal(a, b)):
            return f"WRONG: frame {number} depends on the order of reading"
    if all(frame is None for frame in once.values()):
        return "refused: every frame"
    if timing.kind == "image":
        return "agrees"
    right = dict(strict)
    if name.startswith("avi"):
        right = dict(zip(pts, [frame for _, frame in strict], strict=False))
    compared = [n for n in some if once[n] is not None and pts[n] in right]
    for number in compared:
        if not near(once[number], right[pts[number]]):
            return f"WRONG: frame {number} is not what PyAV shows at {pts[number]}"
    return "agrees" if compared else "agrees with itself"


def fuzz(oracle, mutated, judge, numbers):
    """Outcomes by number, and the rows of a table."""
    decoder, rows, wrong = Decoder(deadline_s=DEADLINE_S), Counter(), []
    for number in numbers:
        name, kind, data = mutated(number)
        try:
            found = judge(decoder, oracle, name, data, number)
        except AssertionError as error:
            found = str(error)
        rows[Path(name).name, kind, found.partition(":")[0]] += 1
        if found.startswith(("WRONG", "HANGS", "UNFORESEEN")):
            wrong.append((number, name, kind, found))
    decoder.close()
    return rows, wrong


def show(rows, wrong, count, seconds):
    """A table of the outcomes."""
    outcomes = sorted({outcome for *_, outcome in rows})
    table = Table("file", "mutation", *outcomes, title=f"{count} mutations")
    for name, kind in sorted({row[:2] for row in rows}):
        table.add_row(name, kind, *(str(rows[name, kind, outcome] or "") for outcome in outcomes))
    total = [sum(n for row, n in rows.items() if row[2] == outcome) for outcome in outcomes]
    table.add_row("all", "", *map(str, total))
    rich.print(table, *wrong, f"{seconds:.0f} s")


@pytest.fixture(scope="module")
def files():
    return containers.small_files()


@pytest.mark.media
def test_a_mutated_video_agrees_with_pyav_or_is_refused(media, oracle):
    rows, wrong = fuzz(oracle, partial(mutation, media), outcome, range(24))
    assert wrong == []
    assert {outcome for *_, outcome in rows} >= {"agrees", "refused"}


def test_a_mutated_header_gives_the_same_frames_in_any_order_or_a_reason(files, oracle):
    rows, wrong = fuzz(oracle, partial(header_mutation, files), header_outcome, range(60))
    assert wrong == []
    assert {outcome for *_, outcome in rows} >= {"agrees", "refused"}


@pytest.mark.media
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_mutated_videos_agree_with_pyav_or_are_refused(media, oracle, capsys):
    count, start = int(os.environ.get("CASCADE_FUZZ", "100")), time.monotonic()
    rows, wrong = fuzz(oracle, partial(mutation, media), outcome, range(count))
    with capsys.disabled():
        show(rows, wrong, count, time.monotonic() - start)
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_mutated_headers_give_the_same_frames_in_any_order_or_a_reason(files, oracle, capsys):
    count, start = int(os.environ.get("CASCADE_FUZZ_HEADERS", "500")), time.monotonic()
    rows, wrong = fuzz(oracle, partial(header_mutation, files), header_outcome, range(count))
    with capsys.disabled():
        show(rows, wrong, count, time.monotonic() - start)
    assert wrong == []
