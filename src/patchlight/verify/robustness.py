"""Where conclusions depend on the choice: every corruption and metric measured, and compared with the default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from patchlight.pairs.align import ROLES, align, mean_by_role
from patchlight.pairs.answers import METRICS, require_metrics
from patchlight.pairs.screen import gate
from patchlight.records import Pair, TokenPair
from patchlight.trace.cells import structural_cells
from patchlight.trace.corruptions import CORRUPTIONS, TOKEN, Corruption, as_corruption, partners
from patchlight.trace.effects import Effects
from patchlight.trace.sweep import MEMORY, sweeps
from patchlight.verify.agreement import FactMap, Robustness, compare

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from patchlight.model.anatomy import Model

NO_PARTNER = "no other subject to resample from"
UNDER_FLOOR = "gap under floor"


def robustness(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    *,
    corruptions: Sequence[str | Corruption] = CORRUPTIONS,
    metrics: Sequence[str] = ("logit_diff", "logprob", "prob", "kl"),
    component: str = "resid_pre",
    direction: str = "denoise",
    top: int | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    on_progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """The matrix of corruptions and metrics for one component in one direction.

    All are compared with the default, token replacement (always among them) with the first metric: the `top` strongest
    sites, 5 % of those ranked where it is not given. `on_progress` gets the corruptions done and all. Raises
    InputError where no pair passes the gap gate under the default.
    """
    maps: list[FactMap] = []
    chosen = list(dict.fromkeys([TOKEN, *(as_corruption(each) for each in corruptions)]))
    for number, corruption in enumerate(chosen):
        maps += fact_maps(model, pairs, corruption, metrics, component, direction, memory=memory)
        if on_progress:
            on_progress(number + 1, len(chosen))
    return compare(maps, component, direction, top=top, seed=seed)


def fact_maps(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    corruption: Corruption,
    metrics: Sequence[str],
    component: str,
    direction: str,
    *,
    memory: int = MEMORY,
) -> list[FactMap]:
    """What one corruption gives under each metric, for the pairs that pass the gap gate under both.

    Whether the clean run answers right and the corrupted one does not is decided as in `screen`, by the first metric.
    """
    left_out: Counter[str] = Counter()
    if corruption.kind == "resample":
        have = partners([align(model.tokenizer, pair) for pair in pairs], corruption.seed)
        pairs = [pair for pair, partner in zip(pairs, have, strict=True) if partner is not None]
        left_out[NO_PARTNER] = have.count(None)
    require_metrics(metrics)
    knows = METRICS[metrics[0]].knows
    measured = sweeps(
        model,
        pairs,
        metrics=tuple(dict.fromkeys((*metrics, knows))),
        component=component,
        direction=direction,
        corruption=corruption,
        memory=memory,
    )
    signs = zip(measured[knows].clean, measured[knows].corrupted, strict=True)
    reasons = [gate(clean, corrupted, -np.inf) for clean, corrupted in signs]
    return [_fact_map(measured[metric], reasons, left_out, model.n_layers) for metric in dict.fromkeys(metrics)]


def _fact_map(effects: Effects, reasons: Sequence[str], left_out: Mapping[str, int], n_layers: int) -> FactMap:
    gaps = effects.clean - effects.corrupted
    reasons = [
        reason or ("" if gap >= effects.floor else UNDER_FLOOR) for reason, gap in zip(reasons, gaps, strict=True)
    ]
    passed = np.array([not reason for reason in reasons], dtype=bool)
    # A pair that names no fact counts as one of its own.
    named = zip(effects.pairs, effects.alignments, strict=True)
    facts = np.array([pair.fact or repr(alignment.clean_ids) for pair, alignment in named], dtype=str)
    names = np.unique(facts[passed])
    of_fact = ((names[:, None] == facts) & passed).astype(float)
    shares = _on_all_roles(effects.recovery(), effects)
    gap = np.where(np.isfinite(shares), gaps.reshape(-1, *[1] * (shares.ndim - 1)), 0.0)
    return FactMap(
        str(effects.corruption),
        effects.metric,
        tuple(names.tolist()),
        change=np.tensordot(of_fact, np.nan_to_num(shares) * gap, 1),
        gap=np.tensordot(of_fact, gap, 1),
        settled=_settled(effects, n_layers),
        pairs=int(passed.sum()),
        left_out=Counter(left_out) + Counter(reason for reason in reasons if reason),
    )


def _settled(effects: Effects, n_layers: int) -> Bool[np.ndarray, "layer *head role"]:
    """Where the result follows by construction: everything comes back in some pair, or in every pair nothing can."""
    heads = [1] * len(effects.values.shape[2:-1])
    cuts = structural_cells(effects.alignments, effects.component, n_layers, effects.metric).astype(float)
    cuts = np.broadcast_to(cuts.reshape(*cuts.shape[:2], *heads, cuts.shape[2]), effects.values.shape)
    first = np.array([alignment.differing[0] for alignment in effects.alignments], dtype=int)
    before = (np.arange(effects.values.shape[-1]) < first[:, None]).astype(float)
    before = np.broadcast_to(before.reshape(len(before), 1, *heads, before.shape[1]), effects.values.shape)
    everything = np.nan_to_num(_on_all_roles(cuts, effects)).any(axis=0)
    ahead = _on_all_roles(before, effects)
    nothing = (ahead == 1).any(axis=0) & ~(ahead < 1).any(axis=0)
    settled: np.ndarray = everything | nothing
    return settled


def _on_all_roles(
    values: Float[np.ndarray, "pair layer *head position"], effects: Effects
) -> Float[np.ndarray, "pair layer *head role"]:
    present, means = mean_by_role(values, [alignment.roles for alignment in effects.alignments])
    result = np.full((*means.shape[:-1], len(ROLES)), np.nan)
    result[..., [ROLES.index(role) for role in present]] = means
    return result
