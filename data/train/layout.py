"""The training and validation samples of a run, selected and ordered, before any is decoded."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.plan.buckets import BucketPlan, Held, Plan, Pool
from data.plan.packing import PackedPlan
from data.plan.sets import Chosen, Set, choose, hold_out
from data.plan.survey import Survey, survey
from data.train.options import SelectionOptions, ValidationOptions
from data.train.rules import ClipRules
from data.train.source import cached_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SampleLayout:
    """Training samples `chosen`, of which `pool` is drawn from by `plan`, and held-out samples.

    `held` are rows of `held_of`: of `chosen`, or of separate validation sets.
    """

    chosen: Chosen
    pool: Pool
    plan: Plan
    held_of: Chosen
    held: Held

    @property
    def fingerprint(self) -> str:
        """A hash of the training data, and of the validation data where that is separate."""
        found = self.chosen.index.fingerprint
        if self.held_of is self.chosen:
            return found
        both = f"{found} {self.held_of.index.fingerprint}"
        return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()

    def survey(self, rules: ClipRules, cache_bytes: int) -> Survey:
        """Figures of the plan; decoded clips are cached only if all fit into `cache_bytes`."""
        index = self.chosen.index
        clips = cached_bytes(index, self.pool.rows, self.chosen.fit, rules.fitter)
        return survey(
            self.plan,
            self.pool,
            chosen=self.chosen,
            held=len(self.held),
            fps=rules.fitter.grid.fps,
            cache_bytes={
                "index": float(sum(path.stat().st_size for path in index.paths)),
                "decoded clips": clips if clips <= cache_bytes else 0.0,
            },
            decoded_bytes=clips,
            needed_side=max(min(rules.fitter.cover(shape)) for shape in self.chosen.fit.shapes),
        )


def lay_out(
    sets: Mapping[str, Set],
    validation_sets: Mapping[str, Set],
    *,
    ensure_index: Callable[[Sequence[str]], Sequence[Path]],
    rules: ClipRules,
    selection: SelectionOptions,
    validation: ValidationOptions,
    seed: int,
) -> SampleLayout:
    """Read the indices, select samples, hold some out, and make the plan.

    Raises:
        ValueError: no sample is suitable, or more than `max_dropped` of them are dropped.
    """
    chosen = _choose(sets, ensure_index, rules)
    log.info("data: %s", chosen)
    chosen.check_dropped(selection.max_dropped)
    held_of = _choose(validation_sets, ensure_index, rules) if validation_sets else chosen
    if validation_sets:
        rows, held = chosen.rows, hold_out(held_of, 1.0)[1]
    else:
        rows, held = hold_out(chosen, validation.share)
    if not len(held):
        log.warning("data: no sample is held out; validation uses training samples")
        held = hold_out(chosen, 1.0)[1]
    chosen.index.forget("content")
    image_share = selection.image_share
    if image_share and not chosen.index.image[rows].any():
        log.warning("data.selection.image_share is %g, but no image is suitable", image_share)
    pool = Pool(
        rows=rows,
        fit=chosen.fit,
        sets=chosen.sets,
        weights=chosen.weights,
        image_share=image_share or (None if rules.need.frames == 1 else 0.0),
    )
    plan: Callable[..., Plan] = PackedPlan if rules.packed else BucketPlan
    return SampleLayout(
        chosen=chosen,
        pool=pool,
        plan=plan(pool, batch=rules.batch, seed=seed),
        held_of=held_of,
        held=Held(held[: validation.samples], held_of.fit, seed=seed),
    )


def _choose(
    sets: Mapping[str, Set],
    ensure_index: Callable[[Sequence[str]], Sequence[Path]],
    rules: ClipRules,
) -> Chosen:
    return choose(
        sets, ensure=ensure_index, need=rules.need, fitter=rules.fitter, batch=rules.batch
    )
