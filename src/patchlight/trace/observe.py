"""Looking without touching: logit lens, direct logit attribution, attention patterns.

What is seen here is not what an intervention does: a part may write towards the answer and be corrected later, or
write nothing of it and yet be needed. Read beside a sweep. Sources: nostalgebraist 2020 (logit lens); Elhage et al.
2021 (direct logit attribution).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment, align
from patchlight.pairs.answers import Answers, refuse_unreadable, shape
from patchlight.records import Pair, TokenPair
from patchlight.trace.capture import Run, capture
from patchlight.trace.direct import held_norm, written_by_heads
from patchlight.trace.vectors import METRIC

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

RUNS = ("clean", "corrupted")


@dataclass(frozen=True)
class Attribution:
    """What each part of a run adds to logit(correct) - logit(wrong): `values[pair, run, part]`, runs clean, corrupted.

    The final norm's scale is held at what it was, so that the parts add up to `metric[pair, run]`. `parts` are
    `embed`, `blocks.L.head_out.H` (`blocks.L.attn_out` where a norm follows attention), `blocks.L.attn_bias`,
    `blocks.L.mlp_out`, and `constant`: the biases of the norm and the output head.
    """

    values: Float[np.ndarray, "pair run part"]
    metric: Float[np.ndarray, "pair run"]
    parts: tuple[str, ...]
    pairs: tuple[Pair | TokenPair, ...]

    @property
    def error(self) -> float:
        """By how much the parts miss the logit difference at most, in logits."""
        return float(np.abs(self.values.sum(axis=2) - self.metric).max(initial=0.0))

    def by_component(self, n_layers: int) -> Float[np.ndarray, "pair run component layer"]:
        """The attention (heads and bias) and the MLP of each layer."""
        found = np.zeros((*self.values.shape[:2], 2, n_layers))
        for index, name in enumerate(self.parts):
            if name.startswith("blocks."):
                _, layer, component, *_ = name.split(".")
                found[:, :, int(component == "mlp_out"), int(layer)] += self.values[:, :, index]
        return found

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a pair, run and part: pair, fact, kind, run, part, value in logits."""
        import pandas as pd

        pair, run, part = (axis.ravel() for axis in np.indices(self.values.shape))
        return pd.DataFrame(
            {
                "pair": pair,
                "fact": np.array([each.fact for each in self.pairs])[pair],
                "kind": np.array([each.kind for each in self.pairs])[pair],
                "run": np.array(RUNS)[run],
                "part": np.array(self.parts)[part],
                "value": self.values.ravel(),
            }
        )


def attribute(model: Model, pairs: Sequence[Pair | TokenPair]) -> Attribution:
    """The logit difference of both runs, taken apart into what each head, MLP and the embedding write at the last word.

    Raises InputError where the model caps its logits (nothing adds up then), and for pairs as `sweep` does.
    """
    if model.family.logit_softcap and getattr(model.config, model.family.logit_softcap, None) is not None:
        what = "this model caps its logits, so that no parts add up to them"
        raise InputError("trace-capped-logits", what, where=model.name, fix="use the logit lens, or `effects`")
    parts = _names(model)
    values, metric = np.full((len(pairs), 2, len(parts)), np.nan), np.full((len(pairs), 2), np.nan)
    for indices, chosen in _by_shape(model, pairs):
        for number, (run, tokens) in enumerate(_runs(model, chosen, {"head_out", "attn_out", "mlp_out"})):
            values[indices, number], metric[indices, number] = _taken_apart(model, run, tokens)
    return Attribution(values, metric, parts, tuple(pairs))


@torch.inference_mode()
def logit_lens(model: Model, pairs: Sequence[Pair | TokenPair]) -> Float[np.ndarray, "pair run depth"]:
    """logit(correct) - logit(wrong) read off the stream at the last word in front of each layer, and at the end.

    Each depth goes through the model's own final norm and output head; runs are clean, corrupted.
    """
    found = np.full((len(pairs), 2, model.n_layers + 1), np.nan)
    for indices, chosen in _by_shape(model, pairs):
        for number, (run, tokens) in enumerate(_runs(model, chosen, set())):
            for depth, stream in enumerate(run.sites["resid_pre"]):
                found[indices, number, depth] = _logits(model, model.normed(stream[:, -1]), tokens)
    return found


def attention_patterns(
    model: Model, pairs: Sequence[Pair | TokenPair]
) -> Float[np.ndarray, "pair run layer head position"]:
    """How much the last word attends to each position, head by head; NaN behind a shorter prompt."""
    groups = _by_shape(model, pairs)
    longest = max((len(each.clean_ids) + each.parting for _, chosen in groups for each in chosen), default=0)
    found = np.full((len(pairs), 2, model.n_layers, model.n_heads, longest), np.nan)
    for indices, chosen in groups:
        for number, (run, _) in enumerate(_runs(model, chosen, {"pattern"})):
            last = torch.stack([pattern[:, :, -1] for pattern in run.sites["pattern"]], dim=1)
            found[indices, number, ..., : run.length] = last.double().cpu().numpy()
    return found


def _by_shape(model: Model, pairs: Sequence[Pair | TokenPair]) -> list[tuple[list[int], list[Alignment]]]:
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, (pair, alignment) in enumerate(zip(pairs, alignments, strict=True)):
        refuse_unreadable(pair, alignment, [METRIC])
        shapes.setdefault(shape(alignment, [METRIC]), []).append(index)
    return [(indices, [alignments[index] for index in indices]) for indices in shapes.values()]


def _runs(model: Model, chosen: Sequence[Alignment], keep: set[str]) -> Iterator[tuple[Run, Int[Tensor, "pair 2"]]]:
    """The clean and the corrupted run up to where the answers part, and the two tokens that may follow."""
    answers = Answers.of(chosen, [METRIC])
    tokens = torch.stack([answers.correct[:, answers.parting], answers.wrong[:, answers.parting]], dim=1)
    for name in ("clean_ids", "corrupted_ids"):
        ids = torch.cat([torch.tensor([getattr(each, name) for each in chosen]), answers.continuations[0]], dim=1)
        yield capture(model, ids, keep), tokens


def _names(model: Model) -> tuple[str, ...]:
    found = ["embed"]
    for layer in range(model.n_layers):
        heads = range(model.n_heads) if _splits(model, layer) else ()
        found += [f"blocks.{layer}.head_out.{head}" for head in heads]
        found += [f"blocks.{layer}.{'attn_bias' if _splits(model, layer) else 'attn_out'}", f"blocks.{layer}.mlp_out"]
    return (*found, "constant")


def _splits(model: Model, layer: int) -> bool:
    """Whether attention's output is the sum of its heads: no norm follows its projection."""
    return "norm" not in type(model.part("attn_out", layer)).__name__.lower()


@torch.inference_mode()
def _taken_apart(
    model: Model, run: Run, tokens: Int[Tensor, "pair 2"]
) -> tuple[Float[np.ndarray, "pair part"], Float[np.ndarray, " pair"]]:
    written = [run.sites["resid_pre"][0][:, -1]]
    for layer in range(model.n_layers):
        written += [model.residual_scale * each for each in _attention(model, run, layer)]
        written.append(model.residual_scale * run.sites["mlp_out"][layer][:, -1])
    end = run.sites["resid_pre"][-1][:, -1]
    parts = torch.stack(written)
    normed = model.normed(end)
    nothing = _logits(model, torch.zeros_like(end), tokens)
    seen = held_norm(model, end.expand_as(parts), parts) - normed  # linear in each part
    values = [_logits(model, each, tokens) - nothing for each in seen]
    constant = _logits(model, model.normed(torch.zeros_like(end)), tokens)
    return np.stack([*values, constant], axis=1), _logits(model, normed, tokens)


def _attention(model: Model, run: Run, layer: int) -> list[Float[Tensor, "pair width"]]:
    """What each head writes at the last position, and the bias; where a norm follows, all of it."""
    if not _splits(model, layer):
        return [run.sites["attn_out"][layer][:, -1]]
    heads = run.sites["head_out"][layer][:, -1:]
    nothing = written_by_heads(model, layer, torch.zeros_like(heads))
    found = []
    for head in range(model.n_heads):
        columns = slice(head * model.head_dim, (head + 1) * model.head_dim)
        alone = torch.zeros_like(heads)
        alone[..., columns] = heads[..., columns]
        found.append((written_by_heads(model, layer, alone) - nothing)[:, 0])
    return [*found, nothing[:, 0]]


@torch.inference_mode()
def _logits(
    model: Model, normed: Float[Tensor, "row width"], tokens: Int[Tensor, "row 2"]
) -> Float[np.ndarray, " row"]:
    correct, wrong = model.answer_logits(normed, tokens).unbind(1)
    found: np.ndarray = (correct - wrong).double().cpu().numpy()
    return found
