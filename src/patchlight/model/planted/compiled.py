"""Programs compiled by hand into a stock GPT-2, in the way of RASP (Weiss et al. 2021) and Tracr (Lindner et al. 2023).

Select and aggregate become a head, an element-wise map becomes an MLP. Each program comes with itself in plain Python
and with what each head and MLP computes, so that a map of the model can be marked right or wrong. Prompts begin with
`start`, on which nothing depends; programs read letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from patchlight.model.anatomy import Model
from patchlight.model.planted.handmade import SHARP, Handmade
from patchlight.records import Pair

START, SEPARATOR = "start", ">"
LETTERS = ("a", "b", "c", "d")
Logits = Mapping[str, float]


@dataclass(frozen=True)
class Program:
    """A model that computes a program, and what is known of it.

    `run` gives the logits of the answer words at the end of a prompt, `prompts` are all inputs up to a length. `places`
    says what each working part computes. `working[pair]` names every head and MLP, at its position, whose replacement
    alone changes the answer of a pair when denoising; all others change nothing.
    """

    name: str
    model: Model
    run: Callable[[Sequence[str]], Logits]
    prompts: tuple[tuple[str, ...], ...]
    places: Mapping[str, str]
    pairs: tuple[Pair, ...]
    working: tuple[frozenset[str], ...]


HEAD, MLP, SECOND = "blocks.0.head_out.0", "blocks.0.mlp_out", "blocks.1.head_out.0"


def first() -> Program:
    """The first letter."""
    made = _begun(longest=4)
    made.head(0, 0, [({"one": SHARP}, {"at_1": 1})], _letters("is", "out"))

    def run(prompt: Sequence[str]) -> Logits:
        return {prompt[1]: 1.0}

    pairs = [_pair("a b c", "d b c", "a", "d", {HEAD + "@last"})]
    return _program("first", made, run, _all_letters(4), {HEAD: "moves the letter at position 1"}, pairs)


def fraction() -> Program:
    """The share of the letters so far that are `a`: `many` has twice the share less one."""
    made = _begun(longest=4, answers=("many", "few"))
    made.head(0, 0, _letters_alike(), [({"is_a": 1}, {"share": 1})])
    made.answer("many", {"share": 2, "one": -1})

    def run(prompt: Sequence[str]) -> Logits:
        return {"many": 2 * prompt.count("a") / (len(prompt) - 1) - 1}

    pairs = [_pair("a a b", "c c b", "many", "few", {HEAD + "@last"})]
    return _program("fraction", made, run, _all_letters(4), {HEAD: "averages whether a letter is `a`"}, pairs)


def most_frequent() -> Program:
    """The share of each letter: the most frequent one has the largest logit."""
    made = _begun(longest=4)
    made.head(0, 0, _letters_alike(), _letters("is", "out"))

    def run(prompt: Sequence[str]) -> Logits:
        return {letter: count / (len(prompt) - 1) for letter, count in Counter(prompt[1:]).items()}

    pairs = [_pair("a a b", "b a b", "a", "b", {HEAD + "@last"})]
    return _program("most frequent", made, run, _all_letters(4), {HEAD: "averages the letters"}, pairs)


def histogram() -> Program:
    """How often the last letter has occurred."""
    longest = 4
    counts = tuple(str(count) for count in range(1, longest + 1))
    made = _begun(longest, answers=counts)
    alike = [({f"is_{letter}": SHARP}, {f"is_{letter}": 1}) for letter in LETTERS]
    # One part in 1 + count of the attention stays with the start.
    made.head(0, 0, [*alike, ({"one": SHARP}, {"is_start": 1})], [({"is_start": 1}, {"share": 1})])
    for count in range(1, longest):
        between = (1 / (1 + count) + 1 / (2 + count)) / 2
        _step(made, {"share": 1, "one": -between}, {f"out_{count}": 1, f"out_{count + 1}": -1})
    for word in counts:
        made.answer(word, {f"out_{word}": 1, "one": float(word == counts[-1])})

    def run(prompt: Sequence[str]) -> Logits:
        return {str(prompt.count(prompt[-1])): 1.0}

    places = {HEAD: "gives the start 1 / (1 + count) of its attention", MLP: "turns the share into a count"}
    pairs = [_pair("a b a", "b b a", "2", "1", {HEAD + "@last", MLP + "@last"})]
    return _program("histogram", made, run, _all_letters(longest), places, pairs)


def balanced() -> Program:
    """Whether as many brackets were closed as opened."""
    made = _begun(longest=6, answers=("balanced", "open", "(", ")"))
    made.word("(", {"share": 1})
    made.word(")", {"share": -1})
    made.head(0, 0, [({"one": SHARP}, {"one": 1})], [({"share": 1}, {"mean": 1})])
    for sign in (1, -1):
        _step(made, {"mean": sign, "one": -1 / 14}, {"unequal": 1})
    made.answer("balanced", {"one": 1, "unequal": -1})
    made.answer("open", {"unequal": 1})

    def run(prompt: Sequence[str]) -> Logits:
        return {"balanced" if prompt.count("(") == prompt.count(")") else "open": 1.0}

    prompts = tuple((START, *rest) for size in range(1, 7) for rest in product("()", repeat=size))
    places = {HEAD: "averages opened less closed", MLP: "tells nought from anything else"}
    pairs = [_pair("( ( ) )", "( ( ( )", "balanced", "open", {HEAD + "@last", MLP + "@last"})]
    return _program("balanced", made, run, prompts, places, pairs)


def induction() -> Program:
    """What followed this letter before: the mean over all times it was followed."""
    longest = 5
    made = _begun(longest, layers=2)
    before = [({f"at_{at}": SHARP}, {f"at_{at - 1}": 1}) for at in range(1, longest + 1)]
    made.head(0, 0, before, _letters("is", "before"))
    same = [({f"is_{letter}": SHARP}, {f"before_{letter}": 1}) for letter in LETTERS]
    # A letter that was never followed looks at the start, which says nothing.
    made.head(1, 0, [*same, ({"one": SHARP / 2}, {"is_start": 1})], _letters("is", "out"))

    def run(prompt: Sequence[str]) -> Logits:
        followed = [after for before, after in pairwise(prompt) if before == prompt[-1]]
        return {letter: count / len(followed) for letter, count in Counter(followed).items()}

    places = {HEAD: "notes the letter before each", SECOND: "finds where this letter was before, moves what is there"}
    pairs = [
        _pair("a b c a", "a d c a", "b", "d", {SECOND + "@last"}),
        _pair("a b c d a", "c b a d a", "b", "d", {HEAD + "@2", HEAD + "@4", SECOND + "@last"}),
    ]
    return _program("induction", made, run, _all_letters(longest), places, pairs)


def reverse() -> Program:
    """The letters in front of the separator, last first, one after each letter that was already given."""
    letters = 4
    positions = range(1, 2 * letters + 1)
    made = _begun(longest=2 * letters, layers=2)
    made.head(0, 0, [({"one": SHARP}, {"is_separator": 1})], [({f"at_{at}": 1}, {f"mark_{at}": 1}) for at in positions])
    for mark in range(2, letters + 2):
        for at in range(mark, 2 * mark - 1):
            made.neuron(0, {f"at_{at}": 1, f"mark_{mark}": 1, "one": -1}, {f"from_{2 * mark - 1 - at}": 1})
    wanted = [({f"from_{at}": SHARP}, {f"at_{at}": 1}) for at in range(1, letters + 1)]
    made.head(1, 0, wanted, _letters("is", "out"))

    def run(prompt: Sequence[str]) -> Logits:
        mark = prompt.index(SEPARATOR)
        return {prompt[2 * mark - len(prompt)]: 1.0}

    words = [rest for size in range(1, letters + 1) for rest in product(LETTERS, repeat=size)]
    prompts = tuple((START, *word, SEPARATOR, *word[::-1][:given]) for word in words for given in range(len(word)))
    places = {
        HEAD: "finds the separator, notes its position",
        MLP: "takes the two positions from each other",
        SECOND: "moves the letter from where the MLP says",
    }
    pairs = [
        _pair("a b c >", "a b d >", "c", "d", {SECOND + "@last"}),
        _pair("a b > b", "d a b >", "a", "b", {HEAD + "@last", MLP + "@last", SECOND + "@last"}),
    ]
    return _program("reverse", made, run, prompts, places, pairs)


PROGRAMS: dict[str, Callable[[], Program]] = {
    "first": first,
    "fraction": fraction,
    "most frequent": most_frequent,
    "histogram": histogram,
    "balanced": balanced,
    "induction": induction,
    "reverse": reverse,
}


def _begun(longest: int, *, layers: int = 1, answers: tuple[str, ...] = ()) -> Handmade:
    """Letters, positions and answers; a letter answers where `out_` says so."""
    every = (*LETTERS, *(answer for answer in answers if answer.isdigit()))
    at = range(longest + 1)
    dimensions = [
        *("is_start", "is_separator", "share", "mean", "unequal"),
        *(f"{what}_{letter}" for what in ("is", "before") for letter in LETTERS),
        *(f"out_{word}" for word in every),
        *(f"{what}_{position}" for what in ("at", "mark", "from") for position in at),
    ]
    made = Handmade(
        (START, SEPARATOR, *LETTERS, *answers), dimensions, layers=layers, heads=2, positions=longest + 1, neurons=16
    )
    made.word(START, {"is_start": 1})
    made.word(SEPARATOR, {"is_separator": 1})
    for letter in LETTERS:
        made.word(letter, {f"is_{letter}": 1})
        made.answer(letter, {f"out_{letter}": 1})
    for position in at:
        made.position(position, {f"at_{position}": 1})
    return made


def _letters(read: str, written: str) -> list[tuple[dict[str, float], dict[str, float]]]:
    return [({f"{read}_{letter}": 1.0}, {f"{written}_{letter}": 1.0}) for letter in LETTERS]


def _letters_alike() -> list[tuple[dict[str, float], dict[str, float]]]:
    """A score by which every position but the start counts alike."""
    return [({"one": -SHARP}, {"is_start": 1.0})]


def _step(made: Handmade, read: dict[str, float], written: dict[str, float]) -> None:
    """Two neurons that write where what they read is positive by more than a 256th, and not where it is negative."""
    steep = {name: 256 * value for name, value in read.items()}
    made.neuron(0, steep, written)
    less = {**steep, "one": steep.get("one", 0.0) - 1}
    made.neuron(0, less, {name: -value for name, value in written.items()})


def _all_letters(longest: int) -> tuple[tuple[str, ...], ...]:
    return tuple((START, *rest) for size in range(1, longest + 1) for rest in product(LETTERS, repeat=size))


def _pair(clean: str, corrupted: str, correct: str, wrong: str, working: set[str]) -> tuple[Pair, frozenset[str]]:
    prompts = (f"{START} {clean}", f"{START} {corrupted}")
    return Pair(*prompts, correct=f" {correct}", wrong=f" {wrong}", fact=clean, kind="planted"), frozenset(working)


def _program(
    name: str,
    made: Handmade,
    run: Callable[[Sequence[str]], Logits],
    prompts: tuple[tuple[str, ...], ...],
    places: Mapping[str, str],
    known: Sequence[tuple[Pair, frozenset[str]]],
) -> Program:
    pairs, working = zip(*known, strict=True)
    return Program(name, made.finish(f"planted {name}"), run, prompts, places, pairs, working)
