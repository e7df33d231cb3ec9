"""The order in which the parts of a video are sampled, so that together they equal the whole.

A local network of radius R gives on a part of a video, read with R more frames on either side, what
it gives on the whole. So evaluation k of a part reads z at evaluation k of its neighbours, and the
parts advance as a wave front: a part is one evaluation ahead of the part after it. Only the parts
in the front are held, however long the video is.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cascade.diffusion.sampler import Step, Walk

W = TypeVar("W")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The division of a video into parts of `size` frames, each read with `reach` more.

    In a loop the first frame follows the last.
    """

    total: int
    size: int
    reach: int
    loop: bool = False

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def own(self, part: int) -> range:
        """The frames of a part."""
        return range(part * self.size, min((part + 1) * self.size, self.total))

    def read(self, part: int) -> range:
        """The frames that the network reads for a part; in a loop, also before 0 and past the end.

        A part that is the whole video reads itself alone unless it is a loop.
        """
        own = self.own(part)
        start, stop = own.start - self.reach, own.stop + self.reach
        return range(start, stop) if self.loop else range(max(start, 0), min(stop, self.total))

    def neighbours(self, part: int) -> list[int]:
        """The parts of which a part reads frames, itself included."""
        return sorted({self.part_of(frame) for frame in self.read(part)})

    def part_of(self, frame: int) -> int:
        """The part that has a frame."""
        return (frame % self.total) // self.size


@dataclass(kw_only=True)
class Part(Generic[W]):
    """A part of a video in the front: its sampler, and every z that a neighbour still needs."""

    walk: Walk
    window: W
    """What the denoiser needs to know of the part."""
    done: int = 0
    """How many x̂ it has had."""
    step: Step = field(init=False)
    z: dict[int, Tensor] = field(default_factory=dict)
    result: Tensor | None = None
    taken: bool = False
    """Whether its result has been handed on."""

    def __post_init__(self) -> None:
        self.z[0], self.step = next(self.walk)

    def advance(self, x: Tensor) -> None:
        """Give the sampler x̂; it asks for the next one or ends."""
        self.done += 1
        try:
            self.z[self.done], self.step = self.walk.send(x)
        except StopIteration as end:
            self.result = end.value


class Wave(Generic[W]):
    """Samples the parts of a video, each as far as the parts after it need."""

    def __init__(
        self,
        layout: Layout,
        *,
        begin: Callable[[int], Part[W]],
        denoise: Callable[[Tensor, Step, W], Tensor],
    ) -> None:
        """Prepare; nothing is computed.

        Args:
            layout: the parts.
            begin: returns a part at its first step.
            denoise: x̂ of a part's own frames, from z of the frames that it reads.
        """
        self._layout, self._begin, self._denoise = layout, begin, denoise
        self._parts: dict[int, Part[W]] = {}
        self._over: set[int] = set()

    def results(self, first: int = 0) -> Iterator[Float[Tensor, "b c f h w"]]:
        """The results of all parts in order, from part `first` on."""
        for number in range(first, len(self._layout)):
            result = self._finish(number)
            part = self._parts[number]
            part.result, part.taken = None, True
            self._forget(number)
            yield result

    @property
    def earliest(self) -> int:
        """The earliest part that is held or may still be begun."""
        return min(self._parts, default=len(self._layout))

    def _finish(self, number: int) -> Tensor:
        pending = [number]  # each waits for the one after it
        while pending:
            part = self._part(pending[-1])
            if part.result is not None and len(pending) == 1:
                return part.result
            behind = (
                other
                for other in self._layout.neighbours(pending[-1])
                if self._part(other).done < part.done
            )
            if (other := next(behind, None)) is not None:
                pending.append(other)
                continue
            self._evaluate(pending[-1])
            if len(pending) > 1:
                pending.pop()
        raise AssertionError("a part is finished before the loop ends")

    def _part(self, number: int) -> Part[W]:
        if number not in self._parts:
            self._parts[number] = self._begin(number)
        return self._parts[number]

    def _evaluate(self, number: int) -> None:
        part = self._parts[number]
        z = self._read(number, part.done)
        part.advance(self._denoise(z, part.step, part.window))
        for other in self._layout.neighbours(number):
            if other in self._parts:
                self._forget(other)

    def _read(self, number: int, evaluation: int) -> Tensor:
        """Z of the frames that a part reads, at one evaluation."""
        pieces = []
        frames = [frame % self._layout.total for frame in self._layout.read(number)]
        for (part, _), run in itertools.groupby(
            enumerate(frames), lambda pair: (self._layout.part_of(pair[1]), pair[1] - pair[0])
        ):
            places = [frame for _, frame in run]
            first = places[0] - self._layout.own(part).start
            pieces.append(self._parts[part].z[evaluation][:, :, first : first + len(places)])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

    def _forget(self, number: int) -> None:
        """Drop every z of a part that all its readers have used, and the part when it is over."""
        part = self._parts[number]
        readers = [other for other in self._layout.neighbours(number) if other not in self._over]
        used = min(self._parts[one].done if one in self._parts else 0 for one in readers)
        for evaluation in [one for one in part.z if one < used]:
            del part.z[evaluation]
        if part.taken and not part.z:
            del self._parts[number]
            self._over.add(number)
