"""Runs as jobs of two nodes: after any interruption, their losses equal an uninterrupted run's."""

import os
import subprocess

import pytest

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("alone_on_the_cluster"),
]
#: Two nodes with two ranks each; one rank.
FOUR = ("cluster.nodes=2", "cluster.ranks=2")
ONE = ("cluster.nodes=1", "cluster.ranks=1", "trainer.strategy=auto")
PREEMPTIONS = int(os.environ.get("CASCADE_PREEMPTIONS", "1"))
STEPS = max(40, 16 * PREEMPTIONS)


def pace(seconds):
    return f"+callbacks.pace={{_target_:trouble.Pace,sleep_s:{seconds}}}"


@pytest.fixture(scope="module", autouse=True)
def limited(runs):
    """A run that needs more than its job's two minutes, submitted twice, next to all others."""
    late = "+cluster.parameters={signal: CONT@1, nodelist: n1}"  # no notice in time from Slurm
    limit = ("cluster.minutes=2", "cluster.notice_s=30", "callbacks.interrupt.spare_s=8")
    first = "callbacks.interrupt.first_save_s=1"
    asked = (*ONE, late, *limit, first, pace(3))
    runs.submit("limited", *asked, steps=40)
    return runs.submit("limited", *asked, steps=40)


@pytest.fixture(scope="module")
def whole(runs):
    """The losses of an uninterrupted run."""
    runs.submit("whole", *FOUR, steps=STEPS)
    runs.until_trained("whole", timeout_s=900 + 2 * STEPS)
    assert len(runs.losses("whole")) == STEPS
    return runs.losses("whole")


def test_a_preempted_crashed_and_hung_run_has_the_losses_of_an_uninterrupted_one(runs, whole):
    hang = f"+callbacks.hang={{_target_:trouble.Hang,step:{STEPS - 3},rank:3}}"
    watch = ("callbacks.watchdog.hang_s=30", "callbacks.watchdog.others_s=3")
    often = "callbacks.checkpoint.every_n_steps=1000"
    low = ("cluster.partition=low", "cluster.stuck=10")
    runs.submit("broken", *FOUR, pace(0.3), hang, *watch, *low, often, steps=STEPS)

    def begun():
        return runs.log("broken").count("GLOBAL_RANK: 0")

    saved = [0]
    for number in range(PREEMPTIONS):  # each is a stop at a step, which is saved
        runs.until(lambda n=number: begun() > n and len(runs.losses("broken")) > saved[-1])
        runs.preempt()
        saved.append(runs.saved("broken"))
    assert saved == sorted(set(saved))
    assert runs.legs("broken") == PREEMPTIONS
    runs.until(lambda: begun() > PREEMPTIONS and len(runs.losses("broken")) > saved[-1])
    runs.crash("n2")
    runs.until_trained("broken", timeout_s=900 + 2 * STEPS)
    assert runs.legs("broken") == PREEMPTIONS + 2  # for the node, and for the rank that hung
    stacks = sorted(runs.run("broken").glob(f"stacks/{runs.job('broken')}-*.txt"))
    assert [path.stem[-5:] for path in stacks] == ["rank0", "rank1", "rank2", "rank3"]
    assert "trouble.py" in stacks[-1].read_text()
    assert runs.losses("broken") == whole


def test_a_cancelled_job_saves_and_stays_cancelled(runs):
    runs.submit("cancelled", *ONE, pace(0.3), "callbacks.checkpoint.every_n_steps=1000")
    runs.until(lambda: len(runs.losses("cancelled")) > 1)
    subprocess.run(["scancel", runs.job("cancelled")], check=True)
    runs.until(lambda: runs.state("cancelled") == "CANCELLED")
    assert runs.saved("cancelled") > 1
    assert runs.legs("cancelled") == 0


def test_a_signal_in_a_validation_does_not_wait_for_its_end(runs):
    long = "+callbacks.long={_target_:trouble.LongValidation}"
    runs.submit("validating", *ONE, long, "trainer.val_check_interval=5", steps=10)
    runs.until(lambda: runs.run("validating").joinpath("validating").exists())
    subprocess.run(["scancel", "--signal=USR2", runs.job("validating")], check=True)
    runs.until_trained("validating")
    assert runs.legs("validating") == 1
    assert [step for step, _ in runs.losses("validating")] == list(range(10))


def test_of_four_runs_of_a_sweep_one_fails_and_the_others_are_trained(runs):
    """Each run has its own folder, named by its override."""
    fails = "+callbacks.fail={_target_:trouble.Fail,step:3,rank:0}"
    output = runs.submit(
        *("seeds", *ONE, fails, "callbacks.fail.step=3,100,101,102"),
        *("hydra.sweep.subdir='demo/base/seeds/${callbacks.fail.step}'",),
        *("hydra.launcher.wait=true",),
        steps=6,
        check=False,
    )
    folders = {path.parent.name for path in runs.run("seeds").glob("*/bundle")}
    assert folders == {"100", "101", "102"}
    assert runs.state("seeds/3") == "FAILED"
    assert f"job {runs.job('seeds/3')} ended FAILED" in output


def test_a_run_stops_and_is_requeued_before_its_time_limit(runs, limited):
    """Submitting it again finds the job in the queue."""
    assert f"job {runs.job('limited')} already trains this run" in limited
    runs.submit("unlimited", *ONE, steps=40)
    runs.until_trained("unlimited")
    assert "trained" in runs.submit("unlimited", *ONE, steps=40)
    runs.until_trained("limited")
    assert "the job ends in" in runs.log("limited")
    assert runs.legs("limited") >= 1
    assert runs.losses("limited") == runs.losses("unlimited")
