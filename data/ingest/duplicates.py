"""Detection of duplicate clips by perceptual hashes, without comparing all pairs."""

from array import array
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8


class Duplicates:
    """The clips kept so far; a new clip is a duplicate of the first one that it is close to.

    Two clips are close if their hashes differ in at most `bits` of 64, on average over the hashed
    frames. The hashes are divided into one band more than the number of bits that may differ, so
    close clips have at least one equal band (pigeonhole principle): only clips that share a band
    are compared, and no duplicate is missed.
    """

    def __init__(self, bits: float) -> None:
        self._bits = bits
        self._hashes: dict[int, list[UInt8[np.ndarray, " n"]]] = defaultdict(list)
        self._keys: dict[int, list[str]] = defaultdict(list)
        self._bands: dict[tuple[int, int, bytes], array[int]] = {}

    def of(self, key: str, hashes: Sequence[str]) -> str:
        """The key of the clip that this one duplicates, or '': then it is new and is kept."""
        count = len(hashes)
        bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8))
        most = int(self._bits * count)
        bands = [
            (count, i, band.tobytes())
            for i, band in enumerate(np.array_split(bits, min(most + 1, len(bits))))
        ]
        packed, kept = np.packbits(bits), self._hashes[count]
        near = sorted({number for band in bands for number in self._bands.get(band, ())})
        if near:
            differing = np.stack([kept[number] for number in near]) ^ packed
            close = np.flatnonzero(np.unpackbits(differing, axis=1).sum(axis=1) <= most)
            if len(close):
                first: str = self._keys[count][near[close[0]]]
                return first
        number = len(self._keys[count])
        kept.append(packed)
        self._keys[count].append(key)
        for band in bands:
            self._bands.setdefault(band, array("q")).append(number)
        return ""
