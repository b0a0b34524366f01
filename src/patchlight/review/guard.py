"""A batch of prompts held against active rules: does each answer come through the confirmed sites, as the rule's do?

The statistic is `carried`: the subject is swapped for subjects of the rule's facts, the model's own answers to both
prompts are told apart by a logit difference, and what the confirmed sites take away of it when they get the swapped
prompt's activations (noising) is averaged over swaps and sites, in logits. Where a swap does not change the answer, it
carries 0. The same is measured on the rule's held-out facts; `p` is the conformal p-value of a prompt among them: the
share of (facts + 1) that carry no more than it does. A prompt like the rule's own is sent to a person with a
probability of at most `level`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.corpus.rows import is_unicode
from patchlight.errors import InputError, Place
from patchlight.pairs.align import AlignmentRefused, align
from patchlight.records import Pair
from patchlight.review.recheck import moved, pairs_in
from patchlight.review.records import Evidence, Rule

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

SWAPS = 5
LEVEL = 0.1
ONE_A_LINE = 'write one a line: {"prompt": "...", "subject": "..."}'


@dataclass(frozen=True)
class Prompt:
    """A prompt of a batch, and the span in it that it asks about; `kind` limits the rules it is held against."""

    prompt: str
    subject: str
    kind: str = ""


@dataclass(frozen=True)
class Guarded:
    """What the guard says of one prompt under one rule (None: no rule covers it).

    `why` is a code: `as-the-rule`, `carries-less`, `no-rule`, `cannot-be-swapped`, `too-few-facts`. `watched` is true
    where the rule only watches: then nothing is sent to a person.
    """

    prompt: str
    answer: str
    rule: int | None
    carried: float | None
    p: float | None
    to_person: bool
    why: str
    watched: bool = False


def prompts_from(file: Path) -> list[Prompt]:
    """Prompts from JSON lines with `prompt`, `subject` and, at will, `kind`.

    Raises InputError `guard-file` where the file cannot be read or holds no prompt, and `guard-prompt` with the line.
    """
    lines = enumerate(_text(file).split("\n"), 1)  # JSON may hold other line breaks, such as U+2028, within a text
    found = [_prompt(line, Place(file, number)) for number, line in lines if line.strip()]
    if not found:
        raise InputError("guard-file", "the file holds no prompt", where=Place(file), fix=ONE_A_LINE)
    return found


def guard(
    model: Model,
    prompts: Sequence[Prompt],
    rules: Sequence[tuple[Rule, Sequence[Evidence]]],
    *,
    level: float = LEVEL,
) -> list[Guarded]:
    """What the guard says, one line for each prompt and rule (with its evidence) of its kind, or for a prompt alone.

    The rules are the active ones of this model (`Rule.models`).
    """
    found = []
    own = {rule.id: baseline(model, evidence) for rule, evidence in rules}
    for prompt in prompts:
        covering = [(rule, evidence) for rule, evidence in rules if prompt.kind in ("", rule.kind)]
        answer = answer_of(model, prompt.prompt)
        if not covering:
            found.append(Guarded(prompt.prompt, answer, None, None, None, True, "no-rule"))
        for rule, evidence in covering:
            value = carried(model, prompt, evidence)
            found.append(_judged(prompt, answer, rule, value, own[rule.id], level))
    return found


def carried(model: Model, prompt: Prompt, evidence: Sequence[Evidence]) -> float | None:
    """The statistic of a prompt, in logits; None where no subject of the rule's facts can stand in its place."""
    swaps = _swaps(model, prompt, evidence[0])
    if not swaps:
        return None
    differing = [pair for pair in swaps if pair.correct != pair.wrong]
    if not differing:
        return 0.0
    contents = [{**each.content, "metric": "logit_diff"} for each in evidence]
    taken = np.array([moved(model, differing, content, "noise") for content in contents])
    return float(np.nan_to_num(taken).mean(axis=0).sum() / len(swaps))


def baseline(model: Model, evidence: Sequence[Evidence]) -> list[float]:
    """The statistic of the rule's held-out facts, each by the first of its prompts."""
    first: dict[str, Pair] = {}
    for pair in pairs_in(evidence[0].content):
        first.setdefault(pair.fact, pair)
    values = [carried(model, Prompt(pair.clean, pair.subject), evidence) for pair in first.values()]
    return [value for value in values if value is not None]


@torch.inference_mode()
def answer_of(model: Model, prompt: str) -> str:
    """The token that the model finds likeliest after a prompt, as text."""
    ids = torch.tensor([model.tokenizer(prompt)["input_ids"]], device=model.device)
    return str(model.tokenizer.decode([int(model.hf(input_ids=ids).logits[0, -1].argmax())]))


def _judged(
    prompt: Prompt, answer: str, rule: Rule, value: float | None, own: Sequence[float], level: float
) -> Guarded:
    watched = rule.action == "watch"
    known = Guarded(prompt.prompt, answer, rule.id, value, None, not watched, "cannot-be-swapped", watched)
    if value is None:
        return known
    p = (1 + sum(each <= value for each in own)) / (len(own) + 1)
    if 1 / (len(own) + 1) > level:
        return replace(known, p=p, why="too-few-facts")
    less = p <= level
    return replace(known, p=p, to_person=less and not watched, why="carries-less" if less else "as-the-rule")


def _swaps(model: Model, prompt: Prompt, evidence: Evidence) -> list[Pair]:
    """The prompt beside itself with another subject, as long in tokens, and the model's own answers to both."""
    every = pairs_in(evidence.content) + pairs_in(evidence.content, held_out=False)
    others = {pair.subject for pair in every} - {prompt.subject, ""}
    lot = sorted(others, key=lambda other: hashlib.sha256(f"{prompt.prompt}/{other}".encode()).digest())
    found: list[Pair] = []
    for other in lot:
        swapped = prompt.prompt.replace(prompt.subject, other)
        pair = Pair(prompt.prompt, swapped, " a", " b", prompt.subject, other)
        if len(found) < SWAPS and _aligns(model, pair):
            found.append(replace(pair, correct=answer_of(model, prompt.prompt), wrong=answer_of(model, swapped)))
    return found


def _aligns(model: Model, pair: Pair) -> bool:
    try:
        align(model.tokenizer, pair)
    except AlignmentRefused:
        return False
    return True


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        where = Place(file, error.object[: error.start].count(b"\n") + 1)
        raise InputError("guard-file", "this line is not UTF-8 text", where=where, fix="save it as UTF-8") from error
    except (OSError, ValueError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise InputError("guard-file", what, where=Place(file), fix="check the path") from error


def _prompt(line: str, place: Place) -> Prompt:
    try:
        found = Prompt(**json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        what = f"this line is no prompt: {ascii(str(error))[1:-1]}"
        raise InputError("guard-prompt", what, where=place, fix=ONE_A_LINE) from error
    texts = found.prompt, found.subject, found.kind
    if not all(isinstance(each, str) and is_unicode(each) for each in texts):
        raise InputError("guard-prompt", "prompt, subject and kind are Unicode text", where=place, fix=ONE_A_LINE)
    if not found.subject.strip() or found.subject not in found.prompt:
        what, fix = f"{found.subject!r} does not stand in the prompt", "copy the subject out of the prompt"
        raise InputError("guard-prompt", what, where=place, fix=fix)
    return found
