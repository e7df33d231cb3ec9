import numpy as np
import pytest

from data.ingest.duplicates import Duplicates


@pytest.mark.parametrize("bits", [0, 2, 4.5, 10])
@pytest.mark.parametrize("looks", [1, 3])
def test_the_bands_miss_no_pair_that_comparing_all_finds(bits, looks):
    random = np.random.default_rng(int(10 * bits) + looks)
    base = random.integers(0, 256, (12, 8 * looks), dtype=np.uint8)
    clips = []
    for i in range(200):
        flips = np.zeros(64 * looks, dtype=np.uint8)
        flips[random.choice(64 * looks, random.integers(0, 16 * looks), replace=False)] = 1
        clips.append(base[i % 12] ^ np.packbits(flips))
    kept, expected = [], []
    for i, clip in enumerate(clips):
        near = [j for j in kept if np.unpackbits(clips[j] ^ clip).sum() <= int(bits * looks)]
        expected.append(f"clip{near[0]}" if near else "")
        kept += [] if near else [i]
    found = Duplicates(bits)
    hashes = [[row.tobytes().hex() for row in clip.reshape(looks, 8)] for clip in clips]
    assert [found.of(f"clip{i}", each) for i, each in enumerate(hashes)] == expected
    assert 0 < len(kept) < 200 or bits == 0


def test_clips_of_other_numbers_of_looks_are_not_compared():
    found = Duplicates(4)
    assert found.of("image", ["0f" * 8]) == ""
    assert found.of("video", ["0f" * 8] * 3) == ""
    assert found.of("again", ["0f" * 8] * 3) == "video"
