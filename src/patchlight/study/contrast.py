"""The kinds of a checkpoint side by side: what of each fact goes into the comparison, and with what it is compared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from patchlight.judge.contrast import KindFacts, compare_kinds
from patchlight.judge.statistics import fact_means
from patchlight.records import MODEL_NULLS
from patchlight.report.contents import KindsCompared
from patchlight.study.results import SweepResult

if TYPE_CHECKING:
    from patchlight.study.view import KindView

COMPONENTS = ("attn_out", "mlp_out")  # what writes; the residual stream only carries


def kinds_compared(views: Sequence[KindView], seed: int) -> tuple[KindsCompared, ...]:
    """The recovery of every two kinds compared, component by component; nothing where a kind was not swept."""
    return tuple(
        _compared(first, second, component, seed)
        for first, second in combinations([view for view in views if view.questions], 2)
        for component in COMPONENTS
        if _sweep(first, component) and _sweep(second, component)
    )


def _compared(first: KindView, second: KindView, component: str, seed: int) -> KindsCompared:
    roles = tuple(role for role in first.roles if role in second.roles)
    sweeps = [(view, sweep) for view in (first, second) for sweep in _sweep(view, component)]
    structural = [view.structural(sweep)[:, _columns(view, roles)] for view, sweep in sweeps]
    one, other = (_facts(view, sweep, roles) for view, sweep in sweeps)
    contrast = compare_kinds(one, other, structural[0] | structural[1], seed)
    return KindsCompared(component, roles, contrast)


def _sweep(view: KindView, component: str) -> list[SweepResult]:
    """The sweep of recovery through a component, in a list; an empty one where it was not made."""
    return [
        each for each in view.sweeps if (each.component, each.direction, each.control) == (component, "denoise", False)
    ]


def _facts(view: KindView, sweep: SweepResult, roles: Sequence[str]) -> KindFacts:
    leans: dict[str, set[str]] = defaultdict(set)
    for pair in view.pairs:
        leans[pair.fact] |= {pair.fact, pair.partner} - {""}
    covariates: dict[str, Sequence[float]] = {
        "answer_tokens": [question.answer_tokens for question in view.questions],
        "clean_metric": [question.clean for question in view.questions],
        "corruption_size": [len(question.differing) for question in view.questions],
    }
    if view.mentions:
        covariates["answer_frequency"] = [math.log1p(view.mentions[fact]) for fact in view.facts]
    return KindFacts(
        view.kind,
        tuple(frozenset(leans[fact]) for fact in sorted(leans)),
        {name: fact_means(np.array(values, dtype=float), view.facts) for name, values in covariates.items()},
        _shares(view, view.by_role(view.effects(sweep)), view.gaps, roles),
        {
            name: _shares(view, null.effects, null.gaps, roles)
            for name, null in view.null_maps(sweep).items()
            if name in MODEL_NULLS
        },
    )


def _shares(
    view: KindView,
    effects: Float[np.ndarray, "pair layer role"],
    gaps: Float[np.ndarray, " pair"],
    roles: Sequence[str],
) -> Float[np.ndarray, "fact layer role"]:
    """The mean over a fact's pairs of the share of the gap, for these roles."""
    return fact_means(effects[:, :, _columns(view, roles)] / gaps[:, None, None], view.facts)


def _columns(view: KindView, roles: Sequence[str]) -> list[int]:
    return [view.roles.index(role) for role in roles]
