"""One prompt on two models: which prompt of a pair is read, and a metric of it without any patch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment, align
from patchlight.pairs.answers import Answers, read, refuse_unreadable, require_metrics, shape
from patchlight.records import Pair, TokenPair
from patchlight.trace.cells import require_known
from patchlight.trace.hooks import alone

if TYPE_CHECKING:
    from jaxtyping import Float

    from patchlight.model.anatomy import Model

PROMPTS = ("clean", "corrupted")
BATCH_TOKENS = 4_096


def read_prompts(
    model: Model, pairs: Sequence[Pair | TokenPair], prompt: str, metric: str
) -> tuple[tuple[Pair | TokenPair, ...], tuple[Alignment, ...]]:
    """Pairs whose clean prompt is the one asked for, each prompt being scored by its own answer, and their alignments.

    Raises InputError for a metric that one prompt cannot be scored by (`kl` is a distance between prompts), another
    prompt than `PROMPTS`, and a pair that does not align.
    """
    require_metrics([metric])
    require_known("prompt", prompt, PROMPTS)
    if metric == "kl":
        what = "kl is a distance from another run of the same model"
        raise InputError("trace-kl-across", what, fix="choose a metric of the answers, such as logit_diff")
    chosen = tuple(pairs if prompt == "clean" else map(_turned, pairs))
    alignments = tuple(align(model.tokenizer, pair) for pair in chosen)
    for pair, alignment in zip(chosen, alignments, strict=True):
        refuse_unreadable(pair, alignment, [metric])
    return chosen, alignments


@torch.inference_mode()
def metric_of(model: Model, alignments: Sequence[Alignment], metric: str) -> Float[np.ndarray, "pair"]:
    """The metric of each clean prompt, by stock forwards over prompts of one shape."""
    values = np.full(len(alignments), np.nan)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, alignment in enumerate(alignments):
        shapes.setdefault(shape(alignment, [metric]), []).append(index)
    for (length, *_), indices in shapes.items():
        size = max(1, BATCH_TOKENS // length)
        for batch in (indices[start : start + size] for start in range(0, len(indices), size)):
            values[batch] = _measured(model, [alignments[index] for index in batch], metric)
    if not np.isfinite(values).all():
        what = f"a run gave values of {metric} that are not finite"
        raise InputError("trace-not-finite", what, where=model.name, fix="try dtype float32")
    return values


@contextmanager
def both_alone(one: Model, other: Model) -> Iterator[None]:
    """Both models held, in an order that no other thread takes the other way round."""
    with ExitStack() as stack:
        for model in sorted((one, other), key=lambda model: id(model.hf)):
            stack.enter_context(alone(model))
        yield


def _measured(model: Model, batch: Sequence[Alignment], metric: str) -> Float[np.ndarray, "pair"]:
    answers, prompts = Answers.of(batch, [metric]), torch.tensor([each.clean_ids for each in batch])
    runs = []
    for continuation in answers.continuations:
        ids = torch.cat([prompts, continuation], dim=1).to(model.device)
        output = model.hf.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        runs.append(output.last_hidden_state[:, -continuation.shape[1] - 1 :].to(model.device))
    single, unread = torch.arange(len(batch)), runs[0][:, answers.parting]
    value = read(model, [metric], runs, answers, pair=single, clean=unread)[metric]
    found: np.ndarray = value.double().cpu().numpy()
    return found


def _turned(pair: Pair | TokenPair) -> Pair | TokenPair:
    if isinstance(pair, TokenPair):
        return replace(
            pair,
            clean_ids=pair.corrupted_ids,
            corrupted_ids=pair.clean_ids,
            correct_ids=pair.wrong_ids,
            wrong_ids=pair.correct_ids,
            also_correct_ids=pair.also_wrong_ids,
            also_wrong_ids=pair.also_correct_ids,
        )
    return replace(
        pair,
        clean=pair.corrupted,
        corrupted=pair.clean,
        correct=pair.wrong,
        wrong=pair.correct,
        subject=pair.corrupted_subject,
        corrupted_subject=pair.subject,
        also_correct=pair.also_wrong,
        also_wrong=pair.also_correct,
    )
