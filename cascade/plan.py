"""Plan a run before its first step: `python -m cascade.plan stage=demo/base`.

The plan has the run's clips, batches, tokens, parameters, FLOPs, memory, time and files, and errors
and warnings with their way out. It prints a short table, and writes `plan.json` and `index.html` to
`plan/` in the run's folder. Every figure says whether it is measured, counted or estimated. The
exit status is 1 if the run could not start or could not finish.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from cascade.checkpoint.finished import is_finished
from cascade.checkpoint.origin import commit
from cascade.composed_chain import check_neighbours
from cascade.doctor import plan_page
from cascade.doctor.checkup import checkup
from cascade.doctor.findings import Findings
from cascade.doctor.past import add_past
from cascade.entry import check_choices, check_name, command
from cascade.files.atomic import write_atomic
from cascade.opening import open_data
from cascade.shrink import resolved


def survey_data(config: dict[str, Any], record: Findings) -> tuple[Any, Any]:
    """The data module of a config and its survey; both None, with an error, if it refuses."""
    if not config["plan"]["data"] or not config.get("data"):
        return None, None
    data = None
    try:
        loading = config["data"].get("loading")
        alone = config["data"] | ({"loading": loading | {"num_workers": 0}} if loading else {})
        stage = hydra.utils.instantiate(config["stage"], _convert_="all")
        data = open_data({"data": alone}, stage)
        data.prepare_data()
        data.setup("fit")
        return data, data.survey()
    except (ValueError, FileNotFoundError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        record.advise("error", f"data: {cause or error}".replace("data: data", "data"))
        dropped = getattr(getattr(data, "chosen", None), "dropped", {})
        record.dropped = {str(k): int(v) for k, v in dropped.items()}
        return None, None


def check_run(run: Path, config: dict[str, Any], data: Any) -> None:
    """Refuse a config or data with which a run that has trained could not go on.

    Raises:
        ValueError: with what differs, and the ways out.
    """
    if not (run / "config.json").is_file():
        return
    # They import Lightning, in seconds.
    from cascade.checkpoint.checkpoint_folder import manifests
    from cascade.checkpoint.run_config import check_config

    own = {name: value for name, value in config.items() if name != "plan"}
    check_config(run, own)
    saved = manifests(run)
    if data is not None and saved and not is_finished(run, config):
        data.load_state_dict({"quarantine": [], **saved[0].data})


def plan(config: dict[str, Any], *, stage: str, run: Path) -> Findings:
    """The plan of the run in folder `run` that a config describes."""
    record = Findings(stage=stage, facts={"run": run.name, "commit": commit() or "outside git"})
    data, survey = survey_data(config, record)
    try:
        for check in (partial(check_neighbours, stage), partial(check_run, run, config, data)):
            try:
                check()
            except ValueError as error:
                record.advise("error", str(error))
        checkup(record, config, data, survey)
        add_past(record, run)
    finally:
        if data is not None:
            data.teardown("fit")
    return record


def write(record: Findings, folder: Path) -> Path:
    """Write `plan.json` and the page beside it from the same figures."""
    text = json.dumps(record.plain(), indent=2, ensure_ascii=False)
    write_atomic(folder / "plan.json", text.encode())
    return plan_page.write(record, folder / "index.html")


@command("plan")
def main(cfg: DictConfig) -> None:
    """The command line."""
    check_name(cfg.name)
    config = resolved(cfg)
    stage = HydraConfig.get().runtime.choices["stage"]
    run = Path(cfg.paths.runs) / stage / cfg.name
    record = plan(config, stage=stage, run=run)
    path = write(record, Path(cfg.plan.out or run / "plan"))
    if cfg.plan.json:
        sys.stdout.write(json.dumps(record.plain(), indent=2, ensure_ascii=False) + "\n")
    else:
        plan_page.show(record, path)
    if record.errors:
        raise SystemExit(1)


if __name__ == "__main__":
    check_choices(sys.argv[1:])
    main()
