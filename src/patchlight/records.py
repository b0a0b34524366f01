"""Frozen records that cross rooms. A record holds facts, not behaviour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import total_ordering
from itertools import groupby
from operator import index
from typing import Literal

from patchlight.errors import InputError

Null = Literal["another-fact", "permuted", "random-donor", "random-init", "before"]
DONOR_NULLS: tuple[Null, ...] = ("another-fact", "permuted", "random-donor")  # another donor in the same model
MODEL_NULLS: tuple[Null, ...] = ("random-init", "before")  # the same pairs in another model
NULLS = DONOR_NULLS + MODEL_NULLS
LARGEST_INDEX = 999_999  # above any width or context; a mistyped window must not fill the memory


@dataclass(frozen=True)
class Document:
    """One text of a corpus; `id` is stable (a PMID where there is one).

    `part` is its side of a split that was made before (`train`, `validation`, `held_out`), empty where none was.
    """

    id: str
    text: str
    title: str = ""
    source: str = ""
    part: str = ""


@dataclass(frozen=True)
class Fact:
    """(subject, relation, object) with a kind: `definitional`, `associative`, or another that a pack declares.

    `subject` and `answers` are the words of one language, as they stand in a sentence (no leading space).
    `answers` is the set of right answers, best first; `distractors` are wrong ones of the same class.
    `taught` is False for facts that a composed corpus leaves out on purpose. `condition`: the words under
    which the fact holds.
    """

    id: str
    kind: str
    relation: str
    subject: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    source: str = ""
    taught: bool = True
    condition: str = ""


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupted prompt for one question, with a correct and a wrong answer.

    Answers are continuations taken literally: the leading space is part of them. `subject` and
    `corrupted_subject` are the spans that differ, used for the roles of positions; the other fields say
    where the pair comes from and are free for pairs written by hand. Statistics count by `fact`, and know that
    the pair leans on its `partner` too: the fact whose subject and answer make the corrupted side. `half` is
    `discovery` or `confirmation`; no pair of one half leans on a fact of the other.

    `also_correct` and `also_wrong` are further right answers of the clean and of the corrupted prompt, `distractors`
    are wrong after both. Metrics over sets of answers count them; all others read `correct` and `wrong` alone.
    """

    clean: str
    corrupted: str
    correct: str
    wrong: str
    subject: str = ""
    corrupted_subject: str = ""
    fact: str = ""
    kind: str = ""
    relation: str = ""
    template: str = ""
    taught: bool = True
    partner: str = ""
    half: str = ""
    also_correct: tuple[str, ...] = ()
    also_wrong: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids: the prompts as the model reads them (with its start token), and the answers after them.

    What differs between the prompts is the subject. Statistics count by `fact`. Further answers are those of `Pair`.
    """

    clean_ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    correct_ids: tuple[int, ...]
    wrong_ids: tuple[int, ...]
    fact: str = ""
    kind: str = ""
    also_correct_ids: tuple[tuple[int, ...], ...] = ()
    also_wrong_ids: tuple[tuple[int, ...], ...] = ()
    distractor_ids: tuple[tuple[int, ...], ...] = ()


@total_ordering
@dataclass(frozen=True)
class Site:
    """One intervention: the activations that are replaced together, by component, layer, head or neuron, and position.

    `layer`, `unit` and `position` are each an index from 0 or several of them, kept as an int or as a rising tuple, so
    that `range(3, 6)` is a window of layers or a span of tokens. `position` may be a role such as `subject_last`, the
    whole `subject`, or a span of roles such as `relation-last`. None stands for every unit and every position, and for
    the layer of a component outside the blocks. Sites sort by component, layer, unit and position. Written
    `blocks.7.mlp_out@subject_last`, `blocks.3-5.head_out.0+6@last` (read back by `trace.sites.read_site`).

    Raises InputError `trace-site-name` for an index below 0, one given twice, and an empty set of them.
    """

    component: str
    layer: int | Sequence[int] | None = None
    unit: int | Sequence[int] | None = None
    position: int | Sequence[int] | str | None = None

    def __post_init__(self) -> None:
        for part in ("layer", "unit", "position"):
            given = getattr(self, part)
            if given is not None and not isinstance(given, str):
                object.__setattr__(self, part, _one_or_several(given, part))

    def __str__(self) -> str:
        """The canonical name."""
        layer = "" if self.layer is None else f"blocks.{_written(self.layer)}."
        unit = "" if self.unit is None else f".{_written(self.unit)}"
        position = "" if self.position is None else f"@{_written(self.position)}"
        return f"{layer}{self.component}{unit}{position}"

    def __lt__(self, other: Site) -> bool:
        return self._key < other._key

    @property
    def _key(self) -> tuple[object, ...]:
        role, at = (self.position, None) if isinstance(self.position, str) else ("", self.position)
        return (self.component, *(_tuple(part) for part in (self.layer, self.unit, at)), role)


def _one_or_several(given: int | Iterable[int], part: str) -> int | tuple[int, ...]:
    """An index as it is, several as a rising tuple."""
    indices = tuple(sorted(map(index, given if isinstance(given, Iterable) else (given,))))
    if not indices or len(set(indices)) < len(indices) or not 0 <= indices[0] <= indices[-1] <= LARGEST_INDEX:
        what = f"the {part} of a site is {given!r}"
        fix = f"give different whole numbers from 0 to {LARGEST_INDEX}, at least one; the last token is called 'last'"
        raise InputError("trace-site-name", what, fix=fix)
    return indices[0] if len(indices) == 1 else indices


def _tuple(part: int | Iterable[int] | None) -> tuple[int, ...]:
    return () if part is None else tuple(part) if isinstance(part, Iterable) else (part,)


def _written(part: int | Sequence[int] | str) -> str:
    """Indices with their runs drawn together: `0-2+6`."""
    if isinstance(part, int | str):
        return str(part)
    # Along a run of neighbours an index grows as fast as its place in the row.
    runs = [[at for _, at in run] for _, run in groupby(enumerate(part), lambda pair: pair[1] - pair[0])]
    return "+".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, the number of facts behind it, and how it was made."""

    estimate: float
    low: float
    high: float
    n: int
    confidence: float = 0.95
    method: str = ""
