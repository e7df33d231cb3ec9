"""Clips that look the same, by perceptual hashes that differ in few bits, without comparing all."""

from array import array
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8


class Duplicates:
    """The clips kept so far; each new one is a duplicate of the first that it is close to.

    Two clips are close where their hashes differ in at most `bits` of 64 on average over the frames
    looked at. Then, of the hashes cut into one band more than bits may differ, some band is equal
    (the pigeonhole principle): only clips that share a band are compared, and none is missed.
    """

    def __init__(self, bits: float) -> None:
        self._bits = bits
        self._hashes: dict[int, list[UInt8[np.ndarray, " n"]]] = defaultdict(list)
        self._keys: dict[int, list[str]] = defaultdict(list)
        self._bands: dict[tuple[int, int, bytes], array[int]] = {}

    def of(self, key: str, hashes: Sequence[str]) -> str:
        """The key of the clip that this one is a duplicate of; '' for a new one, now kept too."""
        looks = len(hashes)
        bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8))
        most = int(self._bits * looks)
        bands = [
            (looks, i, band.tobytes())
            for i, band in enumerate(np.array_split(bits, min(most + 1, len(bits))))
        ]
        packed, kept = np.packbits(bits), self._hashes[looks]
        near = sorted({number for band in bands for number in self._bands.get(band, ())})
        if near:
            differing = np.stack([kept[number] for number in near]) ^ packed
            close = np.flatnonzero(np.unpackbits(differing, axis=1).sum(axis=1) <= most)
            if len(close):
                first: str = self._keys[looks][near[close[0]]]
                return first
        number = len(self._keys[looks])
        kept.append(packed)
        self._keys[looks].append(key)
        for band in bands:
            self._bands.setdefault(band, array("q")).append(number)
        return ""
