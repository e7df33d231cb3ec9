"""The claims, in order, and the proof of all of them about one run."""

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
from cascade.proof.found import Found, NotCheckedError, Result
from cascade.proof.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement about a trained run, and how it is checked."""

    name: str
    says: str
    check: Callable[[Subject], Found]


CLAIMS = (
    Claim(
        name="same inputs",
        says="The sampler feeds the network exactly what training feeds it, for every way to "
        "prompt.",
        check=parity.check,
    ),
    Claim(
        name="conditions count",
        says="Every condition changes the network's output, and lowers the loss on held-out clips.",
        check=conditions.check,
    ),
    Claim(
        name="given frames",
        says="Given frames and regions come back unchanged.",
        check=given_frames.check,
    ),
    Claim(
        name="same video",
        says="The bundle holds the run's averaged weights, and saved and loaded again it makes the "
        "same video.",
        check=same_video.check_bundle,
    ),
    Claim(
        name="any batch",
        says="A video does not depend on the others in its batch.",
        check=same_video.check_batch,
    ),
    Claim(
        name="exact resume",
        says="A resume from a checkpoint gives the losses and weights of the next steps again.",
        check=resume_again.check,
    ),
    Claim(
        name="receptive field",
        says="An output depends on no input beyond the receptive field that the network states.",
        check=reach.check,
    ),
    Claim(
        name="same data",
        says="The data is what the run was trained on, and its held-out clips decode.",
        check=same_data.check,
    ),
)


def proved(subject: Subject, *, only: tuple[str, ...] = ()) -> Iterator[Result]:
    """Check each claim; `only` names some of them.

    Raises:
        ValueError: there is no claim of that name.
    """
    names = [claim.name for claim in CLAIMS]
    if unknown := sorted({*only} - {*names}):
        raise ValueError(f"prove.only: no claim {', '.join(unknown)}; there are {', '.join(names)}")
    for claim in CLAIMS:
        if only and claim.name not in only:
            continue
        began = time.monotonic()
        found = _checked(claim, subject)
        seconds = time.monotonic() - began
        yield Result(name=claim.name, says=claim.says, found=found, seconds=seconds)


def _checked(claim: Claim, subject: Subject) -> Found:
    try:
        return claim.check(subject)
    except (NotCheckedError, ValueError, OSError) as error:
        return Found(verdict="not checked", figure="–", tolerance="–", notes=[str(error)])
