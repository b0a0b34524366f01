"""Direct and indirect effects of a site, exact: what it says to the output itself, and what others make of it.

Following Pearl 2001 and Vig et al. 2020 (arXiv 2004.12265). A run is named by who sees the donor's value of the site:
the output straight through the stream (first index), and every later component (second). `m(1, 1)` is the usual patch.

    total            m(1, 1) - m(0, 0)
    direct           m(1, 0) - m(0, 0)    only the path site -> output carries the change
    indirect         m(0, 1) - m(0, 0)    all but that path
    indirect_back    m(1, 1) - m(1, 0)    the indirect effect where the output sees the donor's value already

so that total = direct + indirect_back; `interaction` = indirect_back - indirect. For the identity `m(1, 0)` is
measured twice in different ways: by adding the site's change to the recipient's final stream, and by running the
patched prompt through the model with every later attention and MLP put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.pairs.align import Alignment
from patchlight.records import Pair, Site, TokenPair
from patchlight.trace import metrics as shares
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.direct import changes, first_reader, held_norm, reading, written_by_heads
from patchlight.trace.ends import Named, positions, replacing, rows_of, senders_of
from patchlight.trace.engine import replay
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import MEMORY, Settings, Work, measured, work_on

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.trace.capture import Run

RUNS = ("total", "direct", "direct_held", "indirect", "put_back")


@dataclass(frozen=True)
class DirectIndirect:
    """The metric of each run, `[pair, site]`, from which effects are made; `clean` and `corrupted` per pair.

    `total` is m(1, 1), `direct` m(1, 0) and `indirect` m(0, 1), `direct_held` m(1, 0) with the final norm's scale held
    at the recipient's, `put_back` m(1, 0) again, by a run of its own.
    """

    total: Float[np.ndarray, "pair site"]
    direct: Float[np.ndarray, "pair site"]
    direct_held: Float[np.ndarray, "pair site"]
    indirect: Float[np.ndarray, "pair site"]
    put_back: Float[np.ndarray, "pair site"]
    clean: Float[np.ndarray, "pair"]
    corrupted: Float[np.ndarray, "pair"]
    sites: tuple[Site, ...]
    pairs: tuple[Pair | TokenPair, ...]
    direction: str
    metric: str

    def effect(self, name: str) -> Float[np.ndarray, "pair site"]:
        """An effect in the metric's unit: `total`, `direct`, `direct_held`, `indirect`, `indirect_back`, `interaction`.

        Denoising, positive is nearer to the clean run; noising, the signs are those of the metric, too.
        """
        start = (self.corrupted if self.direction == "denoise" else self.clean)[:, None]
        made = {
            "indirect_back": self.total - self.put_back,
            "interaction": self.total - self.put_back - (self.indirect - start),
        }
        effect: np.ndarray = made[name] if name in made else getattr(self, name) - start
        return effect

    def share(self, name: str) -> Float[np.ndarray, "pair site"]:
        """An effect as share of the gap, 1 where all came back (denoise) or was lost (noise); NaN under the floor."""
        gap = np.where(self.clean - self.corrupted >= shares.FLOORS[self.metric], self.clean - self.corrupted, np.nan)
        sign = 1 if self.direction == "denoise" else -1
        share: np.ndarray = sign * self.effect(name) / gap[:, None]
        return share

    @property
    def identity_error(self) -> float:
        """The largest distance from total = direct + indirect_back over pairs and sites, in the metric's unit."""
        error = self.effect("total") - self.effect("direct") - self.effect("indirect_back")
        return float(np.abs(error).max(initial=0.0))

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a pair and site: pair, fact, kind, site, and each effect."""
        import pandas as pd

        pair, site = (axis.ravel() for axis in np.indices(self.total.shape))
        names = ("total", "direct", "direct_held", "indirect", "indirect_back", "interaction")
        return pd.DataFrame(
            {
                "pair": pair,
                "fact": np.array([p.fact for p in self.pairs])[pair],
                "kind": np.array([p.kind for p in self.pairs])[pair],
                "site": np.array([str(each) for each in self.sites])[site],
                **{name: self.effect(name).ravel() for name in names},
            }
        )


def effects(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    sites: Named | Sequence[Named],
    *,
    direction: str = "denoise",
    metric: str = "logit_diff",
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> DirectIndirect:
    """Total, direct and indirect effect of each site in every pair.

    `sites` are outputs (`head_out`, `attn_out`, `mlp_out`) or places of the stream (`embed`, `resid_pre`, `resid_mid`,
    `resid_post`), as the senders of `paths`. The rest is as in `sweep`.

    Raises InputError as `paths` does, for several layers at once as well.
    """
    cells = _Sites(model, senders_of(model, sites))
    settings = Settings(direction, (metric,), TOKEN, "exact", memory)
    usual = work_on(model, pairs, cells, settings)
    work = _MediationWork(model, usual.alignments, None, cells, settings, None)
    values = np.full((len(pairs), len(cells.sites), len(RUNS)), np.nan)
    runs = np.full((2, len(pairs)), np.nan)
    for batch, found in measured(work, on_progress):
        values[batch], runs[:, batch] = found.values[metric], (found.clean[metric], found.corrupted[metric])
    measurements = {name: values[:, :, number] for number, name in enumerate(RUNS)}
    return DirectIndirect(
        **measurements,
        clean=runs[0],
        corrupted=runs[1],
        sites=cells.sites,
        pairs=tuple(pairs),
        direction=direction,
        metric=metric,
    )


@dataclass(frozen=True)
class _Sites:
    """Cells that are the five runs of each site."""

    model: Model
    sites: tuple[Site, ...]

    @property
    def components(self) -> frozenset[str]:
        return frozenset({"head_out", "mlp_out"} | ({"resid_mid"} & {site.component for site in self.sites}))

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        pair = torch.arange(len(alignments)).repeat_interleave(len(self.sites) * len(RUNS))
        return Rows.at(pair, torch.zeros(5, 0, dtype=torch.long))

    def shape(self, _: Sequence[Alignment]) -> tuple[int, ...]:
        return len(self.sites), len(RUNS)

    def absent(self, alignments: Sequence[Alignment]) -> Bool[np.ndarray, "pair site run"]:
        return np.zeros((len(alignments), len(self.sites), len(RUNS)), dtype=bool)

    def patches(self, alignment: Alignment) -> int:
        return 2 * len(self.sites) * self.model.n_layers * 2 * len(alignment.clean_ids)


@dataclass(frozen=True)
class _MediationWork(Work):
    """The runs of every site in pairs of prompts."""

    cells: _Sites

    @torch.inference_mode()
    def _patched(
        self, batch: Sequence[int], recipient: Run, donor: Run, rows: Rows, advance: Callable[[int], None]
    ) -> Float[Tensor, "row step width"]:
        sites, at = (
            self.cells.sites,
            positions(self.cells.sites, [self.alignments[index] for index in batch], recipient.length),
        )
        both = _both(self.model, recipient, donor, {site.component for site in sites})
        usual, put_back = (
            self._replayed(recipient, donor, both, _rows(self.model, sites, at, put_back=put_back), advance)
            for put_back in (False, True)
        )
        own = recipient.sites["resid_pre"][-1][:, -recipient.read :]
        change = torch.stack(
            [
                changes(self.model, recipient, donor, [site], at[index : index + 1])[0, :, -recipient.read :]
                for index, site in enumerate(sites)
            ]
        ).to(own.device)
        usual, put_back = (stream.view_as(change) for stream in (usual, put_back))
        normed, start = self.model.normed, own.expand_as(change)
        made = [normed(usual), normed(own + change), held_norm(self.model, start, change)]
        made += [normed(usual - change), normed(put_back)]
        return torch.stack(made, dim=2).transpose(0, 1).flatten(0, 2)

    def _replayed(
        self, recipient: Run, donor: Run, both: Run, rows: Rows, advance: Callable[[int], None]
    ) -> Float[Tensor, "row step width"]:
        differs = recipient.ids != donor.ids
        memory = self.settings.memory // 2
        return replay(self.model, recipient, both, rows, memory=memory, differs=differs, on_pass=advance, normed=False)


def _both(model: Model, recipient: Run, donor: Run, components: set[str]) -> Run:
    """A donor's run whose prompts are the recipient's, then the donor's."""
    sites: dict[str, list[Tensor]] = {}
    for name in {"resid_pre", "head_out", "mlp_out"} | (components & {"resid_mid"}):
        pairs = zip(_outputs(model, recipient, name), donor.sites[name], strict=True)
        sites[name] = [torch.cat(each) for each in pairs]
    sites["attn_out"] = [written_by_heads(model, layer, heads) for layer, heads in enumerate(sites["head_out"])]
    return replace(recipient, sites=sites)


def _outputs(model: Model, run: Run, name: str) -> list[Tensor]:
    return run.sites[name] if name in run.sites else run.sites["resid_pre"][:-1]  # resid_mid is never put back


def _rows(model: Model, sites: Sequence[Site], at: Bool[Tensor, "site pair position"], *, put_back: bool) -> Rows:
    """A row for each site and pair: the site has the donor's value and, where asked, all behind it the recipient's."""
    columns, (_, pairs, length) = [], at.shape
    for number, site in enumerate(sites):
        pair, position = at[number].nonzero().T
        columns.append(replacing(site, number * pairs + pair, position, pair + pairs))
        if put_back:
            pair, position = torch.ones(pairs, length).nonzero().T
            columns += [replacing(each, number * pairs + pair, position, pair) for each in _behind(model, site)]
    return rows_of(torch.arange(pairs).repeat(len(sites)), columns)


def _behind(model: Model, site: Site) -> list[Site]:
    """Every attention and MLP that a change of a site reaches."""
    first = first_reader(site, model)
    later = []
    for layer in range(model.n_layers):
        if reading(Site("q", layer), model) >= first:
            later.append(Site("attn_out", layer))
        if reading(Site("mlp_out", layer), model) >= first:
            later.append(Site("mlp_out", layer))
    return later
