"""Laws of the captioner against a server that fails: each clip once, nothing lost, all counted."""

import base64
import io
import json
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from data.index.sidecar import ensure_index
from data.shards.caption import captions_path, read_captions
from data.shards.store import find_shards
from tests import commands
from tests.commands import Command

CLIPS = 20


def made(folder: Path) -> dict[str, dict[str, str]]:
    """All captions in the files."""
    paths = [captions_path(index) for index in ensure_index(find_shards(folder))]
    return {key: value for path in paths for key, value in read_captions(path).items()}


def told_by_server(key: str) -> dict[str, str]:
    return {"long": f"A long caption of {key}, “quoted”.", "short": f"short {key}"}


def whole(keys) -> dict[str, dict[str, str]]:
    return {key: told_by_server(key) for key in keys}


KEYS = [f"clip_{i}" for i in range(CLIPS)]


def test_every_clip_is_captioned_once_and_counted(call, server, folder, tmp_path):
    server.behave = lambda key, nth: "slowly"
    told = call("shown=3", "timeout_s=30")  # the first request loads the client
    assert made(folder) == whole(KEYS)
    assert server.asked == dict.fromkeys(KEYS, 1)
    assert (told["clips"], told["captioned"], told["captioned_now"]) == (CLIPS, CLIPS, CLIPS)
    assert sum(told["unusable"].values()) == 1
    assert (told["prompt_tokens"], told["completion_tokens"]) == (1000 * CLIPS, 50 * CLIPS)
    assert told["cost"] == pytest.approx((1000 * 2 + 50 * 10) * CLIPS / 1e6)
    assert 2 <= server.most_at_once <= 4
    assert told["words"]["short"]["median"] == 2
    page = (tmp_path / "runs/captions/index.html").read_text()
    assert "A long caption of clip_0, “quoted”." in page
    assert "caption 0" in page
    again = call()
    assert server.asked == dict.fromkeys(KEYS, 1)
    assert (again["captioned"], again["captioned_now"], again["cost"]) == (20, 0, told["cost"])


def test_the_question_shows_small_frames_in_order_of_time_and_asks_for_a_schema(call, server):
    call("limit=1")
    body = server.bodies[0]
    text, *shown = body["messages"][0]["content"]
    assert text["text"].startswith("Clip <clip_0>: 3 frames of 1.0 s, 0. Was: caption 0")
    assert '"long": in full\n"short": in short' in text["text"]
    images = []
    for one in shown:
        kind, _, data = one["image_url"]["url"].partition(";base64,")
        assert kind == "data:image/jpeg"
        images.append(Image.open(io.BytesIO(base64.b64decode(data))))
    assert [image.size for image in images] == [(32, 26)] * 3
    greys = [image.convert("L").getpixel((28, 20)) for image in images]
    assert greys == pytest.approx([10, 40, 60], abs=10)  # of frames 1, 4 and 6: 10 each
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["long", "short"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny-vlm", 0.2, 600)


FAILURES = {
    "clip_0": "busy",
    "clip_1": "broken",
    "clip_2": "hung",
    "clip_3": "garbage",
    "clip_4": "empty",
    "clip_5": "gone",
    "clip_6": "half",
    "clip_7": "no_protocol",
    "clip_8": "trickling",
}


@pytest.mark.usefixtures("undecoded")
def test_failures_of_all_kinds_are_asked_again(call, server, folder):
    def behave(key: str, nth: int) -> str:
        if key == "clip_9":
            return "thinking"
        if key == "clip_10":
            return "slowly"
        if key == "clip_11":
            return "refused"
        if key == "clip_12":
            return "garbage"
        return FAILURES.get(key, "well") if nth == 0 else "well"

    server.behave = behave
    told = call("concurrency=8", "attempts=3")
    assert made(folder) == whole(k for k in KEYS if k not in ("clip_11", "clip_12"))
    assert set(server.well.values()) == {1}
    assert {key: server.asked[key] for key in FAILURES} == dict.fromkeys(FAILURES, 2)
    assert (server.asked["clip_11"], server.asked["clip_12"]) == (1, 3)
    reasons = told["failed"]
    assert reasons[f"clip_11 of {folder}/00000.tar"] == "400: picture too large"
    assert "no JSON object with long, short" in reasons[f"clip_12 of {folder}/00001.tar"]
    again = " ".join(told["retried"])
    for reason in (
        "429: slow",
        "500: out",
        "no answer in 1 s",
        "answer is empty",
        "short is empty",
    ):
        assert reason in again, (reason, again)
    # What the server billed is what was counted: bad answers too, one of them lost in a time-out.
    assert told["answers"] == server.billed
    assert told["prompt_tokens"] == 1000 * server.billed
    # The server that asked to wait a second was left alone by all.
    busy = next(at for at, _, how in server.at if how == "busy")
    after = min((at for at, _, _ in server.at if at > busy + 0.1), default=busy + 9)
    assert after - busy > 0.9
    # A later call asks about the failed ones alone.
    server.behave = lambda key, nth: "well"
    server.asked.clear()
    told = call()
    assert server.asked == {"clip_11": 1, "clip_12": 1}
    assert made(folder) == whole(KEYS)
    assert told["failed"] == {}


def command(overrides: list[str], *more: str) -> list[str]:
    return ["data.recaption", *overrides, *more]


@pytest.mark.slow
def test_killed_in_the_middle_no_clip_is_paid_twice_or_lost(overrides, server, folder, tmp_path):
    ensure_index(find_shards(folder))
    server.behave = lambda key, nth: "slowly" if nth else "broken" if key[-1] == "3" else "slowly"
    once = command(overrides, "concurrency=2")
    kills = 0
    for wanted in (3, 9, 15):
        process = Command(*once)
        while sum(server.well.values()) < wanted and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        time.sleep(0.3)  # the server ends what it was about
    assert kills == 3
    done = commands.run(*once, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert made(folder) == whole(KEYS)
    assert sum(server.well.values()) <= CLIPS + 2 * kills  # those in flight
    assert max(server.well.values()) <= 1 + kills
    told = json.loads((tmp_path / "runs/captions/captions.json").read_text())
    assert CLIPS <= told["answers"] <= server.billed
    assert not list(folder.glob(".*.captions.parquet"))


@pytest.mark.usefixtures("undecoded")
def test_ctrl_c_waits_for_what_was_asked(call, server, folder):
    def behave(key: str, nth: int) -> str:
        if server.asked.total() == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return "slowly"

    server.behave = behave
    told = call()
    assert told["stopped"] == "interrupted"
    assert 6 <= told["captioned"] == len(made(folder)) <= 10
    call()
    assert server.asked == dict.fromkeys(KEYS, 1)


def test_the_key_is_never_shown_and_a_wrong_one_ends_it_at_once(
    overrides, server, folder, tmp_path
):
    server.behave = lambda key, nth: "unknown"
    done = commands.run(*command(overrides), timeout=60)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1
    assert "error: captions: the endpoint rejects all requests: 401: wrong key: Bearer ***" in said
    assert server.asked.total() <= 4
    assert "sk-secret-key" not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not any(b"sk-secret-key" in path.read_bytes() for path in files)


@pytest.mark.usefixtures("undecoded")
def test_an_account_without_money_ends_it_at_once(call, server):
    server.behave = lambda key, nth: "unpaid"
    with pytest.raises(ValueError, match="rejects all requests: 429: pay first"):
        call()
    assert server.asked.total() <= 4


@pytest.mark.usefixtures("undecoded")
def test_a_server_that_is_down_ends_it_and_what_was_answered_is_kept(call, server, folder):
    server.behave = lambda key, nth: "well" if key in KEYS[:5] else "broken"
    with pytest.raises(ValueError, match=r"6 requests in a row .*500: out of memory; repair"):
        call("attempts=1", "give_up_after=6", "concurrency=1")
    assert made(folder) == whole(KEYS[:5])
    assert server.asked.total() == 11


@pytest.mark.usefixtures("undecoded")
def test_a_server_that_answers_nothing_is_an_error_with_its_reason(call, server, folder):
    server.behave = lambda key, nth: "broken"
    with pytest.raises(ValueError, match=r"none of 2 requests gave captions.*: 500: out of memory"):
        call("attempts=1", "limit=2")
    server.behave = lambda key, nth: "refused" if key == KEYS[0] else "well"
    assert len(call("attempts=1", "limit=2")["failed"]) == 1  # the others' answers count


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize(
    ("only", "asked"), [("missing", {"mute"}), ("shared", {"b", "c", "d"}), ("null", set("abcd"))]
)
def test_captions_can_be_made_for_some_clips_alone(
    call, server, folder, write_shard, make_clips, only, asked
):
    texts = {"a": "of a", "b": "the same", "c": "the same ", "d": "the same", "mute": None}
    samples = [
        {"__key__": key, "mp4": sample["mp4"], **({} if text is None else {"txt": text})}
        for (key, text), sample in zip(texts.items(), make_clips(5), strict=True)
    ]
    write_shard(folder / "00000.tar", samples[:2])
    write_shard(folder / "00001.tar", samples[2:])
    told = call(f"only={only}")
    assert {*server.asked} == {*asked} | ({"mute"} if only == "null" else set())
    assert told["captioned"] == told["clips"] == len(server.asked)


@pytest.mark.usefixtures("undecoded")
def test_the_limit_is_of_clips_in_a_call(call, server, folder):
    assert call("limit=7")["stopped"] == "limit=7 clips is reached"
    assert server.asked.total() == 7
    assert len(made(folder)) == 7
    call("limit=7")
    assert len(made(folder)) == 14
    assert call("limit=7")["stopped"] == ""
    assert server.asked == dict.fromkeys(KEYS, 1)


COST = (1000 * 2 + 50 * 10) / 1e6


@pytest.mark.usefixtures("undecoded")
def test_an_estimate_above_the_budget_stops_it_after_the_first_clips(call, server, folder):
    with pytest.raises(ValueError, match=r"the estimated cost 0\.05 exceeds max_cost=0.03"):
        call("max_cost=0.03", "estimate_from=2", "concurrency=2")
    assert server.asked.total() == 2
    assert len(made(folder)) == 2
    with pytest.raises(ValueError, match=r"the estimated cost 0\.05"):  # known now, not paid for
        call("max_cost=0.03", "estimate_from=2")
    assert server.asked.total() == 2


@pytest.mark.usefixtures("undecoded")
def test_the_budget_is_of_all_calls_and_not_passed(call, server, folder):
    for _ in range(3):
        told = call(f"max_cost={10.5 * COST}", "limit=8")
        assert told["cost"] <= 10.5 * COST
    assert server.asked.total() == 10
    assert told["stopped"].startswith("max_cost=")


def test_a_budget_without_prices_is_refused(call, tmp_path):
    (tmp_path / "runs/captions").mkdir(parents=True)
    (tmp_path / "runs/captions/captions.json").write_text("{}")
    with pytest.raises(ValueError, match="max_cost=.* needs prices"):
        call("max_cost=1", "prices.prompt=0", "prices.completion=0")


@pytest.mark.usefixtures("undecoded")
def test_captions_of_another_model_are_kept_unless_replaced(call, asking, folder):
    call("limit=4")
    with pytest.raises(ValueError, match=r"long was made by the model tiny-vlm .*but other .*repl"):
        call("model=other")
    more = asking("Clip <{key}> again", long="in full", short="in short")
    with pytest.raises(ValueError, match="by the model tiny-vlm"):
        call(more)
    call(more, "replace=true", "limit=2")
    assert list(made(folder)) == KEYS[:2]  # none of the others was made so
    call(more)
    assert made(folder) == whole(KEYS)


@pytest.mark.usefixtures("undecoded")
def test_other_names_join_those_that_are_there(call, asking, folder):
    call()
    with pytest.raises(ValueError, match="none of 1 requests gave captions"):
        call(asking("Clip <{key}>", short2="in short"), "attempts=1", "limit=1")
    assert made(folder) == whole(KEYS)  # the server does not know short2
    call(asking("Clip <{key}> in brief", short="anew"), "replace=true")
    assert made(folder) == whole(KEYS)


@pytest.mark.usefixtures("undecoded")
def test_two_requests_are_two_questions_per_clip(call, server, asking, folder):
    one, two = asking("Clip <{key}>, long", long="so"), asking("Clip <{key}>, short", short="so")
    told = call(one[:-1] + ", " + two.removeprefix("requests=["))
    assert server.asked == dict.fromkeys(KEYS, 2)
    assert made(folder) == whole(KEYS)
    assert (told["answers"], told["captioned"]) == (40, 20)


@pytest.mark.usefixtures("undecoded")
def test_a_shard_is_captioned_by_one_process(call, folder):
    import fcntl

    ensure_index(find_shards(folder))
    with (folder / ".00000.captions.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is captioning this shard"):
            call()


@pytest.mark.usefixtures("undecoded")
def test_a_line_cut_by_a_kill_is_asked_again_and_no_other(call, server, folder):
    call("limit=5", "concurrency=1")
    ledger = folder / ".00000.captions.jsonl"
    os.truncate(ledger, ledger.stat().st_size - 3)
    (folder / "00000.captions.parquet").unlink()
    call()
    assert server.asked == dict.fromkeys(KEYS, 1) | {"clip_4": 2}
    assert made(folder) == whole(KEYS)
