"""A plan costs bytes per sample, and no more the further a run has come."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("scale.py")


@pytest.mark.slow
def test_a_million_samples_at_step_a_million(tmp_path):
    told = [sys.executable, str(SCRIPT), str(tmp_path / "indices"), "--shards", "100"]
    done = subprocess.run(told, capture_output=True, text=True, check=True)
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["batching"] for one in figures] == ["buckets", "packing"]
    for one in figures:
        assert one["samples"] == 1_000_000
        assert one["drawn"] > 16
        assert (one["peak_bytes"] - one["imports_bytes"]) / one[
            "samples"
        ] < 200  # chunks and late imports too
        assert one["batch_cpu_s"] < 5
