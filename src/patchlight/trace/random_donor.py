"""A donor that knows nothing: what changes is as large as with the real donor, in a direction drawn at random."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.pairs.align import Alignment
    from patchlight.trace.capture import Run

STREAM = ("embed", "resid_pre", "resid_post")  # one activation under three names
BY_HEAD = ("q", "k", "v", "head_out")
WHOLE = ("attn_out", "resid_mid", "mlp_out")


@dataclass(frozen=True)
class RandomDonor:
    """Gives recipient + ||donor - recipient|| u in place of the donor's activation, for `sweep(..., donors=...)`.

    `u` is uniform on the sphere and drawn once for each pair, component, layer, position and head, from `seed` and the
    pair's tokens alone. Where donor and recipient agree nothing changes.
    """

    seed: int

    def run(
        self, model: Model, alignments: Sequence[Alignment], recipient: Run, donor: Run, components: Collection[str]
    ) -> Run:
        """The donor's run with these components pushed; the recipient's has to hold them, too."""
        sites = dict(donor.sites)
        for name in {"resid_pre" if component in STREAM else component for component in components}:
            heads = sites[name][0].shape[-1] // model.head_dim if name == "head_out" else None
            layers = enumerate(zip(recipient.sites[name], donor.sites[name], strict=True))
            sites[name] = [self._pushed(alignments, f"{name}.{layer}", *both, heads) for layer, both in layers]
        return replace(donor, sites=sites)

    def _pushed(
        self, alignments: Sequence[Alignment], site: str, received: Tensor, given: Tensor, heads: int | None
    ) -> Tensor:
        shape = received.shape
        if heads is not None:  # [prompt, position, head * head_dim]: each head is a site of its own
            received, given = (tensor.unflatten(-1, (heads, -1)) for tensor in (received, given))
        size = (given - received).norm(dim=-1, keepdim=True)
        drawn = torch.stack([self._directions(alignment, site, received.shape[1:]) for alignment in alignments])
        pushed: Tensor = (received + size * drawn.to(received)).reshape(shape)
        return pushed

    def _directions(self, alignment: Alignment, site: str, shape: Sequence[int]) -> Float[Tensor, "... width"]:
        key = repr((self.seed, alignment.clean_ids, alignment.corrupted_ids, site)).encode()
        random = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()))
        drawn = torch.from_numpy(random.standard_normal(tuple(shape)))
        direction: Tensor = drawn / drawn.norm(dim=-1, keepdim=True)
        return direction


def refuse_unpushable(components: Collection[str]) -> None:
    """Raises InputError for components that have no direction to draw: a pattern sums to one, logits are read."""
    for component in components:
        if component not in (*STREAM, *BY_HEAD, *WHOLE):
            what = f"a random donor of equal norm is not defined for {component}"
            fix = f"choose one of: {', '.join((*STREAM, *BY_HEAD, *WHOLE))}"
            raise InputError("trace-random-donor-component", what, fix=fix)
