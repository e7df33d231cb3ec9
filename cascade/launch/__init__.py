"""Hydra launchers: where the runs of one command are trained."""

import importlib

from hydra.core.plugins import Plugins

_LAUNCHERS = {"SlurmLauncher": "cascade.launch.slurm"}


def register() -> None:
    """Make the launchers known to Hydra, which takes none whose name is not under `hydra_plugins`.

    One whose library is not installed stays unknown.
    """
    known = Plugins.instance().class_name_to_class
    for name, module in _LAUNCHERS.items():
        try:
            known[f"hydra_plugins.cascade.{name}"] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "cascade":
                raise
