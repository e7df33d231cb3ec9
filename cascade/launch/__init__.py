"""Hydra launchers and sweepers: where the runs of one command are trained, and which runs."""

import importlib

from hydra.core.plugins import Plugins

_PLUGINS = {
    "SlurmLauncher": "cascade.launch.slurm_launcher",
    "LocalLauncher": "cascade.launch.local_launcher",
    "GridSweeper": "cascade.launch.sweepers",
    "SearchSweeper": "cascade.launch.sweepers",
}


def register() -> None:
    """Register the plugins under `hydra_plugins`, the only package name that Hydra accepts.

    A plugin whose library is not installed is skipped.
    """
    known = Plugins.instance().class_name_to_class
    for name, module in _PLUGINS.items():
        try:
            known[f"hydra_plugins.cascade.{name}"] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "cascade":
                raise
