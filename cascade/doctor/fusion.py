"""The bytes that compiled code moves: a model of how torch's compiler fuses operations.

All operations between two products are one kernel. It reads a tensor once, and writes only what a
product or a later kernel reads. The backward pass computes a tensor of the forward pass again if
it reads less for this than to write and read it; so does a reduction over tokens.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade.memory import Phase

#: Storages, each with the bytes of the tensor in it.
Stored = Sequence[tuple[int, int]]


@dataclass
class Moved:
    """Elementwise kernels, and the bytes that they read and write."""

    kernels: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Made:
    """A tensor that is not in memory: it is not yet read outside the kernel that makes it.

    `roots` are the tensors in memory that the kernel computes it from, with their bytes.
    """

    kernel: int
    size: int
    phase: Phase
    roots: Mapping[int, int]


class Fusion:
    """Fuses operations in the order in which they run; `moved` is the result by phase."""

    def __init__(self) -> None:
        self.moved: defaultdict[Phase, Moved] = defaultdict(Moved)
        self._phase: Phase = "forward"
        self._kernel = 0
        self._last = 0  # number of the last tensor
        self._numbers: dict[int, int] = {}  # by storage: the number of the tensor that it holds
        self._made: dict[int, _Made] = {}
        self._read: set[int] = set()  # tensors that this kernel has read
        self._reduced: set[int] = set()  # and its reductions over tokens, a kernel beside it

    def cut(self, phase: Phase) -> None:
        """Begin another kernel."""
        self._phase = phase
        self._kernel += 1
        self._read.clear()
        self._reduced.clear()

    def alone(self, read: Stored, written: Stored) -> None:
        """A kernel that is not fused: what it reads must be in memory, and what it writes is."""
        for number, _ in self._read_from(read):
            self._store(number)
        for number, _ in self._write(read, written):
            self._made.pop(number, None)

    def add(self, read: Stored, written: Stored, *, reduces: bool) -> None:
        """Add an operation to this kernel, or a reduction over tokens to the one beside it.

        A reduction over channels (normalisation) is fused with its neighbours.
        """
        moved, seen = self.moved[self._phase], self._reduced if reduces else self._read
        moved.kernels += not seen
        roots: dict[int, int] = {}
        for number, size in self._read_from(read):
            made = self._made.get(number)
            if made is not None and made.kernel == self._kernel and not reduces:
                roots |= made.roots
                continue
            if made is None or not self._recompute(made, seen):
                if made is not None:
                    self._store(number)
                moved.bytes += size * (number not in seen)
            seen.add(number)
            roots[number] = size
        for number, size in self._write(read, written):
            self._made[number] = _Made(self._kernel, size, self._phase, roots)

    def _recompute(self, made: _Made, seen: set[int]) -> bool:
        """Whether a kernel that has read the tensors `seen` computes `made` again."""
        if made.kernel != self._kernel and made.phase == self._phase:
            return False
        more = {number: size for number, size in made.roots.items() if number not in seen}
        if sum(more.values()) > 2 * made.size:
            return False
        for number in more:
            self._store(number)
        self.moved[self._phase].bytes += sum(more.values())
        seen.update(more)
        return True

    def _store(self, number: int) -> None:
        """Write a tensor to memory if it is not there."""
        made = self._made.pop(number, None)
        if made is not None:
            self.moved[made.phase].bytes += made.size

    def _read_from(self, read: Stored) -> Stored:
        """The numbers of what an operation reads, with their bytes."""
        for key, _ in read:
            if key not in self._numbers:
                self._last += 1
                self._numbers[key] = self._last
        return [(self._numbers[key], size) for key, size in read]

    def _write(self, read: Stored, written: Stored) -> Stored:
        """The numbers of what an operation writes: new ones, unless it writes in place.

        A new tensor may have the storage's address of an older one.
        """
        inplace = {key for key, _ in read}
        for key, _ in written:
            if key not in inplace:
                self._last += 1
                self._numbers[key] = self._last
        return [(self._numbers[key], size) for key, size in written]
