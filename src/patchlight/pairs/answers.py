"""Metrics: what is read off a run where it answers, and the tokens that are run after the prompt for it.

Answers are teacher-forced: the prompt is run with the answer behind it, and each token of the answer is read at the
position before it. The logits are read where the two answers part. Every metric is larger nearer to the clean run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment, common_tokens, refuse_unparted
from patchlight.records import Pair, TokenPair

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

AT_PARTING = ("logit_diff", "kl", "rank")  # parts that are read where the answers part
SETS = ("all_correct", "all_wrong")  # parts that count every answer of a side
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
    "logsumexp_diff": Metric("nats", 0.5, SETS, lambda part: part["all_correct"] - part["all_wrong"], "logsumexp_diff"),
    "logprob": Metric("nats", 0.5, ("correct",), lambda part: part["correct"].sum(1), "logprob_diff"),
    "prob": Metric("probability", 0.05, ("correct",), lambda part: part["correct"].sum(1).exp(), "logprob_diff"),
    "kl": Metric("nats", 0.1, ("kl",), lambda part: part["kl"], "logit_diff"),
    "rank": Metric("places", 1.0, ("rank",), lambda part: part["rank"], "logit_diff"),
}


@dataclass(frozen=True)
class Answers:
    """The answers of pairs of one shape, as far as they are read; the best two part at token `parting`.

    `all_correct` and `all_wrong` hold every answer of a side, where a metric counts them; else they are empty.
    """

    correct: Int[Tensor, "pair token"]
    wrong: Int[Tensor, "pair token"]
    parting: int
    all_correct: tuple[Int[Tensor, "pair token"], ...] = ()
    all_wrong: tuple[Int[Tensor, "pair token"], ...] = ()

    @staticmethod
    def of(alignments: Sequence[Alignment], metrics: Sequence[str]) -> Answers:
        """The answers of alignments of one `shape` under these metrics."""
        correct, wrong = zip(*(_asked(alignment, metrics) for alignment in alignments), strict=True)
        best = Answers(torch.tensor(correct), torch.tensor(wrong), alignments[0].parting)
        if not counts_sets(metrics):
            return best
        right, against = (each.all_correct_ids for each in alignments), (each.all_wrong_ids for each in alignments)
        return replace(best, all_correct=_by_answer(right), all_wrong=_by_answer(against))

    @cached_property
    def continuations(self) -> list[Int[Tensor, "pair token"]]:
        """What is run after the prompts: as far as the last token read needs it, once where it serves several answers.

        The first goes along the best right answer, and to where the best two part.
        """
        read = [tokens[:, :-1] for tokens in (self.correct, self.wrong, *self.all_correct, *self.all_wrong)]
        runs: list[Tensor] = []
        for tokens in sorted(read, key=lambda tokens: -tokens.shape[1]):
            if not any(_begins(run, tokens) for run in runs):
                runs.append(tokens)
        first = self.correct[:, : max(self.correct.shape[1] - 1, self.parting)]
        return sorted(runs, key=lambda run: not _begins(run, first))

    def run(self, tokens: Int[Tensor, "pair token"], step: int) -> int:
        """The number of a continuation in which these tokens can be read after so many of them."""
        runs = enumerate(self.continuations)
        return next(number for number, run in runs if _begins(run, tokens[:, :step]))


def _begins(run: Int[Tensor, "pair token"], tokens: Int[Tensor, "pair other"]) -> bool:
    return torch.equal(run[:, : tokens.shape[1]], tokens)


def _by_answer(every: Iterable[Sequence[Sequence[int]]]) -> tuple[Int[Tensor, "pair token"], ...]:
    """The answers of one side of several alignments, as many and as long in each."""
    return tuple(torch.tensor(tokens) for tokens in zip(*every, strict=True))


def counts_sets(metrics: Sequence[str]) -> bool:
    """True where one of the metrics counts every answer of a pair, not the best two alone."""
    return not _parts(metrics).isdisjoint(SETS)


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
    """Pairs of one shape are run together: the tokens in the prompt and in the answers, and where these part."""
    correct, wrong = _asked(alignment, metrics)
    best = len(alignment.clean_ids), len(correct), len(wrong), alignment.parting
    if not counts_sets(metrics):
        return best
    every = (correct, wrong, *alignment.all_correct_ids, *alignment.all_wrong_ids)
    common = (common_tokens(one, other) for one, other in combinations(every, 2))
    return (*best, len(alignment.all_correct_ids), *map(len, every), *common)


def steps_read(alignment: Alignment, metric: str) -> list[int]:
    """After how many tokens of an answer the metric is read; 0 is the last position of the prompt."""
    whole = {
        "correct": (alignment.correct_ids,),
        "wrong": (alignment.wrong_ids,),
        "all_correct": alignment.all_correct_ids,
        "all_wrong": alignment.all_wrong_ids,
    }
    longest = max((len(ids) for part in METRICS[metric].parts for ids in whole.get(part, ())), default=0)
    return list(range(longest)) or [alignment.parting]


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
    (`logprob_diff_mean`: per token); `logsumexp_diff`: the logarithm of the summed probabilities of all right answers
    minus that of all wrong ones, in nats; `prob` of the correct answer; `kl`: minus the divergence of the clean run's
    next token from the row's, in nats; `rank`: minus the number of tokens above the correct one.
    """
    every = (answers.correct, answers.wrong, *answers.all_correct, *answers.all_wrong)
    model.require_tokens(torch.cat([tokens.flatten() for tokens in every]))
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
    both = Answers(correct, wrong, 0, (correct,), (wrong,))
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
    whole: dict[str, tuple[Tensor, ...]] = {"correct": (answers.correct,), "wrong": (answers.wrong,)}
    whole |= {"all_correct": answers.all_correct, "all_wrong": answers.all_wrong}
    along = {
        part: [clean.new_empty(len(pair), tokens.shape[1], dtype=exact) for tokens in whole[part]]
        for part in sorted(parts & whole.keys())
    }
    for part, every in along.items():
        for tokens, into in zip(whole[part], every, strict=True):
            readers += [
                _Reader(answers.run(tokens, step), step, _logprob(tokens[pair, step]), into[:, step])
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
    return found | {part: _together(every) if part in SETS else every[0] for part, every in along.items()}


def _together(answers: Sequence[Float[Tensor, "row step"]]) -> Float[Tensor, " row"]:
    """The logarithm of the summed probabilities of whole answers."""
    return torch.stack([each.sum(1) for each in answers], dim=1).logsumexp(1)


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
