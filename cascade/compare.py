"""Compare several runs: `python -m cascade.compare runs='runs/demo/base/*'`.

`runs` lists folders, globs, a sweep's folder, W&B's own folders, or `wandb:entity/project[/group]`.
The command prints one table and writes a page; `report=true` also saves a report on W&B.
"""

import logging
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from cascade.comparison.compare_page import write_page
from cascade.comparison.find import find
from cascade.comparison.table import as_text
from cascade.comparison.wandb_report import write_report
from cascade.entry import command

log = logging.getLogger(__name__)


def compare(cfg: DictConfig) -> Path:
    """Read the runs, print the table, write the page; returns the page's path."""
    with tempfile.TemporaryDirectory(prefix="cascade-compare-") as scratch:
        records = find(str(cfg.runs), scratch=Path(scratch))
        title = cfg.title or str(cfg.runs)
        log.info("%s", as_text(records, cfg.figures))
        page = write_page(
            records,
            Path(cfg.page),
            title=title,
            figures=cfg.figures,
            curves=cfg.curves,
            prompts=cfg.prompts,
        )
        log.info("page: %s", page)
        if cfg.report:
            url = write_report(records, title=title, figures=cfg.figures, curves=cfg.curves)
            log.info("report: %s", url)
    return page


@command("compare")
def main(cfg: DictConfig) -> None:
    """The command line."""
    compare(cfg)


if __name__ == "__main__":
    main()
