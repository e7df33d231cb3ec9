"""The command line: `python -m data.recaption shards=… endpoint=… model=…`; again: it goes on."""

import asyncio
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cascade.entry import CONF, explained
from data.decode.sandbox import cores
from data.index.sidecar import ensure_index
from data.recaption.budget import Budget
from data.recaption.captioning import Captioner, Patience
from data.recaption.clip_images import Pictures
from data.recaption.local_model import LocalModel
from data.recaption.model import Endpoint, Model
from data.recaption.report import summary, write_report
from data.recaption.request import Request
from data.shards.store import find_shards

#: What shapes the answers, beside the model and the request itself.
SHAPING = ("options", "structured", "frames", "side", "quality")


def open_model(config: dict[str, Any]) -> Model:
    """The model that a config names.

    Raises:
        ValueError: it names no endpoint, or the model does not load.
    """
    name, endpoint = config["model"], config["endpoint"]
    if not endpoint:
        raise ValueError(
            "captions: no endpoint; give one, such as endpoint=http://localhost:8000/v1, or set "
            "OPENAI_BASE_URL, or say endpoint=local for a model in a folder"
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
        ValueError: two of them ask for a caption of one name.
    """
    requests = [Request(**one) for one in config["requests"]]
    names = [name for request in requests for name in request.captions]
    if len(names) != len(set(names)) or not names:
        raise ValueError(f"captions: every name must be asked for once, got {names}")
    made_by = {name: config[name] for name in ("model", *SHAPING)}
    return {request.recipe(made_by): request for request in requests}


def recaption(config: dict[str, Any], console: Console) -> Captioner:
    """Caption what a config asks for; its report is written however it ends."""
    if config["max_cost"] is not None and not any(config["prices"].values()):
        raise ValueError("captions: max_cost needs prices; set prices.prompt, prices.completion")
    asked, shards = recipes(config), find_shards(config["shards"])
    model = open_model(config)
    index_dir = None if config["index_dir"] is None else Path(config["index_dir"])
    indices = ensure_index(shards, index_dir=index_dir, cache_dir=Path(config["cache_dir"]))
    concurrency = config["concurrency"]
    job = Captioner(
        shards=shards,
        indices=indices,
        recipes=asked,
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
    )
    where = (
        "this machine" if config["endpoint"] == "local" else urlsplit(config["endpoint"]).hostname
    )
    left, before = sum(job.tally.left.values()), sum(job.tally.answered.values())
    console.print(
        f"{left:,} questions for {model.name} at {where} about the clips of {len(shards)} shards; "
        f"{before:,} answered before"
    )
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            asyncio.run(job.run(progress))
    finally:
        told = summary(job)
        write_report(job, told, Path(config["page"]), shown=config["shown"])
        console.print(
            f"{told['captioned']:,} of {told['clips']:,} clips captioned, {len(told['failed']):,} "
            f"failed, {sum(told['unfit'].values()):,} unfit; {told['prompt_tokens']:,} prompt and "
            f"{told['completion_tokens']:,} completion tokens in {told['answers']:,} answers, cost "
            f"{told['cost']:.4g}; {config['page']}"
        )
        if told["unmetered_answers"]:
            console.print(f"{told['unmetered_answers']:,} answers came without their tokens")
        if told["stopped"]:
            console.print(f"stopped: {told['stopped']}; the same command goes on")
    return job


@hydra.main(version_base="1.3", config_path=CONF, config_name="captions")
@explained()
def main(cfg: DictConfig) -> None:
    """The command line."""
    for noisy in ("httpx", "httpx2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    try:
        recaption({str(name): value for name, value in config.items()}, Console())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit("stopped; the same command goes on") from None


if __name__ == "__main__":
    main()
