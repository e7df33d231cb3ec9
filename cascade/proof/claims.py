"""The claims about a run, in order, and the function that checks them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cascade.proof import (
    conditions,
    given_frames,
    parity,
    reach,
    resume_again,
    same_data,
    same_video,
)
from cascade.proof.found import ClaimResult, Found, NotCheckedError
from cascade.proof.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement about a trained run, and the function that checks it."""

    name: str
    statement: str
    check: Callable[[Subject], Found]


CLAIMS = (
    Claim(
        name="same inputs",
        statement="The sampler feeds the network exactly what training feeds it, for every way to "
        "prompt.",
        check=parity.check,
    ),
    Claim(
        name="conditions count",
        statement="Every condition changes the network's output and lowers the loss on held-out "
        "clips.",
        check=conditions.check,
    ),
    Claim(
        name="given frames",
        statement="Given frames and regions are unchanged in the output.",
        check=given_frames.check,
    ),
    Claim(
        name="same video",
        statement="The bundle has the run's averaged weights, and generates the same video after "
        "it is saved and loaded again.",
        check=same_video.check_bundle,
    ),
    Claim(
        name="any batch",
        statement="A video does not depend on the other videos in its batch.",
        check=same_video.check_batch,
    ),
    Claim(
        name="exact resume",
        statement="A resume from a checkpoint repeats the losses and weights of the next steps.",
        check=resume_again.check,
    ),
    Claim(
        name="receptive field",
        statement="No output depends on an input outside the network's declared receptive field.",
        check=reach.check,
    ),
    Claim(
        name="same data",
        statement="The data is unchanged since the run was trained, and its held-out clips decode.",
        check=same_data.check,
    ),
)


def check_claims(subject: Subject, *, only: tuple[str, ...] = ()) -> Iterator[ClaimResult]:
    """Check each claim, or only those named in `only`.

    Raises:
        ValueError: `only` has a name that is not a claim's.
    """
    names = [claim.name for claim in CLAIMS]
    if unknown := sorted({*only} - {*names}):
        raise ValueError(
            f"prove.only: unknown claim {', '.join(unknown)}; known: {', '.join(names)}"
        )
    for claim in CLAIMS:
        if only and claim.name not in only:
            continue
        began = time.monotonic()
        found = _checked(claim, subject)
        seconds = time.monotonic() - began
        yield ClaimResult(name=claim.name, statement=claim.statement, found=found, seconds=seconds)


def _checked(claim: Claim, subject: Subject) -> Found:
    try:
        return claim.check(subject)
    except (NotCheckedError, ValueError, OSError) as error:
        return Found(verdict="not checked", figure="–", tolerance="–", notes=[str(error)])
