"""The models under study and what the walk measured of each, before it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from patchlight.records import Pair
from patchlight.report.contents import Narrowing
from patchlight.store.results import Artifact
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


@dataclass(frozen=True)
class FurtherMetric:
    """What a metric beside the first was after each patch of a sweep, and in the unpatched runs."""

    values: Float[np.ndarray, "pair layer position"]
    clean: Float[np.ndarray, " pair"]
    corrupted: Float[np.ndarray, " pair"]


@dataclass(frozen=True)
class SweepResult:
    """The first metric after each patch, `values` `[pair, layer, position]`; NaN where nothing was patched.

    `structural` marks what restores everything by construction. In a control sweep the donor was another fact of
    the same relation. `further` has the study's other metrics by name.
    """

    component: str
    direction: str
    control: bool
    values: Float[np.ndarray, "pair layer position"]
    structural: Bool[np.ndarray, "pair layer position"]
    further: Mapping[str, FurtherMetric] = field(default_factory=dict)

    def of(self, rows: Bool[np.ndarray, " pair"]) -> SweepResult:
        """The sweep of some of its pairs."""
        further = {
            name: FurtherMetric(each.values[rows], each.clean[rows], each.corrupted[rows])
            for name, each in self.further.items()
        }
        return replace(self, values=self.values[rows], structural=self.structural[rows], further=further)


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
