"""The replacements of a pass: where they lie in a call, what takes the place of what is there, and that it happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from patchlight.errors import GateFailed
from patchlight.trace.rows import ALL, COMPONENTS, Rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.trace.capture import Run

ABSENT = -(1 << 40)
HOOKED = {"head_out", "attn_out", "resid_mid", "mlp_hidden", "mlp_out"}


def hooked_components(rows: Rows) -> list[str]:
    """The components that have to be reached by hooks: those that are replaced, by the module that has them."""
    names = {COMPONENTS[index] for index in rows.component.unique().tolist()} & HOOKED
    return sorted({"attn_out" if name == "resid_mid" else name for name in names})


class Patches:
    """What the rows of a pass replace, by layer and component; each is marked once it is applied."""

    def __init__(self, model: Model, donor: Run, rows: Rows) -> None:
        self.model, self.donor, self.rows = model, donor, rows
        places = torch.stack([rows.layer, rows.component])
        self.places = {
            (layer, COMPONENTS[component]): (places == torch.tensor([[layer], [component]])).all(0).nonzero().squeeze(1)
            for layer, component in places.unique(dim=1).T.tolist()
        }
        self.none = rows.row[:0]
        self.applied = torch.zeros_like(rows.row, dtype=torch.bool)

    def of(self, name: str, layer: int) -> Int[Tensor, "patch"]:
        """The replacements of a component in a layer."""
        return self.places.get((layer, name), self.none)

    def mark(self, patches: Int[Tensor, "patch"]) -> tuple[Tensor, Tensor]:
        """The rows and positions of replacements that are being applied."""
        self.applied[patches] = True
        return self.rows.row[patches], self.rows.position[patches]

    def given(self, name: str, layer: int, patches: Int[Tensor, "patch"], width: int = 0) -> Tensor:
        """What the donor has at these sites; `width` is that of a head or neuron, where only such are wanted."""
        pair, position = self.rows.source[patches], self.rows.position[patches]
        source = self.donor.sites[name][layer]
        if name in ("q", "k", "v"):
            return source[pair, self.rows.unit[patches], position] if width else source[pair, :, position]
        if not width:
            return source[pair, position]
        units: Tensor = source.unflatten(-1, (-1, width))
        return units[pair, position, self.rows.unit[patches]]

    def edit(
        self, name: str, layer: int, flat: Float[Tensor, "token width"], base: Int[Tensor, "row"], before: Tensor
    ) -> None:
        """Replaces a component of the tokens of a call, in place.

        `base` is where each row's position 0 would lie among the tokens, `before` the stream in front of the block.
        """
        patches = self.of(name, layer)
        patches, token = self._within(patches, base[self.rows.row[patches]], len(flat))
        whole, part = self._parts(patches)
        value = self.given(name, layer, patches[whole])
        if name == "resid_mid":
            value = (value - before[token[whole]]) / self.model.residual_scale
        flat[token[whole]] = value.to(flat.device)
        if len(part):
            width = self.model.head_dim if name == "head_out" else 1
            units = flat.view(len(flat), -1, width)
            given = self.given(name, layer, patches[part], width)
            units[token[part], self.rows.unit[patches[part]]] = given.to(flat.device)

    def edit_heads(
        self,
        name: str,
        layer: int,
        tensor: Float[Tensor, "row head position head_dim"],
        rows: Int[Tensor, "row"],
        start: int,
    ) -> None:
        """Replaces queries, keys or values of these rows, from position `start` on, in place."""
        patches, index, place = self._in_rows(self.of(name, layer), rows, start, tensor.shape[2])
        if not len(patches):
            return
        whole, part = self._parts(patches)
        tensor[index[whole], :, place[whole]] = self.given(name, layer, patches[whole]).to(tensor.device)
        unit = self.rows.unit[patches[part]]
        tensor[index[part], unit, place[part]] = self.given(name, layer, patches[part], 1).to(tensor.device)

    def reweigh(
        self,
        layer: int,
        mixed: Float[Tensor, "row position head head_dim"],
        values: Float[Tensor, "row kv_head key head_dim"],
        rows: Int[Tensor, "row"],
        start: int,
    ) -> None:
        """Where the pattern is replaced: the donor's weights over each row's own values, in place."""
        patches, index, place = self._in_rows(self.of("pattern", layer), rows, start, mixed.shape[1])
        if not len(patches):
            return
        pair, position = self.rows.source[patches], self.rows.position[patches]
        weights = self.donor.sites["pattern"][layer][pair, :, position, : values.shape[2]].to(values.device)
        every_head = values[index].repeat_interleave(weights.shape[1] // values.shape[1], dim=1)
        weighed = torch.einsum("phk,phkd->phd", weights, every_head)
        whole, part = self._parts(patches)
        unit = self.rows.unit[patches[part]]
        mixed[index[whole], place[whole]] = weighed[whole]
        mixed[index[part], place[part], unit] = weighed[part, unit]

    def _in_rows(self, patches: Tensor, rows: Tensor, start: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The patches that lie in `size` positions from `start` on of these rows, the row's index, and the place."""
        if not len(patches):
            return patches, patches, patches
        index = torch.full_like(self.rows.pair, ABSENT)
        index[rows] = torch.arange(len(rows))
        mine = patches[index[self.rows.row[patches]] >= 0]
        mine, place = self._within(mine, torch.full_like(mine, -start), size)
        return mine, index[self.rows.row[mine]], place

    def _within(self, patches: Tensor, base: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The patches whose position, counted from `base`, is in a range of `size`; they are marked as applied."""
        place = base + self.rows.position[patches]
        here = (place >= 0) & (place < size)
        self.applied[patches[here]] = True
        return patches[here], place[here]

    def _parts(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the patches replace a whole activation, and which one head or neuron."""
        single = self.rows.unit[patches] != ALL
        return (~single).nonzero().squeeze(1), single.nonzero().squeeze(1)

    def require_applied(self) -> None:
        """Raises GateFailed where a replacement never happened (guard 6)."""
        if bool(self.applied.all()):
            return
        missed = int((~self.applied).nonzero()[0])
        component, layer = COMPONENTS[int(self.rows.component[missed])], int(self.rows.layer[missed])
        what = f"a patch of {component} in layer {layer} was never applied"
        fix = "the entry of this architecture in patchlight/model/families.py does not fit this model"
        raise GateFailed("trace-site-not-hit", what, where=self.model.name, fix=fix)
