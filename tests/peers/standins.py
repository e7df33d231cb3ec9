"""Stand-ins for packages that imagen-pytorch imports but the comparison never uses.

Its import downloads T5's config for a default argument. torchvision's wheel on PyPI is built for
CUDA and fails beside a CPU build of torch. The comparison passes text embeddings and decoded clips,
so it never calls transformers, torchvision or datasets.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


class T5Config:
    """A config with only a width, which the caller overrides."""

    d_model = 512

    @classmethod
    def from_pretrained(cls, name: str) -> "T5Config":
        """A config without a download."""
        return cls()


def install() -> None:
    """Put the stand-ins into `sys.modules`."""
    _module(
        "transformers",
        T5Config=T5Config,
        T5Tokenizer=None,
        T5EncoderModel=None,
        logging=SimpleNamespace(set_verbosity_error=lambda: None),
    )
    _module("torchvision", transforms=_module("torchvision.transforms"))
    files = _module("datasets.utils.file_utils", get_datasets_user_agent=str)
    _module("datasets", utils=_module("datasets.utils", file_utils=files))


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    vars(module).update(content)
    sys.modules[name] = module
    return module
