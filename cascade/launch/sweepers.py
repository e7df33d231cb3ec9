"""What a sweep runs: every combination of values (`grid`), or what Optuna asks for (`search`)."""

import logging
from collections.abc import Mapping
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from cascade.launch.label import named

log = logging.getLogger(__name__)


class GridSweeper(Sweeper):
    """Every combination of the swept values, as runs called `<name>/<key=value,…>`.

    All of them are launched; the launcher leaves those that are finished.
    """

    def __init__(self, *, params: Mapping[str, Any] | None = None) -> None:
        self.params = {str(key): str(value) for key, value in (params or {}).items()}
        self.launcher: Any = None
        self.config: Any = None
        self.hydra_context: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's words for what is run, and by which launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Launch every combination.

        Raises:
            SystemExit: nothing is swept, two runs would be one, or a run failed; the others ended.
        """
        told = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(told)
        last = {override.get_key_element(): override for override in overrides}
        swept = [key for key, override in last.items() if override.is_sweep_override()]
        if not swept:
            raise SystemExit("error: nothing is swept; give a key several values: key=1,2,3")
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        try:
            runs = named(jobs, swept=swept, sweep=self.config.name)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from error
        batch = [overrides for _, overrides in runs]
        self.validate_batch_is_legal(batch)
        log.info("%s: %d runs", self.config.name, len(runs))
        returns = list(self.launcher.launch(batch, initial_job_idx=0))
        failed = sum(one.status is JobStatus.FAILED for one in returns)
        if failed:
            raise SystemExit(f"error: {failed} of {len(runs)} runs failed")
        return returns


class SearchSweeper(Sweeper):
    """Runs that Optuna asks for, until `n_trials` have finished; see `cascade.launch.search`."""

    def __init__(self, **told: Any) -> None:
        from cascade.launch.search import OptunaSearch  # it takes a second, which no other needs

        self.sweeper = OptunaSearch(**told)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Passed on."""
        self.sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Passed on."""
        self.sweeper.sweep(arguments)
