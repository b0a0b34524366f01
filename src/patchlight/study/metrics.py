"""Where the metrics of a study disagree: its further metrics were read off the same patched runs as the first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from patchlight.pairs.align import ROLES, mean_by_role
from patchlight.study.results import FurtherMetric, Question, SweepResult
from patchlight.verify.agreement import FactMap, Robustness, compare, rankable

ROUNDING = 2e-3  # of a metric's floor: a change below it is not told from none
UNDER_FLOOR = "gap under floor"


def metrics_compared(
    questions: Sequence[Question], sweeps: Sequence[SweepResult], metrics: Sequence[str], seed: int
) -> tuple[Robustness, ...]:
    """The maps of the further metrics beside that of the first, for each sweep that has them and places to rank."""
    found = []
    for sweep in sweeps:
        maps = _maps(questions, sweep, metrics) if sweep.further and not sweep.control else []
        if maps and rankable(maps).any():
            found.append(compare(maps, sweep.component, sweep.direction, seed=seed))
    return tuple(found)


def _maps(questions: Sequence[Question], sweep: SweepResult, names: Sequence[str]) -> list[FactMap]:
    from patchlight.pairs.answers import METRICS

    runs = (np.array([getattr(each, run) for each in questions]) for run in ("clean", "corrupted"))
    first, *further = names
    metrics = {first: FurtherMetric(sweep.values, *runs), **{name: sweep.further[name] for name in further}}
    floors = {name: METRICS[name].floor for name in metrics}
    changes = {
        name: _by_role(_change(each, sweep.direction, ROUNDING * floors[name]), questions)
        for name, each in metrics.items()
    }
    moved = np.any([np.nan_to_num(each).any(axis=0) for each in changes.values()], axis=0)
    settled = ~moved | np.nan_to_num(_by_role(sweep.structural.astype(float), questions)).any(axis=0)
    # The study's own gap gate has passed every pair under the first metric.
    floors[first] = 0.0
    return [
        _fact_map(name, [each.pair.fact for each in questions], changes[name], metric, floors[name], settled)
        for name, metric in metrics.items()
    ]


def _fact_map(
    name: str,
    facts: Sequence[str],
    change: Float[np.ndarray, "pair layer role"],
    metric: FurtherMetric,
    floor: float,
    settled: Bool[np.ndarray, "layer role"],
) -> FactMap:
    gaps = metric.clean - metric.corrupted
    passed = gaps >= floor
    names, of_pair = np.unique(np.array(facts)[passed], return_inverse=True)
    of_fact = (np.arange(len(names))[:, None] == of_pair).astype(float)
    known = np.isfinite(change[passed])
    return FactMap(
        "token",
        name,
        tuple(names.tolist()),
        change=np.tensordot(of_fact, np.nan_to_num(change[passed]), 1),
        gap=np.tensordot(of_fact, np.where(known, gaps[passed, None, None], 0.0), 1),
        settled=settled,
        pairs=int(passed.sum()),
        left_out={UNDER_FLOOR: int((~passed).sum())} if not passed.all() else {},
    )


def _change(metric: FurtherMetric, direction: str, rounding: float) -> Float[np.ndarray, "pair layer position"]:
    """What the patches moved: towards the clean run (denoise), or away from it (noise)."""
    towards = direction == "denoise"
    moved: np.ndarray = metric.values - (metric.corrupted if towards else metric.clean)[:, None, None]
    return np.where(np.abs(moved) < rounding, 0.0, moved if towards else -moved)


def _by_role(
    cells: Float[np.ndarray, "pair layer position"], questions: Sequence[Question]
) -> Float[np.ndarray, "pair layer role"]:
    """The mean over the positions of each of `ROLES`; NaN where a pair lacks the role."""
    present, means = mean_by_role(cells, [question.roles for question in questions])
    result = np.full((*means.shape[:-1], len(ROLES)), np.nan)
    result[..., [ROLES.index(role) for role in present]] = means
    return result
