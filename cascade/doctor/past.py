"""The speed that a run has already reached, beside the speed that its plan predicts."""

import statistics
from pathlib import Path

from cascade.callbacks.names import THROUGHPUT
from cascade.curves import read_curves
from cascade.doctor.figure import Figure
from cascade.doctor.findings import Findings

#: The last logging intervals, whose median counts.
INTERVALS = 20


def add_past(record: Findings, run: Path) -> None:
    """Add the step of the run, if it has trained on the planned device with as many ranks."""
    try:
        curve = read_curves(run).get(THROUGHPUT[0], [])[-INTERVALS:]
    except ValueError as error:
        record.advise("warning", str(error))
        return
    if not curve:
        return
    from cascade.checkpoint.checkpoint_folder import manifests  # imports Lightning, in seconds

    known = manifests(run)
    if not known or str(known[0].world) != record.facts["ranks"]:
        return
    device, planned = known[0].device, record.facts["device"]
    if not (planned in device or (planned[:3], device[:3]) == ("CPU", "cpu")):
        return
    step = 1 / statistics.median(rate for _, rate in curve)
    note = f"with the wait for data, until step {curve[-1][0]:,}, on {device}"
    record.add("time", {"step of the run": Figure(step, "measured", "s", note)})
    if predicted := record.value("time", "step, predicted"):
        record.add("time", {"run / predicted": Figure(step / predicted, "measured")})
