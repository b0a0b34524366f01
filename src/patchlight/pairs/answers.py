"""Metrics: what is read off a run where it answers, and the tokens that are run after the prompt for it.

Answers are teacher-forced: the prompt is run with the answer behind it, and each token of the answer is read at the
position before it. The logits are read where the two answers part. Every metric is larger nearer to the clean run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment, refuse_unparted
from patchlight.records import Pair, TokenPair

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

AT_PARTING = ("logit_diff", "kl", "rank")  # parts that are read where the answers part
ROWS_AT_ONCE = 256  # of whole vocabularies


@dataclass(frozen=True)
class Metric:
    """How a metric is made of the parts that are read off a run.

    Its gaps are in `unit`; shares of a gap under `floor` are not defined. `knows` is the metric whose sign says
    which answer the model prefers.
    """

    unit: str
    floor: float
    parts: tuple[str, ...]
    value: Callable[[dict[str, Tensor]], Float[Tensor, " row"]]
    knows: str


METRICS = {
    "logit_diff": Metric("logits", 0.5, ("logit_diff",), lambda part: part["logit_diff"], "logit_diff"),
    "logprob_diff": Metric(
        "nats", 0.5, ("correct", "wrong"), lambda part: part["correct"].sum(1) - part["wrong"].sum(1), "logprob_diff"
    ),
    "logprob_diff_mean": Metric(
        "nats a token",
        0.5,
        ("correct", "wrong"),
        lambda part: part["correct"].mean(1) - part["wrong"].mean(1),
        "logprob_diff_mean",
    ),
    "logprob": Metric("nats", 0.5, ("correct",), lambda part: part["correct"].sum(1), "logprob_diff"),
    "prob": Metric("probability", 0.05, ("correct",), lambda part: part["correct"].sum(1).exp(), "logprob_diff"),
    "kl": Metric("nats", 0.1, ("kl",), lambda part: part["kl"], "logit_diff"),
    "rank": Metric("places", 1.0, ("rank",), lambda part: part["rank"], "logit_diff"),
}


@dataclass(frozen=True)
class Answers:
    """The answers of pairs of one shape, as far as they are read; they part at token `parting`."""

    correct: Int[Tensor, "pair token"]
    wrong: Int[Tensor, "pair token"]
    parting: int

    @staticmethod
    def of(alignments: Sequence[Alignment], metrics: Sequence[str]) -> Answers:
        """The answers of alignments of one `shape` under these metrics."""
        correct, wrong = zip(*(_asked(alignment, metrics) for alignment in alignments), strict=True)
        return Answers(torch.tensor(correct), torch.tensor(wrong), alignments[0].parting)

    @property
    def continuations(self) -> list[Int[Tensor, "pair token"]]:
        """What is run after the prompts: as far as the last token read needs it, once where one answer serves both."""
        shorter, longer = sorted((self.correct[:, :-1], self.wrong[:, :-1]), key=lambda tokens: tokens.shape[1])
        return [longer] if shorter.shape[1] <= self.parting else [self.correct[:, :-1], self.wrong[:, :-1]]


def require_metrics(metrics: Sequence[str]) -> None:
    """Raises InputError for a metric that there is not, and where none is asked for."""
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        what = f"no metric {unknown[0]!r}" if unknown else "no metric is asked for"
        raise InputError("trace-unknown-metric", what, fix=f"choose among: {', '.join(METRICS)}")


def refuse_unreadable(pair: Pair | TokenPair, alignment: Alignment, metrics: Sequence[str]) -> None:
    """Raises AlignmentRefused where a metric is read at the token that tells the answers apart, and there is none."""
    if any(part in AT_PARTING for part in _parts(metrics)):
        refuse_unparted(pair, alignment)


def shape(alignment: Alignment, metrics: Sequence[str]) -> tuple[int, ...]:
    """Pairs of one shape are run together: the tokens in the prompt and in both answers, and where these part."""
    correct, wrong = _asked(alignment, metrics)
    return len(alignment.clean_ids), len(correct), len(wrong), alignment.parting


def steps_read(alignment: Alignment, metric: str) -> list[int]:
    """After how many tokens of an answer the metric is read; 0 is the last position of the prompt."""
    parts = METRICS[metric].parts
    steps = set(range(len(alignment.correct_ids) if "correct" in parts else 0))
    steps |= set(range(len(alignment.wrong_ids) if "wrong" in parts else 0))
    return sorted(steps or {alignment.parting})


@torch.inference_mode()
def read(
    model: Model,
    metrics: Sequence[str],
    runs: Sequence[Float[Tensor, "row step width"]],
    answers: Answers,
    *,
    pair: Int[Tensor, " row"],
    clean: Float[Tensor, "pair width"],
    rows_at_once: int = ROWS_AT_ONCE,
) -> dict[str, Float[Tensor, " row"]]:
    """Each metric of each row, larger where it is nearer to the clean run.

    `runs` has the normed stream from the end of the prompt on, for each of `answers.continuations`. `pair` says whose
    answers a row gives, `clean` is the clean run where the answers part. The vocabulary is unembedded only for metrics
    that need it, `rows_at_once`. `logit_diff` in logits; `logprob_diff`, `logprob` in nats over all tokens of an answer
    (`logprob_diff_mean`: per token); `prob` of the correct answer; `kl`: minus the divergence of the clean run's next
    token from the row's, in nats; `rank`: minus the number of tokens above the correct one.
    """
    model.require_tokens(torch.cat([answers.correct.flatten(), answers.wrong.flatten()]))
    parting, parts = answers.parting, _parts(metrics)
    found = _vocabulary_parts(model, parts, runs, answers, pair, clean, rows_at_once)
    if "logit_diff" in parts:
        tokens = torch.stack([answers.correct[pair, parting], answers.wrong[pair, parting]], dim=1)
        correct, wrong = model.answer_logits(runs[0][:, parting], tokens).unbind(1)
        found["logit_diff"] = correct - wrong
    return {metric: METRICS[metric].value(found) for metric in metrics}


def measure(
    model: Model, metric: str, normed: Float[Tensor, "row width"], answers: Int[Tensor, "row 2"]
) -> Float[Tensor, " row"]:
    """One metric of each row, from the normed stream at the last position and the two tokens that it may answer.

    Raises InputError for a metric that there is not, and for `kl`, which needs a clean run.
    """
    require_metrics([metric])
    if metric == "kl":
        raise InputError(
            "trace-kl-without-clean", "kl is a distance from the clean run", fix="use `read`, with `clean`"
        )
    correct, wrong = answers.cpu().split(1, dim=1)
    both = Answers(correct, wrong, 0)
    return read(model, [metric], [normed[:, None]], both, pair=torch.arange(len(normed)), clean=normed)[metric]


class _Reader(NamedTuple):
    """What is taken from the log-probabilities `[row, token]` after one step of one run, and where it goes."""

    run: int
    step: int
    take: Callable[[Tensor, slice], Tensor]
    into: Float[Tensor, " row"]


def _vocabulary_parts(
    model: Model,
    parts: set[str],
    runs: Sequence[Tensor],
    answers: Answers,
    pair: Tensor,
    clean: Tensor,
    rows_at_once: int,
) -> dict[str, Tensor]:
    """The parts that need the whole vocabulary, which is unembedded once a row and step."""
    found: dict[str, Tensor] = {}
    readers: list[_Reader] = []
    exact = torch.promote_types(model.dtype, torch.float32)
    for part, tokens, run in (("correct", answers.correct, 0), ("wrong", answers.wrong, len(runs) - 1)):
        if part in parts:
            found[part] = clean.new_empty(len(pair), tokens.shape[1], dtype=exact)
            readers += [
                _Reader(run, step, _logprob(tokens[pair, step]), found[part][:, step])
                for step in range(tokens.shape[1])
            ]
    for part in parts & {"rank", "kl"}:
        found[part] = clean.new_empty(len(pair), dtype=exact)
        take = _rank(answers.correct[pair, answers.parting]) if part == "rank" else _kl(model, pair, clean)
        readers.append(_Reader(0, answers.parting, take, found[part]))
    for (run, step), together in groupby(sorted(readers, key=_place), key=_place):
        of_step = list(together)
        for start in range(0, len(pair), rows_at_once):
            rows = slice(start, start + rows_at_once)
            logprobs = model.logits(runs[run][rows, step]).to(exact).log_softmax(-1)
            for reader in of_step:
                reader.into[rows] = reader.take(logprobs, rows)
    return found


def _place(reader: _Reader) -> tuple[int, int]:
    return reader.run, reader.step


def _logprob(tokens: Tensor) -> Callable[[Tensor, slice], Tensor]:
    return lambda logprobs, rows: _of(logprobs, tokens[rows]).squeeze(1)


def _rank(tokens: Tensor) -> Callable[[Tensor, slice], Tensor]:
    return lambda logprobs, rows: -(logprobs > _of(logprobs, tokens[rows])).sum(1).to(logprobs.dtype)


def _of(logprobs: Float[Tensor, "row token"], tokens: Int[Tensor, " row"]) -> Float[Tensor, "row 1"]:
    return logprobs.gather(1, tokens[:, None].to(logprobs.device))


def _kl(model: Model, pair: Tensor, clean: Tensor) -> Callable[[Tensor, slice], Tensor]:
    def take(logprobs: Tensor, rows: slice) -> Tensor:
        pairs, back = pair[rows].unique(return_inverse=True)
        truth = model.logits(clean[pairs]).to(logprobs.dtype).log_softmax(-1)[back]
        return -torch.nn.functional.kl_div(logprobs, truth, reduction="none", log_target=True).sum(-1)

    return take


def _parts(metrics: Sequence[str]) -> set[str]:
    return {part for metric in metrics for part in METRICS[metric].parts}


def _asked(alignment: Alignment, metrics: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of both answers that are read: all where a metric reads whole answers, else as far as they part."""
    parts, apart = _parts(metrics), alignment.parting + 1
    correct, wrong = alignment.correct_ids, alignment.wrong_ids
    return correct if "correct" in parts else correct[:apart], wrong if "wrong" in parts else wrong[:apart]
