"""The clips: what suits, what is dropped, how full the batches are, whether captions are cut."""

from collections.abc import Mapping, Sequence
from typing import Any

from cascade.doctor.dry import DryStage
from cascade.doctor.figure import Figure, said
from cascade.doctor.findings import Findings

BUCKET = (
    *("kind", "frames", "height", "width", "fps"),
    *("clips", "batch", "tokens", "share", "unused", "cropped"),
)


def look_at_clips(record: Findings, survey: Any, recipe: Any, limits: Mapping[str, float]) -> None:
    """What suits, what is dropped, how full the batches are, which buckets are thin."""
    record.dropped = {str(k): int(v) for k, v in survey.dropped.items()}
    lost = sum(record.dropped.values())
    asked = max(1, survey.samples - survey.unasked)
    epochs = recipe.steps / survey.batches_per_epoch if survey.batches_per_epoch else None
    record.add(
        "data",
        {
            "samples": Figure(survey.samples, "counted", "samples", "in the index"),
            "to train on": Figure(survey.train, "counted", "clips"),
            "of them images": Figure(survey.images, "counted", "clips"),
            "held out": Figure(survey.held, "counted", "clips", "to validate on"),
            "dropped": Figure(lost, "counted", "samples", "each with its reason, below"),
            "images not asked for": Figure(
                survey.unasked, "counted", "samples", "data.selection.image_share is 0"
            ),
            "token budget": Figure(survey.budget, "counted", "tokens", "of a global batch"),
            "budget unused": Figure(survey.unused, "counted", "share"),
            "pixels cropped": Figure(survey.cropped, "counted", "share"),
            "batches per epoch": Figure(survey.batches_per_epoch, "counted"),
            "epochs": Figure(epochs, "counted", "", f"{recipe.steps:,} steps"),
        },
    )
    for bucket in survey.buckets:
        record.buckets.append({name: getattr(bucket, name) for name in BUCKET})
        if bucket.batch and bucket.clips < limits["bucket_batches"] * bucket.batch:
            record.say(
                "warning",
                f"bucket {bucket.frames}×{bucket.height}×{bucket.width}: {bucket.clips:,} clips "
                f"fill {bucket.clips / bucket.batch:.1f} batches of {bucket.batch}, fewer than "
                f"{limits['bucket_batches']}",
                "more clips, a smaller stage.train.global_batch, or data.batching=packing",
            )
    if epochs is not None and epochs > limits["epochs"]:
        record.say(
            "warning",
            f"every clip is seen {epochs:,.0f} times, more than plan.thresholds.epochs="
            f"{limits['epochs']:g}: the stage may learn them by heart",
            "more clips, or fewer stage.train.steps",
        )
    if survey.train < recipe.global_batch:
        record.say(
            "warning",
            f"{survey.train:,} clips are fewer than a batch of {recipe.global_batch:,}: every "
            "batch holds clips twice",
            f"more clips, or stage.train.global_batch={max(1, survey.train)}",
        )
    for name, value, way in (
        (
            "unused",
            survey.unused,
            "data.batching=packing, or more buckets (data.clips.max_buckets)",
        ),
        ("cropped", survey.cropped, "data.batching=packing, or more clips for more buckets"),
        ("dropped", lost / asked, "see what is dropped and why, below"),
    ):
        if value > limits[name]:
            what = {
                "unused": "of the token budget is unused",
                "cropped": "of the pixels are cropped away",
                "dropped": "of the samples are dropped",
            }[name]
            limit = f"plan.thresholds.{name}={limits[name]:g}"
            record.say("warning", f"{said(value, 'share')} {what}, more than {limit}", way)


def look_at_captions(
    record: Findings, dry: DryStage, captions: Sequence[str], limits: Mapping[str, float]
) -> None:
    """Whether the text encoder cuts captions, in a sample of them."""
    count = len(captions)
    if dry.frozen_text:
        note = "not counted: it needs the frozen encoder's tokenizer"
        record.add("data", {"captions cut": Figure(None, "counted", "share", note)})
        return
    cut = sum(_too_long(dry.text, caption) for caption in captions)
    share = cut / count if count else None
    record.add(
        "data", {"captions cut": Figure(share, "measured", "share", f"of a sample of {count:,}")}
    )
    if share is not None and share > limits["truncated"]:
        record.say(
            "warning",
            f"{cut} of {count} captions are longer than the text encoder reads",
            "raise stage.text.max_bytes (or max_tokens), or shorten them by make captions",
        )


def _too_long(text: Any, caption: str) -> bool:
    try:
        text.check(caption)
    except ValueError:
        return True
    return False
