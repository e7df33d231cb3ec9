"""Cascade bundles: a folder of stages' bundles with `cascade.yaml`.

The file has the order of the stages, and the sampling settings of each.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cascade.bundle import FORMAT, BundleError, read_stage, read_yaml
from cascade.files.atomic import replacing_folder

CASCADE = "cascade.yaml"
#: The sampling settings of a stage that a cascade may set.
SAMPLING = ("steps", "guidance_scale", "low_logsnr")


def save_cascade(
    folder: Path, *, bundles: Mapping[str, Path], sampling: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Write a cascade bundle: copies of the stages' bundles, in order, and `cascade.yaml`.

    The write is atomic and replaces an existing bundle. `sampling` may set, per stage, `steps`,
    `guidance_scale` and `low_logsnr`.

    Raises:
        BundleError: one of `bundles` is none, or `folder` is another folder.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CASCADE).is_file():
        raise BundleError(
            f"{folder}: exists and is no cascade bundle, so it is not replaced; name another folder"
        )
    for source in bundles.values():
        read_stage(source)
    stages = [{"bundle": name, **sampling.get(name, {})} for name in bundles]
    text = yaml.safe_dump({"format": FORMAT, "stages": stages}, sort_keys=False)
    with replacing_folder(folder) as part:
        for name, source in bundles.items():
            shutil.copytree(source, part / name)
        (part / CASCADE).write_text(text, encoding="utf-8")
    return folder


def read_cascade(folder: Path) -> list[dict[str, Any]]:
    """Per stage, in order: its `bundle` (a path) and its sampling settings."""
    path = Path(folder) / CASCADE
    if not path.is_file():
        raise BundleError(f"{folder} is not a cascade bundle: it has no {CASCADE}")
    content = read_yaml(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise BundleError(
            f"{path}: has format {found!r}, but this Cascade reads format {FORMAT}; "
            "train the stages again"
        )
    listed = content.get("stages") or []
    if not isinstance(listed, list):
        raise BundleError(f"{path}: stages must be a list of bundles, got {listed!r}")
    entries = []
    for entry in listed:
        name = entry.get("bundle") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise BundleError(
                f"{path}: bundle must be the name of a folder beside it, got {name!r}"
            )
        unknown = set(entry) - {"bundle", *SAMPLING}
        if unknown:
            raise BundleError(f"{path}: unknown {', '.join(sorted(unknown))}; known: {SAMPLING}")
        entries.append({**entry, "bundle": Path(folder) / entry["bundle"]})
    return entries
