"""Prove a trained run: `python -m cascade.prove stage=demo/tsr1`.

It checks eight claims (cascade/proof/claims.py), each with a figure and a tolerance, and writes a
page and JSON into `prove/` in the run's folder; nothing else there changes. The exit status is 0 if
all claims hold, 1 if one fails, and 2 if none fails but one could not be checked, or if there is no
trained run.
"""

import copy
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cascade.checkpoint.checkpoint_folder import manifests
from cascade.checkpoint.origin import commit, device
from cascade.entry import check_choices, check_name, command, explained
from cascade.files.atomic import write_atomic
from cascade.proof import proof_page
from cascade.proof.claims import check_claims
from cascade.proof.found import STATUS, Proof
from cascade.proof.subject import ProofSettings, config_of, find, open_run
from cascade.shrink import resolved

#: The overrides that are allowed; a run is checked with the config that it was trained with.
USED = ("stage", "name", "data", "prove", "paths", "hydra", "seed")

#: The loggers whose information messages are hidden.
NOISY = ("data", "pytorch_lightning", "lightning_fabric", "HYDRA")


def prove(config: dict[str, Any], run: Path, *, stage: str, overrides: Sequence[str]) -> Proof:
    """The proof of the run in a folder.

    Raises:
        ValueError: there is no trained run, or it cannot be opened.
    """
    train = (
        f"make train STAGE={Path(stage).name} CASCADE={Path(stage).parent} NAME={config['name']}"
    )
    card = find(run, train=train)
    settings = ProofSettings(**{k: v for k, v in config["prove"].items() if k != "only"})
    own = config_of(run, config, manifests(run))
    own["data"] = with_overrides(own["data"], config["data"], overrides)
    subject = open_run(run, own, card, settings)
    facts = {
        "run": str(run),
        "trained for": f"{card['steps']} steps",
        "trained at commit": str(card.get("commit")),
        "checked at commit": str(commit() or "outside git"),
        "on": device(subject.device),
    }
    proof = Proof(stage=stage, run=config["name"], facts=facts)
    try:
        for result in check_claims(subject, only=tuple(config["prove"]["only"])):
            proof.results.append(result)
    finally:
        if subject.data is not None:
            subject.data.teardown()
    return proof


def with_overrides(
    own: Mapping[str, Any], composed: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """The run's data config with the command line's overrides of `data`.

    For instance, its shards may have another path on this machine.
    """
    data: Any = OmegaConf.create(copy.deepcopy(dict(own)))
    other: Any = OmegaConf.create(dict(composed))
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key == "data":
            data.shards = composed["shards"]
        elif key.startswith("data."):
            inner = key.removeprefix("data.")
            OmegaConf.update(data, inner, OmegaConf.select(other, inner))
    plain = OmegaConf.to_container(data)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def check_overrides(overrides: Sequence[str]) -> None:
    """Check that a proof uses all overrides.

    Raises:
        ValueError: it would ignore some, which the message names.
    """
    keys = [one.partition("=")[0].lstrip("+~").rpartition("@")[2] for one in overrides]
    unused = [key for key in keys if key.partition(".")[0] not in USED or key.startswith("stage.")]
    if unused:
        raise ValueError(
            f"prove: {', '.join(unused)} cannot be set: a run is checked with the config that it "
            "was trained with; only stage, name, data, paths, seed and prove.… can be set"
        )


def write(proof: Proof, folder: Path) -> Path:
    """Write `prove.json` and the page beside it; the path of the page."""
    text = json.dumps(proof.to_json(), indent=2, ensure_ascii=False)
    write_atomic(folder / "prove.json", text.encode())
    return proof_page.write(proof, folder / "index.html")


@command("prove")
def main(cfg: DictConfig) -> None:
    """The command line."""
    try:
        with explained():
            for noisy in NOISY:
                logging.getLogger(noisy).setLevel(logging.WARNING)
            check_name(cfg.name)
            overrides = list(HydraConfig.get().overrides.task)
            check_overrides(overrides)
            stage = HydraConfig.get().runtime.choices["stage"]
            run = Path(cfg.paths.runs) / stage / cfg.name
            proof = prove(resolved(cfg), run, stage=stage, overrides=overrides)
            path = write(proof, Path(cfg.prove.out or run / "prove"))
    except SystemExit as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(STATUS["not checked"]) from error
    proof_page.show(proof, path)
    raise SystemExit(proof.status)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
