"""BibTeX of the methods: what a run used, and so should be cited beside it.

Scores and allocations are told apart by their names in the registries. Knows nothing about pages.
"""

from __future__ import annotations

import importlib.metadata

from slicing.runs import ProfileRecipe, Recipe, TrialRecipe

ENTRIES = {
    "dumitru2024change": """@inproceedings{dumitru2024change,
  title     = {Change Is the Only Constant: Dynamic {LLM} Slicing based on Layer Redundancy},
  author    = {Dumitru, Razvan-Gabriel and Clotan, Paul-Ioan and Yadav, Vikas and Peteleaza, Darius and
               Surdeanu, Mihai},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2024},
  year      = {2024},
  eprint    = {2411.03513},
  archiveprefix = {arXiv}
}""",
    "ashkboos2024slicegpt": """@inproceedings{ashkboos2024slicegpt,
  title     = {{SliceGPT}: Compress Large Language Models by Deleting Rows and Columns},
  author    = {Ashkboos, Saleh and Croci, Maximilian L. and do Nascimento, Marcelo Gennari and
               Hoefler, Torsten and Hensman, James},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  eprint    = {2401.15024},
  archiveprefix = {arXiv}
}""",
    "men2025shortgpt": """@inproceedings{men2025shortgpt,
  title     = {{ShortGPT}: Layers in Large Language Models are More Redundant Than You Expect},
  author    = {Men, Xin and Xu, Mingyu and Zhang, Qingyu and Wang, Bingning and Lin, Hongyu and Lu, Yaojie and
               Han, Xianpei and Chen, Weipeng},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
  year      = {2025},
  eprint    = {2403.03853},
  archiveprefix = {arXiv}
}""",
    "gromov2025unreasonable": """@inproceedings{gromov2025unreasonable,
  title     = {The Unreasonable Ineffectiveness of the Deeper Layers},
  author    = {Gromov, Andrey and Tirumala, Kushal and Shapourian, Hassan and Glorioso, Paolo and
               Roberts, Daniel A.},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  eprint    = {2403.17887},
  archiveprefix = {arXiv}
}""",
}
SCORES = {
    "lr": "dumitru2024change",
    "block-influence": "men2025shortgpt",
    "angular": "gromov2025unreasonable",
}
ALLOCATIONS = {"dynamic": "dumitru2024change"}


def citations(recipe: Recipe) -> tuple[str, ...]:
    """The keys of what a recipe used, each once: its score, its allocation, slicing itself."""
    if isinstance(recipe, ProfileRecipe):
        return tuple(SCORES.values())
    plan = recipe.plan
    used = ["ashkboos2024slicegpt"]
    if isinstance(recipe, TrialRecipe) and plan is None:
        return ()
    if plan is not None and plan.rule().uses_scores:
        used += [ALLOCATIONS.get(plan.allocation, ""), SCORES[plan.score]]
    return tuple(dict.fromkeys(key for key in used if key))


def bibtex(recipe: Recipe) -> str:
    """The entries of what a recipe used, and slicescope's own."""
    return "\n\n".join([*(ENTRIES[key] for key in citations(recipe)), _own()])


def _own() -> str:
    version = importlib.metadata.version("slicescope")
    return (
        "@software{slicescope,\n  title   = {slicescope: where a language model is redundant, and what "
        f"cutting there costs}},\n  author  = {{{{The slicescope authors}}}},\n  version = {{{version}}}\n}}"
    )
