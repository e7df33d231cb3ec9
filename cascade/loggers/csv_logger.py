"""The figures of a run's leg as rows of a CSV file that a kill at any moment leaves readable."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from cascade.files.atomic import replacing


class AtomicCSVLogger(CSVLogger):
    """Lightning's CSV logger; a column that comes later never puts the file at risk."""

    @property
    @rank_zero_only
    def experiment(self) -> "CSVWriter":
        """What writes the file, made when it is first asked for."""
        if self._experiment is None:
            Path(self.root_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = CSVWriter(log_dir=self.log_dir)
        assert isinstance(self._experiment, CSVWriter)
        return self._experiment


class CSVWriter(ExperimentWriter):
    """Appends rows; where a new column comes, the file is written anew beside itself."""

    def _record_new_keys(self) -> set[str]:
        new = super()._record_new_keys()
        self.metrics_keys.sort(key=lambda name: (name != "step", name))
        return new

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """The file as it was, with further columns; whole, or the old one."""
        path = Path(self.metrics_file_path)
        with path.open(newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)
