"""Corruptions: what the corrupted run of a pair starts from, other tokens or other embeddings of its subject.

All but `token` run the clean prompt and put vectors in place of its subject's token embeddings, at the output of the
model's embedding module. What a family does behind that module (Gemma scales, BLOOM normalises, GPT-2 adds positions)
works on these vectors as it does on the model's own.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.pairs.align import Alignment

CORRUPTIONS = ("token", "gaussian", "mean", "zero", "resample")


@dataclass(frozen=True)
class Corruption:
    """How corrupted runs are made; the draws of `gaussian` and `resample` follow from `seed` and the pair's tokens.

    `token`: the pair's corrupted prompt. `gaussian`: normal noise of `sigma` standard deviations on the subject's
    embeddings, `samples` draws a pair, averaged in the metric. The standard deviation is taken over every element of
    the embeddings of the subjects' tokens of all pairs of the sweep (ROME, Meng et al. 2022: 3 sigma, 10 draws).
    `mean`: the mean embedding of these tokens. `zero`: zeros. `resample`: the subject of another pair with the same
    words around it, as many tokens and another answer. Raises InputError for settings that mean nothing.
    """

    kind: str = "token"
    sigma: float = 3.0
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in CORRUPTIONS:
            fix = f"choose one of: {', '.join(CORRUPTIONS)}"
            raise InputError("trace-unknown-corruption", f"no corruption {self.kind!r}", fix=fix)
        if not (self.sigma > 0 and self.samples >= 1):
            what = f"noise of {self.sigma} standard deviations in {self.samples} draws"
            raise InputError("trace-corruption-setting", what, fix="choose sigma above 0 and samples from 1 on")
        if self.samples > 1 and self.kind != "gaussian":
            what = f"{self.samples} draws of {self.kind}, which draws no noise"
            raise InputError("trace-corruption-setting", what, fix="leave samples at 1")

    def __str__(self) -> str:
        """Its kind, with what differs from the defaults."""
        usual = Corruption(self.kind)
        other = [f"{name} {value:g}" for name, value in vars(self).items() if value != getattr(usual, name)]
        return f"{self.kind} ({', '.join(other)})" if other else self.kind


TOKEN = Corruption()


@dataclass(frozen=True)
class Replaced:
    """What stands in place of the embeddings at a subject's `positions`; `partner` is the pair it was taken from."""

    positions: tuple[int, ...]
    vectors: Float[Tensor, "draw token width"]
    partner: int | None = None


def as_corruption(choice: str | Corruption) -> Corruption:
    """The corruption that a word stands for, with its usual settings."""
    return Corruption(choice) if isinstance(choice, str) else choice


def subject_positions(alignment: Alignment) -> tuple[int, ...]:
    """The positions of a pair's subject (where none is named: of all that differs)."""
    subject = [at for at, role in enumerate(alignment.roles) if role.startswith("subject")]
    # Where the subject ends the prompt, its last token has the role `last`.
    if "subject_last" not in alignment.roles:
        subject.append(len(alignment.roles) - 1)
    return tuple(subject)


def as_corrupted(alignment: Alignment, corruption: Corruption) -> Alignment:
    """The pair as it runs: where embeddings are corrupted, both runs have the clean tokens and the subject differs."""
    if corruption.kind == "token":
        return alignment
    return replace(
        alignment,
        corrupted_ids=alignment.clean_ids,
        corrupted_words=alignment.words,
        differing=subject_positions(alignment),
    )


@torch.inference_mode()
def replaced(model: Model, alignments: Sequence[Alignment], corruption: Corruption) -> tuple[Replaced, ...]:
    """The vectors of each pair's corrupted runs; the order of the pairs changes none of them.

    Raises InputError for `token`, which replaces no embeddings, and for a pair that has nothing to be resampled from.
    """
    if corruption.kind == "token":
        raise InputError("trace-corruption-of-tokens", "token replacement replaces no embeddings")
    if corruption.kind == "resample":
        return _resampled(model, alignments, corruption.seed)
    tokens = sorted(token for alignment in alignments for token in _subject(alignment))
    known = _embedded(model, torch.tensor(tokens, dtype=torch.long)).double()
    result = []
    for alignment in alignments:
        clean = _embedded(model, torch.tensor(_subject(alignment)))
        if corruption.kind == "gaussian":
            deviations = _noise(alignment, corruption, clean.shape[-1])
            vectors = clean + (corruption.sigma * known.std() * deviations.to(clean.device)).to(clean.dtype)
        else:
            vector = known.mean(0) if corruption.kind == "mean" else torch.zeros_like(known[0])
            vectors = vector.to(clean.dtype).expand(1, *clean.shape)
        result.append(Replaced(subject_positions(alignment), vectors))
    return tuple(result)


@torch.inference_mode()
def embeddings(
    model: Model,
    ids: Int[Tensor, "prompt position"],
    subjects: Sequence[tuple[Sequence[int], Float[Tensor, "token width"]]],
) -> Float[Tensor, "prompt position width"]:
    """The token embeddings of prompts, each with these vectors at these positions; for `capture(..., embed=)`."""
    embedded = _embedded(model, ids).clone()
    for row, (positions, vectors) in enumerate(subjects):
        embedded[row, list(positions)] = vectors
    return embedded


def partners(alignments: Sequence[Alignment], seed: int) -> tuple[int | None, ...]:
    """For each pair the pair whose subject it is resampled from, None where there is none.

    It has the same words around a subject of as many tokens, another subject and another correct answer. Among these
    the choice follows from the seed and both prompts alone.
    """
    frames: dict[object, list[int]] = defaultdict(list)
    for index, alignment in enumerate(alignments):
        frames[_frame(alignment)].append(index)
    chosen = []
    for alignment in alignments:
        others = [index for index in frames[_frame(alignment)] if _other(alignment, alignments[index])]
        order = {index: _digest(seed, alignment.clean_ids, alignments[index].clean_ids) for index in others}
        chosen.append(min(others, key=order.__getitem__, default=None))
    return tuple(chosen)


def _resampled(model: Model, alignments: Sequence[Alignment], seed: int) -> tuple[Replaced, ...]:
    result = []
    for alignment, partner in zip(alignments, partners(alignments, seed), strict=True):
        if partner is None:
            what = f"no pair has the words around {' '.join(alignment.words)!r}, as long a subject and another answer"
            raise InputError("trace-no-resample", what, fix="add such pairs, or leave this pair out")
        vectors = _embedded(model, torch.tensor(_subject(alignments[partner])))
        result.append(Replaced(subject_positions(alignment), vectors[None], partner))
    return tuple(result)


def _other(alignment: Alignment, candidate: Alignment) -> bool:
    return _subject(candidate) != _subject(alignment) and candidate.correct_ids != alignment.correct_ids


def _noise(alignment: Alignment, corruption: Corruption, width: int) -> Float[Tensor, "draw token width"]:
    """Standard normal draws in float64, the first ones the same however many are asked for."""
    random = np.random.default_rng(int.from_bytes(_digest(corruption.seed, alignment.clean_ids)))
    drawn = random.standard_normal((corruption.samples, len(subject_positions(alignment)), width))
    return torch.from_numpy(drawn)


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def _subject(alignment: Alignment) -> tuple[int, ...]:
    return tuple(alignment.clean_ids[position] for position in subject_positions(alignment))


def _frame(alignment: Alignment) -> tuple[int | None, ...]:
    """The clean prompt without its subject."""
    subject = set(subject_positions(alignment))
    return tuple(None if at in subject else token for at, token in enumerate(alignment.clean_ids))


def _embedded(model: Model, ids: Int[Tensor, "*prompt position"]) -> Float[Tensor, "*prompt position width"]:
    embedded: Tensor = model.embed(ids.to(model.device))
    return embedded
