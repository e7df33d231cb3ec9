"""Sweepers: every combination of values (`grid`), or values that Optuna chooses (`search`)."""

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
    """Launches every combination of the swept values, as runs named `<name>/<key=value,…>`.

    The launcher skips finished runs.
    """

    def __init__(self, *, params: Mapping[str, Any] | None = None) -> None:
        self.params = {str(key): str(value) for key, value in (params or {}).items()}
        self.launcher: Any = None
        self.config: Any = None
        self.hydra_context: Any = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store Hydra's context and config, and instantiate the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Launch every combination.

        Raises:
            SystemExit: nothing is swept, or two runs would have one name; or a run failed, after
                the others have ended.
        """
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(given)
        last = {override.get_key_element(): override for override in overrides}
        swept = [key for key, override in last.items() if override.is_sweep_override()]
        if not swept:
            raise SystemExit(
                "error: a sweep needs a key with several values, got none; add key=1,2,3"
            )
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
    """Runs trials chosen by Optuna until `n_trials` have finished; see `cascade.launch.search`."""

    def __init__(self, **options: Any) -> None:
        from cascade.launch.search import OptunaSearch  # takes a second to import

        self.sweeper = OptunaSearch(**options)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Delegate to the Optuna sweeper."""
        self.sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Delegate to the Optuna sweeper."""
        self.sweeper.sweep(arguments)
