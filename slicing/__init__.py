"""slicing: makes models smaller, and is the Python interface of slicescope.

Users find about a dozen names here: ``load``, ``profile``, ``plan``, ``compress``, ``compare``, ``study``,
``heal``, ``evaluate``, ``save``, what these give, and the errors. Each is imported when it is first used:
``import slicing`` itself imports neither torch nor transformers. Below these names are how much to cut where
(allocation, plans, schedule), the cut itself (rotation, assembly, slicer), sliced models on disk (store) and
for transformers (modeling_sliced), and recipes with their outcomes (studies). Imports analysis, never app.

After ``import slicing``, ``AutoModelForCausalLM.from_pretrained`` and ``AutoModel.from_pretrained`` open our
folders too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from slicing.auto import tell_transformers
from slicing.names import check_names

if TYPE_CHECKING:
    from analysis.errors import ModelError as ModelError
    from analysis.errors import OutOfMemoryError as OutOfMemoryError
    from analysis.errors import PlanError as PlanError
    from analysis.errors import SlicescopeError as SlicescopeError
    from analysis.errors import StorageError as StorageError
    from analysis.errors import TextError as TextError
    from analysis.errors import UnsupportedError as UnsupportedError
    from slicing.interface import Evaluation as Evaluation
    from slicing.interface import Judgement as Judgement
    from slicing.interface import Model as Model
    from slicing.interface import Planned as Planned
    from slicing.interface import Profile as Profile
    from slicing.interface import Smaller as Smaller
    from slicing.interface import compare as compare
    from slicing.interface import compress as compress
    from slicing.interface import evaluate as evaluate
    from slicing.interface import heal as heal
    from slicing.interface import load as load
    from slicing.interface import plan as plan
    from slicing.interface import profile as profile
    from slicing.interface import save as save
    from slicing.interface import study as study
    from slicing.plans import Plan as Plan

check_names("analysis")

tell_transformers()

_VERBS = ("compare", "compress", "evaluate", "heal", "load", "plan", "profile", "save", "study")
_RESULTS = ("Evaluation", "Judgement", "Model", "Planned", "Profile", "Smaller")
_ERRORS = (
    "ModelError",
    "OutOfMemoryError",
    "PlanError",
    "SlicescopeError",
    "StorageError",
    "TextError",
    "UnsupportedError",
)
_HOMES = {
    **dict.fromkeys((*_VERBS, *_RESULTS), "slicing.interface"),
    **dict.fromkeys(_ERRORS, "analysis.errors"),
    "Plan": "slicing.plans",
}
"""Where each name of the interface is from."""

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
