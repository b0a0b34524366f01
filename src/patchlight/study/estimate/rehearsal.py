"""How many patched runs the growth of sets takes: the study's own code on benches that count, with or without a model.

Growth goes on from what it measures, so that its length is not known before. On benches that measure nothing it is
led through courses: the `first` place is enough; or only the `last` and largest sets are, which can do without nothing;
or (`leaning`) without all but one place. A real growth has no more steps, no more needless places and no more sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from patchlight.pairs.align import align
from patchlight.pairs.answers import Answers
from patchlight.records import Pair
from patchlight.study.sets import SetBenches, found_sets
from patchlight.study.sweeping import Sets

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from patchlight.model.anatomy import Model
    from patchlight.trace.joint import SetBench, Together

BARELY = 0.99  # of the smallest share asked for: what a set has that does not reach it
Course = Literal["first", "last", "leaning"]


def set_runs(
    model: Model, pairs: Sequence[Pair], components: tuple[str, ...], metric: str, seed: int, spec: Sets
) -> tuple[int, int]:
    """The patched runs of a kind's sets, those of the shortest course and a bound on all; the model is not run."""
    runs_of = dict(zip(pairs, continuations(model, pairs, metric).tolist(), strict=True))

    def led(course: Course) -> int:
        benches = CountedBenches(model, pairs, components, metric, seed, spec, course, runs_of)
        found_sets(benches, _in_discovery(pairs), spec)
        return benches.runs

    first = led("first")
    # The growth, the largest sets, and all that can be left out of them; what is made in any case is counted once.
    return first, led("last") + led("leaning") - first


def set_runs_measured(
    model: Model,
    random: Model,
    pairs: Sequence[Pair],
    components: tuple[str, ...],
    metric: str,
    memory: int,
    seed: int,
    spec: Sets,
    on_runs: Callable[[int], None],
) -> int:
    """The patched runs of a kind's sets as they are really grown; `on_runs` gets their number as it grows."""
    benches = _Watched(on_runs, model, random, pairs, components, metric, memory, seed)
    found_sets(benches, _in_discovery(pairs), spec)
    return benches.runs


class CountedBenches(SetBenches):
    """Benches that run no model: a set has the share that a course gives its size, and every run is counted."""

    def __init__(
        self,
        model: Model,
        pairs: Sequence[Pair],
        components: tuple[str, ...],
        metric: str,
        seed: int,
        spec: Sets,
        course: Course,
        runs_of: Mapping[Pair, int],
    ) -> None:
        super().__init__(model, model, pairs, components, metric, 0, seed)
        self.runs_of = runs_of
        self.runs, self.shares, self.course = 0, sorted(spec.share), course
        self.reached: set[str] = set()  # the directions in which the largest set was tried
        embedding = self.embedding()
        sites = [site for site in self.sites() if site not in embedding]
        self.rank = {site: number for number, site in enumerate(sites)}
        self.largest = max(1, int(spec.largest * len(sites)))

    def at_random(self, rows: np.ndarray | None = None, direction: str = "denoise") -> Any:
        """Nothing comes back in a model with random weights, so that every site may be chosen."""
        pairs = self.pairs if rows is None else [pair for pair, row in zip(self.pairs, rows, strict=True) if row]
        bench = _Counted(self, pairs, direction, nothing=True)
        return lambda sets: (bench.effects(sets), bench.gaps)

    def _bench(self, model: Model, pairs: Sequence[Pair], **settings: Any) -> Any:
        return _Counted(self, pairs, settings.get("direction", "denoise"))

    def effect(self, sites: Together, direction: str) -> float:
        """The share of a set; but for the first course the directions prefer different places, so that sets differ."""
        if self.course == "first":
            return 1.0
        ranks = sum(self.rank.get(site, 0) for site in sites)
        preferred = 1e-9 * (ranks if direction == "noise" else -ranks)
        if len(sites) >= self.largest:
            self.reached.add(direction)
        if self.course == "leaning" and direction in self.reached:
            return 1.0 + preferred
        # One share after another with the last sites, so that each has a set of its own.
        beyond = len(sites) - self.largest + len(self.shares) - 1
        if beyond >= 0:
            return self.shares[min(beyond, len(self.shares) - 1)] + 1e-6 + preferred
        return BARELY * self.shares[0] * len(sites) / self.largest + preferred


class _Counted:
    """Pairs on which sets are counted and not tried."""

    def __init__(
        self, benches: CountedBenches, pairs: Sequence[Pair], direction: str, *, nothing: bool = False
    ) -> None:
        self.benches, self.direction, self.nothing = benches, direction, nothing
        self.gaps, self.once = np.ones(len(pairs)), sum(benches.runs_of[pair] for pair in pairs)

    def effects(self, sets: Sequence[Together]) -> Float[np.ndarray, "pair set"]:
        self.benches.runs += len(sets) * self.once
        shares = [0.0 if self.nothing else self.benches.effect(sites, self.direction) for sites in sets]
        return np.tile(shares, (len(self.gaps), 1))

    def structural(self, sets: Sequence[Together]) -> Bool[np.ndarray, " set"]:
        return np.zeros(len(sets), dtype=bool)


class _Watched(SetBenches):
    """The benches of a study, which say how many runs they have made."""

    def __init__(self, on_runs: Callable[[int], None], *given: Any) -> None:
        super().__init__(*given)
        self.runs, self.on_runs = 0, on_runs

    def _bench(self, model: Model, pairs: Sequence[Pair], **settings: Any) -> Any:
        return _Watching(self, super()._bench(model, pairs, **settings), pairs)


class _Watching:
    """A bench that says how many runs it has made."""

    def __init__(self, benches: _Watched, bench: SetBench, pairs: Sequence[Pair]) -> None:
        self.benches, self.bench = benches, bench
        self.direction, self.structural = bench.direction, bench.structural
        self.once = int(continuations(benches.model, pairs, benches.metric).sum())

    @property
    def gaps(self) -> Float[np.ndarray, " pair"]:
        return self.bench.gaps

    def effects(self, sets: Sequence[Together]) -> Float[np.ndarray, "pair set"]:
        found = self.bench.effects(sets)
        self.benches.runs += len(sets) * self.once
        self.benches.on_runs(self.benches.runs)
        return found


def continuations(model: Model, pairs: Sequence[Pair], metric: str) -> np.ndarray:
    """How often a patch is run in each pair: once for each continuation that the metric reads."""
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    return np.array([len(Answers.of([alignment], [metric]).continuations) for alignment in alignments], dtype=int)


def _in_discovery(pairs: Sequence[Pair]) -> Bool[np.ndarray, " pair"]:
    return np.array([pair.half == "discovery" for pair in pairs], dtype=bool)
