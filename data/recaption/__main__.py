"""The command line: `python -m data.recaption shards=… endpoint=… model=…`; it can be resumed."""

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from cascade.cores import cores
from cascade.entry import command
from cascade.progress import SteadyProgress
from data.index.sidecar import ensure_index
from data.recaption.budget import Budget
from data.recaption.captioning import Captioner, Patience
from data.recaption.clip_images import Pictures
from data.recaption.local_model import LocalModel
from data.recaption.model import Endpoint, Model
from data.recaption.report import summary, write_report
from data.recaption.request import Request
from data.shards.store import find_shards

_REASONS = 5  # of failures, on the console

#: Settings that influence the answers, besides the model and the request.
SHAPING = ("options", "structured", "frames", "side", "quality")


def open_model(config: dict[str, Any]) -> Model:
    """The model of a config.

    Raises:
        ValueError: there is no endpoint, or the model cannot be loaded.
    """
    name, endpoint = config["model"], config["endpoint"]
    if not endpoint:
        raise ValueError(
            "captions: an endpoint is required, such as endpoint=http://localhost:8000/v1; or set "
            "OPENAI_BASE_URL, or endpoint=local for a model in a folder"
        )
    if endpoint == "local":
        device = config["device"]
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return LocalModel(
            model=name, download=config["download"], device=device, options=config["options"]
        )
    return Endpoint(
        url=endpoint,
        model=name,
        api_key=config["api_key"] or "",
        timeout_s=config["timeout_s"],
        structured=config["structured"],
        options=config["options"],
    )


def recipes(config: dict[str, Any]) -> dict[str, Request]:
    """The requests of a config by their recipes.

    Raises:
        ValueError: two of them request a caption of the same name, or none requests any.
    """
    requests = [Request(**one) for one in config["requests"]]
    names = [name for request in requests for name in request.captions]
    if len(names) != len(set(names)) or not names:
        raise ValueError(f"captions: each name must be requested exactly once, got {names}")
    made_by = {name: config[name] for name in ("model", *SHAPING)}
    return {request.recipe(made_by): request for request in requests}


def recaption(config: dict[str, Any], console: Console) -> Captioner:
    """Make the captions of a config; the report is written even after an error."""
    if config["max_cost"] is not None and not any(config["prices"].values()):
        raise ValueError(
            f"captions: max_cost={config['max_cost']} needs prices, but they are 0; set "
            "prices.prompt and prices.completion"
        )
    requests, shards = recipes(config), find_shards(config["shards"])
    model = open_model(config)
    index_dir = None if config["index_dir"] is None else Path(config["index_dir"])
    indices = ensure_index(shards, index_dir=index_dir, cache_dir=Path(config["cache_dir"]))
    concurrency = config["concurrency"]
    captioner = Captioner(
        shards=shards,
        indices=indices,
        recipes=requests,
        model=model,
        pictures=Pictures(
            count=config["frames"],
            side=config["side"],
            quality=config["quality"],
            decoders=min(concurrency, cores()),
        ),
        budget=Budget(
            **{name: config[name] for name in ("prices", "max_cost", "limit", "estimate_from")}
        ),
        patience=Patience(
            attempts=config["attempts"],
            queue_s=config["patience_s"],
            give_up_after=config["give_up_after"],
        ),
        concurrency=concurrency,
        replace=config["replace"],
        only=config["only"],
    )
    where = (
        "this machine" if config["endpoint"] == "local" else urlsplit(config["endpoint"]).hostname
    )
    left, before = sum(captioner.tally.left.values()), sum(captioner.tally.answered.values())
    console.print(
        f"{left:,} requests to {model.name} at {where} for the clips of {len(shards)} shards; "
        f"{before:,} answered before"
    )
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        TimeRemainingColumn(),
    )
    try:
        with SteadyProgress(*columns, console=console) as progress:
            asyncio.run(captioner.run(progress))
    finally:
        figures = summary(captioner)
        write_report(captioner, figures, Path(config["page"]), shown=config["shown"])
        console.print(
            f"{figures['captioned']:,} of {figures['clips']:,} clips captioned, "
            f"{len(figures['failed']):,} failed, {sum(figures['unusable'].values()):,} unusable; "
            f"{figures['prompt_tokens']:,} prompt and {figures['completion_tokens']:,} completion "
            f"tokens in {figures['answers']:,} answers, cost {figures['cost']:.4g}; "
            f"{config['page']}"
        )
        if figures["unmetered_answers"]:
            console.print(
                f"{figures['unmetered_answers']:,} answers did not report their token counts"
            )
        for reason, count in Counter(figures["failed"].values()).most_common(_REASONS):
            console.print(f"{count:,} failed: {reason}", markup=False)
        if figures["stopped"]:
            console.print(f"stopped: {figures['stopped']}; run the same command again to continue")
    if captioner.tally.failed and not captioner.tally.captioned:
        reason = captioner.tally.failed.most_common(1)[0][0]
        raise ValueError(
            f"captions: none of {captioner.tally.failed.total():,} requests gave captions, "
            f"most often because: {reason}; repair {where} or choose another model, then run the "
            "same command again to continue"
        )
    return captioner


@command("captions")
def main(cfg: DictConfig) -> None:
    """The command line."""
    for noisy in ("httpx", "httpx2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    try:
        recaption({str(name): value for name, value in config.items()}, Console())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit("stopped; run the same command again to continue") from None


if __name__ == "__main__":
    main()
