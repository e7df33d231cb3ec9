"""An Optuna search, stored in the sweep's folder: running it again resumes the same study."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import read_write
from optuna.trial import Trial, TrialState

from cascade.launch.label import named

log = logging.getLogger(__name__)


class OptunaSearch(OptunaSweeperImpl):
    """The sweeper of hydra-optuna-sweeper, with named runs and a study that can be resumed.

    Trials that failed or were interrupted are repeated with the same values, so that their runs
    resume; finished trials count towards `n_trials`.
    """

    config: Any
    study_name: str | None
    storage: Any
    n_trials: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, search_space=None, custom_search_space=None)

    def sweep(self, arguments: list[str]) -> None:
        """Run the missing trials.

        Raises:
            SystemExit: no run has finished.
        """
        HydraConfig.instance().set_config(self.config)
        folder = Path(self.config.hydra.run.dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.config = copy.deepcopy(self.config)
        with read_write(self.config.hydra.sweep):
            self.config.hydra.sweep.dir = str(folder)  # for the results; the launcher has its own
        self.study_name = self.study_name or self.config.name
        self.storage = self.storage or f"sqlite:///{folder}/optuna.db"
        study = optuna.create_study(
            study_name=self.study_name,
            storage=self.storage,
            directions=self._get_directions(),
            load_if_exists=True,
        )
        done = repeat_unfinished(study)
        if done:
            log.info("%d of %d trials are finished already", done, self.n_trials)
        self.n_trials = max(0, self.n_trials - done)
        try:
            super().sweep(arguments)
        except ValueError as error:
            if any(
                trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)
            ):
                raise
            raise SystemExit("error: no run of this search has finished") from error

    def _configure_trials(
        self,
        trials: list[Trial],
        search_space_distributions: dict[str, Any],
        fixed_params: dict[str, Any],
    ) -> Sequence[Sequence[str]]:
        """Every trial's overrides, with its run's name."""
        jobs = super()._configure_trials(trials, search_space_distributions, fixed_params)
        swept = list(search_space_distributions)
        return [named([job], swept=swept, sweep=self.config.name)[0][1] for job in jobs]


def repeat_unfinished(study: optuna.Study) -> int:
    """Enqueue every unfinished trial again; returns the number of finished trials."""
    trials = study.get_trials(deepcopy=False)
    finished = [trial.params for trial in trials if trial.state == TrialState.COMPLETE]
    known = [
        *finished,
        *(t.system_attrs.get("fixed_params") for t in trials if t.state == TrialState.WAITING),
    ]
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        lost = trial.state in (TrialState.RUNNING, TrialState.FAIL) and bool(trial.params)
        if lost and trial.params not in known:
            known.append(trial.params)
            study.enqueue_trial(trial.params)
    return len(finished)
