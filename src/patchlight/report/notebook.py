"""A drawing of the effects of a sweep, for a notebook or a script."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from patchlight.errors import InputError
from patchlight.judge.statistics import ratio_of_means
from patchlight.report.charts import heat_map
from patchlight.report.svg import Drawing
from patchlight.report.texts import Texts, read_texts
from patchlight.trace.effects import Effects


def draw_effects(effects: Effects, pair: int | None = None, *, language: str = "en") -> Drawing:
    """Shares of the gap by layer: words as columns for one pair, roles as columns for several (ratio of means).

    A single pair is drawn word by word without asking. Pairs whose gap is under the floor are left out, and sites
    that restore everything by construction are not marked: only a study marks them. Raises InputError
    `chart-heads` for a sweep over heads.
    """
    if effects.values.ndim != 3:
        what = f"a sweep of {effects.component} has an axis for heads, which a map of layers cannot show"
        raise InputError("chart-heads", what, fix="draw effects.recovery()[pair, layer, head] with a plot of your own")
    texts = read_texts(language)
    if pair is None and len(effects.pairs) > 1:
        columns, shares = _by_role(effects, texts)
        differing: tuple[int, ...] = ()
    else:
        alignment = effects.alignments[pair or 0]
        columns, differing = alignment.words, alignment.differing
        if effects.columns:
            columns, differing = tuple(texts.word("role", name) for name in effects.columns), ()
        shares = effects.recovery()[pair or 0, :, : len(columns)]
    names = {
        "component": texts.word("component", effects.component),
        "direction": texts.word("direction", effects.direction),
    }
    nothing = np.zeros(shares.shape, dtype=bool)
    return heat_map(
        shares, columns, texts, texts("map.example_panel", **names), structural=nothing, differing=differing
    )


def _by_role(effects: Effects, texts: Texts) -> tuple[tuple[str, ...], Float[np.ndarray, "layer role"]]:
    roles, values = effects.by_role()
    clean, corrupted = effects.clean[:, None, None], effects.corrupted[:, None, None]
    moved = values - corrupted if effects.direction == "denoise" else clean - values
    gaps = effects.clean - effects.corrupted
    kept = np.flatnonzero(gaps >= effects.floor)
    shares = np.full(values.shape[1:], np.nan)
    if len(kept):
        shares = ratio_of_means(moved[kept], gaps[kept], [str(index) for index in kept])
    return tuple(texts.word("role", role) for role in roles), shares
