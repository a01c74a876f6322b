"""The comparison that ships as the story tells it, with details that are made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.cloud import Cloud
from analysis.details import Details
from app.story import Case, case_of
from slicing.plans import Plan
from slicing.studies.store import bundled_run


def cloud(width: int = 576) -> Cloud:
    """Forty tokens before two blocks; every direction holds nine tenths of the energy of the one before."""
    drawn = np.random.default_rng(0).normal(size=(2, 40, 4)) * [0.3, 0.2, 0.1, 0.01]
    principal = 0.97 ** np.arange(width)
    own = np.ones(width)
    return Cloud(
        blocks=np.asarray([0, 29], dtype=np.int32),
        tokens=np.arange(40, dtype=np.int32),
        places=(drawn - drawn.mean(axis=1, keepdims=True)).astype(np.float16),
        thin=7 * width // 8,
        principal=np.stack([principal / principal.sum()] * 2).astype(np.float32),
        own=np.stack([own / own.sum()] * 2).astype(np.float32),
    )


def details(blocks: int) -> Details:
    """Two windows of eleven tokens, changed by 0.05 to 0.15 but for the first ones, which turn around."""
    change = np.full((2, 11, blocks), 0.1, dtype=np.float16)
    change[:, 1:] += (np.linspace(-0.05, 0.05, 10)[None, :, None]).astype(np.float16)
    change[:, 0] = 1.5
    return Details(
        tokens=np.zeros((2, 11), dtype=np.int32),
        change=change,
        growth=np.linspace(4.0, 1.0, blocks).astype(np.float32),
        similarity=np.eye(blocks + 1, dtype=np.float32),
        split=None,
        pieces={0: "a", 1: "America", 2: "</script><b>"},
        cloud=cloud(),
    )


def case(with_details: bool = True, **plan: Any) -> Case:
    run = bundled_run()
    told = case_of(run, details(run.result.profile.blocks) if with_details else None)
    if plan:
        told = told._replace(asked=Plan(**{**dict(told.asked), **plan}))
    return told
