"""The Python interface: about a dozen names, which ``import slicing`` gives.

Thin: a verb here makes a request as the command line does and has it carried out by the same functions. There
is no second way of doing anything. What a verb gives has ``.frame()``, ``.plot()`` and ``.report()``.
"""

from slicing.interface.making import compress, heal
from slicing.interface.models import Model, load, save
from slicing.interface.outcomes import Evaluation, Judgement, Planned, Profile, Smaller
from slicing.interface.verbs import compare, evaluate, plan, profile, study

__all__ = [
    "Evaluation",
    "Judgement",
    "Model",
    "Planned",
    "Profile",
    "Smaller",
    "compare",
    "compress",
    "evaluate",
    "heal",
    "load",
    "plan",
    "profile",
    "save",
    "study",
]
