"""The claim that the run's data is unchanged since training, and its held-out clips decode."""

from cascade.proof.found import Found, NotCheckedError, Table, judged
from cascade.proof.subject import Subject
from cascade.report import Cell


def check(subject: Subject) -> Found:
    """The claim's figures: the fingerprints of the bundle and of the data."""
    subject.clips()
    wanted, found = subject.card.get("data"), subject.data.fingerprint
    if not wanted:
        raise NotCheckedError("the bundle's card has no fingerprint of its data")
    wrong = []
    if wanted != found:
        wrong.append(
            f"the bundle was trained on data {wanted}, but the data is now {found}; "
            "samples, captions or the depth of the index have changed since"
        )
    failed = [
        f"{failure.key} of {failure.shard} ({failure.reason})" for failure in subject.data.failures
    ]
    if failed:
        wrong.append(f"{len(failed)} held-out clips do not decode: {'; '.join(failed[:3])}")
    rows = [
        ("bundle", Cell(wanted)),
        ("data", Cell(found, "good" if wanted == found else "bad")),
    ]
    return judged(
        wrong,
        figure=f"{found} ({len(failed)} clips do not decode)",
        tolerance=f"{wanted}, and every clip decodes",
        tables=[Table(columns=["", "fingerprint"], rows=rows)],
    )
