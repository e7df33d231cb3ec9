"""Where given frames may stand in a video, so that every stage of a cascade has them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """The frames of the video to be made, of which the base makes every `stride`-th.

    All stages make the base's times, so a span that opens the video covers one at its start, and a
    span that closes it begins at one.
    """

    frames: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ValueError(
                f"given frames: the video's frames and the base's stride must be at least 1, "
                f"got {self.frames} and {self.stride}"
            )

    def opening(self, count: int) -> range:
        """The places of `count` frames that open the video."""
        return range(count)

    def closing(self, count: int) -> range:
        """The places of `count` frames that close the video, which ends with them.

        They begin at the last time of the base from which all of them fit.
        """
        start = (self.frames - count) // self.stride * self.stride
        return range(start, start + count)

    @property
    def most_closing(self) -> int:
        """The longest closing span that leaves the base a frame to make, up to half the video."""
        return max(1, min(self.frames // 2, self.frames - self.stride))

    @property
    def most_ends(self) -> int:
        """The longest span that can both open and close the video with a frame between them."""
        lengths = range(1, (self.frames + 1) // 2)
        return max((n for n in lengths if self.closing(n).start > n), default=1)
