"""A run's metrics as rows of a CSV file that stays readable whenever the process is killed."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from cascade.files.atomic import replacing


class AtomicCSVLogger(CSVLogger):
    """Lightning's CSV logger, which replaces the file atomically when a new column is added."""

    @property
    @rank_zero_only
    def experiment(self) -> "CSVWriter":
        """The writer of the file, created at first use."""
        if self._experiment is None:
            Path(self.root_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = CSVWriter(log_dir=self.log_dir)
        assert isinstance(self._experiment, CSVWriter)
        return self._experiment


class CSVWriter(ExperimentWriter):
    """Appends rows; a new column rewrites the file next to itself, then replaces it."""

    def _record_new_keys(self) -> set[str]:
        new = super()._record_new_keys()
        self.metrics_keys.sort(key=lambda name: (name != "step", name))
        return new

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Rewrite the file with the new columns, atomically."""
        path = Path(self.metrics_file_path)
        with path.open(newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)
