"""Whole answers scored: for scripts whose characters are cut into several tokens, where a first token says little.

Prompt and answer are encoded together. Beside the raw log-probability stand two readings that do not favour short or
common answers: per character, and minus what the model gives the answer without the question.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from patchlight.pairs.align import encode

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class WholeScore:
    """How likely an answer is after a prompt, in nats: all its tokens, per character, and what the prompt adds."""

    raw: float
    per_character: float
    gain: float


def whole_scores(model: Model, asked: Sequence[tuple[str, str]]) -> list[WholeScore]:
    """The score of each (prompt, answer), the answer a continuation taken literally.

    `gain` is raw minus the log-probability of the answer after the model's start token alone (its end-of-text token
    where it has no other; NaN where it has neither).
    """
    tokenizer = model.tokenizer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    with_prompt, alone = list[tuple[tuple[int, ...], int]](), list[tuple[tuple[int, ...], int]]()
    for prompt, answer in asked:
        ids, before = encode(tokenizer, prompt + answer), len(encode(tokenizer, prompt))
        with_prompt.append((ids, before))
        alone.append(((start or 0, *ids[before:]), 1))
    raw = _logprobs(model, with_prompt)
    unasked = [math.nan] * len(alone) if start is None else _logprobs(model, alone)
    return [
        WholeScore(given, given / max(1, len(answer.strip())), given - without)
        for given, without, (_, answer) in zip(raw, unasked, asked, strict=True)
    ]


def _logprobs(model: Model, rows: Sequence[tuple[tuple[int, ...], int]]) -> list[float]:
    """The summed log-probability of each row's tokens from the given position on."""
    return [
        value for first in range(0, len(rows), ROWS_AT_ONCE) for value in _batch(model, rows[first:][:ROWS_AT_ONCE])
    ]


@torch.inference_mode()
def _batch(model: Model, rows: Sequence[tuple[tuple[int, ...], int]]) -> Iterator[float]:
    width = max(len(ids) for ids, _ in rows)
    padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in rows]).to(model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]).to(model.device)
    logits: Float[Tensor, "row position token"] = model.hf(
        input_ids=padded, attention_mask=mask, use_cache=False
    ).logits
    for row, (ids, before) in enumerate(rows):
        steps = logits[row, before - 1 : len(ids) - 1].double().log_softmax(-1)
        yield float(steps.gather(1, padded[row, before : len(ids), None]).sum())
