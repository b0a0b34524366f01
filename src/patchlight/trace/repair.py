"""Self-repair: what knocking a component out should cost, what it does cost, and who makes up for it.

The cost predicted is the direct effect: what the component itself says to the output. Where less is lost, later
components say more than before: each one's reaction is the change of its own direct contribution, and a backup is
one whose loss hurts more once the component is gone. Following McGrath et al. 2023 (arXiv 2307.15771), with exact
replacements in place of ablation by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.pairs.align import Alignment
from patchlight.records import Pair, Site, TokenPair
from patchlight.trace.capture import capture
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.direct import changes, first_reader, held_norm, reading
from patchlight.trace.ends import Named, positions, senders_of
from patchlight.trace.hooks import hooked
from patchlight.trace.patch import patch
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import MEMORY, Settings, Work, measured, work_on

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.trace.capture import Run

JOINS = {  # where a change of a component joins the stream
    "embed": "resid_pre",
    "resid_pre": "resid_pre",
    "head_out": "attn_out",
    "attn_out": "attn_out",
    "resid_mid": "attn_out",
    "mlp_out": "mlp_out",
    "resid_post": "mlp_out",
}


@dataclass(frozen=True)
class SelfRepair:
    """Effects on the metric of knocking each site out of the clean run: `predicted` by its direct path, and `measured`.

    `reaction[pair, site, component]` is the change of each later head's and MLP's direct contribution; `predicted`
    and `reaction` are taken with the final norm's scale held at the clean run's, so that they add up; what is left of
    `measured` is the norm's own doing (`norm`). All in the metric's unit, negative where the right answer loses.
    """

    predicted: Float[np.ndarray, "pair site"]
    measured: Float[np.ndarray, "pair site"]
    reaction: Float[np.ndarray, "pair site component"]
    sites: tuple[Site, ...]
    components: tuple[Site, ...]
    pairs: tuple[Pair | TokenPair, ...]

    @property
    def repaired(self) -> Float[np.ndarray, "pair site"]:
        """What came back: the effect measured minus the one predicted."""
        repaired: np.ndarray = self.measured - self.predicted
        return repaired

    @property
    def norm(self) -> Float[np.ndarray, "pair site"]:
        """What neither the site nor a component accounts for: the final norm rescales the whole stream."""
        left: np.ndarray = self.repaired - self.reaction.sum(axis=2)
        return left

    def compensating(self, site: int, count: int = 5) -> list[tuple[Site, float]]:
        """The components that react most against the loss of a site, with their mean reaction over pairs."""
        mean, loss = self.reaction[:, site].mean(axis=0), self.predicted[:, site].mean()
        order = np.argsort(mean * np.sign(loss), kind="stable")[:count]
        return [(self.components[index], float(mean[index])) for index in order if mean[index] * loss < 0]


def self_repair(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    sites: Named | Sequence[Named],
    *,
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> SelfRepair:
    """What each site's loss should cost and does, and how every later head and MLP reacts; the metric is `logit_diff`.

    To knock a site out is to give it the corrupted run's activation in the clean run. Raises InputError as `effects`.
    """
    components = senders_of(model, ["head_out", "mlp_out"])
    cells = _Knockouts(senders_of(model, sites), components)
    settings = Settings("noise", ("logit_diff",), TOKEN, "exact", memory)
    usual = work_on(model, pairs, cells, settings)
    work = _RepairWork(model, usual.alignments, None, cells, settings, None)
    values = np.full((len(pairs), *cells.shape(())), np.nan)
    for batch, found in measured(work, on_progress):
        values[batch] = found.values["logit_diff"] - found.clean["logit_diff"][:, None, None]
    return SelfRepair(values[..., 0], values[..., 1], values[..., 2:], cells.sites, components, tuple(pairs))


def backups(
    model: Model, pairs: Sequence[Pair | TokenPair], site: Named, candidates: Sequence[Named], *, memory: int = MEMORY
) -> Float[np.ndarray, "pair candidate"]:
    """How much more the loss of each candidate costs once the site is gone, in logits: positive for a backup.

    Measured by joint knockout: the loss of both, less the losses of either alone. Raises InputError as `patch` does.
    """
    sets: list[list[Named]] = [[site], *([each] for each in candidates), *([site, each] for each in candidates)]
    found = patch(model, pairs, sets, direction="noise", memory=memory)
    lost = found.clean[:, None] - found.values
    alone, joint = lost[:, 1 : 1 + len(candidates)], lost[:, 1 + len(candidates) :]
    more: np.ndarray = joint - alone - lost[:, :1]
    return more


@dataclass(frozen=True)
class _Knockouts:
    """Cells that are, for each site, its predicted and measured loss and each component's reaction."""

    sites: tuple[Site, ...]
    reacting: tuple[Site, ...]
    components: frozenset[str] = frozenset({"head_out", "mlp_out"})

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        pair = torch.arange(len(alignments)).repeat_interleave(int(np.prod(self.shape(alignments))))
        return Rows.at(pair, torch.zeros(5, 0, dtype=torch.long))

    def shape(self, _: Sequence[Alignment]) -> tuple[int, ...]:
        return len(self.sites), 2 + len(self.reacting)

    def absent(self, alignments: Sequence[Alignment]) -> Bool[np.ndarray, "pair site part"]:
        return np.zeros((len(alignments), *self.shape(alignments)), dtype=bool)

    def patches(self, alignment: Alignment) -> int:
        return len(self.sites) * len(alignment.clean_ids)


@dataclass(frozen=True)
class _RepairWork(Work):
    """A forward for each site with the site replaced, and what every component says in it."""

    cells: _Knockouts

    @torch.inference_mode()
    def _patched(
        self, batch: Sequence[int], recipient: Run, donor: Run, rows: Rows, advance: Callable[[int], None]
    ) -> Float[Tensor, "row step width"]:
        at = positions(self.cells.sites, [self.alignments[index] for index in batch], recipient.length)
        own = recipient.sites["resid_pre"][-1][:, -recipient.read :]
        streams = []
        for index, site in enumerate(self.cells.sites):
            change = changes(self.model, recipient, donor, [site], at[index : index + 1])[0]
            knocked_out = self._without(site, recipient, change)
            said = torch.cat([change[None, :, -recipient.read :], self._said(site, recipient, knocked_out)])
            held = held_norm(self.model, own.expand_as(said), said.to(own.device))
            streams.append(torch.cat([held[:1], knocked_out.final[None], held[1:]]))
            advance(self.cells.shape(())[1] * len(batch))
        return torch.stack(streams).movedim(2, 0).flatten(0, 2)

    def _without(self, site: Site, recipient: Run, change: Float[Tensor, "pair position width"]) -> Run:
        """The run of the same prompts with the site's change in the stream, all behind it live."""
        joins, factor = JOINS[site.component], self.model.residual_scale

        def join(layer: int, tensor: Tensor) -> Tensor | None:
            if layer != (site.layer or 0):
                return None
            added = change if joins == "resid_pre" else change / factor
            return tensor + added.reshape(tensor.shape).to(tensor.device)

        with hooked(self.model, {joins: join}):
            return capture(self.model, recipient.ids, self.cells.components, read=recipient.read)

    def _said(self, site: Site, recipient: Run, other: Run) -> Float[Tensor, "component pair step width"]:
        """How each component's contribution to what is read differs in the other run; 0 in front of the site."""
        shape = (len(recipient.ids), recipient.read, self.model.width)
        at = torch.zeros(len(recipient.ids), recipient.length, dtype=torch.bool)
        at[:, -recipient.read :] = True
        found = []
        for _, same in groupby(self.cells.reacting, lambda component: (component.component, component.layer)):
            components = list(same)
            if reading(_input(components[0]), self.model) < first_reader(site, self.model):
                found.append(recipient.final.new_zeros(len(components), *shape))
                continue
            every = changes(self.model, recipient, other, components, at.expand(len(components), -1, -1))
            found.append(every[:, :, -recipient.read :])
        return torch.cat(found)


def _input(component: Site) -> Site:
    return component if component.component == "mlp_out" else Site("q", component.layer)
