"""Keeps the pairs that a model knows and the corruption breaks; counts the others by reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import bootstrap
from torch import Tensor

from patchlight.packs.check import FEWEST_FACTS, FEWEST_TEMPLATES
from patchlight.pairs.align import Alignment, AlignmentRefused, align, refuse_leak
from patchlight.pairs.answers import METRICS, Answers, read, refuse_unreadable, require_metrics, shape
from patchlight.pairs.whole import whole_scores
from patchlight.records import Interval, Pair

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

RESAMPLES = 10_000
BATCH_TOKENS = 2_048


@dataclass(frozen=True)
class LeftOut:
    """A pair that takes no part, with its metric in both runs; NaN where it was not measured."""

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
    """The pairs that take part, with their metric in both runs, and those that do not, with the reason."""

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
    metrics: Sequence[str] = ("logit_diff",),
    floor: float | None = None,
    distractors: Mapping[str, Sequence[str]] = MappingProxyType({}),
    on_progress: Callable[[int, int], None] | None = None,
) -> Screened:
    """The pairs with m(clean) > 0 > m(corrupted) and m(clean) - m(corrupted) >= floor, in the given order.

    m is the first metric; where its sign says nothing (`prob`, `logprob`, `kl`, `rank`), the sign is that of the
    difference between the answers (`Metric.knows`). The floor is the metric's own unless another is given. Pairs that
    do not align, that leak their answer, that one of the metrics cannot tell apart, or whose logits are not finite are
    left out with that reason. Guards 1 and 5 of the method. `distractors` are further wrong answers by fact, as
    continuations: a pair takes part only where its whole right answer is likelier than each of them after the clean
    prompt. `on_progress(done, total)` counts measured pairs. Raises InputError for an unknown metric.
    """
    require_metrics(metrics)
    metric = metrics[0]
    knows, floor = METRICS[metric].knows, METRICS[metric].floor if floor is None else floor
    aligned: dict[int, Alignment] = {}
    left_out: dict[int, LeftOut] = {}
    for index, pair in enumerate(pairs):
        try:
            aligned[index] = _admitted(model, pair, (*metrics, knows))
        except AlignmentRefused as refused:
            left_out[index] = LeftOut(pair, refused.reason)
    measured = measure(model, aligned, metric, on_progress)
    signs = measured if knows == metric else measure(model, aligned, knows)
    for index, values in measured.items():
        reason = gate(*signs[index], -np.inf) or _under(*values, floor)
        if reason:
            left_out[index] = LeftOut(pairs[index], reason, *values)
    for index in _distracted(model, pairs, sorted(measured.keys() - left_out.keys()), distractors):
        left_out[index] = LeftOut(pairs[index], "a distractor is likelier", *measured[index])
    kept = [index for index in range(len(pairs)) if index not in left_out]
    return Screened(
        kept=[pairs[index] for index in kept],
        left_out=[left_out[index] for index in sorted(left_out)],
        clean=np.array([measured[index][0] for index in kept], dtype=float),
        corrupted=np.array([measured[index][1] for index in kept], dtype=float),
        knowledge=_knowledge(pairs, measured, kept),
    )


def _distracted(
    model: Model, pairs: Sequence[Pair], indices: Sequence[int], distractors: Mapping[str, Sequence[str]]
) -> set[int]:
    """Of these pairs, those after whose clean prompt a distractor is at least as likely as the right answer."""
    rivals = [(index, wrong) for index in indices for wrong in distractors.get(pairs[index].fact, ())]
    asked = [(pairs[index].clean, answer) for index, wrong in rivals for answer in (pairs[index].correct, wrong)]
    scores = whole_scores(model, asked)
    return {
        index
        for (index, _), right, wrong in zip(rivals, scores[::2], scores[1::2], strict=True)
        if not right.raw > wrong.raw
    }


def _admitted(model: Model, pair: Pair, metrics: Sequence[str]) -> Alignment:
    alignment = align(model.tokenizer, pair)
    refuse_leak(model.tokenizer, pair, alignment)
    refuse_unreadable(pair, alignment, metrics)
    after = max(tokens.shape[1] for tokens in Answers.of([alignment], metrics).continuations)
    length = len(alignment.clean_ids) + after
    if model.context is not None and length > model.context:
        what = f"prompt and answer have {length} tokens to read, the model reads {model.context}"
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
    model: Model,
    aligned: dict[int, Alignment],
    metric: str = "logit_diff",
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[int, tuple[float, float]]:
    """The metric of the clean and of the corrupted prompt, for each key.

    Pairs of one shape share a forward, so that nothing is padded.
    """
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, alignment in aligned.items():
        by_shape[shape(alignment, [metric])].append(index)
    measured: dict[int, tuple[float, float]] = {}
    for (length, *_), indices in by_shape.items():
        size = max(1, BATCH_TOKENS // (2 * length))
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            values = _values(model, [aligned[index] for index in batch], metric).tolist()
            measured.update(zip(batch, zip(*values, strict=True), strict=True))
            if on_progress:
                on_progress(len(measured), len(aligned))
    return {index: measured[index] for index in aligned}


@torch.inference_mode()
def _values(model: Model, batch: Sequence[Alignment], metric: str) -> Float[Tensor, "run=2 pair"]:
    """The metric after the clean (row 0) and the corrupted prompts (row 1), in float64."""
    answers = Answers.of(batch, [metric])
    prompts = torch.tensor([each.clean_ids for each in batch] + [each.corrupted_ids for each in batch])
    runs = []
    for continuation in answers.continuations:
        ids = torch.cat([prompts, continuation.repeat(2, 1)], dim=1).to(model.device)
        output = model.hf.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        runs.append(output.last_hidden_state[:, -continuation.shape[1] - 1 :])
    pair = torch.arange(len(batch)).repeat(2)
    clean = runs[0][: len(batch), answers.parting]
    return read(model, [metric], runs, answers, pair=pair, clean=clean)[metric].double().reshape(2, len(batch))


def gate(clean: float, corrupted: float, floor: float) -> str:
    """Why a pair takes no part, in stable words; empty where it takes part."""
    if not np.isfinite([clean, corrupted]).all():
        return "logits not finite"
    if clean <= 0:
        return "clean prompt answered wrong"
    if corrupted >= 0:
        return "corruption does not break it"
    return _under(clean, corrupted, floor)


def _under(clean: float, corrupted: float, floor: float) -> str:
    return "" if clean - corrupted >= floor else "gap under floor"


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
