"""Metadata of video files: a mapping as JSON in the comment of an mp4, gif or png.

`ffprobe -show_format video.mp4` prints it. The JSON is ASCII, so that any text survives any
container.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cascade.media.container import open_video
from cascade.media.kinds import START, is_image
from cascade.media.picture import open_picture
from cascade.media.reason import MAX_PIXELS, DecodeError

#: The tag that holds it; one that every container knows.
TAG = "comment"


def as_comment(metadata: Mapping[str, Any]) -> str:
    """The text of the comment."""
    return json.dumps(metadata, separators=(",", ":"))


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """The mapping that was written with a video or image; None if its comment holds none.

    Raises:
        ValueError: the file cannot be read as a video or an image.
    """
    try:
        text = _comment(Path(path))
    except (DecodeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DecodeError(f"{path}: {reason}") from error
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _comment(path: Path) -> str:
    with path.open("rb") as file:
        image = is_image(file.read(START))
        file.seek(0)
        if image:
            with open_picture(file) as picture:
                return _text(picture.info.get(TAG, ""))
        container, _ = open_video(file, max_pixels=MAX_PIXELS)
        with container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
            return tags.get(TAG, "")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
