"""Where conclusions depend on the choice: every corruption and metric measured, and compared with the default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from patchlight.pairs.align import ROLES, align, mean_by_role
from patchlight.pairs.screen import gate
from patchlight.records import Pair
from patchlight.trace.corruptions import CORRUPTIONS, Corruption, as_corruption, partners
from patchlight.trace.effects import Effects
from patchlight.trace.sites import structural_sites
from patchlight.trace.sweep import MEMORY, sweeps
from patchlight.verify.agreement import FactMap, Robustness, compare

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from patchlight.model.anatomy import Model

DEFAULT_METRIC = "logit_diff"
NO_PARTNER = "no other subject to resample from"
UNDER_FLOOR = "gap under this metric's floor"


def robustness(
    model: Model,
    pairs: Sequence[Pair],
    *,
    corruptions: Sequence[str | Corruption] = CORRUPTIONS,
    metrics: Sequence[str] = (DEFAULT_METRIC, "logprob", "prob", "kl"),
    component: str = "resid_pre",
    direction: str = "denoise",
    top: int | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    on_progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """The matrix of corruptions and metrics for one component in one direction; the default is always among them.

    `top` strongest sites are compared, by default 5 % of those ranked. `on_progress` gets the corruptions done and all.
    Raises InputError where no pair passes the gap gate under the default.
    """
    maps: list[FactMap] = []
    chosen = list(dict.fromkeys([Corruption(), *(as_corruption(each) for each in corruptions)]))
    for number, corruption in enumerate(chosen):
        maps += fact_maps(model, pairs, corruption, metrics, component, direction, memory=memory)
        if on_progress:
            on_progress(number + 1, len(chosen))
    return compare(maps, component, direction, top=top, seed=seed)


def fact_maps(
    model: Model,
    pairs: Sequence[Pair],
    corruption: Corruption,
    metrics: Sequence[str],
    component: str,
    direction: str,
    *,
    memory: int = MEMORY,
) -> list[FactMap]:
    """What one corruption gives under each metric (the default among them), for the pairs that pass the gap gate."""
    left_out: Counter[str] = Counter()
    if corruption.kind == "resample":
        have = partners([align(model.tokenizer, pair) for pair in pairs], corruption.seed)
        pairs = [pair for pair, partner in zip(pairs, have, strict=True) if partner is not None]
        left_out[NO_PARTNER] = have.count(None)
    wanted = tuple(dict.fromkeys((DEFAULT_METRIC, *metrics)))
    measured = sweeps(
        model, pairs, metrics=wanted, component=component, direction=direction, corruption=corruption, memory=memory
    )
    default = measured[DEFAULT_METRIC]
    reasons = [gate(*values, default.floor) for values in zip(default.clean, default.corrupted, strict=True)]
    return [_fact_map(effects, corruption, reasons, left_out, model.n_layers) for effects in measured.values()]


def _fact_map(
    effects: Effects, corruption: Corruption, reasons: Sequence[str], left_out: Mapping[str, int], n_layers: int
) -> FactMap:
    gaps, floor = effects.clean - effects.corrupted, effects.floor
    reasons = [reason or ("" if gap >= floor else UNDER_FLOOR) for reason, gap in zip(reasons, gaps, strict=True)]
    passed = np.array([not reason for reason in reasons], dtype=bool)
    # A pair that names no fact counts as one of its own.
    named = zip(effects.pairs, effects.alignments, strict=True)
    facts = np.array([pair.fact or repr(alignment.clean_ids) for pair, alignment in named], dtype=str)
    names = np.unique(facts[passed])
    of_fact = ((names[:, None] == facts) & passed).astype(float)
    shares = _on_all_roles(effects.recovery(), effects)
    gap = np.where(np.isfinite(shares), gaps.reshape(-1, *[1] * (shares.ndim - 1)), 0.0)
    return FactMap(
        str(corruption),
        effects.metric,
        tuple(names.tolist()),
        change=np.tensordot(of_fact, np.nan_to_num(shares) * gap, 1),
        gap=np.tensordot(of_fact, gap, 1),
        structural=_structural(effects, n_layers),
        pairs=int(passed.sum()),
        left_out=Counter(left_out) + Counter(reason for reason in reasons if reason),
    )


def _structural(effects: Effects, n_layers: int) -> Bool[np.ndarray, "layer *head role"]:
    """The sites that restore everything by construction in any pair."""
    sites = structural_sites(effects.alignments, effects.component, n_layers).astype(float)
    heads = effects.values.shape[2:-1]
    every = np.broadcast_to(sites.reshape(*sites.shape[:2], *[1] * len(heads), -1), effects.values.shape)
    marked: np.ndarray = np.nan_to_num(_on_all_roles(every, effects)).any(axis=0)
    return marked


def _on_all_roles(
    values: Float[np.ndarray, "pair layer *head position"], effects: Effects
) -> Float[np.ndarray, "pair layer *head role"]:
    present, means = mean_by_role(values, [alignment.roles for alignment in effects.alignments])
    result = np.full((*means.shape[:-1], len(ROLES)), np.nan)
    result[..., [ROLES.index(role) for role in present]] = means
    return result
