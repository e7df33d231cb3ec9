"""The runs' videos side by side: the shared low-resolution input, each sample, the real clip."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cascade.comparison.run_record import RunRecord
from cascade.comparison.table import differing, short, to_cell
from cascade.report import Film, Page
from cascade.video import read_frames, to_float

#: The order of a sample's panels, as its caption begins: `low | made | real: a circle`.
ORDER = re.compile(r"^\w+(?: \| \w+)+: ")

#: The most runs side by side.
ACROSS = 8

Side = tuple[str, list[str]]
Cross = tuple[Side, Side, Mapping[tuple[str, str], str]]
Parts = Mapping[str, Film]


def add_films(page: Page, records: Sequence[RunRecord], *, prompts: int) -> None:
    """Add a section with the videos of `prompts` prompts, at one step if the runs share one."""
    page.section("Videos")
    shown = [record for record in records if record.videos]
    if not shown:
        page.text("No run has sample videos yet.")
        return
    step = common_step(shown)
    at = {record.name: max(record.videos) if step is None else step for record in shown}
    page.text(
        "No step has videos of all runs; each run shows its last."
        if step is None
        else f"All at step {step:,}; runs with equal seed and data use the same noise and clips."
    )
    page.text("low: the input of a super-resolution stage; made: the sample; real: the clip.")
    without = [record.name for record in records if not record.videos]
    if without:
        page.text(f"Runs without videos: {', '.join(without)}.")
    made = {record.name: _by_prompt(record, at[record.name]) for record in shown}
    wanted = list(dict.fromkeys(prompt for films in made.values() for prompt in films))[:prompts]
    crossed = cross(shown)
    if crossed is None:
        _rows(page, wanted, made)
    else:
        for prompt in wanted:
            parts = {name: films[prompt] for name, films in made.items() if prompt in films}
            _crossed(page, prompt, parts, crossed)


def common_step(records: Sequence[RunRecord]) -> int | None:
    """The last step at which all of these runs have videos."""
    steps = set.intersection(*(set(record.videos) for record in records))
    return max(steps, default=None)


def _by_prompt(record: RunRecord, step: int) -> dict[str, Parts]:
    """A run's videos at a step: prompt → its panels by name."""
    return {
        ORDER.sub("", caption): split_panels(fetch(), record.config)
        for caption, fetch in record.videos[step].items()
    }


def split_panels(path: Path, config: Mapping[str, object]) -> Parts:
    """A sample's panels by name: `low` (super-resolution alone), `made` and `real`.

    They lie side by side in one file. If its shape is not that of such panels, the whole file is
    `made`.
    """
    base = config.get("stage.augment", ...) is None
    names = ["made", "real"] if base else ["low", "made", "real"]
    height, width = (config.get(f"stage.target.{side}") for side in ("height", "width"))
    if not isinstance(height, int) or not isinstance(width, int):
        return {"made": Film(path)}
    frames, times = read_frames(path)
    tall, wide = frames.shape[1:3]
    if wide % len(names) or round(wide / tall * height / width) != len(names):
        names = ["made"]
    fps = (len(times) - 1) / float(times[-1]) if len(times) > 1 else 1.0
    video, each = to_float(frames.permute(3, 0, 1, 2)), wide // len(names)
    return {
        name: Film(video[..., i * each : (i + 1) * each], fps=fps) for i, name in enumerate(names)
    }


def _rows(page: Page, prompts: Sequence[str], made: Mapping[str, Mapping[str, Parts]]) -> None:
    """Add a row per prompt: the input and the real clip once, then every run's sample.

    Of many runs each has a row, which is read by scrolling down.
    """
    every = [films[prompt] for films in made.values() for prompt in prompts if prompt in films]
    extra = [part for part in ("low", "real") if any(part in parts for parts in every)]
    rows = []
    for prompt in prompts:
        first = next(films[prompt] for films in made.values() if prompt in films)
        own = [films.get(prompt, {}).get("made") for films in made.values()]
        rows.append((prompt, [*(first.get(part) for part in extra), *own]))
    columns = [*extra, *made]
    if len(made) <= ACROSS:
        page.films(columns, rows)
        return
    turned = [(name, [films[i] for _, films in rows]) for i, name in enumerate(columns)]
    page.films([prompt for prompt, _ in rows], turned)


def _crossed(page: Page, prompt: str, parts: Mapping[str, Parts], crossed: Cross) -> None:
    """Add one prompt's videos: a row per value of one setting, a column per value of the other."""
    (down, values), (across, others), place = crossed
    first = next(iter(parts.values()))
    extra = [part for part in ("low", "real") if part in first]
    rows = []
    for value in values:
        names = [place.get((value, other), "") for other in others]
        own = [parts.get(name, {}).get("made") for name in names]
        rows.append((f"{down} {value}", [*(first[part] for part in extra), *own]))
    page.films([*extra, *(f"{across} {other}" for other in others)], rows, caption=prompt)


def cross(records: Sequence[RunRecord]) -> Cross | None:
    """The two keys that differ with their values, and the run of each pair; None if not two."""
    keys = differing(records)
    if len(keys) != 2:
        return None
    names = short(keys)
    down, across = (
        list(dict.fromkeys(str(to_cell(record.config.get(key))) for record in records))
        for key in keys
    )
    place = {
        (str(to_cell(r.config.get(keys[0]))), str(to_cell(r.config.get(keys[1])))): r.name
        for r in records
    }
    if len(place) < len(records) or min(len(down), len(across)) < 2:
        return None
    return (names[keys[0]], down), (names[keys[1]], across), place
