"""The walk over a tar finds what tarfile finds, and believes no header."""

import io
import random
import tarfile

import pytest

from data.shards.tar import TarWalk
from tests.data.sharded import link, tar, whole


def walked(data):
    walk = TarWalk(io.BytesIO(data), len(data))
    return walk, [(m.name, m.kind, m.offset, m.size) for m in walk]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_walk_finds_what_tarfile_finds(form):
    names = ["a.mp4", "ä/ö.txt", f"{'long' * 12}/{'name' * 15}.json", "x" * 100, "b.mp4", "c"]
    names += [] if form == tarfile.USTAR_FORMAT else [f"{'very/long/' * 40}n.mp4", "y" * 300]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as file:
        for size, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = size * 300, 1.5 if form == tarfile.PAX_FORMAT else 1
            file.addfile(info, io.BytesIO(bytes(info.size)))
        file.addfile(link("soft.mp4", "x" * (150 if len(names) > 6 else 10))[0])
        file.addfile(link("folder", "", tarfile.DIRTYPE)[0])
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as file:
        expected = [(m.name, m.offset_data, m.size) for m in file]
    walk, found = walked(out.getvalue())
    assert (walk.error, walk.cut) == ("", False)
    assert [(name, offset, size) for name, _, offset, size in found] == expected
    assert [kind for _, kind, _, _ in found] == ["file"] * len(names) + ["link", "folder"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_cut_is_noticed(tmp_path, form):
    """Of a shard cut anywhere: a prefix of the members, and a word about it."""
    members = [m for i in range(3) for m in whole(f"k{i}" * 40, bytes(700), b"x")]
    data = tar(tmp_path / "0.tar", members, form).read_bytes()
    whole_walk, expected = walked(data)
    end = expected[-1][2] + tarfile.BLOCKSIZE
    for at in [*range(0, end, 256), *range(1, end, 509)]:
        walk, found = walked(data[:at])
        assert walk.cut
        assert walk.error
        assert found == expected[: len(found)]
    assert walked(data[: end + tarfile.BLOCKSIZE])[0].error == whole_walk.error == ""


def test_no_bytes_can_hang_or_break_the_walk(tmp_path):
    members = [m for i in range(4) for m in whole(f"{'long' * 30}{i}", bytes(600), b"x")]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        sound = tar(tmp_path / "0.tar", members, form).read_bytes()
        for seed in range(200):
            draw = random.Random(seed)
            data = bytearray(sound)
            start = draw.randrange(0, len(data) - 8, 512) + draw.choice(
                [0, 124, 136, 148, 156, 257]
            )
            data[start : start + draw.randint(1, 12)] = draw.randbytes(draw.randint(1, 12))
            if draw.random() < 0.7:  # a header that is believed
                block = start // 512 * 512
                data[block + 148 : block + 156] = b" " * 8
                sum_ = f"{sum(data[block : block + 512]):06o}\0 ".encode()
                data[block + 148 : block + 156] = sum_
            walk, found = walked(bytes(data))
            assert walk.position == len(data)
            for _, _, offset, size in found:
                assert 0 <= offset <= offset + size <= len(data)


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (b"\x80" + bytes(3) + b"\xff" * 8, "truncated inside 'a.mp4'"),
        (b"\xff" * 11 + b"\x00", "states a size of -256 bytes"),
        (b"77777777777\0", "of its 8589934591 bytes are left"),
    ],
)
def test_a_claimed_size_is_not_believed(tmp_path, make_mp4, claim, said):
    data = bytearray(tar(tmp_path / "0.tar", whole("a", make_mp4(frames=2), b"x")).read_bytes())
    data[124:136], data[148:156] = claim, b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    walk, found = walked(bytes(data))
    assert found == []
    assert said in walk.error
    long = bytearray(tar(tmp_path / "1.tar", [("n" * 200, b"x")]).read_bytes())
    long[124:136], long[148:156] = b"77777777777\0", b" " * 8
    long[148:156] = f"{sum(long[:512]):06o}\0 ".encode()
    assert (
        "the header at byte 512 states a size of 8589934591 bytes" in walked(bytes(long))[0].error
    )
