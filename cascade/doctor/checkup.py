"""The checkup: every part of a run is looked at in turn, and what is amiss is said."""

from collections.abc import Mapping
from typing import Any

from cascade.doctor.batches import Ranks, buckets_of, find_ranks, largest
from cascade.doctor.clips import look_at_captions, look_at_clips
from cascade.doctor.cost import look_at_parameters, look_at_step
from cascade.doctor.device import find_device
from cascade.doctor.dry import Clips, DryStage, Ways
from cascade.doctor.files import look_at_files
from cascade.doctor.findings import Findings
from cascade.doctor.room import look_at_memory
from cascade.doctor.text_cost import frozen_encoder
from cascade.doctor.timing import Load, look_at_time


def checkup(record: Findings, config: dict[str, Any], data: Any, survey: Any) -> None:
    """Fill the record with all that is known of the run of `config`.

    `data` and `survey` are None where there is no data, or where it was refused.
    """
    options, trainer = config["plan"], config["trainer"]
    ranks = find_ranks(trainer, override=options["ranks"])
    device = find_device(
        options["device"],
        options["devices"],
        accelerator=trainer["accelerator"],
        precision=str(trainer["precision"]),
    )
    record.facts |= {
        "device": device.name,
        "ranks": str(ranks.count),
        "precision": str(trainer["precision"]),
    }
    load = _load(record, data, config, ranks)
    captions = load.captions if load is not None and load.captions else options["captions"]
    dry = DryStage(config["stage"], text_tokens=options["text_tokens"], captions=captions)
    recipe, target = dry.stage.recipe, dry.stage.target
    frames, height, width = recipe.crop or target.shape
    nominal = Clips(recipe.global_batch, frames, height, width, target.fps)
    buckets = buckets_of(survey, nominal)
    encoder = frozen_encoder(dry.text) if dry.frozen_text else None
    ways = Ways(
        cuda=device.cuda,
        precision=str(trainer["precision"]),
        sigma_rels=_widths(config["callbacks"]),
        buckets=ranks.buckets,
    )
    if survey is not None:
        look_at_clips(record, survey, recipe, options["thresholds"])
    if load is not None:
        look_at_captions(record, dry, load.captions, options["thresholds"])
    look_at_parameters(record, dry, encoder)
    flops = look_at_step(record, dry, buckets, ranks, encoder, options)
    found = look_at_memory(record, dry, largest(buckets), ranks, ways, device, encoder, options)
    look_at_time(
        record, config, device, ways, ranks, flops, found, load, encoder, _kept_after(survey)
    )
    look_at_files(record, config, dry, survey, encoder, ways)


def _widths(callbacks: Mapping[str, Any]) -> tuple[float, ...]:
    kept = (c for c in callbacks.values() if str(c.get("_target_", "")).endswith(".EMA"))
    return tuple(next((c["sigma_rels"] for c in kept), ()))


def _load(record: Findings, data: Any, config: dict[str, Any], ranks: Ranks) -> Load | None:
    """The first batches; none without data, or where the data module cannot deal them out."""
    if data is None:
        return None
    try:
        return Load.of(data, config, ranks)
    except ValueError as error:
        record.say("error", f"data: {error}".replace("data: data", "data"))
        return None


def _kept_after(survey: Any) -> float | None:
    """Steps until all clips are kept decoded; none where they are not kept."""
    if survey is None:
        return None
    kept = any(size for name, size in survey.cache_bytes.items() if name.startswith("decoded"))
    return float(survey.batches_per_epoch) if kept else None
