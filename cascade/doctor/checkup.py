"""Plan every part of a run in turn: figures, errors and warnings."""

from collections.abc import Mapping
from typing import Any

from cascade.doctor.batches import Ranks, buckets_of, find_ranks, largest
from cascade.doctor.clips import plan_captions, plan_clips
from cascade.doctor.cost import plan_parameters, plan_step
from cascade.doctor.device import find_device
from cascade.doctor.dry import Clips, DryStage, Execution
from cascade.doctor.files import plan_files
from cascade.doctor.findings import Findings
from cascade.doctor.loading import Load
from cascade.doctor.memory_fit import plan_memory
from cascade.doctor.text_cost import frozen_encoder
from cascade.doctor.timing import plan_time
from cascade.offered import check_trainer


def checkup(record: Findings, config: dict[str, Any], data: Any, survey: Any) -> None:
    """Add the figures and the advice for the run of `config` to the record.

    `data` and `survey` are None if there is no data, or if the data module refused it.
    """
    options, trainer = config["plan"], config["trainer"]
    try:
        check_trainer(trainer)
    except ValueError as error:
        record.advise("error", str(error))
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
    if shortfall := getattr(recipe.lr_factor, "shortfall", None):
        record.advise("warning", shortfall)
    frames, height, width = recipe.crop or target.shape
    nominal = Clips(recipe.global_batch, frames, height, width, target.fps)
    buckets = buckets_of(survey, nominal)
    encoder = frozen_encoder(dry.text) if dry.frozen_text else None
    execution = Execution(
        cuda=device.cuda,
        precision=str(trainer["precision"]),
        sigma_rels=_widths(config["callbacks"]),
        buckets=ranks.buckets,
    )
    if survey is not None:
        packs = hasattr(dry.stage.net, "forward_packed")
        plan_clips(record, survey, recipe, options["thresholds"], packs=packs)
    if load is not None:
        plan_captions(record, dry, load.captions, options["thresholds"])
    plan_parameters(record, dry, encoder)
    cost = plan_step(record, dry, buckets, ranks, encoder, options)
    found, works = plan_memory(
        record, dry, largest(buckets), ranks, execution, device, encoder, options
    )
    plan_time(record, config, device, execution, ranks, cost, found, works, load, encoder, survey)
    plan_files(record, config, dry, survey, encoder, execution)


def _widths(callbacks: Mapping[str, Any]) -> tuple[float, ...]:
    kept = (c for c in callbacks.values() if str(c.get("_target_", "")).endswith(".EMA"))
    return tuple(next((c["sigma_rels"] for c in kept), ()))


def _load(record: Findings, data: Any, config: dict[str, Any], ranks: Ranks) -> Load | None:
    """The first batches; None without data, or if the data module cannot divide them."""
    if data is None:
        return None
    try:
        return Load.of(data, config, ranks)
    except ValueError as error:
        record.advise("error", f"data: {error}".replace("data: data", "data"))
        return None
