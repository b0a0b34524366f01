"""What a report shows: numbers and names, no prose and no drawing.

A study fills these records; `build` turns them into pages. Recovery and damage are shares of the gap (1 is all
of it). Where a value was not measured it is NaN, and the report shows an empty cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from patchlight.judge.concentration import IndexRow
from patchlight.judge.contrast import Contrast
from patchlight.judge.shares import Share
from patchlight.judge.statistics import IntervalMap
from patchlight.judge.verdict import Verdict
from patchlight.records import Site
from patchlight.report.reached import Reached
from patchlight.report.replay import Replay
from patchlight.report.texts import Texts, Words
from patchlight.report.timed import Timed
from patchlight.report.within import Observed, SubspaceResult
from patchlight.verify.agreement import Robustness

if TYPE_CHECKING:
    from patchlight.trace.screening import Screening


@dataclass(frozen=True)
class Provenance:
    """What another person needs to make the same report again."""

    study_hash: str
    seed: int
    pack_id: str
    pack_digest: str
    command: str
    versions: Mapping[str, str]  # package -> version: patchlight, torch, transformers, ...
    date: str  # ISO 8601, of the run and not of the rendering: the same run gives the same bytes


@dataclass(frozen=True)
class CurvePoint:
    """Losses at one optimiser step, in nats per token; NaN where that loss was not taken.

    `comparable` is the validation loss over every token of the texts and no padding, whatever training counts.
    """

    step: int
    train: float
    validation: float
    comparable: float = float("nan")


@dataclass(frozen=True)
class TrainingCurve:
    """How a configuration was trained and where it stopped; `settings` are shown as they are."""

    points: tuple[CurvePoint, ...]
    best_step: int
    stopped_early: bool
    documents: int
    settings: Mapping[str, str]
    padding_in_loss: bool = False

    def ends(self) -> tuple[CurvePoint, CurvePoint]:
        """The first point, before training, and that of the step that was kept."""
        return self.points[0], next(point for point in self.points if point.step == self.best_step)


@dataclass(frozen=True)
class Learnt:
    """The facts of a kind answered right before and after training; `before` None where that was not asked."""

    kind: str
    after: Share
    before: Share | None = None
    gained: int = 0
    lost: int = 0
    p: float = float("nan")  # exact McNemar


@dataclass(frozen=True)
class KnownCount:
    """How many facts of a kind the model answers right, of those taught (or never taught) and asked about."""

    kind: str
    taught: bool
    known: int
    total: int


@dataclass(frozen=True)
class Excluded:
    """Pairs (or facts, or answers) left out for one reason, with a few of them as examples."""

    reason: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class IdentityCheck:
    """An identity that must hold before anything is measured: its largest error against its limit."""

    name: str
    error: float
    limit: float

    @property
    def held(self) -> bool:
        """True where the error is within the limit; an error that is not a number is not."""
        return self.error <= self.limit


@dataclass(frozen=True)
class EffectMap:
    """One component in one direction ("denoise" gives recovery, "noise" gives damage) over all pairs of a kind.

    `effect` and its `nulls`, by name, are `[layer, role]`. `structural` marks what restores everything by construction,
    `significant` what passes the threshold corrected over the map. The profiles by layer are its columns.
    """

    component: str
    direction: str
    roles: tuple[str, ...]
    effect: IntervalMap
    nulls: Mapping[str, IntervalMap]
    structural: Bool[np.ndarray, "layer role"]
    significant: Bool[np.ndarray, "layer role"]

    @property
    def layers(self) -> int:
        """How many layers the map has."""
        return len(self.effect.estimate)

    @property
    def control(self) -> IntervalMap | None:
        """In each cell the null that reaches highest; None where none was made."""
        if not self.nulls:
            return None
        every = list(self.nulls.values())
        highest = np.argmax([np.nan_to_num(null.high, nan=-np.inf) for null in every], axis=0)[None]
        estimate, low, high, n = (
            np.take_along_axis(np.stack([getattr(null, name) for null in every]), highest, axis=0)[0]
            for name in ("estimate", "low", "high", "n")
        )
        return IntervalMap(estimate, low, high, n, every[0].confidence, every[0].method)


@dataclass(frozen=True)
class ExampleMap:
    """The share of the gap of a single pair, `[layer, position]`."""

    component: str
    direction: str
    values: Float[np.ndarray, "layer position"]
    structural: Bool[np.ndarray, "layer position"]


@dataclass(frozen=True)
class Example:
    """One pair in full: the prompts word by word, the metric of both runs, a map for each sweep."""

    fact: str
    clean: str
    corrupted: str
    correct: str
    wrong: str
    words: tuple[str, ...]
    corrupted_words: tuple[str, ...]
    differing: tuple[int, ...]
    clean_metric: float
    corrupted_metric: float
    maps: tuple[ExampleMap, ...]
    also_correct: tuple[str, ...] = ()
    also_wrong: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Narrowing:
    """How the places of a kind of knowledge were narrowed, and the pairs that a screening cannot read."""

    screening: Screening
    left_out: int  # pairs whose answers share their first tokens


PARTS = ("total", "direct", "indirect", "interaction")  # of an effect


@dataclass(frozen=True)
class DirectEffects:
    """The effects of a kind's strongest places in parts `[site, part]`, over the facts held out; see `trace.mediation`.

    `identity_error` is how far total = direct + indirect measured backwards is missed at most, in the metric's unit.
    """

    sites: tuple[Site, ...]
    parts: IntervalMap
    facts: int
    pairs: int
    identity_error: float


@dataclass(frozen=True)
class Transfer:
    """What exchanges between a fine-tuned model and the model before it carry of the gap between both.

    `what` is a component or `weights`; `sites` are named, `weights` stands for all weights. `effect` and `control` have
    a cell for each site; `effect` is None where no pair has a gap. `left_out` pairs have none.
    """

    what: str
    direction: str
    sites: tuple[str, ...]
    effect: IntervalMap | None
    control: IntervalMap | None
    structural: Bool[np.ndarray, " site"]
    facts: int
    pairs: int
    left_out: int


@dataclass(frozen=True)
class KindResult:
    """What was measured of one kind of knowledge in one checkpoint; `maps` is empty where nothing could be swept."""

    kind: str
    pairs: int
    facts: int
    clean_metric: float  # means over the pairs that were kept; NaN where none was
    corrupted_metric: float
    maps: tuple[EffectMap, ...]
    examples: tuple[Example, ...]
    verdict: Verdict
    robustness: tuple[Robustness, ...] = ()  # a matrix of corruptions and metrics for each component
    narrowing: Narrowing | None = None
    across: tuple[Transfer, ...] = ()  # from model to model: activations and weights
    metrics: tuple[Robustness, ...] = ()  # further metrics beside the first, by component and direction
    nulls_absent: Mapping[str, str] = field(default_factory=dict)  # null maps that were not made, with the reason
    direct: DirectEffects | None = None
    subspaces: tuple[SubspaceResult, ...] = ()
    observed: Observed | None = None
    timed: Timed = field(default_factory=Timed)  # by token of the answer, and by windows of neighbours
    reached: Reached = field(default_factory=Reached)  # who makes up for a place, and who reads it
    concentration: tuple[IndexRow, ...] = ()  # of the effects of single places


@dataclass(frozen=True)
class KindsCompared:
    """Two kinds of knowledge compared at the places of one component; `roles` are the columns of its cells."""

    component: str
    roles: tuple[str, ...]
    contrast: Contrast


@dataclass(frozen=True)
class Checkpoint:
    """One model under study: a configuration, the model before fine-tuning, or a pretrained model as it is."""

    name: Words
    model: str
    digest: str
    training: TrainingCurve | None
    known: tuple[KnownCount, ...]
    excluded: tuple[Excluded, ...]
    checks: tuple[IdentityCheck, ...]
    kinds: tuple[KindResult, ...]
    compared: tuple[KindsCompared, ...] = ()
    split: str = ""  # hash of the record of the facts' split
    learnt: tuple[Learnt, ...] = ()
    unscored: tuple[Excluded, ...] = ()  # further answers that questions do without, where the metric counts them


@dataclass(frozen=True)
class ReportContents:
    """Everything in a report. All checkpoints of a report are drawn on the same scale, side by side."""

    title: Words
    pack_title: Words
    language: str  # of the prompts, not of the page
    provenance: Provenance
    metric: str  # the study's first, of which all shares are
    unit: str  # of that metric
    gap_floor: float  # in that unit
    confidence: float
    checkpoints: tuple[Checkpoint, ...]
    unknown: tuple[str, ...]  # codes of what this study did not measure, listed in the summary's third point
    replay: Replay | None = None  # of a published protocol, where the study asks for it
    swap: str = "subject"  # what the corrupted prompts have another of: subject, condition, object_class
    chain_head: str = ""  # NUMBER:HASH of the last review event of the workspace; empty before the first

    @property
    def narrowed(self) -> bool:
        """True where the places of any kind were narrowed by a screening."""
        return any(result.narrowing for checkpoint in self.checkpoints for result in checkpoint.kinds)

    @property
    def transferred(self) -> bool:
        """True where models were patched from one to the other."""
        return any(result.across for checkpoint in self.checkpoints for result in checkpoint.kinds)

    def measured(self, kind: str) -> list[Measured]:
        """Every map of a kind of knowledge, checkpoints in their order."""
        return [
            Measured(checkpoint, result, effects)
            for checkpoint in self.checkpoints
            for result in checkpoint.kinds
            if result.kind == kind
            for effects in result.maps
        ]


@dataclass(frozen=True)
class Measured:
    """One map with the checkpoint and the kind that it belongs to."""

    checkpoint: Checkpoint
    result: KindResult
    effects: EffectMap

    def names(self, texts: Texts) -> dict[str, str]:
        """What is shown, in words: kind, checkpoint, component, direction."""
        return {
            "kind": texts.word("kind", self.result.kind),
            "checkpoint": texts.pick(self.checkpoint.name),
            "component": texts.word("component", self.effects.component),
            "direction": texts(f"direction.{self.effects.direction}"),
        }
