"""The sources of a request besides text: what they give to the new video, or the video they begin.

A source is a file or in memory; the command line and Python read them alike.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade import conditioning
from cascade.conditioning import Prompt, choose, source_names, unseen
from cascade.grid import Grid
from cascade.stage import Stage, Video
from cascade.video import Fit, as_media, frame_size, load_clip, video_length

log = logging.getLogger(__name__)
EXTEND = ("forward", "backward")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The given sources by name, and how they are read (see `conditioning.prompt`)."""

    named: Mapping[str, Any]
    way: str | None = None
    share: float = 0.5
    fit: Fit = "crop"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Sources":
        """Those of a request's values; a missing or null value gives nothing.

        Raises:
            ValueError: `extend` has no video to extend, or is neither forward nor backward.
        """
        named = {name: values[name] for name in source_names() if values.get(name) is not None}
        way, extend = values.get("way"), values.get("extend")
        if extend is not None:
            if extend not in EXTEND:
                raise ValueError(f"extend must be 'forward' or 'backward', got {extend!r}")
            if not {"video", "last_image"} & {*named}:
                got = ", ".join(f"{name}=…" for name in named) or "no source"
                raise ValueError(
                    f"extend={extend!r} needs video=…, the video to extend, got {got}; to animate "
                    "an image, leave out extend"
                )
            way = f"extend_{extend}"
        options = {name: values[name] for name in ("share", "fit") if values.get(name) is not None}
        return cls(named=named, way=way, **options)

    def check(self, stage: Stage) -> None:
        """Check that a request whose first stage is `stage` takes these sources together.

        Raises:
            ValueError: no way to prompt takes them, or the stage begins with a video and there is
                none, or another source besides.
        """
        if not stage.kind.takes_low:
            choose(self.way, self.named)
            return
        others = [name for name in self.named if name != "video"]
        if "video" not in self.named or others or self.way is not None:
            got = [*others, *([] if self.way is None else ["way"])]
            raise ValueError(
                f"stages: {stage.name} is the first stage, so the request needs video=…, which it "
                f"begins with, and takes no other source or way; got "
                f"{', '.join(f'{name}=…' for name in got) or 'none'}"
            )

    def beginning(self, stage: Stage, count: int) -> Video | None:
        """The video with which the first stage begins, `count` times; None if it is a base.

        It is the whole of `video`, at the frame rate and the nearest smaller size that the stage
        takes.

        Raises:
            ValueError: there is no such video, or other sources besides it.
        """
        self.check(stage)
        if not stage.kind.takes_low:
            return None
        video = as_media(self.named["video"], "video")
        scale, (height, width) = stage.kind.scale, frame_size(video)
        steps = [
            max(multiple // factor, 1)
            for multiple, factor in zip(
                stage.multiple, (scale.time, scale.space, scale.space), strict=True
            )
        ]
        fps = stage.low_grid.fps
        grid = Grid(
            frames=max(video_length(video, fps) // steps[0], 1) * steps[0],
            height=max(height // steps[1], 1) * steps[1],
            width=max(width // steps[2], 1) * steps[2],
            fps=fps,
        )
        log.info("stage %s begins with %s, read as %s", stage.name, video, grid)
        return load_clip(video, grid, fit=self.fit)[None].expand(count, -1, -1, -1, -1)

    def prompt(self, grids: Mapping[str, Grid]) -> Prompt:
        """What they give to a video that stages with these grids generate, a base first.

        Raises:
            ValueError: no way takes them together, or one cannot be read.
        """
        base, last = next(iter(grids.values())), [*grids.values()][-1]
        stride = last.frames // base.frames
        prompt = conditioning.prompt(
            last, stride=stride, way=self.way, share=self.share, fit=self.fit, **self.named
        )
        given = prompt.given
        if given is not None and given.end is not None:
            log.info(
                "last frame placed at %d: the base generates every %s frame; the video has %d "
                "frames",
                *(given.end - 1, _ordinal(stride), given.end),
            )
        for name, grid in grids.items():
            if given is not None and (late := unseen(given, grid.frames)):
                log.warning(
                    "stage %s generates only frames 0, %d, …, so it ignores the given frames %s; "
                    "later stages use them. If it should use them too, give frames at its own "
                    "times",
                    *(name, last.frames // grid.frames, late),
                )
        return prompt


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"
