"""Directions at a site, found from pairs without a gradient: mean difference, principal components, probe, chance.

Each is a subspace with orthonormal directions, the most important first, so that its first few are a subspace too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from patchlight.errors import InputError
from patchlight.trace.vectors import Group, differences

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-4, 5))  # of the ridge, in units of the mean squared singular value
TINY = 1e-7  # of the largest singular value: what lies below it is rounding


@dataclass(frozen=True)
class Subspace:
    """Orthonormal directions `basis` at a site, and the method that found them."""

    method: str
    basis: Float[Tensor, "dimension width"]

    @property
    def dimensions(self) -> int:
        """How many directions it has."""
        return len(self.basis)

    def first(self, dimensions: int) -> Subspace:
        """The subspace of the first directions."""
        return Subspace(self.method, self.basis[:dimensions])


def spanned(method: str, vectors: Float[Tensor, "some width"]) -> Subspace:
    """The subspace that these vectors span, in their order; what others span already is left out.

    Raises InputError where they span nothing.
    """
    directions: list[Tensor] = []
    for vector in vectors.double():
        rest = vector
        for _ in range(2):  # once more, as the first time rounding leaves a little
            for direction in directions:
                rest = rest - (rest @ direction) * direction
        if rest.norm() > TINY * vectors.double().norm(dim=1).max():
            directions.append(rest / rest.norm())
    if not directions:
        what = f"{method}: the vectors are nought, so that they have no direction"
        raise InputError("trace-subspace-empty", what, fix="choose a site at which the runs differ")
    return Subspace(method, torch.stack(directions).to(vectors.dtype))


def mean_difference(found: Sequence[Group]) -> Subspace:
    """One direction: the mean over pairs of clean less corrupted."""
    return spanned("mean-difference", differences(found).mean(dim=0, keepdim=True))


def principal(found: Sequence[Group], dimensions: int) -> Subspace:
    """The leading principal components of clean less corrupted, not centred: a shared difference counts."""
    _, sizes, directions = torch.linalg.svd(differences(found).double(), full_matrices=False)
    lasting = int((sizes > TINY * sizes[0]).sum())
    return spanned("pca", directions[: min(dimensions, lasting)].to(differences(found).dtype))


def probe(found: Sequence[Group], dimensions: int) -> Subspace:
    """The leading directions along which a ridge regression reads off which answer a run gives.

    One target a token that is an answer of any run (clean: the correct one, corrupted: the wrong one), centred; the
    penalty is the one with the least generalised cross-validation [Golub, Heath & Wahba 1979].
    """
    vectors = torch.cat([each.given[side][each.at] for side in (0, 1) for each in found]).double()
    tokens = torch.cat([_answer(each, side) for side in (0, 1) for each in found])
    targets = torch.nn.functional.one_hot(tokens.unique(return_inverse=True)[1]).to(vectors)
    vectors, targets = (each - each.mean(dim=0) for each in (vectors, targets))
    left, sizes, right = torch.linalg.svd(vectors, full_matrices=False)
    kept = sizes > TINY * sizes[0]
    left, sizes, right = left[:, kept], sizes[kept], right[kept]
    shrunk = _shrinkage(sizes, left.T @ targets, targets)
    weights = right.T @ ((shrunk / sizes)[:, None] * (left.T @ targets))
    directions, importance, _ = torch.linalg.svd(weights, full_matrices=False)
    lasting = int((importance > TINY * importance[0]).sum())
    return spanned("probe", directions.T[: min(dimensions, lasting)].to(found[0].given[0].dtype))


def by_chance(width: int, dimensions: int, seed: int) -> Subspace:
    """Directions drawn at random, uniform over all subspaces of this size."""
    drawn = torch.randn(width, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis: Tensor = torch.linalg.qr(drawn).Q.T
    return Subspace("random", basis)


def _answer(group: Group, side: int) -> Tensor:
    pair, _ = group.at.nonzero().T
    return group.answers[pair, side]


def _shrinkage(sizes: Tensor, rotated: Tensor, targets: Tensor) -> Tensor:
    """By which factor the best ridge shrinks each singular direction."""
    examples, outside = len(targets), targets.square().sum() - rotated.square().sum()
    scores = []
    for penalty in PENALTIES:
        shrunk = sizes.square() / (sizes.square() + penalty * sizes.square().mean())
        residual = outside + ((1 - shrunk)[:, None] * rotated).square().sum()
        scores.append((float(residual / (1 - (shrunk.sum() + 1) / (examples + 1)) ** 2), shrunk))
    return min(scores, key=lambda each: each[0])[1]
