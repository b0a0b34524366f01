"""Distributed alignment search: the directions at a site whose exchange carries the answer best, learned by gradient.

A rotation of k orthonormal directions is trained, the model stays as it is [Geiger et al. 2023, arXiv 2303.02536]. Only
what runs from the site's layer on is run, by the stock modules with one hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import softplus
from torch.nn.utils import parametrizations

from patchlight.errors import InputError
from patchlight.records import Site
from patchlight.trace.directions import Subspace
from patchlight.trace.hooks import alone, hooked
from patchlight.trace.past import suffix_arguments
from patchlight.trace.vectors import Group, stored

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

DAS = "das"
HOOKS = {"resid_mid": "attn_out", **{name: name for name in ("head_out", "attn_out", "mlp_hidden", "mlp_out")}}


@dataclass(frozen=True)
class Training:
    """How directions are learned: a batch of pairs a step, until facts kept aside get no better for some epochs."""

    epochs: int = 60
    patience: int = 8
    batch: int = 16
    learning_rate: float = 0.02
    kept_aside: float = 0.25  # share of the facts
    seed: int = 0


def das(
    model: Model, groups: Sequence[Group], facts: Sequence[str], site: Site, dimensions: int, training: Training
) -> Subspace:
    """The learned subspace; that of the epoch with the least loss on the facts kept aside (on all under four facts).

    The loss is the mean of log(1 + exp(-d)): d is the logit of the donor's answer less that of the other, in both
    directions. Raises InputError for q, k and v, which no hook reaches.
    """
    name, layer = stored(site)
    if name in ("q", "k", "v"):
        what = f"directions of {name} are not learned: no module gives it"
        raise InputError("trace-das-site", what, where=str(site), fix="choose head_out, or the method pca")
    rest = _Rest(model, site, layer, tuple(_Parts.of(group, layer) for group in groups))
    aside = _aside(facts, training)
    halves = [[index in aside for index in group.indices] for group in groups]
    rotation = _rotation(groups[0].own[0].shape[-1], dimensions, training.seed).to(rest.parts[0].given[0])
    optimiser = torch.optim.Adam(rotation.parameters(), lr=training.learning_rate)
    best, since, kept = float("inf"), 0, _basis(rotation).detach().clone()
    order = np.random.default_rng(training.seed)
    for _ in range(training.epochs):
        with _frozen(model):
            for batch in _batches(halves, training.batch, order):
                optimiser.zero_grad()
                rest.loss(_basis(rotation), *batch).mean().backward()
                optimiser.step()
        loss = _mean_loss(rest, _basis(rotation), halves, bool(aside))
        best, since, kept = (loss, 0, _basis(rotation).detach().clone()) if loss < best else (best, since + 1, kept)
        if since >= training.patience:
            break
    return Subspace(DAS, kept)


def _rotation(width: int, dimensions: int, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return parametrizations.orthogonal(torch.nn.Linear(width, dimensions, bias=False))


def _basis(rotation: torch.nn.Module) -> Float[Tensor, "dimension width"]:
    """The directions of a rotation, as its parametrisation makes them of what is trained."""
    basis: Any = rotation.weight
    directions: Tensor = basis
    return directions


@contextmanager
def _frozen(model: Model) -> Iterator[None]:
    """Within it, no weight of the model asks for a gradient."""
    with alone(model):
        asking = [weight for weight in model.hf.parameters() if weight.requires_grad]
        try:
            for weight in asking:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in asking:
                weight.requires_grad_(True)


@torch.no_grad()
def _mean_loss(rest: _Rest, basis: Tensor, halves: Sequence[Sequence[bool]], aside: bool) -> float:
    """The mean loss over the pairs kept aside, or over all."""
    losses = [
        rest.loss(basis, group, torch.tensor(rows))
        for group, half in enumerate(halves)
        if (rows := [row for row, held in enumerate(half) if held == aside])
    ]
    return float(torch.cat(losses).mean())


def _aside(facts: Sequence[str], training: Training) -> set[int]:
    """The pairs whose facts are kept aside; none where there are under four facts."""
    names = sorted(set(facts))
    count = int(len(names) * training.kept_aside) if len(names) >= 4 else 0
    chosen = {names[index] for index in np.random.default_rng(training.seed).permutation(len(names))[:count]}
    return {index for index, fact in enumerate(facts) if fact in chosen}


def _batches(
    halves: Sequence[Sequence[bool]], size: int, order: np.random.Generator
) -> Iterator[tuple[int, Int[Tensor, "row"]]]:
    """The pairs to train on, in another order each time: which group, and which of its pairs."""
    found = []
    for group, half in enumerate(halves):
        rows = order.permutation([row for row, held in enumerate(half) if not held]).astype(int)
        found += [(group, torch.from_numpy(rows[start : start + size])) for start in range(0, len(rows), size)]
    for index in order.permutation(len(found)):
        yield found[index]


@dataclass(frozen=True)
class _Parts:
    """What the rest of the forward starts from, as tensors that gradients can pass; pairs are (clean, corrupted)."""

    streams: tuple[Tensor, Tensor]
    given: tuple[Tensor, Tensor]
    at: Tensor
    answers: Tensor
    arguments: list[dict[str, Any]]

    @staticmethod
    def of(group: Group, layer: int) -> _Parts:
        clean, corrupted = (run.sites["resid_pre"][layer].clone() for run in group.runs)
        donors = group.given[0].clone(), group.given[1].clone()
        return _Parts((clean, corrupted), donors, group.at, group.answers, _cloned(group.runs[0].arguments))


@dataclass(frozen=True)
class _Rest:
    """The forward from a site's layer on."""

    model: Model
    site: Site
    layer: int
    parts: tuple[_Parts, ...]

    def loss(
        self, basis: Float[Tensor, "dimension width"], group: int, rows: Int[Tensor, "row"]
    ) -> Float[Tensor, "both"]:
        """The loss of each of these pairs, denoising first, then noising."""
        parts = self.parts[group]
        stream = torch.cat([parts.streams[1][rows], parts.streams[0][rows]])
        given = torch.cat([parts.given[0][rows], parts.given[1][rows]])
        at = parts.at[rows].repeat(2, 1).to(stream.device)[..., None]

        def moved(own: Tensor) -> Tensor:
            along: Tensor = torch.where(at, (given - own) @ basis.T @ basis, torch.zeros((), dtype=own.dtype))
            return along

        final = self._run(stream, parts.arguments, moved)
        correct, wrong = self.model.answer_logits(
            self.model.normed(final[:, -1]), parts.answers[rows].repeat(2, 1)
        ).unbind(1)
        sign = torch.ones_like(correct)
        sign[len(rows) :] = -1
        return softplus(-sign * (correct - wrong))

    def _run(
        self, stream: Tensor, arguments: Sequence[dict[str, Any]], moved: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "row position width"]:
        model, (name, _) = self.model, stored(self.site)
        if name == "resid_pre":
            stream = stream + moved(stream)
        act = self._act(stream, moved)
        with alone(model), hooked(model, {HOOKS[name]: act}) if name in HOOKS else nullcontext():
            for layer in range(self.layer, model.n_layers):
                span = slice(0, stream.shape[1])
                given = suffix_arguments(model, arguments[layer], stream.shape[1], span, len(stream))
                output = model.layers[layer](stream, **given)
                stream = output[0] if isinstance(output, tuple) else output
        return stream

    def _act(self, before: Tensor, moved: Callable[[Tensor], Tensor]) -> Callable[[int, Tensor], Tensor | None]:
        scale, unit, width = self.model.residual_scale, self.site.unit, self.model.head_dim

        def act(layer: int, tensor: Tensor) -> Tensor | None:
            if layer != self.layer:
                return None
            own = tensor.view(*before.shape[:2], -1)  # OPT's MLP drops the prompt axis
            if self.site.component == "resid_mid":
                changed = own + moved(before + scale * own) / scale
            elif self.site.component == "head_out":
                heads = own.unflatten(-1, (-1, width))
                move = torch.zeros_like(heads).index_copy(2, torch.tensor([unit]), moved(heads[:, :, unit])[:, :, None])
                changed = own + move.flatten(2)
            else:
                changed = own + moved(own)
            return changed.view(tensor.shape)

        return act


def _cloned(value: Any) -> Any:
    """The same with every tensor a copy: gradients do not pass what was made for inference alone."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _cloned(each) for name, each in value.items()}
    return type(value)(_cloned(each) for each in value) if isinstance(value, tuple | list) else value
