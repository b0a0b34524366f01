"""What a change of one component carries straight to its readers, all that lies between held as it was.

A direct path is the residual stream itself: the reader gets `stream + change` through its own norm. Nothing is
linearised. The readers of a stream come in order: attention of layer 0, its MLP, attention of layer 1, and so on;
in parallel blocks attention and MLP read at once, so that no path leads from a block's attention to its own MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from patchlight.records import Site
from patchlight.trace.hooks import at_positions, attention, hooked
from patchlight.trace.past import ARGUMENT, Past, suffix_arguments
from patchlight.trace.pieces import TOKENS_PER_CALL, by_row

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.trace.capture import Run

STREAM = ("embed", "resid_pre", "resid_mid", "resid_post")
WRITERS = (*STREAM, "head_out", "attn_out", "mlp_out")  # what is, or is added to, the residual stream
READERS = ("q", "k", "v", "mlp_out", "logits")
LARGE = 2.0**10  # times a vector of unit size: the epsilon of a norm no longer counts


def first_reader(site: Site, model: Model) -> int:
    """The first reader, in order, that a change of this component reaches."""
    layer = site.layer if isinstance(site.layer, int) else 0
    later = {"attn_out": 1, "head_out": 1, "resid_mid": 1, "mlp_out": 2, "resid_post": 2}.get(site.component, 0)
    return 2 * layer + later


def reading(site: Site, model: Model) -> int:
    """The place of a reader in the order."""
    if site.component == "logits":
        return 2 * model.n_layers
    layer = site.layer if isinstance(site.layer, int) else 0
    return 2 * layer + int(site.component == "mlp_out" and not model.parallel)


@torch.inference_mode()
def changes(
    model: Model,
    recipient: Run,
    donor: Run,
    senders: Sequence[Site],
    at: Bool[Tensor, "sender pair position"],
) -> Float[Tensor, "sender pair position width"]:
    """What the residual stream gains where each sender has the donor's output at these positions.

    The senders are of one component and layer. A head's share goes through the block's own output projection, and
    through the norm behind it where there is one, beside the recipient's other heads.
    """
    component, layer = senders[0].component, senders[0].layer or 0
    assert isinstance(layer, int)
    if component in ("embed", "resid_pre", "resid_post"):
        depth = layer + (component == "resid_post")
        change = donor.sites["resid_pre"][depth] - recipient.sites["resid_pre"][depth]
    elif component == "mlp_out":
        change = model.residual_scale * (donor.sites["mlp_out"][layer] - recipient.sites["mlp_out"][layer])
    else:
        change = _attention_changes(model, recipient, donor, layer, senders, at)
        if component == "resid_mid":
            change = change + donor.sites["resid_pre"][layer] - recipient.sites["resid_pre"][layer]
    return torch.where(at.to(change.device)[..., None], change, torch.zeros((), dtype=change.dtype))


def _attention_changes(
    model: Model, recipient: Run, donor: Run, layer: int, senders: Sequence[Site], at: Bool[Tensor, "..."]
) -> Float[Tensor, "sender pair position width"]:
    own, given = recipient.sites["head_out"][layer], donor.sites["head_out"][layer]
    heads = torch.zeros(len(senders), own.shape[-1] // model.head_dim, dtype=torch.bool)
    for mine, sender in zip(heads, senders, strict=True):
        mine[slice(None) if sender.unit is None else sender.unit] = True
    columns = heads.repeat_interleave(model.head_dim, dim=1)[:, None, None]
    mixed = torch.where((columns & at[..., None]).to(own.device), given, own)
    return model.residual_scale * (written_by_heads(model, layer, mixed) - written_by_heads(model, layer, own))


def written_by_heads(
    model: Model, layer: int, heads: Float[Tensor, "*row position inner"]
) -> Float[Tensor, "*row position width"]:
    """What a block's attention adds to the stream, before any factor, from what its heads give."""
    projection, output = model.part("attn_proj", layer), model.part("attn_out", layer)
    projected = projection(heads.flatten(0, -3))
    written: Tensor = projected if output is projection else output(projected)
    return written.view(*heads.shape[:-1], -1)


class Enough(Exception):
    """A block has computed what was wanted of it."""


@torch.inference_mode()
def heads_reading(
    model: Model, recipient: Run, layer: int, stream: Float[Tensor, "row position width"]
) -> dict[str, Float[Tensor, "row head position head_dim"]]:
    """Queries, keys and values that a block makes of these streams."""
    parts: list[dict[str, Tensor]] = []
    for some in stream.split(max(1, TOKENS_PER_CALL // stream.shape[1])):
        found: list[Tensor] = []

        def stop(*tensors: Any, found: list[Tensor] = found) -> Any:
            found.extend(tensors)
            raise Enough

        def see(keys: Tensor, values: Tensor, found: list[Tensor] = found) -> tuple[Tensor, Tensor]:
            found.extend((keys, values))
            return keys, values

        past = Past(see, model.n_kv_heads, ask=stop)
        _run_block(model, recipient, layer, some, lambda _, __, q, k, v, *___, **____: stop(k, v, q), past)
        if model.family.interface:
            found = [by_row(tensor, slice(None), len(some)) for tensor in found]
        parts.append(dict(zip("kvq", found, strict=True)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def mixed_by_heads(
    model: Model,
    recipient: Run,
    layer: int,
    q: Float[Tensor, "prompt head position head_dim"],
    k: Float[Tensor, "prompt kv_head position head_dim"],
    v: Float[Tensor, "prompt kv_head position head_dim"],
) -> Float[Tensor, "prompt position head head_dim"]:
    """What a block's attention makes of these, in a family whose attention is of its own, by that very attention."""
    found: list[Tensor] = []

    def stop(product: Callable[[Tensor], Tensor], values: Tensor) -> Any:
        found.append(product(values).transpose(1, 2))
        raise Enough

    past = Past(lambda _, __: (k, v), model.n_kv_heads, lambda _: q, stop)
    _run_block(model, recipient, layer, recipient.sites["resid_pre"][layer], _no_attention, past)
    return found[0]


@torch.inference_mode()
def mlp_reading(
    model: Model, recipient: Run, layer: int, change: Float[Tensor, "sender pair position width"]
) -> Float[Tensor, "row position width"]:
    """What a block's MLP adds to the stream where its input alone carries each change; attention stays."""
    own = recipient.sites["head_out"][layer]
    before = recipient.sites["resid_pre"][layer].expand_as(change)
    written = written_by_heads(model, layer, own).expand_as(change)
    if model.parallel:
        before = before + change
    else:
        written = written + change / model.residual_scale
    parts = []
    size = max(1, TOKENS_PER_CALL // change.shape[2])
    for stream, given in zip(before.flatten(0, 1).split(size), written.flatten(0, 1).split(size), strict=True):
        found: list[Tensor] = []
        with hooked(model, {"attn_out": partial(_hand_over, given), "mlp_out": partial(_keep_and_stop, found)}):
            past = Past(lambda keys, values: (keys, values), model.n_kv_heads)
            _run_block(model, recipient, layer, stream, _no_attention, past)
        parts.append(found[0].reshape(stream.shape))
    return torch.cat(parts)


def _hand_over(given: Tensor, _: int, tensor: Tensor) -> Tensor:
    return given.reshape(tensor.shape)


def _keep_and_stop(found: list[Tensor], _: int, tensor: Tensor) -> None:
    found.append(tensor.clone())
    raise Enough


def _no_attention(_: Any, __: Any, q: Tensor, *___: Any, **____: Any) -> tuple[Tensor, None]:
    """Anything of the right shape: what attention writes is replaced behind it."""
    return q.new_zeros(q.transpose(1, 2).shape), None


def _run_block(
    model: Model,
    recipient: Run,
    layer: int,
    stream: Float[Tensor, "row position width"],
    attend: Callable[..., Any],
    past: Past,
) -> None:
    """One call of the stock block for rows of whole prompts, until something in it has had enough.

    `attend` stands in for attention, `past` for the cache of families whose attention is of their own.
    """
    recorded, rows, length = recipient.arguments[layer], len(stream), recipient.length
    with ExitStack() as stack:
        stack.enter_context(suppress(Enough))
        if model.family.interface:
            stack.enter_context(attention(model, attend))
            arguments = at_positions(recorded, length, torch.arange(length).repeat(rows))
            model.layers[layer](stream.reshape(1, -1, model.width), **arguments)
        else:
            arguments = suffix_arguments(model, recorded, length, slice(0, length), rows)
            model.layers[layer](stream, **arguments, **{ARGUMENT: past})


@torch.inference_mode()
def held_norm(
    model: Model, stream: Float[Tensor, "*row width"], change: Float[Tensor, "*row width"]
) -> Float[Tensor, "*row width"]:
    """The final norm of `stream + change` with its scale held at that of `stream`: linear in the change.

    Whether the norm takes the mean away, its gain and its epsilon are read off the module itself, whichever it is.
    """
    norm = model.normed
    bias = norm(torch.zeros_like(stream))
    if torch.allclose(norm(stream + stream.abs().max()), norm(stream), rtol=1e-4, atol=1e-5):
        stream, change = (each - each.mean(-1, keepdim=True) for each in (stream, change))
    size, own = (each.square().mean(-1, keepdim=True).sqrt() for each in (change, stream))
    # The gain times a vector of unit size; and how much the norm's scale exceeds the stream's own size.
    unit = norm(change / size.clamp_min(torch.finfo(size.dtype).tiny) * LARGE) - bias
    normed, without_epsilon = norm(stream) - bias, norm(stream / own * LARGE) - bias
    ratio = normed.norm(dim=-1, keepdim=True) / without_epsilon.norm(dim=-1, keepdim=True)
    held: Tensor = normed + bias + unit * size * ratio / own
    return held
