"""What must hold on a model before anything measured on it is trusted (guard 3), and how far from it the model is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from patchlight.errors import GateFailed, InputError
from patchlight.model.source import first_line
from patchlight.pairs.align import align
from patchlight.records import Pair, Site
from patchlight.trace.capture import Run, capture
from patchlight.trace.engine import replay
from patchlight.trace.hooks import hooked
from patchlight.trace.rows import Rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

LIMITS = {torch.float64: 1e-9, torch.float32: 5e-5}
COARSE = 0.05  # half precision is held to it
MEMORY = 1 << 28
PAIRS = 3  # of those given; each costs about three rows a layer
SAMPLE = 6  # cells compared with a plain hooked forward
# What stock code raises on tensors of other shapes, arguments or kinds than it was written for.
_BY_A_WRONG_ENTRY = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Identity:
    """An identity, its largest error over logits (or activations), and the limit that it must stay under.

    Errors are relative to the largest magnitude among the numbers compared, absolute where that is below 1.
    """

    name: str
    error: float
    limit: float
    held: bool


def prove(model: Model, pairs: Sequence[Pair] | None = None) -> list[Identity]:
    """Each identity with its error on this model, over the first few pairs (without pairs: over random tokens).

    Raises GateFailed `identity-not-run` where the model's own code fails on what its entry hands it.
    """
    prompts = _prompts(model, pairs)
    try:
        return _proven(model, [_Proof(model, *ids) for ids in prompts])
    except _BY_A_WRONG_ENTRY as error:
        what = f"the identities cannot be run: {type(error).__name__}: {first_line(error)}"
        fix = "unless memory ran out, this entry of FAMILIES does not fit the model; see docs/guide/models.md"
        raise GateFailed("identity-not-run", what, where=model.name, fix=fix) from error


def _proven(model: Model, work: Sequence[_Proof]) -> list[Identity]:
    coarsest = torch.float32 if model.family.float32_attention and model.dtype == torch.float64 else model.dtype
    limit = LIMITS.get(coarsest, COARSE)
    identities = []
    for name, error_of in _IDENTITIES.items():
        errors = [error_of(proof) for proof in work]
        error = max(errors)
        identities.append(Identity(name, error, limit, all(each <= limit for each in errors)))
    return identities


class _Proof:
    """Two prompts of one length on one model, with their runs."""

    def __init__(self, model: Model, clean: Int[Tensor, "1 position"], corrupted: Int[Tensor, "1 position"]) -> None:
        self.model, self.length = model, clean.shape[1]
        self.kinds = ["q", "k", "v", "pattern", "head_out", "attn_out", "mlp_out"]
        self.kinds += [] if model.parallel else ["resid_mid"]
        self.kinds += [] if model.family.mlp_proj is None else ["mlp_hidden"]
        self.clean, self.corrupted = (capture(model, ids, self.kinds) for ids in (clean, corrupted))
        self.first = int((clean != corrupted)[0].int().argmax())

    def logits(self, normed: Float[Tensor, "row step width"]) -> Float[Tensor, "row token"]:
        with torch.inference_mode():
            return self.model.logits(normed[:, -1])

    def replayed(self, donor: Run, sites: Sequence[Sequence[Site]], *, all_differ: bool = False) -> Tensor:
        """The logits after replacing sites of the corrupted run, row by row."""
        rows = Rows.of([0] * len(sites), sites, self.length)
        differs = torch.ones_like(donor.ids, dtype=torch.bool) if all_differ else None
        return self.logits(replay(self.model, self.corrupted, donor, rows, memory=MEMORY, differs=differs))


def _self_patch(proof: _Proof) -> float:
    """A row for each component within the blocks, replaced everywhere; the stream has a row for each depth below."""
    rows = [[Site(name, layer) for layer in range(proof.model.n_layers)] for name in proof.kinds]
    return _error(proof.replayed(proof.corrupted, rows, all_differ=True), proof.logits(proof.corrupted.final))


def _replay_from_every_depth(proof: _Proof) -> float:
    rows = [[Site("resid_pre", layer, None, 0)] for layer in range(proof.model.n_layers)]
    return _error(proof.replayed(proof.corrupted, rows, all_differ=True), proof.logits(proof.corrupted.final))


def _full_cut(proof: _Proof) -> float:
    rows = [[Site("resid_pre", layer)] for layer in range(proof.model.n_layers)]
    return _error(proof.replayed(proof.clean, rows), proof.logits(proof.clean.final))


def _nothing_upstream(proof: _Proof) -> float:
    """Activations before the first differing token, which a causal model cannot tell apart."""
    pairs = zip(proof.clean.sites["resid_pre"], proof.corrupted.sites["resid_pre"], strict=True)
    return max((_error(one[:, : proof.first], other[:, : proof.first]) for one, other in pairs), default=0.0)


def _nothing_downstream(proof: _Proof) -> float:
    """Stock forwards with the last layer's MLP replaced where nothing reads it."""
    if proof.length == 1:
        return 0.0
    layer = proof.model.n_layers - 1
    return _error(_plain(proof, "mlp_out", layer, proof.length - 2), proof.logits(proof.corrupted.final))


def _residual_sums(proof: _Proof) -> float:
    sites, scale = proof.clean.sites, proof.model.residual_scale
    streams = zip(sites["resid_pre"][:-1], sites["attn_out"], sites["mlp_out"], sites["resid_pre"][1:], strict=True)
    return max(_error(before + scale * attention + scale * mlp, after) for before, attention, mlp, after in streams)


def _batch(proof: _Proof) -> float:
    both = capture(proof.model, torch.cat([proof.clean.ids, proof.corrupted.ids]), ())
    return _error(both.final, torch.cat([proof.clean.final, proof.corrupted.final]))


def _padding(proof: _Proof) -> float:
    """Stock forwards of the prompt padded left and right, against the prompt alone.

    In float64 right only: a token that sees nothing but padding is NaN in the stock code of some families there.
    """
    ids = proof.clean.ids.to(proof.model.device)
    plain = _last_logits(proof.model, ids, torch.ones_like(ids), proof.length - 1)
    if proof.model.context is not None and proof.length + 2 > proof.model.context:
        return 0.0
    pad, hidden, shown = ids[:, :1].repeat(1, 2), torch.zeros_like(ids[:, :1]).repeat(1, 2), torch.ones_like(ids)
    right = torch.cat([ids, pad], 1), torch.cat([shown, hidden], 1), proof.length - 1
    left = torch.cat([pad, ids], 1), torch.cat([hidden, shown], 1), proof.length + 1
    sides = [right] if proof.model.dtype == torch.float64 else [right, left]
    return max(_error(_last_logits(proof.model, *side), plain) for side in sides)


def _plain_hooks(proof: _Proof) -> float:
    """A sample of cells against full stock forwards with one hook each."""
    chosen = torch.Generator().manual_seed(0)
    kinds, errors = ["resid_pre", "attn_out", "mlp_out", "head_out"], []
    for number in range(SAMPLE):
        component = kinds[number % len(kinds)]
        layer = int(torch.randint(proof.model.n_layers, (1,), generator=chosen))
        position = int(torch.randint(proof.first, proof.length, (1,), generator=chosen))
        replayed = proof.replayed(proof.clean, [[Site(component, layer, None, position)]])
        errors.append(_error(replayed, _plain(proof, component, layer, position)))
    return max(errors)


_IDENTITIES = {
    "self-patch changes nothing": _self_patch,
    "residual sums hold": _residual_sums,
    "a batch equals its singles": _batch,
    "left and right padding agree": _padding,
    "replay from every depth equals the full run": _replay_from_every_depth,
    "a full cut gives the donor's run": _full_cut,
    "nothing differs before the first token that differs": _nothing_upstream,
    "a site that nothing reads changes nothing": _nothing_downstream,
    "replay equals plain hooked forwards": _plain_hooks,
}


@torch.inference_mode()
def _plain(proof: _Proof, component: str, layer: int, position: int) -> Float[Tensor, "1 token"]:
    """The logits of a full stock forward of the corrupted prompt, with one activation of the clean run put in."""

    def edit(at: int, tensor: Tensor) -> Tensor | None:
        if at != layer:
            return None
        tensor = tensor.clone()
        tensor.view(proof.length, -1)[position] = proof.clean.sites[component][layer][0, position]
        return tensor

    ids = proof.corrupted.ids.to(proof.model.device)
    with hooked(proof.model, {component: edit}):
        logits: Tensor = proof.model.hf(input_ids=ids, use_cache=False).logits
    return logits[:, -1]


@torch.inference_mode()
def _last_logits(model: Model, ids: Tensor, mask: Tensor, last: int) -> Float[Tensor, "1 token"]:
    accepted = inspect.signature(model.hf.forward).parameters
    extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if "position_ids" in accepted else {}
    logits: Tensor = model.hf(input_ids=ids, attention_mask=mask, use_cache=False, **extra).logits
    return logits[:, last]


def _error(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest magnitude where that is above 1; infinite for NaN."""
    if not one.numel():
        return 0.0
    error = float((one - other).abs().max() / other.abs().max().clamp(min=1))
    return float("inf") if math.isnan(error) else error


def _prompts(model: Model, pairs: Sequence[Pair] | None) -> list[tuple[Tensor, Tensor]]:
    if pairs is not None and not pairs:
        raise InputError("identity-no-pairs", "there is no pair to prove the identities on", fix="give one or more")
    if pairs is not None:
        alignments = [align(model.tokenizer, pair) for pair in pairs[:PAIRS]]
        return [(torch.tensor([each.clean_ids]), torch.tensor([each.corrupted_ids])) for each in alignments]
    random = torch.Generator().manual_seed(0)
    known = min(len(model.tokenizer), int(model.config.vocab_size))
    prompts = []
    for length in (5, 9):
        clean = torch.randint(known, (1, length), generator=random)
        corrupted = clean.clone()
        corrupted[0, [2, 3]] = (clean[0, [2, 3]] + 1) % known
        prompts.append((clean, corrupted))
    return prompts
