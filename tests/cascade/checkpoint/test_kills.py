"""After SIGKILL, damage or a full disk a run ends as an uninterrupted one, or is refused.

CASCADE_KILLS=100 kills more often, and tries every kind of damage.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KILLS = os.environ.get("CASCADE_KILLS", "10")


def output_of(script: str, *arguments: str, limit_s: float = 900) -> dict:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[2])}
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit_s)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout[done.stdout.index("{\n") :])


@pytest.mark.slow
def test_kills_at_random_moments_cost_no_bit(tmp_path):
    output = output_of("kills.py", str(tmp_path), "--kills", KILLS, limit_s=300 + 60 * int(KILLS))
    sys.stdout.write(json.dumps(output, indent=1) + "\n")
    assert output["faults"] == []
    assert sum(output["kills"].values()) >= int(KILLS)
    assert output["values compared per run"] > 100


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damages")
    few = ["one bit of the newest", "other weights, right checksums", "another data set"]
    cases = ["--cases", *few, "disk full, then not"] if KILLS == "10" else []
    output = output_of("damages.py", str(folder), *cases)
    shutil.rmtree(folder)
    return output


AS_UNBROKEN = "ended as the uninterrupted run, bit for bit"


@pytest.mark.slow
def test_every_damage_is_skipped_or_refused(table):
    sys.stdout.write(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    wanted = {
        "nothing": (AS_UNBROKEN, ""),
        "newest cut in half": (AS_UNBROKEN, "is damaged: state has"),
        "one bit of the newest": (AS_UNBROKEN, "is damaged: state has checksum"),
        "one bit of its manifest": (AS_UNBROKEN, "is damaged: manifest.json"),
        "its manifest removed": (AS_UNBROKEN, "is damaged: manifest.json cannot be read"),
        "its state removed": (AS_UNBROKEN, "is damaged: state is missing"),
        "the newest removed": (AS_UNBROKEN, ""),
        "all damaged": ("refused", "is intact"),
        "other weights, right checksums": ("refused", "the probe's loss was"),
        "another width": ("refused", "[2, 4, 4] → [2, 8, 8]"),
        "another config, no config.json": ("refused", "logsnr_shift"),
        "another seed": ("refused", "seed: 0 → 1"),
        "another data set": ("refused", "the fingerprint of the checkpoint is"),
        "disk full, then not": (AS_UNBROKEN, "No space left on device"),
    }
    for case in table:
        result, message = wanted[case]
        assert table[case]["result"] == result, (case, table[case])
        assert message in table[case]["said"], (case, table[case])
    assert len(table) >= 3  # the full disk is a mount, which takes root
