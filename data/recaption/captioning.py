"""Captions many clips concurrently, within a budget; it may be killed and resumed at any time."""

import asyncio
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from cascade.media.reason import DecodeError
from data.recaption.budget import Budget, CaptionTally
from data.recaption.choice import Only, choose_clips
from data.recaption.clip_images import Pictures
from data.recaption.ledger import Usage
from data.recaption.model import BusyError, HopelessError, Model, RejectedError, TroubleError
from data.recaption.request import BadAnswerError
from data.recaption.shardwork import Question, Recipes, ShardWork

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often and how long a failed request is retried.

    `attempts` and `queue_s` are per request; after `give_up_after` failures in a row the run ends.
    """

    attempts: int = 5
    queue_s: float = 900.0
    give_up_after: int = 32


class Captioner:
    """Requests captions for all clips of some shards that have none yet."""

    def __init__(
        self,
        *,
        shards: Sequence[str],
        indices: Sequence[Path],
        recipes: Recipes,
        model: Model,
        pictures: Pictures,
        budget: Budget,
        patience: Patience,
        concurrency: int = 16,
        replace: bool = False,
        only: Only | None = None,
    ) -> None:
        self.pairs = list(zip(shards, indices, strict=True))
        self.recipes, self.model, self.pictures = recipes, model, pictures
        self.budget, self.patience = budget, patience
        self.concurrency, self.replace = concurrency, replace
        self.tally = CaptionTally()
        self.stopped: str = ""
        """Why it ended early, or ''."""
        self._error: ValueError | None = None
        self._interrupted = False
        self._open: dict[str, ShardWork] = {}
        self._asking = 0
        self._in_a_row = 0
        self._not_before = 0.0
        self._chosen = None if only is None else choose_clips(self.pairs, only)
        self._count()

    def work(self, shard: str, index: Path, *, adding: bool = False) -> ShardWork:
        """The work on one of the shards."""
        return ShardWork(
            shard,
            index,
            self.recipes,
            model=self.model.name,
            replace=self.replace,
            adding=adding,
            chosen=None if self._chosen is None else self._chosen[shard],
        )

    def _count(self) -> None:
        """Count existing captions, remaining requests and cost, before the first request."""
        for recipe in self.recipes:
            self.tally.used[recipe] = Usage()
        for shard, index in self.pairs:
            work = self.work(shard, index, adding=False)
            for recipe, used in work.usage().items():
                self.tally.used[recipe] += used
                self.tally.answered[recipe] += len(work.ledger.captions.get(recipe, {}))
            self.tally.left.update(work.count())

    def _tasks(self) -> Iterator[Question]:
        """All remaining requests, shard by shard; a shard is closed after its last one."""
        clips: set[tuple[str, str]] = set()
        for shard, index in self.pairs:
            work = self.work(shard, index, adding=True)
            tasks = list(work.tasks())
            work.left = len(tasks)
            if not tasks:
                work.close()
                continue
            self._open[shard] = work
            for task in tasks:
                clips.add((shard, task.row["key"]))
                if self.budget.limit is not None and len(clips) > self.budget.limit:
                    self.stopped = f"limit={self.budget.limit} clips is reached"
                    return
                yield task

    async def run(self, progress: Progress) -> None:
        """Caption all clips; received answers are written even after an error.

        Raises:
            ValueError: the model rejects all requests, many requests in a row failed, or the
                estimated cost exceeds the budget.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        for number in _STOPPING:
            loop.add_signal_handler(number, self._stop, task)
        try:
            bar = progress.add_task("requests", total=sum(self.tally.left.values()))
            tasks = self._tasks()
            if any(self.tally.answered[r] < self.budget.estimate_from for r in self.recipes):
                first = self.budget.estimate_from * len(self.recipes)
                await self._ask_all(islice(tasks, first), progress, bar)
            self._check_estimate(progress)
            await self._ask_all(tasks, progress, bar)
        finally:
            for number in _STOPPING:
                loop.remove_signal_handler(number)
            for work in list(self._open.values()):
                work.close()
            self._open.clear()
            self.pictures.close()
            await self.model.close()
        if self._error is not None:
            raise self._error

    def _stop(self, task: asyncio.Task[Any]) -> None:
        """Handle a signal: wait for running requests; at the second signal cancel them."""
        if self._interrupted:
            task.cancel()
        self._interrupted, self.stopped = True, "interrupted"

    def _check_estimate(self, progress: Progress) -> None:
        left = sum(self.tally.left.values())
        if self._error is not None or self.stopped or not left:
            return
        cost, prompt, completion = self.tally.estimate(self.budget.prices)
        spent, most = self.tally.cost(self.budget.prices), self.budget.max_cost
        progress.console.print(
            f"estimate for {left:,} remaining requests: {prompt:,.0f} prompt and "
            f"{completion:,.0f} completion tokens, cost {cost:.4g}; spent so far {spent:.4g}"
        )
        if most is not None and spent + cost > most and self.budget.limit is None:
            raise ValueError(
                f"captions: the estimated cost {spent + cost:.4g} exceeds max_cost={most:g}; raise "
                "it, or caption fewer clips with limit=…"
            )

    async def _ask_all(self, tasks: Iterator[Question], progress: Progress, bar: TaskID) -> None:
        async def worker() -> None:
            while not self._over() and (task := self._next(tasks)) is not None:
                self._asking += 1
                await self._ask(task)
                self._asking -= 1
                progress.advance(bar)
                self._finish(task)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(worker())

    def _next(self, tasks: Iterator[Question]) -> Question | None:
        try:
            return next(tasks, None)
        except ValueError as error:  # a shard that another process captions
            self._error = error
            return None

    def _over(self) -> bool:
        """Whether no more requests are to be made."""
        if self._error is not None:
            return True
        if self._in_a_row >= self.patience.give_up_after:
            reason = self.tally.failed.most_common(1)[0][0]
            self._error = HopelessError(
                f"captions: {self._in_a_row} requests in a row failed, most often because: "
                f"{reason}; repair the server, then run the same command again to continue"
            )
            return True
        most = self.budget.max_cost
        if most is not None:
            prices = self.budget.prices
            highest = max(self.tally.mean_cost(r, prices) for r in self.recipes)
            if self.tally.cost(prices) + (self._asking + 1) * highest > most:
                self.stopped = f"max_cost={most:g} is reached"
        return bool(self.stopped)

    def _finish(self, task: Question) -> None:
        self.tally.left[task.recipe] -= 1
        task.work.left -= 1
        if not task.work.left:
            self._open.pop(task.work.shard).close()

    async def _ask(self, task: Question) -> None:
        """Send one request, with retries; its captions or its failure go to the ledger."""
        key, ledger = task.row["key"], task.work.ledger
        try:
            pictures = await self.pictures(task.work.shard, task.row)
            prompt = task.prompt(len(pictures))
        except (DecodeError, OSError, ValueError) as error:
            self._fail(task, f"{type(error).__name__}: {error}", ours=True)
            return
        attempts, waited, wait, reason = 0, 0.0, _FIRST_WAIT_S, ""
        while attempts < self.patience.attempts and waited < self.patience.queue_s:
            if self._error is not None or self._interrupted:
                return
            waited += await self._turn()
            asked: float | None = None
            try:
                answer = await self.model.ask(prompt, pictures, task.request.schema())
                self.tally.used[task.recipe] += answer.usage
                try:
                    captions = task.request.parse(answer.text)
                except BadAnswerError as error:
                    ledger.add(task.recipe, key, usage=answer.usage, bad=str(error))
                    reason, attempts = str(error), attempts + 1
                else:
                    ledger.add(task.recipe, key, usage=answer.usage, captions=captions)
                    self.tally.captioned += 1
                    self.tally.answered[task.recipe] += 1
                    self._in_a_row = 0
                    return
            except BusyError as error:
                reason, asked = str(error), error.wait_s
                self._hold_all(asked or wait)
            except TroubleError as error:
                reason, asked, attempts = str(error), error.wait_s, attempts + 1
            except RejectedError as error:
                self._fail(task, str(error))
                return
            except HopelessError as error:
                self._error = self._error or error
                return
            self.tally.retried[reason] += 1
            pause = max(asked or 0.0, wait * random.uniform(0.5, 1.0))
            wait, waited = min(2 * wait, _LONGEST_WAIT_S), waited + pause
            await asyncio.sleep(pause)
        self._fail(task, reason)

    def _fail(self, task: Question, reason: str, *, ours: bool = False) -> None:
        task.work.ledger.add(task.recipe, task.row["key"], failed=reason)
        self.tally.failed[reason] += 1
        self._in_a_row += not ours

    def _hold_all(self, wait_s: float) -> None:
        """Pause all requests, because the server is busy."""
        now = asyncio.get_running_loop().time()
        self._not_before = max(self._not_before, now + wait_s)

    async def _turn(self) -> float:
        """Wait until requests are allowed; return the seconds waited."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        while (left := self._not_before - clock()) > 0:
            await asyncio.sleep(left + random.uniform(0, 0.1 * left))
        return clock() - begun
