"""The ways to prompt: which frames of the new video are given, or which video it starts from.

`ways` is the registry. The functions below build `Given` from tensors, `prompt` reads a user's
files, and `Modes` draws the given frames of training clips.
"""

from cascade.conditioning.choose import choose, prompt, way_named
from cascade.conditioning.give import (
    connect,
    extend_backward,
    extend_forward,
    fill_in,
    first_last,
    image,
    loop,
    region,
    text,
)
from cascade.conditioning.given import Given, to_grid, unseen
from cascade.conditioning.modes import Modes
from cascade.conditioning.placement import Placement
from cascade.conditioning.prompt_files import Files, Prompt
from cascade.conditioning.registry import Way, source_names, ways

__all__ = [
    "Files",
    "Given",
    "Modes",
    "Placement",
    "Prompt",
    "Way",
    "choose",
    "connect",
    "extend_backward",
    "extend_forward",
    "fill_in",
    "first_last",
    "image",
    "loop",
    "prompt",
    "region",
    "source_names",
    "text",
    "to_grid",
    "unseen",
    "way_named",
    "ways",
]
