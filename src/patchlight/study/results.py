"""The models under study and what the walk measured of each, before it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from patchlight.records import Pair
from patchlight.report.contents import DirectEffects, Narrowing
from patchlight.report.reached import Reached
from patchlight.report.timed import Timed
from patchlight.report.within import Observed, SubspaceResult
from patchlight.store.results import Artifact
from patchlight.trace.sufficient import SetEvidence
from patchlight.verify.agreement import Robustness

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model


@dataclass(frozen=True)
class Checkpoint:
    """One model under study: `key` in tables and labels, `digest` of its weights' source, and how to get it."""

    key: str
    digest: str
    read: Callable[[], Model]
    training: Artifact | None = None

    @cached_property
    def model(self) -> Model:
        """The model, read at first use."""
        return self.read()

    def let_go(self) -> None:
        """Lets go of the model, which is read again at the next use."""
        vars(self).pop("model", None)


@dataclass(frozen=True)
class Question:
    """A pair that takes part: its metric in both runs, and its tokens as people read them, with roles."""

    pair: Pair
    clean: float
    corrupted: float
    words: tuple[str, ...]
    corrupted_words: tuple[str, ...]
    roles: tuple[str, ...]
    differing: tuple[int, ...]
    answer_tokens: int = 1  # of the correct answer


@dataclass(frozen=True)
class FurtherMetric:
    """What a metric beside the first was after each patch of a sweep, and in the unpatched runs."""

    values: Float[np.ndarray, "pair layer position"]
    clean: Float[np.ndarray, " pair"]
    corrupted: Float[np.ndarray, " pair"]


@dataclass(frozen=True)
class SweepResult:
    """The first metric after each patch, `values` `[pair, layer, position]`; NaN where nothing was patched.

    `structural` marks what restores everything by construction. `null` names the null map that the sweep makes, empty
    for the effect itself; where it runs another model, `clean` and `corrupted` are that model's unpatched runs.
    `further` has the study's other metrics by name.
    """

    component: str
    direction: str
    null: str
    values: Float[np.ndarray, "pair layer position"]
    structural: Bool[np.ndarray, "pair layer position"]
    further: Mapping[str, FurtherMetric] = field(default_factory=dict)
    clean: Float[np.ndarray, " pair"] | None = None
    corrupted: Float[np.ndarray, " pair"] | None = None

    @property
    def control(self) -> bool:
        """True for a null map."""
        return bool(self.null)

    def of(self, rows: Bool[np.ndarray, " pair"]) -> SweepResult:
        """The sweep of some of its pairs."""
        further = {
            name: FurtherMetric(each.values[rows], each.clean[rows], each.corrupted[rows])
            for name, each in self.further.items()
        }
        clean, corrupted = (None if run is None else run[rows] for run in (self.clean, self.corrupted))
        return replace(
            self,
            values=self.values[rows],
            structural=self.structural[rows],
            further=further,
            clean=clean,
            corrupted=corrupted,
        )


@dataclass(frozen=True)
class AcrossResult:
    """The first metric after each exchange between two models, `values[pair, site]`, and that of the models alone.

    `what` is a component or `weights`; `control` is NaN where a pair has none.
    """

    what: str
    direction: str
    sites: tuple[str, ...]
    values: Float[np.ndarray, "pair site"]
    structural: Bool[np.ndarray, " site"]
    tuned: Float[np.ndarray, " pair"]
    base: Float[np.ndarray, " pair"]
    control: Float[np.ndarray, "pair site"] | None


@dataclass(frozen=True)
class CheckpointResults:
    """One checkpoint with its questions and sweeps; `identities` is None where no question was left to sweep."""

    checkpoint: Checkpoint
    asked: Artifact
    identities: Artifact | None
    questions: tuple[Question, ...]
    sweeps: tuple[SweepResult, ...]
    failed: int  # of the units of its sweeps
    units: int
    robustness: Mapping[str, tuple[Robustness, ...]] = field(default_factory=dict)  # by kind, where it was asked for
    narrowings: Mapping[str, Narrowing] = field(default_factory=dict)  # by kind, where it was asked for
    nulls: tuple[str, ...] = ()  # the null maps that apply to this checkpoint, made or not
    across: tuple[AcrossResult, ...] = ()  # of a fine-tuned checkpoint, where it was asked for
    directs: Mapping[str, DirectEffects] = field(default_factory=dict)  # by kind, where it was asked for
    subspaces: Mapping[str, tuple[SubspaceResult, ...]] = field(default_factory=dict)  # by kind, where it was asked for
    observed: Mapping[str, Observed] = field(default_factory=dict)  # by kind, where it was asked for
    timed: Mapping[str, Timed] = field(default_factory=dict)  # by kind, where it was asked for
    reached: Mapping[str, Reached] = field(default_factory=dict)  # by kind, where it was asked for
    sets: Mapping[str, SetEvidence] = field(default_factory=dict)  # by kind, where there are enough facts
    split: str = ""  # hash of the unit that holds the split of the facts
    mentions: Mapping[str, int] = field(default_factory=dict)  # by fact: the training texts that name its answer
