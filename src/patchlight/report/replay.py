"""What a report shows of a published protocol that a study replays: numbers and words of rules, no prose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from patchlight.judge.published import Weighed
from patchlight.report.texts import Words


@dataclass(frozen=True)
class PublishedRow:
    """One figure of the published table, measured again: `role` is first-feed-forward, matrices or output-head.

    `module` leaves its result under the key `prints`, which `modules` modules share; `lowest` and `highest` are over
    them all. `random` is the recovery in models with random weights: lowest, median, highest. Shares of the gap.
    """

    role: str
    prints: str
    module: str
    modules: int
    published: float
    lowest: float
    highest: float
    random: tuple[float, float, float]
    weighed: Weighed


@dataclass(frozen=True)
class AskedQuestion:
    """A question of the protocol: both prompts, the right answer, the phrases scored; the metric in both runs."""

    clean: str
    corrupted: str
    answer: str
    scored: str
    against: str
    clean_metric: float
    corrupted_metric: float


@dataclass(frozen=True)
class PublishedTable:
    """The published table on one model for one kind of question; `random_models` is how many stand beside it.

    `reached` has, for each type of module, how many a hook on it reaches and how many printed names they have.
    """

    model: Words
    kind: str
    questions: tuple[AskedQuestion, ...]
    random_models: int
    reached: Mapping[str, tuple[int, int]]
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class AskedProperly:
    """What the study itself found of a kind: its verdict, and the permutation test of the layer over facts.

    It is of the feed-forward outputs; `layer_p` is None where nothing could be tested.
    """

    model: Words
    kind: str
    facts: int
    pairs: int
    word: str
    grade: str
    layer_p: float | None


@dataclass(frozen=True)
class Replay:
    """The published protocol on every model, and the same question asked properly."""

    tables: tuple[PublishedTable, ...]
    properly: tuple[AskedProperly, ...]
    floor: float
