"""The speed that a run has already reached, beside the speed that its plan predicts."""

import statistics
from pathlib import Path

from cascade.callbacks.names import THROUGHPUT
from cascade.curves import read_curves
from cascade.doctor.figure import Figure
from cascade.doctor.findings import Findings
from cascade.flops import has_words

#: The last logging intervals, whose median counts.
INTERVALS = 20


def add_past(record: Findings, run: Path) -> None:
    """Add the step of the run, if it has trained on the planned device with as many ranks."""
    try:
        curve = read_curves(run).get(THROUGHPUT[0], [])[-INTERVALS:]
    except ValueError as error:
        record.advise("warning", str(error))
        return
    rate = statistics.median([rate for _, rate in curve]) if curve else 0.0
    if not rate > 0:
        return  # nothing is logged yet, or not a speed
    from cascade.checkpoint.checkpoint_folder import manifests  # imports Lightning, in seconds

    known = manifests(run)
    if not known or str(known[0].world) != record.facts["ranks"]:
        return
    device, planned = known[0].device, record.facts["device"]
    if not (has_words(device, planned) or (planned[:3], device[:3]) == ("CPU", "cpu")):
        return
    note = f"with the wait for data, until step {curve[-1][0]:,}, on {device}"
    record.add("time", {"step of the run": Figure(1 / rate, "measured", "s", note)})
    if predicted := record.value("time", "step, predicted"):
        record.add("time", {"run / predicted": Figure(1 / rate / predicted, "measured")})
