"""Still images as JPEG or PNG, upright, with a limited short side; suitable files are copied."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from cascade.media.kinds import START, is_image
from cascade.media.picture import check_sums, open_picture, upright
from cascade.media.reason import reasons
from data.ingest.cut import above, below
from data.ingest.frame_measures import perceptual_hash, text_share
from data.ingest.frame_reader import shrunk, whole_file
from data.ingest.part import Record, SourcePart, thumbnail
from data.ingest.recipe import Recipe

FORMATS = {"JPEG": "jpg"} | dict.fromkeys(("PNG", "WEBP", "AVIF", "BMP", "TIFF"), "png")
"""The format in which each image format is written."""

_ORIENTATION = 0x0112
_DARK, _DARK_SHARE = 32, 0.98


def is_picture(file: str) -> bool:
    """Whether the file is a still image, judged by content, not by name.

    Raises:
        DecodeError: it cannot be read.
    """
    with reasons(), Path(file).open("rb") as data:
        return is_image(data.read(START))


def make_picture(file: str, out: SourcePart, recipe: Recipe, *, thumbnails: bool) -> Record:
    """Add the sample of an image to `out`; return its record.

    Raises:
        DecodeError: the image cannot be decoded, or is animated.
    """
    check_sums(file)
    with open_picture(file) as image:
        form, plain = str(image.format), image.mode in ("RGB", "L")
        form = "JPEG" if form == "MPO" else form
        plain &= image.getexif().get(_ORIENTATION, 1) == 1
        shown = upright(image)
    size = shrunk(*shown.size, recipe.encoding.short_side)
    small = max(shown.width - size[0], shown.height - size[1]) <= 1
    reencode = "" if small and plain and form in ("JPEG", "PNG") else f"{form} must be re-encoded"
    pixels = np.asarray(shown)
    row: Record = {
        "window": 0,
        "start": 0.0,
        "end": 0.0,
        "width": shown.width,
        "height": shown.height,
        "scores": _scores(pixels, recipe),
        "hashes": [perceptual_hash(pixels)],
    }
    row["reason"] = _reason(row, recipe)
    row["thumbnail"] = thumbnail(pixels) if thumbnails or row["reason"] == "text" else ""
    if not row["reason"]:
        if reencode and not small:
            shown = shown.resize(size, Image.Resampling.LANCZOS)
        data = _written(shown, form, recipe) if reencode else whole_file(file)
        row |= {"width": shown.width, "height": shown.height, "frames": 1, "fps": 0.0}
        row |= {"extension": FORMATS[form], "bytes": len(data)}
        out.add(f"0000.{FORMATS[form]}", data)
    return {
        "kind": "image",
        "codec": form.lower(),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "fps": 0.0,
        "duration": 0.0,
        "reencoded": reencode,
        "windows": [row],
    }


def _scores(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", recipe: Recipe) -> Record:
    scores = {"black": float(np.mean(pixels.mean(axis=2) < _DARK) >= _DARK_SHARE)}
    if recipe.measures.text_side is not None:
        scores["text"] = round(text_share(pixels, recipe.measures.text_side), 4)
    return scores


def _reason(row: Record, recipe: Recipe) -> str:
    filters, scores = recipe.filters, row["scores"]
    checks = {
        "too small": below(min(row["width"], row["height"]), filters.min_short_side),
        "black": above(scores["black"], filters.black),
        "text": above(scores.get("text"), filters.text),
    }
    return next((reason for reason, beyond in checks.items() if beyond), "")


def _written(image: Image.Image, form: str, recipe: Recipe) -> bytes:
    file = io.BytesIO()
    if form == "JPEG":
        image.save(file, "jpeg", quality=recipe.encoding.jpeg_quality, subsampling=0)
    else:
        image.save(file, "png")
    return file.getvalue()
