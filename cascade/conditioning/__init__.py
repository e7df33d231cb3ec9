"""The ways to prompt: what is fixed of the video to be made, or what it starts from.

`ways` is the registry; the functions below make `Given` from tensors, `prompt` from files, and
`Modes` draws what is given of training clips.
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
from cascade.conditioning.given import Given, bring, unseen, whole_frames
from cascade.conditioning.modes import Modes
from cascade.conditioning.prompt_files import Files, Prompt
from cascade.conditioning.registry import Way, source_names, ways
from cascade.conditioning.room import Room

__all__ = [
    "Files",
    "Given",
    "Modes",
    "Prompt",
    "Room",
    "Way",
    "bring",
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
    "unseen",
    "way_named",
    "ways",
    "whole_frames",
]
