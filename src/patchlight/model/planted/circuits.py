"""Circuits built by hand, whose effects are known on paper: AND, OR, redundant copies, cancelling paths, a chain.

A prompt is `start A B then`; A and B are words that say on or off, on in the clean prompt, off in the corrupted one.
The right answer of pair i has the logit `gain * (output - 1/2)` and the wrong one nought, so that the gap is `gain`.
Effects are stated from these formulas, never from a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from patchlight.model.anatomy import Model
from patchlight.model.planted.handmade import SHARP, Handmade
from patchlight.records import Pair

START, THEN = "start", "then"
FACTS = 4
DIMENSIONS = ("a", "b", "at_a", "at_b", "at_middle", "x", "y", "middle", "output")


@dataclass(frozen=True)
class KnownEffect:
    """What replacing a site must do, as multiples of a pair's gap: denoising is added, noising taken away (negative).

    `direct` is what the site itself says to the output, `indirect` what others make of it; `total` is their sum, for
    the output is linear in the stream.
    """

    site: str
    direction: str
    total: float
    direct: float

    @property
    def indirect(self) -> float:
        """The indirect effect."""
        return self.total - self.direct


@dataclass(frozen=True)
class Circuit:
    """A model, its pairs, the gap of each pair in logits, and every site's effects; other sites do nothing at all.

    `together` are sets of sites with the total effect of replacing them at once.
    """

    name: str
    model: Model
    pairs: tuple[Pair, ...]
    gaps: tuple[float, ...]
    effects: tuple[KnownEffect, ...]
    together: tuple[tuple[tuple[str, ...], str, float], ...] = ()


FIRST, SECOND = "blocks.0.head_out.0@last", "blocks.0.head_out.1@last"
GATE = "blocks.0.mlp_out@last"


def conjunction() -> Circuit:
    """AND: either site alone restores nothing, and the loss of either costs all."""
    made = _begun(layers=1)
    _two_copies(made)
    made.neuron(0, {"x": 1, "y": 1, "one": -1}, {"output": 1})
    effects = [*_either(0, -1), *_both_ways(GATE, 1, 1)]
    return _circuit("and", made, effects, together=(((FIRST, SECOND), "denoise", 1), ((FIRST, SECOND), "noise", -1)))


def disjunction() -> Circuit:
    """OR: either site alone restores all, and the loss of one costs nothing."""
    made = _begun(layers=1)
    _two_copies(made)
    _at_most_one(made)
    effects = [*_either(1, 0), *_both_ways(GATE, 1, 1)]
    return _circuit("or", made, effects, together=(((FIRST, SECOND), "denoise", 1), ((FIRST, SECOND), "noise", -1)))


def redundant() -> Circuit:
    """Two copies of one word, of which one is enough: as OR, but all of it comes from one place."""
    made = _begun(layers=1)
    for head, into in enumerate(("x", "y")):
        made.head(0, head, [({"one": SHARP}, {"at_a": 1})], [({"a": 1}, {into: 1})])
    _at_most_one(made)
    effects = [*_either(1, 0), *_both_ways("embed@1", 1, 0), *_both_ways(GATE, 1, 1)]
    return _circuit("redundant", made, effects, together=(((FIRST, SECOND), "noise", -1),))


def cancelling() -> Circuit:
    """A head that says 2 to the output while an MLP makes -2 of it: no total effect, yet two large ones."""
    made = _begun(layers=1)
    made.head(0, 0, [({"one": SHARP}, {"at_a": 1})], [({"a": 1}, {"x": 1, "output": 2})])
    made.head(0, 1, [({"one": SHARP}, {"at_b": 1})], [({"b": 1}, {"output": 1})])
    made.neuron(0, {"x": 1}, {"output": -2})
    effects = [*_both_ways(FIRST, 0, 2), *_both_ways(SECOND, 1, 1), *_both_ways(GATE, -2, -2)]
    return _circuit("cancelling", made, effects)


def chain() -> Circuit:
    """A is carried to the middle, then to the end: the first head is only on the way, the second says it."""
    made = _begun(layers=2)
    made.head(0, 0, [({"at_middle": SHARP}, {"at_a": 1})], [({"a": 1}, {"middle": 1})])
    made.head(1, 0, [({"one": SHARP}, {"at_middle": 1})], [({"middle": 1}, {"output": 1})])
    effects = [
        *_both_ways("embed@1", 1, 0),
        *_both_ways("blocks.0.head_out.0@2", 1, 0),
        *_both_ways("blocks.1.head_out.0@last", 1, 1),
    ]
    return _circuit("chain", made, effects)


CIRCUITS: dict[str, Callable[[], Circuit]] = {
    "and": conjunction,
    "or": disjunction,
    "redundant": redundant,
    "cancelling": cancelling,
    "chain": chain,
}


def _begun(layers: int) -> Handmade:
    """The words and positions that all circuits share."""
    facts = [f"{part}{fact}_{state}" for part in "ab" for fact in range(FACTS) for state in ("on", "off")]
    answers = [f"{answer}{fact}" for answer in ("right", "wrong") for fact in range(FACTS)]
    made = Handmade([START, THEN, *facts, *answers], DIMENSIONS, layers=layers, heads=2, positions=4, neurons=4)
    for position, name in ((1, "at_a"), (2, "at_b"), (2, "at_middle")):
        made.position(position, {name: 1})
    for fact in range(FACTS):
        for part in "ab":
            made.word(f"{part}{fact}_on", {part: 1})
        gain = _gain(fact)
        made.answer(f"right{fact}", {"output": gain, "one": -gain / 2})
    return made


def _gain(fact: int) -> float:
    return 2.0 + 0.5 * fact


def _two_copies(made: Handmade) -> None:
    """A head that carries A to the end, and one that carries B."""
    made.head(0, 0, [({"one": SHARP}, {"at_a": 1})], [({"a": 1}, {"x": 1})])
    made.head(0, 1, [({"one": SHARP}, {"at_b": 1})], [({"b": 1}, {"y": 1})])


def _at_most_one(made: Handmade) -> None:
    made.neuron(0, {"x": 1, "y": 1}, {"output": 1})
    made.neuron(0, {"x": 1, "y": 1, "one": -1}, {"output": -1})


def _either(restored: float, lost: float) -> list[KnownEffect]:
    """Both heads alike: what one alone restores, and what the loss of one costs; neither says it to the output."""
    return [
        KnownEffect(site, direction, total, 0)
        for site in (FIRST, SECOND)
        for direction, total in (("denoise", restored), ("noise", lost))
    ]


def _both_ways(site: str, total: float, direct: float) -> list[KnownEffect]:
    """A site that takes away what it restores."""
    return [KnownEffect(site, "denoise", total, direct), KnownEffect(site, "noise", -total, -direct)]


def _circuit(
    name: str,
    made: Handmade,
    effects: list[KnownEffect],
    together: tuple[tuple[tuple[str, ...], str, float], ...] = (),
) -> Circuit:
    pairs = tuple(_pair(name, fact) for fact in range(FACTS))
    gaps = tuple(_gain(fact) for fact in range(FACTS))
    return Circuit(name, made.finish(f"planted {name}"), pairs, gaps, tuple(effects), together)


def _pair(name: str, fact: int) -> Pair:
    clean, corrupted = (f"{START} a{fact}_{state} b{fact}_{state} {THEN}" for state in ("on", "off"))
    return Pair(clean, corrupted, correct=f" right{fact}", wrong=f" wrong{fact}", fact=f"{name}-{fact}", kind="planted")
