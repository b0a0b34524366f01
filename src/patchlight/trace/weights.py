"""Weights from model to model: one module's weights, or several modules', in place of those of the other model.

Nothing is copied: while the metric is read, the parameters of one model point to the storage of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import GateFailed, InputError
from patchlight.model.modules import PARTS, Modules, check_twins, differing_modules, weight_modules
from patchlight.packs.yaml_source import suggestion
from patchlight.pairs.align import Alignment
from patchlight.records import Pair, TokenPair
from patchlight.trace import metrics as shares
from patchlight.trace.cells import require_known
from patchlight.trace.identities import COARSE, LIMITS
from patchlight.trace.prompts import both_alone, metric_of, read_prompts
from patchlight.trace.sweep import DIRECTIONS

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float
    from torch import Tensor

    from patchlight.model.anatomy import Model

DELTAS = ("learnt", "shuffled")


@dataclass(frozen=True)
class WeightEffects:
    """The metric with each set of modules taken from the other model: `values[pair, set]`.

    `tuned` and `base` are the metric of the two models, per pair. `change[set]` is the Frobenius norm of what
    fine-tuning changed in a set, over that of the base model's weights there. `structural[set]` marks a set of all
    modules: it gives the other model by construction. `names` says each set in words, that of all modules as
    "all weights".
    """

    values: Float[np.ndarray, "pair set"]
    tuned: Float[np.ndarray, "pair"]
    base: Float[np.ndarray, "pair"]
    change: Float[np.ndarray, "set"]
    structural: Bool[np.ndarray, "set"]
    sets: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    pairs: tuple[Pair | TokenPair, ...]
    direction: str
    metric: str
    delta: str

    def recovery(self, floor: float | None = None) -> Float[np.ndarray, "pair set"]:
        """The share of m(fine-tuned) - m(base) that the base model gains by the learnt weights (denoise), or that the
        fine-tuned one loses without them (noise); NaN where that gap is under `floor`.
        """
        share = shares.recovery if self.direction == "denoise" else shares.damage
        return share(self.values, self.tuned, self.base, shares.FLOORS[self.metric] if floor is None else floor)

    def by_layer(self) -> Float[np.ndarray, "pair layer module"]:
        """The values of single modules of blocks as a map; the modules are `PARTS`. NaN where one was not asked for."""
        single = {modules[0]: at for at, modules in enumerate(self.sets) if len(modules) == 1}
        places = {tuple(name.split(".")[2:]): at for name, at in single.items() if name.startswith("weights.blocks.")}
        layers = 1 + max((int(layer) for layer, _ in places), default=-1)
        grid = np.full((len(self.pairs), layers, len(PARTS)), np.nan)
        for (layer, part), at in places.items():
            grid[:, int(layer), PARTS.index(part)] = self.values[:, at]
        return grid

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a pair and set: pair, fact, kind, weights, value, recovery, change, structural."""
        import pandas as pd

        pair, chosen = (axis.ravel() for axis in np.indices(self.values.shape))
        return pd.DataFrame(
            {
                "pair": pair,
                "fact": np.array([p.fact for p in self.pairs])[pair],
                "kind": np.array([p.kind for p in self.pairs])[pair],
                "weights": np.array(self.names)[chosen],
                "value": self.values.ravel(),
                "recovery": self.recovery().ravel(),
                "change": self.change[chosen],
                "structural": self.structural[chosen],
            }
        )


def patch_weights(
    base: Model,
    tuned: Model,
    pairs: Sequence[Pair | TokenPair],
    sets: Sequence[str | Sequence[str]] | None = None,
    *,
    direction: str = "denoise",
    prompt: str = "clean",
    metric: str = "logit_diff",
    delta: str = "learnt",
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> WeightEffects:
    """The metric of the base model with the fine-tuned model's weights in each set of modules (denoise), or of the
    fine-tuned model with the base model's (noise).

    `sets` names modules (`weights.blocks.3.mlp`, see `model.modules`), alone or together; by default each module alone,
    and all of them. Sets whose weights do not differ are not run: nothing changes. `prompt` is the one of each pair
    that both models read; `corrupted` is scored by its own answer. A `delta` of `shuffled` is a control: what
    fine-tuning added to each weight matrix (or took from it), its entries in an order drawn from `seed`; the same
    size, but not what was learnt. In every call all weights together are tried first: they have to give the other
    model, or GateFailed `trace-not-by-construction` is raised.

    Raises InputError for models that differ in more than the values of their weights, for modules and settings that
    there are not, an empty set, and `kl`.
    """
    check_twins(base, tuned)
    require_known("direction", direction, DIRECTIONS)
    require_known("delta", delta, DELTAS)
    modules = weight_modules(base)
    chosen = _sets(sets, modules, base)
    read, alignments = read_prompts(base, pairs, prompt, metric)
    recipient, giver = (base, tuned) if direction == "denoise" else (tuned, base)
    with both_alone(base, tuned):
        received, given = (metric_of(model, alignments, metric) for model in (recipient, giver))
        _confirm(recipient, giver, modules, alignments, metric, given)
        work = _Work(recipient, giver, modules, frozenset(differing_modules(base, tuned)), alignments, metric)
        values = work.all_values(chosen, received, None if delta == "learnt" else seed, on_progress)
    tuned_metric, base_metric = (given, received) if direction == "denoise" else (received, given)
    whole = [set(names) == set(modules) for names in chosen]
    return WeightEffects(
        values=values,
        tuned=tuned_metric,
        base=base_metric,
        change=np.array([_change(base, tuned, [p for name in names for p in modules[name]]) for names in chosen]),
        structural=np.array(whole, dtype=bool) & (delta == "learnt"),
        sets=chosen,
        names=tuple("all weights" if all_ else " & ".join(each) for all_, each in zip(whole, chosen, strict=True)),
        pairs=read,
        direction=direction,
        metric=metric,
        delta=delta,
    )


@dataclass(frozen=True)
class _Work:
    """One model that receives, one that gives, and the prompts that are read."""

    recipient: Model
    giver: Model
    modules: Modules
    differing: frozenset[str]
    alignments: tuple[Alignment, ...]
    metric: str

    def all_values(
        self,
        sets: Sequence[tuple[str, ...]],
        received: Float[np.ndarray, "pair"],
        seed: int | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> Float[np.ndarray, "pair set"]:
        """The `values` of each set."""
        values = np.empty((len(self.alignments), len(sets)))
        for at, names in enumerate(sets):
            values[:, at] = self.values(names, received, seed)
            if on_progress:
                on_progress(at + 1, len(sets))
        return values

    def values(
        self, names: tuple[str, ...], received: Float[np.ndarray, "pair"], seed: int | None
    ) -> Float[np.ndarray, "pair"]:
        """The metric with these modules of the giver, or (with a seed) with what differs in them shuffled."""
        parameters = [each for name in names if name in self.differing for each in self.modules[name]]
        if not parameters:
            return received
        own, others = (dict(model.hf.named_parameters()) for model in (self.recipient, self.giver))
        weights = {name: others[name].data for name in parameters}
        if seed is not None:
            weights = {name: _shuffled(own[name].data, weights[name], seed, name) for name in parameters}
        with put(self.recipient, weights):
            return metric_of(self.recipient, self.alignments, self.metric)


@contextmanager
def put(model: Model, weights: dict[str, Tensor]) -> Iterator[None]:
    """Within it, these parameters of the model are these tensors, not copied; after it its own, whatever happened.

    The caller holds the model (`prompts.both_alone`).
    """
    parameters = dict(model.hf.named_parameters())
    own = {name: parameters[name].data for name in weights}
    try:
        for name, weight in weights.items():
            parameters[name].data = weight
        yield
    finally:
        for name, weight in own.items():
            parameters[name].data = weight


def _sets(sets: Sequence[str | Sequence[str]] | None, modules: Modules, model: Model) -> tuple[tuple[str, ...], ...]:
    if sets is None:
        return (*((name,) for name in modules), tuple(modules))
    chosen = tuple((each,) if isinstance(each, str) else tuple(each) for each in sets)
    for names in chosen:
        if not names:
            raise InputError("trace-empty-set", "a set of modules is empty", fix="name one module or more in each set")
        for name in names:
            if name not in modules:
                _refuse(name, modules, model)
    return chosen


def _refuse(name: str, modules: Modules, model: Model) -> None:
    tied = name == "weights.unembed"
    what = f"{model.name} has no weights {name!r}" + (": its unembedding is tied to its embedding" if tied else "")
    fix = "choose weights.embed" if tied else suggestion(name, modules) or f"choose among: {', '.join(modules)}"
    raise InputError("trace-no-weights", what, where=name, fix=fix)


def _confirm(
    recipient: Model,
    giver: Model,
    modules: Modules,
    alignments: tuple[Alignment, ...],
    metric: str,
    given: Float[np.ndarray, "pair"],
) -> None:
    """Raises GateFailed where all weights of the giver do not make the recipient give what the giver gives."""
    everything = _Work(recipient, giver, modules, frozenset(modules), alignments, metric)
    values = everything.values(tuple(modules), given, None)
    error = float((np.abs(values - given) / np.maximum(1, np.abs(given))).max(initial=0))
    if error > (limit := LIMITS.get(recipient.dtype, COARSE)):
        what = f"with all weights of {giver.name} the metric is off by {error:.1e}, the limit is {limit:.0e}"
        fix = "the models differ in something that is no weight: compare their configurations"
        raise GateFailed("trace-not-by-construction", what, where=recipient.name, fix=fix)


def _shuffled(own: Tensor, other: Tensor, seed: int, name: str) -> Tensor:
    """The weight with what the other model adds to it, the entries of that in a random order."""
    random = torch.Generator().manual_seed(seed + sum(name.encode()))
    added = (other - own).flatten()
    order = torch.randperm(added.numel(), generator=random).to(added.device)
    return own + added[order].view_as(own)


@torch.no_grad()
def _change(base: Model, tuned: Model, names: Sequence[str]) -> float:
    before, after = (dict(model.hf.named_parameters()) for model in (base, tuned))
    moved = sum(float((after[name] - before[name]).double().square().sum()) for name in names)
    size = sum(float(before[name].double().square().sum()) for name in names)
    return math.sqrt(moved / size) if size else float(moved > 0)
