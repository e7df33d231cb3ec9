import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from webdataset import WebDataset

from cascade.grid import Grid
from data.worlds.attributes import HELD_OUT
from data.worlds.encode_clip import encode_mp4
from data.worlds.shapes import Shapes
from data.worlds.world_shards import main, make_shapes

GRID = Grid(frames=4, height=16, width=16, fps=2)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def samples(folder: Path) -> list[dict[str, bytes]]:
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    return list(WebDataset(shards, shardshuffle=False))


def decode(mp4: bytes) -> np.ndarray:
    with av.open(io.BytesIO(mp4)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_same_seed_gives_the_same_bytes_however_many_workers(tmp_path: Path):
    make_shapes(tmp_path / "one", clips=12, grid=GRID, shard_size=5, workers=1)
    make_shapes(tmp_path / "two", clips=12, grid=GRID, shard_size=5, workers=2)
    make_shapes(tmp_path / "other", clips=12, grid=GRID, shard_size=5, workers=1, seed=1)
    assert len(list((tmp_path / "one").glob("*.tar"))) == 3
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two") != hashes(tmp_path / "other")
    keys = [s["__key__"] for name in ("one", "other") for s in samples(tmp_path / name)]
    assert len(set(keys)) == 24


def test_webdataset_reads_what_the_state_renders(tmp_path: Path):
    make_shapes(tmp_path, clips=8, grid=GRID, shard_size=8, workers=1)
    world = Shapes()
    for sample in samples(tmp_path):
        record = json.loads(sample["json"])
        state = world.from_json(record["state"])
        assert state.attributes not in HELD_OUT
        assert record["fps"] == 2
        assert sample["txt"].decode() in {world.caption(state, i) for i in range(world.phrasings)}
        error = decode(sample["mp4"]).astype(int) - world.render(state, GRID)
        assert np.abs(error).mean() < 1.5


def test_a_stopped_run_goes_on_and_keeps_whole_shards(tmp_path: Path):
    make_shapes(tmp_path, clips=9, grid=GRID, shard_size=3, workers=1)
    whole = hashes(tmp_path)
    kept = tmp_path / "shapes-000000.tar"
    before = kept.stat().st_mtime_ns
    (tmp_path / "shapes-000001.tar").unlink()
    stale = tmp_path / ".shapes-000001.tar.1.part"
    stale.write_bytes(b"half a shard")
    os.utime(stale, (0, 0))
    make_shapes(tmp_path, clips=9, grid=GRID, shard_size=3, workers=1)
    assert hashes(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before


def test_shards_of_another_recipe_are_refused(tmp_path: Path):
    make_shapes(tmp_path, clips=2, grid=GRID, shard_size=2, workers=1)
    with pytest.raises(
        ValueError, match=r"made with \{'clips': 2\}, but now \{'clips': 3\} is requested"
    ):
        make_shapes(tmp_path, clips=3, grid=GRID, shard_size=2, workers=1)
    (tmp_path / "world.json").unlink()
    with pytest.raises(ValueError, match=r"has shards but no world\.json"):
        make_shapes(tmp_path, clips=2, grid=GRID, shard_size=2, workers=1)
    with pytest.raises(ValueError, match="must be positive"):
        make_shapes(tmp_path / "none", clips=0, grid=GRID)


def test_a_share_of_stills_are_images_without_motion(tmp_path: Path):
    main([str(tmp_path), "--clips=30", "--frames=4", "--size=16", "--fps=2", "--stills=0.5"])
    found = samples(tmp_path)
    stills = [sample for sample in found if "png" in sample]
    assert 8 <= len(stills) <= 22
    world = Shapes()
    for sample in stills:
        record = json.loads(sample["json"])
        state = world.from_json(record["state"])
        assert record["frames"] == 1
        assert "mp4" not in sample
        words = sample["txt"].decode().split()
        assert state.attributes.direction not in words
        frame = world.render(state, GRID)[round(record["time"] * GRID.fps)]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample["png"]))), frame)


def test_a_share_of_the_clips_has_another_aspect_ratio_and_the_same_content(tmp_path: Path):
    others = [(12, 20, 0.25), (20, 12, 0.25)]
    make_shapes(tmp_path / "square", clips=60, grid=GRID, shard_size=60, workers=1)
    make_shapes(tmp_path / "mixed", clips=60, grid=GRID, shard_size=60, workers=1, others=others)
    records = [
        [json.loads(sample["json"]) for sample in samples(tmp_path / name)]
        for name in ("square", "mixed")
    ]
    sizes = Counter((record["height"], record["width"]) for record in records[1])
    assert set(sizes) == {(16, 16), (12, 20), (20, 12)}
    assert sizes[16, 16] > max(sizes[12, 20], sizes[20, 12]) > 5
    states = [[record["state"] for record in one] for one in records]
    assert states[0] == states[1]
    sample = next(s for s in samples(tmp_path / "mixed") if json.loads(s["json"])["width"] == 20)
    assert decode(sample["mp4"]).shape == (4, 12, 20, 3)


def test_shares_of_other_sizes_are_at_most_the_whole(tmp_path: Path):
    others = [(12, 20, 0.6), (20, 12, 0.5)]
    with pytest.raises(ValueError, match=r"at most 1 in all, got \[0\.6, 0\.5\]"):
        make_shapes(tmp_path, clips=2, grid=GRID, others=others)


def test_files_carry_no_date_and_keys_no_dot(tmp_path: Path):
    make_shapes(tmp_path, clips=2, grid=GRID, shard_size=2, workers=1)
    with tarfile.open(tmp_path / "shapes-000000.tar") as shard:
        for member in shard:
            assert member.mtime == 0
            assert member.name.count(".") == 1


@pytest.mark.parametrize("size", [(15, 17), (32, 48)])
def test_mp4_keeps_size_rate_and_pixels(size: tuple[int, int]):
    height, width = size
    frames = Shapes().render(
        Shapes().sample(0, 1), Grid(frames=5, height=height, width=width, fps=7.5)
    )
    mp4 = encode_mp4(frames, 7.5)
    with av.open(io.BytesIO(mp4)) as container:
        assert float(container.streams.video[0].average_rate) == 7.5
        assert not any(packet.is_discard for packet in container.demux(video=0))
    assert np.abs(decode(mp4).astype(int) - frames).mean() < 1.5
