"""What is read off a run, and the shares of the gap that a patch brings back or takes away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

FLOOR = 0.5  # logits: below it a gap is noise, and its shares are not defined
ROWS_AT_ONCE = 256  # of whole vocabularies


@torch.inference_mode()
def measure(
    model: Model, metric: str, normed: Float[Tensor, "row width"], answers: Int[Tensor, "row 2"]
) -> Float[Tensor, "row"]:
    """The metric of each row, from the normed stream at the last position and the (correct, wrong) tokens.

    `logit_diff` in logits; `logprob` in nats; `prob`; `rank` of the correct token, 0 for the most probable one.
    Raises InputError for another metric.
    """
    if metric == "logit_diff":
        correct, wrong = model.answer_logits(normed, answers).unbind(1)
        return correct - wrong
    if metric not in _FROM_LOGITS:
        names = ", ".join(["logit_diff", *_FROM_LOGITS])
        raise InputError("trace-unknown-metric", f"no metric {metric!r}", fix=f"choose one of: {names}")
    result = normed.new_empty(len(normed))
    for start in range(0, len(normed), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        result[part] = _FROM_LOGITS[metric](model.logits(normed[part]), answers[part, :1])
    return result


def _logprob(logits: Tensor, correct: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(1, correct).squeeze(1)


def _rank(logits: Tensor, correct: Tensor) -> Tensor:
    return (logits > logits.gather(1, correct)).sum(1).to(logits.dtype)


_FROM_LOGITS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logprob": _logprob,
    "prob": lambda logits, correct: _logprob(logits, correct).exp(),
    "rank": _rank,
}


def recovery(
    value: Float[np.ndarray, "pair ..."],
    clean: Float[np.ndarray, "pair"],
    corrupted: Float[np.ndarray, "pair"],
    floor: float = FLOOR,
) -> Float[np.ndarray, "pair ..."]:
    """The share of the gap that each denoising patch brings back; NaN where the gap is under `floor`."""
    return _share(value - _beside(corrupted, value), clean - corrupted, floor)


def damage(
    value: Float[np.ndarray, "pair ..."],
    clean: Float[np.ndarray, "pair"],
    corrupted: Float[np.ndarray, "pair"],
    floor: float = FLOOR,
) -> Float[np.ndarray, "pair ..."]:
    """The share of the gap that each noising patch takes away; NaN where the gap is under `floor`."""
    return _share(_beside(clean, value) - value, clean - corrupted, floor)


def ratio_of_means(change: Float[np.ndarray, "pair ..."], gap: Float[np.ndarray, "pair"]) -> Float[np.ndarray, "..."]:
    """The mean change over the mean gap: the share of the gap over all pairs, which small gaps cannot inflate."""
    ratio: np.ndarray = change.mean(axis=0) / gap.mean()
    return ratio


def _share(change: np.ndarray, gap: np.ndarray, floor: float) -> np.ndarray:
    usable = np.where(gap >= floor, gap, np.nan)
    share: np.ndarray = change / _beside(usable, change)
    return share


def _beside(per_pair: np.ndarray, values: np.ndarray) -> np.ndarray:
    return per_pair.reshape(-1, *[1] * (values.ndim - 1))
