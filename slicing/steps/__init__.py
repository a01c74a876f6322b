"""The methods: every file here is one, and registers itself as a step of recipes.

A new method is one new file. What several share stands in ``base``, ``removal`` and ``merging``.
"""

from importlib import import_module
from pkgutil import iter_modules

from slicing.steps.base import STEPS, Step, find_step

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["STEPS", "Step", "find_step"]
