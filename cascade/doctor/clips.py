"""Plan the data: clips kept and dropped, how full the batches are, captions that are truncated."""

from collections.abc import Mapping, Sequence
from typing import Any

from cascade.doctor.dry import DryStage
from cascade.doctor.figure import Figure, format_value
from cascade.doctor.findings import Findings

BUCKET = (
    *("kind", "frames", "height", "width", "fps"),
    *("clips", "batch", "tokens", "share", "unused", "cropped"),
)


def plan_clips(
    record: Findings, survey: Any, recipe: Any, limits: Mapping[str, float], *, packs: bool
) -> None:
    """Add the counts of clips, and warn of small buckets, unused budget, cropping and dropping.

    `packs`: the stage's network can train on packed batches.
    """
    record.dropped = {str(k): int(v) for k, v in survey.dropped.items()}
    lost = sum(record.dropped.values())
    asked = max(1, survey.samples - survey.unasked)
    epochs = recipe.steps / survey.batches_per_epoch if survey.batches_per_epoch else None
    record.add(
        "data",
        {
            "samples": Figure(survey.samples, "counted", "samples", "in the index"),
            "training clips": Figure(survey.train, "counted", "clips"),
            "of these, images": Figure(survey.images, "counted", "clips"),
            "held out": Figure(survey.held, "counted", "clips", "for validation"),
            "dropped": Figure(lost, "counted", "samples", "by reason in the table below"),
            "images not used": Figure(
                survey.unasked, "counted", "samples", "data.selection.image_share is 0"
            ),
            "token budget": Figure(survey.budget, "counted", "tokens", "of a global batch"),
            "budget unused": Figure(survey.unused, "counted", "share"),
            "pixels cropped": Figure(survey.cropped, "counted", "share"),
            "batches per epoch": Figure(survey.batches_per_epoch, "counted"),
            "epochs": Figure(epochs, "counted", "", f"{recipe.steps:,} steps"),
        },
    )
    packed = any(not bucket.batch for bucket in survey.buckets)  # then buckets have no batches
    packing = "data.batching=packing, or " if packs and not packed else ""
    fuller = f"{packing}more buckets (data.clips.max_buckets)"
    if packed:
        fuller = "longer sequences: a larger stage.train.global_batch"
    for bucket in survey.buckets:
        record.buckets.append({name: getattr(bucket, name) for name in BUCKET})
        if bucket.batch and bucket.clips < limits["bucket_batches"] * bucket.batch:
            record.advise(
                "warning",
                f"bucket {bucket.frames}×{bucket.height}×{bucket.width}: {bucket.clips:,} clips "
                f"fill {bucket.clips / bucket.batch:.1f} batches of {bucket.batch}, fewer than "
                f"{limits['bucket_batches']}",
                f"{packing}more clips, or a smaller stage.train.global_batch",
            )
    if epochs is not None and epochs > limits["epochs"]:
        record.advise(
            "warning",
            f"the run has {epochs:,.0f} epochs, more than plan.thresholds.epochs="
            f"{limits['epochs']:g}: the stage may overfit",
            "more clips, or fewer stage.train.steps",
        )
    if survey.held < limits["held"]:
        record.advise(
            "warning",
            f"{survey.held:,} clips are held out, fewer than plan.thresholds.held="
            f"{limits['held']:g}: validation figures of so few say little",
            "a larger data.validation.share, or clips of their own: data.validation.shards=…",
        )
    if survey.train < recipe.global_batch:
        record.advise(
            "warning",
            f"{survey.train:,} clips are fewer than a batch of {recipe.global_batch:,}: every "
            "batch repeats clips",
            f"more clips, or stage.train.global_batch={max(1, survey.train)}",
        )
    for name, value, way in (
        ("unused", survey.unused, fuller),
        ("cropped", survey.cropped, "" if packed else f"{packing}more clips for more buckets"),
        ("dropped", lost / asked, "the page lists the reasons"),
    ):
        if value > limits[name]:
            what = {
                "unused": "of the token budget is unused",
                "cropped": "of the pixels are cropped away",
                "dropped": "of the samples are dropped",
            }[name]
            limit = f"plan.thresholds.{name}={limits[name]:g}"
            share = format_value(value, "share")
            record.advise("warning", f"{share} {what}, more than {limit}", way)


def plan_captions(
    record: Findings, dry: DryStage, captions: Sequence[str], limits: Mapping[str, float]
) -> None:
    """Add the share of a sample of captions that the text encoder would truncate."""
    count = len(captions)
    if dry.frozen_text:
        note = "not counted: it needs the frozen encoder's tokenizer"
        record.add("data", {"captions truncated": Figure(None, "counted", "share", note)})
        return
    cut = sum(_too_long(dry.text, caption) for caption in captions)
    share = cut / count if count else None
    figure = Figure(share, "measured", "share", f"of a sample of {count:,}")
    record.add("data", {"captions truncated": figure})
    if share is not None and share > limits["truncated"]:
        record.advise(
            "warning",
            f"{cut} of {count} captions are longer than the text encoder's limit",
            "a larger stage.text.max_bytes (or max_tokens), or shorter captions by make captions",
        )


def _too_long(text: Any, caption: str) -> bool:
    try:
        text.check(caption)
    except ValueError:
        return True
    return False
