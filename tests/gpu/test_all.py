"""The program for a GPU keeps every finished row, and goes on after the last one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.gpu.rows import SPARE_S, NotHereError, Row, Rows, Section, measure_all, measured, table

ROOT = Path(__file__).parents[2]


def names(rows: Rows) -> list[str]:
    return [row["name"] for row in rows.all]


def test_a_cut_line_is_dropped_and_its_row_measured_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    section = Section("one", 1, [Row(name, dict) for name in "abc"])
    measure_all([section], Rows(path), seconds=60)
    whole = path.read_text()
    path.write_text(whole[:-5])
    rows = Rows(path)
    assert names(rows) == ["a", "b"]
    measure_all([section], rows, seconds=60)
    assert names(Rows(path)) == ["a", "b", "c"]


def test_a_fault_is_a_row_and_the_next_rows_follow(tmp_path):
    def raising(error: Exception):
        raise error

    faults = {
        "memory": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
        "wrong": ValueError("a\nfault"),
        "absent": NotHereError("a CPU has none"),
    }
    rows = Rows(tmp_path / "rows.jsonl")
    section = [Row(name, lambda e=error: raising(e)) for name, error in faults.items()]
    measure_all([Section("one", 1, [*section, Row("last", lambda: {"value": 2.0})])], rows, 60)
    memory, wrong, absent, last = rows.all
    assert memory["out of memory"] == "CUDA out of memory"
    assert wrong["error"] == "ValueError: a fault"
    assert absent["not here"] == "a CPU has none"
    assert last["value"] == 2
    assert names(rows) == [*faults, "last"]
    assert all(rows.finished("one", name) for name in faults)


def test_a_row_is_stopped_at_its_deadline_and_measured_again_in_the_next_call(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    began = time.monotonic()
    late = measured(lambda: time.sleep(30) or {}, until=began + 0.2)
    assert time.monotonic() - began < 10
    rows.add("one", "slow", late)
    assert not rows.finished("one", "slow")
    rows.add("one", "slow", {"value": 1})
    assert rows.finished("one", "slow")


def test_rows_of_another_device_are_not_this_ones(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"section": "one", "name": "a", "device": "NVIDIA H200"}) + "\n")
    assert not Rows(path).finished("one", "a")


def test_a_section_takes_no_more_than_its_share_from_later_ones(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    slow = [Row(f"slow {i}", lambda: time.sleep(2) or {}) for i in range(4)]
    sections = [Section("one", 1, slow), Section("two", 1, [Row("quick", dict)])]
    measure_all(sections, rows, seconds=SPARE_S + 6)
    assert "slow 0" in names(rows)
    assert "quick" in names(rows)  # "one" may take half of the six seconds
    assert names(rows).index("quick") < 3
    assert not rows.finished("one", "slow 3")


def test_the_table_has_a_line_for_every_row(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add("one", "a", {"ms": 1.23456, "top": ["x", "y"]})
    rows.add("one", "b", {"error": "1 | 2"})
    text = table(rows.all)
    assert "| a | 1.235 |  |" in text
    assert "| b |  | 1 / 2 |" in text
    assert "- a, top: x; y" in text


@pytest.mark.slow
def test_a_killed_program_keeps_its_rows_and_repeats_none(tmp_path):
    titles = "ceilings,attention,products,optimizer"
    command = [sys.executable, "tests/gpu/all.py", "--out", str(tmp_path), "--small"]
    command += ["--sections", titles]
    options = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    path = tmp_path / "rows.jsonl"
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    while not path.is_file() or len(path.read_bytes().splitlines()) < 3:
        assert program.poll() is None
        time.sleep(0.02)
    program.kill()
    program.wait()
    kept = Rows(path).all
    again = subprocess.run(command, capture_output=True, text=True, timeout=200, **options)
    assert again.returncode == 0, again.stderr[-2000:]
    rows = Rows(path)
    assert rows.all[: len(kept)] == kept
    assert len(set(names(rows))) == len(rows.all) > len(kept)
    assert {row["section"] for row in rows.all} == set(titles.split(","))
    assert not [row for row in rows.all if "error" in row]
    assert all(row["name"] in again.stdout for row in rows.all)  # the table is the last it prints
    assert (tmp_path / "table.md").read_text() in again.stdout
