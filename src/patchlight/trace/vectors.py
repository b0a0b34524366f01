"""What runs have at one site, as vectors: what directions are found from, and what is moved along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment, align
from patchlight.pairs.answers import Answers, refuse_unreadable, shape
from patchlight.records import Pair, Site, TokenPair
from patchlight.trace.capture import Run, capture
from patchlight.trace.ends import positions
from patchlight.trace.rows import HEADED
from patchlight.trace.sites import check_site, read_site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

METRIC = "logit_diff"
STREAM = ("embed", "resid_pre", "resid_post")  # one activation under three names
SPANNED = (*STREAM, "q", "k", "v", "head_out", "attn_out", "resid_mid", "mlp_hidden", "mlp_out")


@dataclass(frozen=True)
class Group:
    """Pairs of one shape at one site; each pair of tensors is (clean, corrupted).

    `own` is what each run has at the site, `given` what a donor gives there (the same, unless shuffled), both
    `[pair, position, width]`. `at` says which positions the site stands for. `answers` are the correct and the wrong
    token, read at the last position of `runs`.
    """

    indices: tuple[int, ...]
    runs: tuple[Run, Run]
    own: tuple[Float[Tensor, "pair position width"], Float[Tensor, "pair position width"]]
    given: tuple[Float[Tensor, "pair position width"], Float[Tensor, "pair position width"]]
    at: Bool[Tensor, "pair position"]
    answers: Int[Tensor, "pair 2"]

    def shuffled(self) -> Group:
        """The same pairs, each given what the next pair has: a direction found so knows nothing of the pairs."""
        clean, corrupted = (tensor.roll(1, dims=0) for tensor in self.given)
        return replace(self, given=(clean, corrupted))


def spanned_site(model: Model, given: str | Site) -> Site:
    """The site that is meant: one layer and, of what has heads, one head.

    Raises InputError for a component that has no directions (`pattern`, `final_norm`, `logits`), for several layers or
    heads, and as `read_site` does.
    """
    site = read_site(given) if isinstance(given, str) else given
    check_site(site, model)
    if site.component not in SPANNED:
        what = f"{site.component} has no directions to patch along"
        raise InputError("trace-subspace-site", what, where=str(site), fix=f"choose one of: {', '.join(SPANNED)}")
    headed = site.component in HEADED
    if isinstance(site.layer, tuple) or (headed and not isinstance(site.unit, int)) or (not headed and site.unit):
        fix = "write it like blocks.7.mlp_hidden@subject_last or blocks.9.head_out.6@last"
        raise InputError("trace-subspace-site", "a subspace is of one layer and one head", where=str(site), fix=fix)
    return site


def groups(model: Model, pairs: Sequence[Pair | TokenPair], site: Site) -> list[Group]:
    """The pairs by shape, with what both runs have at the site. Raises InputError as `sweep` does."""
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, (pair, alignment) in enumerate(zip(pairs, alignments, strict=True)):
        refuse_unreadable(pair, alignment, [METRIC])
        by_shape.setdefault(shape(alignment, [METRIC]), []).append(index)
    return [_group(model, site, alignments, indices) for _, indices in sorted(by_shape.items())]


def _group(model: Model, site: Site, alignments: Sequence[Alignment], indices: Sequence[int]) -> Group:
    chosen = [alignments[index] for index in indices]
    answers = Answers.of(chosen, [METRIC])
    (shared,) = answers.continuations
    clean, corrupted = (
        capture(model, torch.cat([torch.tensor([getattr(each, name) for each in chosen]), shared], dim=1), kept(site))
        for name in ("clean_ids", "corrupted_ids")
    )
    own = seen(clean, site, model), seen(corrupted, site, model)
    tokens = torch.stack([answers.correct[:, answers.parting], answers.wrong[:, answers.parting]], dim=1)
    at = positions([site], chosen, clean.length)[0]
    return Group(tuple(indices), (clean, corrupted), own, own, at, tokens)


def kept(site: Site) -> set[str]:
    """What `capture` has to be told so that a run holds the site."""
    return set() if site.component in STREAM else {site.component}


def stored(site: Site) -> tuple[str, int]:
    """Under which component and layer a run holds the site."""
    layer = int(np.max(site.layer or 0))
    return (
        ("resid_pre", layer + (site.component == "resid_post")) if site.component in STREAM else (site.component, layer)
    )


def seen(run: Run, site: Site, model: Model) -> Float[Tensor, "prompt position width"]:
    """What a run has at the site; a change of it changes the run."""
    name, layer = stored(site)
    tensor = run.sites[name][layer]
    if name in ("q", "k", "v"):
        return tensor[:, site.unit]
    if name == "head_out":
        heads: Tensor = tensor.unflatten(-1, (-1, model.head_dim))
        return heads[:, :, site.unit]
    return tensor


def differences(found: Sequence[Group]) -> Float[Tensor, "example width"]:
    """What the donor's clean run has, less what the corrupted run has, at each position that the site stands for."""
    return torch.cat([(each.given[0] - each.own[1])[each.at] for each in found])
