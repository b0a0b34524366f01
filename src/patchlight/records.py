"""Frozen records that cross rooms. A record holds facts, not behaviour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text of a corpus; `id` is stable (a PMID where there is one)."""

    id: str
    text: str
    title: str = ""
    source: str = ""


@dataclass(frozen=True)
class Fact:
    """(subject, relation, object) with a kind: `definitional`, `associative`, or another that a pack declares.

    `subject` and `answers` are the words of one language, as they stand in a sentence (no leading space).
    `answers` is the set of right answers, best first; `distractors` are wrong ones of the same class.
    `taught` is False for facts that a composed corpus leaves out on purpose.
    """

    id: str
    kind: str
    relation: str
    subject: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    source: str = ""
    taught: bool = True


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupted prompt for one question, with a correct and a wrong answer.

    Answers are continuations taken literally: the leading space is part of them. `subject` and
    `corrupted_subject` are the spans that differ, used for the roles of positions; the other fields say
    where the pair comes from and are free for pairs written by hand. Statistics count by `fact`.
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


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids: the prompts as the model reads them (with its start token), and the answers after them.

    What differs between the prompts is the subject. Statistics count by `fact`.
    """

    clean_ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    correct_ids: tuple[int, ...]
    wrong_ids: tuple[int, ...]
    fact: str = ""
    kind: str = ""


@dataclass(frozen=True, order=True)
class Site:
    """A place where an activation can be replaced: component x layer x (head or neuron) x position.

    `position` is an index from 0, or a role such as `subject_last`; None means every position.
    Written `blocks.7.mlp_out@subject_last`, `blocks.9.head_out.6@last` (see `trace.sites`).
    """

    component: str
    layer: int | None = None
    unit: int | None = None
    position: int | str | None = None

    def __str__(self) -> str:
        """The canonical name, which `trace.sites.read_site` reads back."""
        layer = "" if self.layer is None else f"blocks.{self.layer}."
        unit = "" if self.unit is None else f".{self.unit}"
        position = "" if self.position is None else f"@{self.position}"
        return f"{layer}{self.component}{unit}{position}"


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, the number of facts behind it, and how it was made."""

    estimate: float
    low: float
    high: float
    n: int
    confidence: float = 0.95
    method: str = ""
