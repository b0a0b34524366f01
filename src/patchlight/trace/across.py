"""From model to model: what a fine-tuned model computes at a site, put into the model it was made from, and back.

Both read the same prompt. The engine needs no more than a donor's run, whichever model it was captured from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import GateFailed, InputError
from patchlight.model.modules import check_twins, differing_modules
from patchlight.pairs.align import Alignment
from patchlight.pairs.answers import steps_read
from patchlight.records import Pair, TokenPair
from patchlight.trace.capture import Run, capture
from patchlight.trace.cells import POSITIONS, Grid, columns_of, places_of, require_known, sites_of
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.effects import Effects
from patchlight.trace.identities import COARSE, LIMITS
from patchlight.trace.plan import needed
from patchlight.trace.prompts import both_alone, metric_of, read_prompts
from patchlight.trace.sweep import MEMORY, Settings, Work, effects_of, measured, work_on

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model


@dataclass(frozen=True)
class AcrossEffects(Effects):
    """Effects whose clean run is the fine-tuned model's and whose corrupted run is the base model's, on one prompt.

    `clean` is m(fine-tuned model), `corrupted` m(base model). `structural[pair, layer, position]` marks where all that
    follows is the same in both models, so that the patch restores everything by construction: no finding.
    """

    structural: Bool[np.ndarray, "pair layer position"] = field(kw_only=True)

    def to_frame(self) -> pd.DataFrame:
        """The table of `Effects`, and `structural`."""
        marked = np.broadcast_to(self._beside_heads(), self.values.shape)
        return super().to_frame().assign(structural=marked[~np.isnan(self.values)])

    def _beside_heads(self) -> np.ndarray:
        """Replacing one head of several never restores everything."""
        return self.structural if self.values.ndim == 3 else np.zeros_like(self.values, dtype=bool)


def patch_across(
    base: Model,
    tuned: Model,
    pairs: Sequence[Pair | TokenPair],
    *,
    component: str = "mlp_out",
    direction: str = "denoise",
    prompt: str = "clean",
    metric: str = "logit_diff",
    positions: str = "each",
    window: int = 1,
    groups: int | None = None,
    donors: Sequence[str | Sequence[int]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> AcrossEffects:
    """The metric after replacing a component at each layer and position by what the other model has there.

    Denoising puts the fine-tuned model's activations into the base model (does this bring what was learnt?), noising
    the reverse. Both models read the same prompt: the `clean` one of each pair, or the `corrupted` one, which is then
    scored by its own answer. The gap is m(fine-tuned) - m(base) on that prompt. `donors` are prompts for the model that
    gives, of equal length (a control). The other settings are those of `sweeps`.

    Raises InputError for models that differ in more than the values of their weights, `kl`, `logits` (the donor's
    answer itself), and as `sweeps` does; GateFailed where a site that restores everything by construction does not.
    """
    check_twins(base, tuned)
    require_known("positions", positions, POSITIONS)
    if component == "logits":
        what = "the logits of the other model are its answer"
        raise InputError("trace-nothing-behind", what, fix="choose another component")
    chosen, alignments = read_prompts(base, pairs, prompt, metric)
    recipient, giver = (base, tuned) if direction == "denoise" else (tuned, base)
    cells = Grid(sites_of(base, component, window, groups), columns_of(alignments, positions))
    work = work_on(recipient, chosen, cells, Settings(direction, (metric,), TOKEN, "exact", memory), donors)
    prompts = work.donors if isinstance(work.donors, tuple) else tuple(each.clean_ids for each in alignments)
    across = _Across(**{each.name: getattr(work, each.name) for each in fields(work)}, giver=giver, given=prompts)
    with both_alone(base, tuned):
        found = effects_of(across, cells, chosen, measured(across, on_progress))[metric]
        given = metric_of(giver, alignments, metric)
    known = {each.name: getattr(found, each.name) for each in fields(found)}
    known["clean" if direction == "denoise" else "corrupted"] = given
    structural = _structural(differing_modules(base, tuned), base.n_layers, cells, alignments, metric)
    effects = AcrossEffects(**known, structural=structural)
    if donors is None:
        _confirm(effects, given, base)
    return effects


@dataclass(frozen=True)
class _Across(Work):
    """Cells that one model receives from another, which reads the prompts `given`."""

    giver: Model
    given: tuple[tuple[int, ...], ...]

    def _runs(self, batch: Sequence[int], continuation: Int[Tensor, "pair token"], draw: int) -> tuple[Run, Run, Run]:
        """The recipient's run and the giver's."""
        prompts, donors = [self.alignments[index].clean_ids for index in batch], [self.given[index] for index in batch]
        of_recipient, of_donor = needed(self.cells.components, self.model)
        steps = continuation.shape[1] + 1
        recipient = capture(self.model, torch.cat([torch.tensor(prompts), continuation], 1), of_recipient, read=steps)
        donor = capture(self.giver, torch.cat([torch.tensor(donors), continuation], 1), of_donor, read=steps)
        return recipient, donor, donor

    def _differs(self, batch: Sequence[int], recipient: Run, donor: Run) -> Bool[Tensor, "pair position"]:
        """Every position: the models differ there although the tokens do not."""
        return torch.ones_like(recipient.ids, dtype=torch.bool)


def _structural(
    differing: Sequence[str], n_layers: int, cells: Grid, alignments: Sequence[Alignment], metric: str
) -> Bool[np.ndarray, "pair layer position"]:
    """Cuts of the stream above which both models have the same weights: at every position, or at the end where read."""
    layers, windows = cells.sites.layers, cells.sites.window
    width = len(cells.columns) or max((len(each.clean_ids) for each in alignments), default=0)
    marked = np.zeros((len(alignments), layers, width), dtype=bool)
    for pair, alignment in enumerate(alignments):
        if steps_read(alignment, metric) != [0]:
            continue  # tokens of the answer are run behind the prompt, and not replaced
        places = places_of(alignment, cells.columns)
        for layer in range(layers):
            depth = _cut(cells.sites.component, layer + windows - 1, n_layers)
            if depth is None or any(_depth(name, n_layers) >= depth for name in differing):
                continue
            everywhere, at_the_end = places.all(1), places[:, -1] & (depth >= 3 * n_layers - 1)
            marked[pair, layer, : len(places)] = everywhere | at_the_end
    return marked


def _cut(component: str, layer: int, n_layers: int) -> int | None:
    """The depth from which on a module lies behind this component; None where the component is not the whole stream."""
    depths = {"embed": 0, "resid_pre": 3 * layer, "resid_mid": 3 * layer + 2, "resid_post": 3 * layer + 3}
    return 3 * n_layers + 1 if component == "final_norm" else depths.get(component)


def _depth(module: str, n_layers: int) -> int:
    """Where a module lies: three steps a block (a block's norms stand in front of its MLP, too)."""
    _, *path = module.split(".")
    if path[0] == "blocks":
        return 3 * int(path[1]) + {"attn": 1, "norms": 2, "mlp": 2}[path[2]]
    return {"embed": -1, "final_norm": 3 * n_layers, "unembed": 3 * n_layers + 1}[path[0]]


def _confirm(effects: AcrossEffects, given: Float[np.ndarray, "pair"], model: Model) -> None:
    if effects.values.ndim != 3 or not effects.structural.any():
        return
    expected = np.broadcast_to(given[:, None, None], effects.values.shape)[effects.structural]
    error = np.abs(effects.values[effects.structural] - expected) / np.maximum(1, np.abs(expected))
    if error.max() > (limit := LIMITS.get(model.dtype, COARSE)):
        what = f"a site that restores everything by construction is off by {error.max():.1e}, the limit is {limit:.0e}"
        fix = "the models differ in something that is no weight: compare their configurations"
        raise GateFailed("trace-not-by-construction", what, where=model.name, fix=fix)
