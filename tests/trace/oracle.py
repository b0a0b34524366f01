"""The oracle: plain hooks on the stock model, one forward a cell.

It knows each family by the outputs of its own modules, not by the table under test.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from patchlight.model.anatomy import Model
from patchlight.records import Site
from patchlight.trace.rows import COMPONENTS

ATTENTION = ("attn", "self_attn", "attention", "self_attention")
NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
SANDWICH = dict.fromkeys(("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4"), NORMS)
SANDWICH["glm4"] = ("post_self_attn_layernorm", "post_mlp_layernorm")
ADDS_RESIDUAL = ("bloom", "mpt")  # the MLP module adds the residual stream itself


def blocks(model: Model) -> Any:
    base = model.hf.base_model
    base = getattr(base, "decoder", base)
    return next(getattr(base, name) for name in ("h", "layers", "blocks") if hasattr(base, name))


def oracle_module(model: Model, component: str, layer: int) -> tuple[Any, str]:
    if component == "embed":
        return model.hf.get_input_embeddings(), "out"
    block = blocks(model)[layer]
    kind = model.config.model_type
    attention = next(getattr(block, name) for name in ATTENTION if hasattr(block, name))
    attention = attention.attention if kind == "gpt_neo" else attention
    if component in ("resid_pre", "resid_post"):
        return block, "in" if component == "resid_pre" else "out"
    if component == "head_out":
        names = ("c_proj", "o_proj", "dense", "out_proj")
        return next(getattr(attention, name) for name in names if hasattr(attention, name)), "in"
    if component in ("attn_out", "mlp_out") and kind in SANDWICH:
        return getattr(block, SANDWICH[kind][component == "mlp_out"]), "out"
    if component == "attn_out":
        return (attention.dense if kind == "bloom" else attention), "out"
    if kind in ("opt", "biogpt"):
        return block.fc2, "out" if component == "mlp_out" else "in"
    mlp = next(getattr(block, name) for name in ("mlp", "ffn", "block_sparse_moe") if hasattr(block, name))
    names = ("c_proj", "down_proj", "fc_out", "fc2", "dense_4h_to_h")
    last = next((getattr(mlp, name) for name in names if hasattr(mlp, name)), None)
    if component == "mlp_hidden":
        return last, "in"
    return (last if kind in ADDS_RESIDUAL else mlp), "out"


def hook(module: Any, side: str, edit: Callable[[torch.Tensor], torch.Tensor | None]) -> Any:
    if side == "out":

        def after(_: Any, __: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                changed = edit(output[0])
                return None if changed is None else (changed, *output[1:])
            return edit(output)

        return module.register_forward_hook(after)

    def before(_: Any, args: Any, kwargs: Any) -> Any:
        changed = edit(args[0] if args else kwargs["hidden_states"])
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": changed})

    return module.register_forward_pre_hook(before, with_kwargs=True)


def one(tensor: torch.Tensor) -> torch.Tensor:
    """The only prompt of a batch, `[position, width]`; OPT's MLP works without the batch axis."""
    return tensor if tensor.dim() == 2 else tensor[0]


def logit_diff(model: Model, ids: list[int]) -> float:
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([ids])).logits[0, -1].double()
    return float(logits[50] - logits[51])


def activation(model: Model, ids: list[int], component: str, layer: int) -> torch.Tensor:
    """`[position, width]` of the stock model; of `resid_mid`, block input plus what attention adds."""
    if component == "resid_mid":
        added = activation(model, ids, "attn_out", layer) * getattr(model.config, "residual_multiplier", 1.0)
        return activation(model, ids, "resid_pre", layer) + added
    seen: list[torch.Tensor] = []
    handle = hook(*oracle_module(model, component, layer), lambda tensor: seen.append(one(tensor).detach().clone()))
    logit_diff(model, ids)
    handle.remove()
    return seen[0]


def patched(
    model: Model,
    recipient: list[int],
    component: str,
    layer: int,
    position: int | slice,
    given: torch.Tensor,
    part: slice = slice(None),
) -> float:
    """The logit difference after one replacement, by one full forward with one plain hook."""

    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        one(tensor)[position, part] = given[position, part]
        return tensor

    handle = hook(*oracle_module(model, component, layer), edit)
    try:
        return logit_diff(model, recipient)
    finally:
        handle.remove()


def oracle_values(model: Model, donor: list[int], recipient: list[int], component: str) -> np.ndarray:
    """Every cell of a sweep, `[layer, (head,) position]`."""
    width = model.head_dim
    parts = [slice(head * width, (head + 1) * width) for head in range(model.config.num_attention_heads)]
    values = []
    for layer in range(len(blocks(model))):
        given, reached = activation(model, donor, component, layer), component
        if component == "resid_mid":  # reached through what attention adds to the block's input
            before = activation(model, recipient, "resid_pre", layer)
            given, reached = (given - before) / getattr(model.config, "residual_multiplier", 1.0), "attn_out"
        values.append(
            [
                [patched(model, recipient, reached, layer, at, given, part) for at in range(len(donor))]
                for part in (parts if component == "head_out" else [slice(None)])
            ]
        )
    array = np.array(values)
    return array if component == "head_out" else array[:, 0]


def oracle_with_all(model: Model, donor: list[int], recipient: list[int], sites: list[Site]) -> float:
    """The logit difference with a plain hook for every site at once."""
    logits = logits_with_all(model, donor, recipient, [sites])[0, -1].double()
    return float(logits[50] - logits[51])


def logits_with_all(
    model: Model, donor: list[int], recipient: list[int], rows: list[list[Site]], read: int = 1
) -> torch.Tensor:
    """The last logits `[row, step, token]` of full forwards, with plain hooks for all sites of a row at once."""
    given = cache(partial(source, model, donor))
    found = []
    for sites in rows:
        apart = [replace(site, layer=layer) for site in sites for layer in several(site.layer, 1)]
        with ExitStack() as stack, torch.no_grad():
            for site in sorted(apart, key=lambda site: COMPONENTS.index(site.component)):  # as a block computes them
                for handle in replacing(model, site, given(site.component, site.layer)):
                    stack.callback(handle.remove)
            found.append(model.hf(input_ids=torch.tensor([recipient])).logits[0, -read:])
    return torch.stack(found)


def several(part: Any, count: int) -> list[int]:
    return list(range(count)) if part is None else [part] if isinstance(part, int) else list(part)


def source(model: Model, donor: list[int], component: str, layer: int) -> torch.Tensor:
    """What a run has of a component, of queries, keys and values as their projection makes them."""
    if component == "pattern":
        return pattern(model, donor, layer)
    if component in ("q", "k", "v"):
        return output_of(model, projection(model, layer, component, 0)[0], donor)
    return activation(model, donor, component, layer)


def replacing(model: Model, site: Site, given: torch.Tensor) -> list[Any]:
    """Plain hooks on the stock model that replace one site of one layer, in whole or in some units."""
    component, layer = site.component, site.layer
    at = torch.tensor(several(site.position, given.shape[-2]))[:, None]
    if component == "pattern":
        return reweighing(model, site, given, at[:, 0])
    columns, before = torch.arange(given.shape[-1]), []
    if component in ("q", "k", "v"):
        units = several(site.unit, model.n_heads if component == "q" else model.n_kv_heads)
        columns = torch.cat([columns[projection(model, layer, component, unit)[1]] for unit in units])
    elif site.unit is not None:
        columns = columns.view(-1, model.head_dim if component == "head_out" else 1)[several(site.unit, 0)].flatten()

    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor, wanted = tensor.clone(), given
        if component == "resid_mid":  # reached through what attention adds to the block's input
            wanted = (given - before[-1]) / getattr(model.config, "residual_multiplier", 1.0)
        one(tensor)[at, columns] = wanted[at, columns]
        return tensor

    if component in ("q", "k", "v"):
        return [hook(projection(model, layer, component, 0)[0], "out", edit)]
    if component == "resid_mid":
        seen = hook(blocks(model)[layer], "in", lambda tensor: before.append(one(tensor).clone()))
        return [seen, hook(*oracle_module(model, "attn_out", layer), edit)]
    return [hook(*oracle_module(model, component, layer), edit)]


def reweighing(model: Model, site: Site, given: torch.Tensor, at: torch.Tensor) -> list[Any]:
    """Hooks that make each head's output anew, from the donor's pattern and the values of the run."""
    width, group, values = model.head_dim, model.n_heads // model.n_kv_heads, []

    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        for unit in several(site.unit, model.n_heads):
            value = values[-1][:, projection(model, site.layer, "v", unit // group)[1]]
            one(tensor)[at, unit * width : (unit + 1) * width] = given[unit, at] @ value
        return tensor

    seen = hook(projection(model, site.layer, "v", 0)[0], "out", lambda tensor: values.append(one(tensor).clone()))
    return [seen, hook(*oracle_module(model, "head_out", site.layer), edit)]


def pattern(model: Model, ids: list[int], layer: int) -> torch.Tensor:
    """The weights `[head, query, key]` that the stock model gives out.

    Its own attention function rounds them to float32; where the model attends with another, they are not rounded.
    """
    if model.config.model_type == "falcon":
        return attended_with(model, ids)[layer]
    usual, softmax = model.config._attn_implementation, torch.nn.functional.softmax
    exact = partial(softmax) if usual == "eager" else lambda scores, dim, dtype=None: softmax(scores, dim)
    model.hf.set_attn_implementation("eager")
    try:
        with torch.no_grad(), patch.object(torch.nn.functional, "softmax", exact):
            weights: torch.Tensor = model.hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions[layer][0]
    finally:
        model.hf.set_attn_implementation(usual)
    return weights


def attended_with(model: Model, ids: list[int]) -> list[torch.Tensor]:
    """The weights `[head, query, key]` of each layer, from the queries, keys and mask that fused attention gets.

    What Falcon gives out itself has ALiBi twice: in the mask, and once more.
    """
    fused, seen = torch.nn.functional.scaled_dot_product_attention, []

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor, **rest: Any) -> torch.Tensor:
        hidden = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask < -1e30
        bias = 0 if attn_mask.dtype == torch.bool else attn_mask
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
        seen.append(scores.masked_fill(hidden, -torch.inf).softmax(-1)[0].detach())
        return fused(q, k, v, attn_mask=attn_mask, **rest)

    with patch.object(torch.nn.functional, "scaled_dot_product_attention", spy):
        logit_diff(model, ids)
    return seen


def forced_logits(
    model: Model, donor: list[int], recipient: list[int], answer: list[int], component: str, layer: int, position: int
) -> torch.Tensor:
    """The logits `[step, token]` before each token of an answer: prompt and answer in one forward with a plain hook."""
    given = activation(model, donor, component, layer)

    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        one(tensor)[position] = given[position]
        return tensor

    handle = hook(*oracle_module(model, component, layer), edit)
    try:
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([[*recipient, *answer[:-1]]])).logits[0]
    finally:
        handle.remove()
    return logits[len(recipient) - 1 :].double()


def project(model: Model, layer: int, stream: torch.Tensor) -> list[torch.Tensor]:
    """Queries, keys and values `[head, position, head_dim]` of a GPT-2 or Llama block, rotated where it rotates."""
    block = blocks(model)[layer]
    if model.config.model_type == "gpt2":
        parts = block.attn.c_attn(block.ln_1(stream)).split(model.width, dim=-1)
        return [part.unflatten(-1, (-1, model.head_dim)).transpose(0, 1) for part in parts]
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    normed, attention = block.input_layernorm(stream), block.self_attn
    q, k, v = (
        linear(normed).unflatten(-1, (-1, model.head_dim)).transpose(0, 1)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    angles = model.hf.model.rotary_emb(stream[None], torch.arange(len(stream))[None])
    q, k = apply_rotary_pos_emb(q[None], k[None], *angles)
    return [q[0], k[0], v]


def attention_written_out(model: Model, donor: list[int], recipient: list[int], component: str) -> np.ndarray:
    """Each head and position of q, k, v or pattern replaced: attention by its formula, the rest by a plain hook."""
    values = []
    for layer in range(len(blocks(model))):
        with torch.no_grad():
            runs = [project(model, layer, activation(model, ids, "resid_pre", layer)) for ids in (donor, recipient)]
            given, own = ([*run, weights(*run[:2])] for run in runs)
        index = ["q", "k", "v", "pattern"].index(component)
        rows = []
        for head in range(len(given[index])):
            for position in range(len(donor)):
                parts = [part.clone() for part in own]
                parts[index][head, position] = given[index][head, position]
                pattern = parts[3] if component == "pattern" else weights(*parts[:2])
                every = parts[2].repeat_interleave(len(pattern) // len(parts[2]), dim=0)
                mixed = (pattern @ every).transpose(0, 1).flatten(1)
                rows.append(patched(model, recipient, "head_out", layer, slice(None), mixed))
        values.append(np.array(rows).reshape(-1, len(donor)))
    return np.array(values)


def weights(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The attention pattern `[head, query, key]`."""
    k = k.repeat_interleave(len(q) // len(k), dim=0)
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf).softmax(-1)


def projection(model: Model, layer: int, component: str, unit: int) -> tuple[Any, slice] | None:
    """The linear layer that makes a head's queries, keys or values (before any rotation), and its part of the output.

    Every rotation and norm behind it works position by position, so that to replace one is to replace the other.
    """
    kind, block, width = model.config.model_type, blocks(model)[layer], model.head_dim
    groups = model.n_heads // model.n_kv_heads
    attention = next(getattr(block, name) for name in ATTENTION if hasattr(block, name))
    attention = getattr(attention, "attention", attention)
    index = "qkv".index(component)
    if kind in ("olmo2", "olmo3", "olmoe") and component != "v":
        return None  # a norm over all heads stands between
    if hasattr(attention, f"{component}_proj"):
        return getattr(attention, f"{component}_proj"), slice(unit * width, (unit + 1) * width)
    kind = model.config.model_type
    fused = next(
        (
            getattr(attention, name)
            for name in ("c_attn", "qkv_proj", "Wqkv", "query_key_value")
            if hasattr(attention, name)
        ),
        None,
    )
    if kind in ("gpt2", "phi3", "mpt"):
        at = (0, model.n_heads, model.n_heads + model.n_kv_heads)[index] + unit
    elif kind in ("gpt_neox", "bloom", "falcon"):
        kv, query = divmod(unit, groups) if component == "q" else (unit, groups + index - 1)
        at = kv * (groups + 2) + query
    else:
        return None
    return fused, slice(at * width, (at + 1) * width)


def projections_replaced(model: Model, donor: list[int], recipient: list[int], component: str) -> np.ndarray | None:
    """Each head and position of q, k or v replaced by a plain hook on the projection that makes it."""
    units = model.n_heads if component == "q" else model.n_kv_heads
    found = np.empty((len(blocks(model)), units, len(donor)))
    for layer, unit in np.ndindex(found.shape[:2]):
        place = projection(model, layer, component, unit)
        if place is None:
            return None
        given = output_of(model, place[0], donor)
        found[layer, unit] = [with_output(model, place[0], recipient, at, given, place[1]) for at in range(len(donor))]
    return found


def output_of(model: Model, module: Any, ids: list[int]) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = hook(module, "out", lambda tensor: seen.append(one(tensor).detach().clone()))
    logit_diff(model, ids)
    handle.remove()
    return seen[0]


def with_output(model: Model, module: Any, ids: list[int], position: int, given: torch.Tensor, part: slice) -> float:
    def edit(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        one(tensor)[position, part] = given[position, part]
        return tensor

    handle = hook(module, "out", edit)
    try:
        return logit_diff(model, ids)
    finally:
        handle.remove()
