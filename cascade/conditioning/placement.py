"""Where given frames are placed in a video, so that every stage of a cascade receives them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """The frames of the new video, of which the base generates every `stride`-th.

    Every stage has the base's times among its own. So a span of given frames that opens the video
    starts at one of them (frame 0), and a span that closes it must start at one too.
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
        """The indices of `count` frames that open the video."""
        return range(count)

    def ended(self, count: int) -> int:
        """The most frames, up to `count`, of an opening span that ends at a time of the base.

        So the base is given the last frame. If the span ended later, the later stages would have
        less than a step of the base in which to pass from it to what the base generates. A span
        that ends before the base's second time stays as it is.
        """
        return (count - 1) // self.stride * self.stride + 1 if count > self.stride else count

    def closing(self, count: int) -> range:
        """The indices of `count` frames that close the video, which ends with them.

        They begin at the last time of the base from which all of them fit into the grid.
        """
        start = (self.frames - count) // self.stride * self.stride
        return range(start, start + count)

    @property
    def max_closing(self) -> int:
        """The longest closing span, up to half the video, that leaves the base a frame to fill."""
        return max(1, min(self.frames // 2, self.frames - self.stride))

    @property
    def max_ends(self) -> int:
        """The longest span that can both open and close the video with a free frame of the base.

        The first time of the base after the opening span lies before the closing span.
        """
        lengths = range(1, (self.frames + 1) // 2)
        free = (n for n in lengths if -(-n // self.stride) * self.stride < self.closing(n).start)
        return max(free, default=1)
