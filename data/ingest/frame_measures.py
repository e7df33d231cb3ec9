"""Measures of single frames: the perceptual hash, and the share of the area that is text."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from data.ingest.frame_reader import shrunk


def perceptual_hash(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """The pHash of an image: 64 bits in hexadecimal, similar for similar images."""
    import imagehash
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(pixels)))


def text_share(pixels: UInt8[np.ndarray, "h w 3"], side: int) -> float:
    """Share of the image area inside text boxes, detected at a short side of `side` pixels."""
    size = shrunk(pixels.shape[1], pixels.shape[0], side)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    boxes, _ = _detector()(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    covered = np.zeros(small.shape[:2], dtype=np.uint8)
    if boxes is not None and len(boxes):
        cv2.fillPoly(covered, [np.int32(box) for box in boxes], 1)
    return float(covered.mean())


@cache
def _detector() -> Any:
    """The text line detector of rapidocr; its model is part of the package."""
    import rapidocr_onnxruntime as rapidocr
    import yaml
    from rapidocr_onnxruntime.ch_ppocr_det import TextDetector

    logging.getLogger("OrtInferSession").setLevel(logging.ERROR)
    folder = Path(rapidocr.__file__).parent
    settings = yaml.safe_load((folder / "config.yaml").read_text())["Det"]
    settings["model_path"] = str(folder / settings["model_path"])
    settings |= {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    settings |= {"limit_type": "min", "limit_side_len": 32}  # no scaling: it is scaled before
    return TextDetector(settings)
