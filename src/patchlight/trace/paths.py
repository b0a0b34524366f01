"""Path patching: how much of a sender's effect goes straight to a receiver, for all senders and receivers at once.

The semantics are those of Wang et al. 2022 (arXiv 2211.00593), section 3.1. A sender (a head, a sublayer, the stream)
has the donor's output; every component between keeps the recipient's, so that the receiver reads `stream + change`
through its own norm. What the receiver makes of it is put into the recipient's run, and all behind it runs live:

- `q`, `k`, `v` of a head: that projection alone reads the change; with grouped queries, keys and values are those of a
  group. `mlp_out`: the MLP reads it. `logits`: the final norm reads it, and nothing else does.
- A set of receivers reads at once, and all of them keep what they made of it.
- Where a norm stands behind a sublayer, a head's change goes through it beside the other heads.
- In parallel blocks attention and MLP read the same stream: no path leads from a block's attention to its own MLP.

The recipient is run once; what a sender changes is computed once for all receivers; the engine replays all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.pairs.align import Alignment
from patchlight.records import Pair, Site, TokenPair
from patchlight.trace import metrics as shares
from patchlight.trace.cells import require_known
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.direct import changes, first_reader, heads_reading, held_norm, mlp_reading, reading
from patchlight.trace.ends import Named, positions, receivers_of, replacing, rows_of, senders_of
from patchlight.trace.engine import replay
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import FORWARD, MEMORY, Settings, Work, measured, work_on

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.trace.capture import Run

NORMS = ("live", "held")


@dataclass(frozen=True)
class PathEffects:
    """The metric after patching each path: `values[pair, sender, receiver]`; NaN where no path leads there.

    `clean` and `corrupted` are the metric without a patch, per pair.
    """

    values: Float[np.ndarray, "pair sender receiver"]
    clean: Float[np.ndarray, "pair"]
    corrupted: Float[np.ndarray, "pair"]
    senders: tuple[Site, ...]
    receivers: tuple[tuple[Site, ...], ...]
    pairs: tuple[Pair | TokenPair, ...]
    direction: str
    metric: str

    @property
    def names(self) -> tuple[str, ...]:
        """Each receiver as its sites are written."""
        return tuple(" & ".join(map(str, sites)) for sites in self.receivers)

    def recovery(self, floor: float | None = None) -> Float[np.ndarray, "pair sender receiver"]:
        """The share of the gap brought back (denoise) or taken away (noise); NaN where the gap is under `floor`."""
        share = shares.recovery if self.direction == "denoise" else shares.damage
        return share(self.values, self.clean, self.corrupted, shares.FLOORS[self.metric] if floor is None else floor)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a pair and path: pair, fact, kind, sender, receiver, value, recovery."""
        import pandas as pd

        cells = np.argwhere(~np.isnan(self.values))
        pair, sender, receiver = cells.T
        return pd.DataFrame(
            {
                "pair": pair,
                "fact": np.array([p.fact for p in self.pairs])[pair],
                "kind": np.array([p.kind for p in self.pairs])[pair],
                "sender": np.array([str(site) for site in self.senders])[sender],
                "receiver": np.array(self.names)[receiver],
                "value": self.values[tuple(cells.T)],
                "recovery": self.recovery()[tuple(cells.T)],
            }
        )


def paths(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    *,
    senders: Named | Sequence[Named] = "head_out",
    receivers: Named | Sequence[Named | Sequence[Named]] = "logits",
    direction: str = "denoise",
    metric: str = "logit_diff",
    final_norm: str = "live",
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> PathEffects:
    """The metric after patching the path from each sender straight to each receiver, in every pair.

    `senders`: components (`head_out`, `attn_out`, `mlp_out`, `resid_pre`, `embed`, ...), each standing for all its
    layers and heads, or sites by name (`blocks.9.head_out.6@last`). `receivers`: `q`, `k`, `v`, `mlp_out`, `logits`,
    sites by name, or sequences of sites that read at once. Without a position a site stands for all of the prompt.
    `final_norm` is `live`, or `held` at the recipient's scale on the way to the logits. The rest is as in `sweep`.

    Raises InputError as `sweep` does, and for an end of a path that the model does not have or that is none.
    """
    require_known("final-norm", final_norm, NORMS)
    ends = _Ends(model, senders_of(model, senders), receivers_of(model, receivers))
    settings = Settings(direction, (metric,), TOKEN, "exact", memory)
    usual = work_on(model, pairs, ends, settings)
    work = _PathWork(model, usual.alignments, None, ends, settings, None, final_norm)
    values = np.full((len(pairs), len(ends.senders), len(ends.receivers)), np.nan)
    runs = np.full((2, len(pairs)), np.nan)
    for batch, found in measured(work, on_progress):
        values[batch], runs[:, batch] = found.values[metric], (found.clean[metric], found.corrupted[metric])
    return PathEffects(values, runs[0], runs[1], ends.senders, ends.receivers, tuple(pairs), direction, metric)


@dataclass(frozen=True)
class _Ends:
    """Cells that are paths: every sender with every receiver."""

    model: Model
    senders: tuple[Site, ...]
    receivers: tuple[tuple[Site, ...], ...]
    components: frozenset[str] = frozenset({"head_out", "mlp_out"})  # what is read off the runs

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        pair = torch.arange(len(alignments)).repeat_interleave(len(self.senders) * len(self.receivers))
        return Rows.at(pair, torch.zeros(5, 0, dtype=torch.long))

    def shape(self, _: Sequence[Alignment]) -> tuple[int, ...]:
        return len(self.senders), len(self.receivers)

    def absent(self, _: Sequence[Alignment]) -> Bool[np.ndarray, "1 sender receiver"]:
        return np.array([[[not self.reads(sender, sites) for sites in self.receivers] for sender in self.senders]])

    def patches(self, alignment: Alignment) -> int:
        return len(self.senders) * len(self.receivers) * len(alignment.clean_ids)

    def reads(self, sender: Site, sites: Sequence[Site]) -> list[Site]:
        """Those of a receiver's sites to which a path leads."""
        first = first_reader(sender, self.model)
        return [site for site in sites if reading(site, self.model) >= first]


@dataclass(frozen=True)
class _PathWork(Work):
    """Paths in pairs of prompts: senders of one place at a time, all their receivers in one replay."""

    cells: _Ends
    final_norm: str

    @torch.inference_mode()
    def _patched(
        self, batch: Sequence[int], recipient: Run, donor: Run, rows: Rows, advance: Callable[[int], None]
    ) -> Float[Tensor, "row step width"]:
        ends, alignments = self.cells, [self.alignments[index] for index in batch]
        result = recipient.final[rows.pair].unflatten(0, (len(batch), len(ends.senders), len(ends.receivers)))
        sent = positions(ends.senders, alignments, recipient.length)
        read = [positions(sites, alignments, recipient.length) for sites in ends.receivers]
        for chosen in self._together(recipient):
            senders = [ends.senders[index] for index in chosen]
            reached = [index for index, sites in enumerate(ends.receivers) if ends.reads(senders[0], sites)]
            if not reached:
                continue
            change = changes(self.model, recipient, donor, senders, sent[chosen])
            sets = [ends.reads(senders[0], ends.receivers[index]) for index in reached]
            asked = _rows(ends, sets, reached, read, sent[chosen])
            patched = self._replayed(recipient, change, sets, asked, donor, advance)
            result[:, torch.tensor(chosen)[:, None], torch.tensor(reached)] = patched.permute(2, 1, 0, 3, 4)
        flat: Tensor = result.flatten(0, 2)
        return flat

    def _replayed(
        self,
        recipient: Run,
        change: Float[Tensor, "sender pair position width"],
        sets: Sequence[Sequence[Site]],
        rows: Rows,
        donor: Run,
        advance: Callable[[int], None],
    ) -> Float[Tensor, "set sender pair step width"]:
        """The normed stream once each set has read each change."""
        stream = replay(
            self.model,
            recipient,
            _readings(self.model, recipient, change, sets),
            rows,
            memory=self.settings.memory // 2,
            differs=recipient.ids != donor.ids,
            on_pass=advance,
            normed=False,
        ).unflatten(0, (len(sets), *change.shape[:2]))
        ends = torch.tensor([any(site.component == "logits" for site in sites) for sites in sets])
        stream[ends] += change[:, :, -recipient.read :].to(stream.device)
        normed = self.model.normed(stream).to(stream.device)
        if self.final_norm == "held" and bool(ends.any()):
            own = recipient.sites["resid_pre"][-1][:, -recipient.read :].expand_as(stream[ends])
            normed[ends] = held_norm(self.model, own, stream[ends] - own).to(stream.device)
        return normed

    def _together(self, recipient: Run) -> Iterator[list[int]]:
        """Senders of one component and layer, as many at a time as memory holds."""
        layers = len({site.layer for sites in self.cells.receivers for site in sites})
        of_sender = recipient.length * (3 * layers + FORWARD) + len(self.cells.receivers) * recipient.read * 4
        of_sender *= len(recipient.ids) * self.model.width * recipient.final.element_size()
        size = max(1, self.settings.memory // 4 // of_sender)
        places = [(sender.component, sender.layer) for sender in self.cells.senders]
        for _, same in groupby(range(len(places)), places.__getitem__):
            every = list(same)
            yield from (every[start : start + size] for start in range(0, len(every), size))


def _readings(
    model: Model, recipient: Run, change: Float[Tensor, "sender pair position width"], sets: Sequence[Sequence[Site]]
) -> Run:
    """What the receivers make of each change, as a donor's run: prompt `sender * pairs + pair`."""
    sites: dict[str, list[Tensor]] = {
        name: [change.new_empty(0)] * model.n_layers for name in ("q", "k", "v", "mlp_out")
    }
    for layer, component in sorted(
        {(site.layer, site.component) for each in sets for site in each if site.layer is not None}
    ):
        assert isinstance(layer, int)
        if component == "mlp_out":
            sites[component][layer] = mlp_reading(model, recipient, layer, change)
        elif not len(sites[component][layer]):
            stream = (recipient.sites["resid_pre"][layer] + change).flatten(0, 1)
            for name, tensor in heads_reading(model, recipient, layer, stream).items():
                sites[name][layer] = tensor
    return replace(recipient, sites=recipient.sites | sites)


def _rows(
    ends: _Ends,
    sets: Sequence[Sequence[Site]],
    reached: Sequence[int],
    read: Sequence[Bool[Tensor, "site pair position"]],
    sent: Bool[Tensor, "sender pair position"],
) -> Rows:
    """A row for each set, sender and pair: it replaces what the set's sites make where the change is."""
    columns = []
    for number, (index, sites) in enumerate(zip(reached, sets, strict=True)):
        for site, at in zip(ends.receivers[index], read[index], strict=True):
            if site not in sites or site.component == "logits":
                continue
            sender, pair, position = (sent & at).nonzero().T
            given = sender * sent.shape[1] + pair
            row = number * sent.shape[0] * sent.shape[1] + given
            columns.append(replacing(site, row, position, given))
    return rows_of(torch.arange(sent.shape[1]).repeat(len(sets) * sent.shape[0]), columns)
