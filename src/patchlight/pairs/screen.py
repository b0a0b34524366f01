"""Keeps the pairs that a model knows and the corruption breaks; counts the others by reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import bootstrap
from torch import Tensor

from patchlight.packs.check import FEWEST_FACTS, FEWEST_TEMPLATES
from patchlight.pairs.align import Alignment, AlignmentRefused, align, refuse_leak
from patchlight.records import Interval, Pair

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

RESAMPLES = 10_000
BATCH_TOKENS = 2_048


@dataclass(frozen=True)
class LeftOut:
    """A pair that takes no part, with its logit differences; NaN where they were not measured."""

    pair: Pair
    reason: str
    clean: float = float("nan")
    corrupted: float = float("nan")


@dataclass(frozen=True)
class Knowledge:
    """What a model knows of one kind: facts asked, facts known in two wordings, the mean gap over facts.

    `gap` is None where there are too few facts; `reason` says why no verdict is possible, empty where one is.
    """

    kind: str
    asked: int
    known: tuple[str, ...]
    gap: Interval | None
    reason: str


@dataclass(frozen=True)
class Screened:
    """The pairs that take part, with their logit differences, and those that do not, with the reason."""

    kept: list[Pair]
    left_out: list[LeftOut]
    clean: Float[np.ndarray, " kept"]
    corrupted: Float[np.ndarray, " kept"]
    knowledge: dict[str, Knowledge] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Pairs left out, by reason."""
        return dict(Counter(each.reason for each in self.left_out).most_common())

    @property
    def verdict_possible(self) -> bool:
        """True where at least one kind of knowledge can be localised."""
        return any(not kind.reason for kind in self.knowledge.values())


def screen(
    model: Model,
    pairs: Sequence[Pair],
    *,
    floor: float = 0.5,
    on_progress: Callable[[int, int], None] | None = None,
) -> Screened:
    """The pairs with m(clean) > 0 > m(corrupted) and m(clean) - m(corrupted) >= floor, in the given order.

    m is logit(correct) - logit(wrong) at the last position. Pairs that do not align, that leak their answer,
    or whose logits are not finite are left out with that reason. Guards 1 and 5 of the method.
    `on_progress(done, total)` counts measured pairs.
    """
    aligned: dict[int, Alignment] = {}
    left_out: dict[int, LeftOut] = {}
    for index, pair in enumerate(pairs):
        try:
            aligned[index] = _admitted(model, pair)
        except AlignmentRefused as refused:
            left_out[index] = LeftOut(pair, refused.reason)
    measured = measure(model, aligned, on_progress)
    for index, (clean, corrupted) in measured.items():
        reason = gate(clean, corrupted, floor)
        if reason:
            left_out[index] = LeftOut(pairs[index], reason, clean, corrupted)
    kept = [index for index in range(len(pairs)) if index not in left_out]
    return Screened(
        kept=[pairs[index] for index in kept],
        left_out=[left_out[index] for index in sorted(left_out)],
        clean=np.array([measured[index][0] for index in kept], dtype=float),
        corrupted=np.array([measured[index][1] for index in kept], dtype=float),
        knowledge=_knowledge(pairs, measured, kept),
    )


def _admitted(model: Model, pair: Pair) -> Alignment:
    alignment = align(model.tokenizer, pair)
    refuse_leak(model.tokenizer, pair, alignment)
    length = len(alignment.clean_ids)
    if model.context is not None and length > model.context:
        what = f"the prompt has {length} tokens, the model reads {model.context}"
        raise AlignmentRefused("prompt longer than the context", what, pair=pair, fix="shorten the prompt")
    return alignment


def known_facts(screened: Screened, *, taught: bool = True) -> set[str]:
    """The facts answered right in two templates or more, among those taught (or those never taught)."""
    return _known(pair for pair in screened.kept if pair.taught == taught)


def _known(kept: Iterable[Pair]) -> set[str]:
    templates: dict[str, set[str]] = defaultdict(set)
    for pair in kept:
        templates[pair.fact].add(pair.template)
    return {fact for fact, wordings in templates.items() if len(wordings) >= FEWEST_TEMPLATES}


def measure(
    model: Model, aligned: dict[int, Alignment], on_progress: Callable[[int, int], None] | None = None
) -> dict[int, tuple[float, float]]:
    """The logit difference of the clean and of the corrupted prompt, for each key.

    Prompts of one length share a forward, so that nothing is padded.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, alignment in aligned.items():
        by_length[len(alignment.clean_ids)].append(index)
    measured: dict[int, tuple[float, float]] = {}
    for length, indices in by_length.items():
        size = max(1, BATCH_TOKENS // (2 * length))
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            differences = _differences(model, [aligned[index] for index in batch]).tolist()
            measured.update(zip(batch, zip(*differences, strict=True), strict=True))
            if on_progress:
                on_progress(len(measured), len(aligned))
    return {index: measured[index] for index in aligned}


@torch.inference_mode()
def _differences(model: Model, batch: Sequence[Alignment]) -> Float[Tensor, "run=2 pair"]:
    """logit(correct) - logit(wrong) after the clean (row 0) and the corrupted prompts (row 1), in float64."""
    rows = [each.clean_ids for each in batch] + [each.corrupted_ids for each in batch]
    ids = torch.tensor(rows, device=model.device)
    last = model.hf(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -1].double()
    answers = torch.tensor([(each.correct_id, each.wrong_id) for each in batch], device=last.device).repeat(2, 1)
    chosen = last.gather(1, answers)
    differences: Tensor = chosen[:, 0] - chosen[:, 1]
    return differences.reshape(2, len(batch))


def gate(clean: float, corrupted: float, floor: float) -> str:
    """Why a pair takes no part, in stable words; empty where it takes part."""
    if not np.isfinite([clean, corrupted]).all():
        return "logits not finite"
    if clean <= 0:
        return "clean prompt answered wrong"
    if corrupted >= 0:
        return "corruption does not break it"
    return "gap under floor" if clean - corrupted < floor else ""


def _knowledge(
    pairs: Sequence[Pair], measured: dict[int, tuple[float, float]], kept: Sequence[int]
) -> dict[str, Knowledge]:
    """What is known of each kind. Facts never taught are no evidence of knowledge and are not counted."""
    taught = [index for index, pair in enumerate(pairs) if pair.taught]
    known = _known(pairs[index] for index in kept if pairs[index].taught)
    found: dict[str, Knowledge] = {}
    for kind in dict.fromkeys(pairs[index].kind for index in taught):
        of_kind = [index for index in taught if pairs[index].kind == kind]
        asked = {pairs[index].fact for index in of_kind}
        gap = _mean_gap([(pairs[index].fact, measured[index]) for index in of_kind if index in measured])
        facts = tuple(sorted(known & asked))
        found[kind] = Knowledge(kind, len(asked), facts, gap, _why_no_verdict(facts, gap))
    return found


def _why_no_verdict(known: Sequence[str], gap: Interval | None) -> str:
    if len(known) < FEWEST_FACTS:
        return f"no knowledge to localise: {len(known)} facts known in two wordings, {FEWEST_FACTS} are needed"
    if gap is None or gap.low <= 0:
        return "no knowledge to localise: over all facts asked, the gap is not told from 0"
    return ""


def _mean_gap(measured: Sequence[tuple[str, tuple[float, float]]]) -> Interval | None:
    """The mean gap over facts with its interval; None below the fewest facts.

    All facts asked count, also those the gate leaves out: over the kept ones alone it could not include 0.
    """
    gaps: dict[str, list[float]] = defaultdict(list)
    for fact, (clean, corrupted) in measured:
        if np.isfinite([clean, corrupted]).all():
            gaps[fact].append(clean - corrupted)
    values = np.array([np.mean(of_fact) for of_fact in gaps.values()])
    if len(values) < FEWEST_FACTS:
        return None
    mean, count, method = float(values.mean()), len(values), "BCa bootstrap over facts"
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean, count, method=method)
    interval = bootstrap((values,), np.mean, n_resamples=RESAMPLES, batch=1_000, rng=0).confidence_interval
    return Interval(mean, float(interval.low), float(interval.high), count, method=method)
