"""Which token answers to which: a pair as two rows of token ids with roles and words.

Prompt and answer are encoded together, so that a merge over their border is seen and refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from jaxtyping import Float

from patchlight.errors import InputError
from patchlight.packs.wording import mentions
from patchlight.records import Pair, TokenPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("bos", "before", "subject_first", "subject_mid", "subject_last", "relation", "last")
PART = "·"  # shown for a token that only completes a character already shown
BYTES = 4  # the most that a character of UTF-8 has, so the most tokens that it can be cut into


class AlignmentRefused(InputError):
    """A pair cannot be measured as it stands; `reason` is short and stable, so that it can be counted."""

    def __init__(self, reason: str, what: str, *, pair: Pair | TokenPair, fix: str = "") -> None:
        code = "pair-" + re.sub(r"[^a-z]+", "-", reason.replace("'", "").lower()).strip("-")
        prompt = f"{pair.clean!r}" if isinstance(pair, Pair) else f"of tokens {pair.clean_ids}"
        super().__init__(code, what, where=f"pair {prompt}", fix=fix)
        self.reason = reason


@dataclass(frozen=True)
class Alignment:
    """A pair in tokens: both prompts have the same length and the same roles.

    `correct_ids` and `wrong_ids` are the answers as they follow the prompts. `differing` lists the positions whose
    tokens differ. `roles` (per position): bos, before, subject_first, subject_mid, subject_last, relation, last.
    `words` and `corrupted_words`: what a token adds to the text, as read. `also_correct_ids` are further right answers,
    `also_wrong_ids` further wrong ones: right after the corrupted prompt, then distractors.
    """

    clean_ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    correct_ids: tuple[int, ...]
    wrong_ids: tuple[int, ...]
    differing: tuple[int, ...]
    roles: tuple[str, ...]
    words: tuple[str, ...]
    corrupted_words: tuple[str, ...]
    also_correct_ids: tuple[tuple[int, ...], ...] = ()
    also_wrong_ids: tuple[tuple[int, ...], ...] = ()

    @property
    def all_correct_ids(self) -> tuple[tuple[int, ...], ...]:
        """All right answers, without those that go on from another: who says the longer has said the shorter."""
        return _beginnings((self.correct_ids, *self.also_correct_ids))

    @property
    def all_wrong_ids(self) -> tuple[tuple[int, ...], ...]:
        """All wrong answers, without those that go on from another."""
        return _beginnings((self.wrong_ids, *self.also_wrong_ids))

    @property
    def parting(self) -> int:
        """How many tokens the answers have in common before they part."""
        return common_tokens(self.correct_ids, self.wrong_ids)

    @property
    def parted(self) -> bool:
        """False where one answer begins with the whole of the other, so that no token tells them apart."""
        return self.parting < min(len(self.correct_ids), len(self.wrong_ids))

    @property
    def correct_id(self) -> int:
        """The token of the correct answer where the answers part. Raises InputError where they do not."""
        return self._at_parting(self.correct_ids)

    @property
    def wrong_id(self) -> int:
        """The token of the wrong answer where the answers part. Raises InputError where they do not."""
        return self._at_parting(self.wrong_ids)

    def _at_parting(self, ids: tuple[int, ...]) -> int:
        if not self.parted:
            what = f"one answer begins with the other: {self.correct_ids} and {self.wrong_ids}"
            raise InputError("pair-one-answer-begins-with-the-other", what, fix="choose another wrong answer")
        return ids[self.parting]


@dataclass(frozen=True)
class _Encoded:
    """A text in tokens, without the special tokens a tokenizer appends (an end-of-text ends no prompt)."""

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]  # characters of `text` behind each token
    added: tuple[bool, ...]  # the tokenizer put this token in front


def common_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common from the first on."""
    differ = (at for at, tokens in enumerate(zip(one, other, strict=False)) if tokens[0] != tokens[1])
    return next(differ, min(len(one), len(other)))


def _beginnings(answers: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Each answer once, but none that begins with another."""
    different = tuple(dict.fromkeys(answers))
    return tuple(
        one for one in different if not any(one != other and one[: len(other)] == other for other in different)
    )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The token ids of a prompt: special tokens in front as the tokenizer adds them, none behind.

    Raises InputError `pair-slow-tokenizer` where the tokenizer cannot say which characters a token covers.
    """
    return _encode(tokenizer, text).ids


def read_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """What each token of a prompt adds for a reader, and the characters of the text behind it; raises like `encode`."""
    encoded = _encode(tokenizer, text)
    return _words(tokenizer, encoded), encoded.spans


def align(tokenizer: PreTrainedTokenizerBase, pair: Pair | TokenPair) -> Alignment:
    """The pair in tokens, position by position.

    Raises AlignmentRefused, with the reason, where the prompts do not have the same number of tokens and the
    same roles, or where answers are empty, or other tokens after the other prompt. A right answer must not be the same
    as a wrong one, nor, but for the best two, begin with it or the other way round.
    """
    clean, corrupted = _prompts(tokenizer, pair)
    if len(clean.ids) != len(corrupted.ids):
        counts = f"{len(clean.ids)} and {len(corrupted.ids)}"
        tokens = " against ".join("|".join(_words(tokenizer, prompt)) for prompt in (clean, corrupted))
        what = f"different token counts ({counts}): {tokens}"
        _refuse(pair, "different token counts", what, "choose subjects that have the same number of tokens")
    differing = tuple(i for i, ids in enumerate(zip(clean.ids, corrupted.ids, strict=True)) if ids[0] != ids[1])
    if not differing:
        _refuse(pair, "prompts are the same", "clean and corrupted prompt are the same in tokens")
    right, wrong = _answer_ids(tokenizer, pair, clean, corrupted)
    return Alignment(
        clean_ids=clean.ids,
        corrupted_ids=corrupted.ids,
        correct_ids=right[0],
        wrong_ids=wrong[0],
        differing=differing,
        roles=_roles(pair, clean, corrupted, differing),
        words=_words(tokenizer, clean),
        corrupted_words=_words(tokenizer, corrupted),
        also_correct_ids=right[1:],
        also_wrong_ids=wrong[1:],
    )


def mean_by_role(
    cells: Float[np.ndarray, "pair *axis position"], roles: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], Float[np.ndarray, "pair *axis role"]]:
    """The roles that occur, in the order of `ROLES`, and the mean over the positions of each (NaN: none)."""
    present = tuple(role for role in ROLES if any(role in of_pair for of_pair in roles))
    means = np.full((*cells.shape[:-1], len(present)), np.nan)
    for pair, of_pair in enumerate(roles):
        for column, role in enumerate(present):
            positions = [position for position, name in enumerate(of_pair) if name == role]
            if positions:
                means[pair, ..., column] = cells[pair][..., positions].mean(axis=-1)
    return present, means


def answers_of(pair: Pair) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All right and all wrong answers of a pair, in the order of its alignment's: the best first, distractors last."""
    return (pair.correct, *pair.also_correct), (pair.wrong, *pair.also_wrong, *pair.distractors)


def refuse_leak(tokenizer: PreTrainedTokenizerBase, pair: Pair, alignment: Alignment) -> None:
    """Raises AlignmentRefused where any answer stands in a prompt (guard 5 of the method).

    An answer stands in a prompt as a word (whatever the case; anywhere in scripts that write no spaces), or
    by its first token, or by the first that tells it from the best answer of the other side. A token that is only part
    of a character says nothing and is passed over.
    """
    right, wrong = answers_of(pair)
    sides = (
        (right, (alignment.correct_ids, *alignment.also_correct_ids), alignment.wrong_ids),
        (wrong, (alignment.wrong_ids, *alignment.also_wrong_ids), alignment.correct_ids),
    )
    for answers, ids_of, other in sides:
        for answer, ids in zip(answers, ids_of, strict=True):
            common = common_tokens(ids, other)
            parted = common < min(len(ids), len(other))
            _refuse_standing(tokenizer, pair, alignment, answer, ids[common if parted else 0])


def _refuse_standing(
    tokenizer: PreTrainedTokenizerBase, pair: Pair, alignment: Alignment, answer: str, token: int
) -> None:
    for prompt, ids in ((pair.clean, alignment.clean_ids), (pair.corrupted, alignment.corrupted_ids)):
        if mentions(prompt, answer):
            _refuse(pair, "answer in the prompt", f"the answer {answer.strip()!r} stands in {prompt!r}")
        if token in ids and "\ufffd" not in tokenizer.decode([token]):
            piece = tokenizer.decode([token])
            what = f"{piece!r}, with which the answer {answer.strip()!r} begins to differ, stands in {prompt!r}"
            _refuse(pair, "answer's first token in the prompt", what)


def refuse_unparted(pair: Pair | TokenPair, alignment: Alignment) -> None:
    """Raises AlignmentRefused where one answer begins with the other: no single token tells them apart."""
    if not alignment.parted:
        what = f"one answer begins with the other: tokens {alignment.correct_ids} and {alignment.wrong_ids}"
        _refuse(pair, "one answer begins with the other", what, "choose another wrong answer, or logprob_diff")


def _refuse(pair: Pair | TokenPair, reason: str, what: str, fix: str = "write the pair with other words") -> NoReturn:
    raise AlignmentRefused(reason, what, pair=pair, fix=fix)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> _Encoded:
    if not tokenizer.is_fast:
        what = f"{type(tokenizer).__name__} cannot say which characters a token covers"
        raise InputError("pair-slow-tokenizer", what, fix="load the model with its fast tokenizer (tokenizer.json)")
    coded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    special = [bool(flag) for flag in coded["special_tokens_mask"]]
    end = len(special)
    while end and special[end - 1]:
        end -= 1
    end = end or len(special)  # an empty text: what stands there was put in front
    spans = tuple((int(start), int(stop)) for start, stop in coded["offset_mapping"][:end])
    return _Encoded(text, tuple(coded["input_ids"][:end]), spans, tuple(special[:end]))


def _prompts(tokenizer: PreTrainedTokenizerBase, pair: Pair | TokenPair) -> tuple[_Encoded, _Encoded]:
    if isinstance(pair, TokenPair):
        if (lowest := min((*pair.clean_ids, *pair.corrupted_ids), default=0)) < 0:
            _refuse(pair, "no such token", f"{lowest} is no token", "give the ids of tokens, from 0 on")
        return _decoded(tokenizer, pair.clean_ids), _decoded(tokenizer, pair.corrupted_ids)
    return _encode(tokenizer, pair.clean), _encode(tokenizer, pair.corrupted)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> _Encoded:
    """A prompt known by its tokens. A character that is cut into several tokens belongs to each of them."""
    special = set(tokenizer.all_special_ids)
    start = next((i for i, token in enumerate(ids) if token not in special), len(ids))
    text, spans, parts = "", [(0, 0)] * start, list[int]()
    for token in ids[start:]:
        parts.append(token)
        piece = str(tokenizer.decode(parts))
        if "\ufffd" in piece and len(parts) < BYTES and len(spans) + len(parts) < len(ids):
            continue
        spans += [(len(text), len(text) + len(piece))] * len(parts)
        text, parts = text + piece, []
    return _Encoded(text, tuple(ids), tuple(spans), tuple(i < start for i in range(len(ids))))


def _answer_ids(
    tokenizer: PreTrainedTokenizerBase, pair: Pair | TokenPair, clean: _Encoded, corrupted: _Encoded
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """The tokens of all right and of all wrong answers, the best first."""
    if isinstance(pair, TokenPair):
        right = (pair.correct_ids, *pair.also_correct_ids)
        wrong = (pair.wrong_ids, *pair.also_wrong_ids, *pair.distractor_ids)
    else:
        right, wrong = (
            tuple(_answer(tokenizer, pair, clean, corrupted, each) for each in side) for side in answers_of(pair)
        )
    right, wrong = tuple(map(tuple, right)), tuple(map(tuple, wrong))
    if not all((*right, *wrong)):
        _refuse(pair, "empty answer", "an answer adds no token to the prompt", "write the answer out")
    for one, other in product(right, wrong):
        if one == other:
            what = f"the correct and the wrong answer are both {tokenizer.decode(one)!r}"
            _refuse(pair, "answers are the same", what, "choose another wrong answer")
        # The best two may: whole answers tell them apart, and what reads single tokens refuses them itself.
        if (one, other) != (right[0], wrong[0]) and common_tokens(one, other) == min(len(one), len(other)):
            what = f"one answer begins with the other: {tokenizer.decode(one)!r} and {tokenizer.decode(other)!r}"
            _refuse(pair, "one answer begins with the other", what, "leave out the further answer")
    return right, wrong


def _answer(
    tokenizer: PreTrainedTokenizerBase, pair: Pair, clean: _Encoded, corrupted: _Encoded, answer: str
) -> tuple[int, ...]:
    """The tokens of an answer, which are the same after both prompts."""
    ids = _continuation(tokenizer, pair, clean, answer)
    if ids != _continuation(tokenizer, pair, corrupted, answer):
        what = f"the answer {answer!r} is other tokens after the corrupted prompt than after the clean one"
        _refuse(pair, "answers are cut differently", what)
    return ids


def _continuation(tokenizer: PreTrainedTokenizerBase, pair: Pair, prompt: _Encoded, answer: str) -> tuple[int, ...]:
    """The answer's tokens after the prompt; the two are encoded together."""
    whole, before = encode(tokenizer, prompt.text + answer), len(prompt.ids)
    if whole[:before] != prompt.ids:
        what = f"the answer {answer!r} merges with the end of {prompt.text!r} into other tokens"
        fix = "end the prompt before the space, and begin the answer with it"
        _refuse(pair, "answer merges with the prompt", what, fix)
    return whole[before:]


def _roles(pair: Pair | TokenPair, clean: _Encoded, corrupted: _Encoded, differing: Sequence[int]) -> tuple[str, ...]:
    if isinstance(pair, TokenPair):
        span = differing[0], differing[-1]
        return tuple(_role(position, span, clean) for position in range(len(clean.ids)))
    span = _subject_span(pair, clean, pair.subject, differing)
    corrupted_span = _subject_span(pair, corrupted, pair.corrupted_subject, differing)
    if pair.subject and pair.corrupted_subject and span != corrupted_span:
        what = f"the subject is tokens {_from_to(span)} in one prompt, {_from_to(corrupted_span)} in the other"
        _refuse(pair, "different token roles", what, "choose subjects that have the same number of tokens")
    if not pair.subject and pair.corrupted_subject:
        span = corrupted_span
    return tuple(_role(position, span, clean) for position in range(len(clean.ids)))


def _from_to(span: tuple[int, int]) -> str:
    return f"{span[0] + 1} to {span[1] + 1}"


def _role(position: int, span: tuple[int, int], prompt: _Encoded) -> str:
    first, last = span
    if position == len(prompt.ids) - 1:
        return "last"
    if prompt.added[position]:
        return "bos"
    if position < first:
        return "before"
    if position > last:
        return "relation"
    if position == last:
        return "subject_last"
    return "subject_first" if position == first else "subject_mid"


def _subject_span(pair: Pair, prompt: _Encoded, subject: str, differing: Sequence[int]) -> tuple[int, int]:
    """First and last position of the subject (the mention that differs), or of all that differs."""
    subject = subject.strip()
    if not subject:
        return differing[0], differing[-1]
    spans = [_positions(prompt, found.start(), found.end()) for found in re.finditer(re.escape(subject), prompt.text)]
    mentioned = [(span[0], span[-1]) for span in spans if span]
    if not mentioned:
        what = f"the subject {subject!r} is not in the prompt {prompt.text!r}"
        _refuse(pair, "subject not found in the prompt", what, "write the subject as it stands in the prompt")
    return next((span for span in mentioned if any(span[0] <= i <= span[1] for i in differing)), mentioned[0])


def _positions(prompt: _Encoded, start: int, end: int) -> list[int]:
    """The tokens over these characters; the space before a word is part of it, also where it is a token of its own."""
    start -= prompt.text[:start].endswith(" ")
    return [i for i, span in enumerate(prompt.spans) if span[0] < end and span[1] > start and not prompt.added[i]]


def _words(tokenizer: PreTrainedTokenizerBase, prompt: _Encoded) -> tuple[str, ...]:
    """What each token adds for a reader: a character cut into several tokens is shown once, by its first."""
    words, shown_to = [], 0
    for token, (start, end), added in zip(prompt.ids, prompt.spans, prompt.added, strict=True):
        if added:
            words.append(str(tokenizer.decode([token])))
            continue
        fresh = prompt.text[max(start, shown_to) : end]
        words.append(_readable(fresh) if end > shown_to or start == end else PART)
        shown_to = max(shown_to, end)
    return tuple(words)


def _readable(piece: str) -> str:
    return piece.strip() or piece.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣") or "␣"
