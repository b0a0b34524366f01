"""The weights of a model by module: each parameter belongs to exactly one named part, in the order of a forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from patchlight.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from patchlight.model.anatomy import Model

PARTS = ("norms", "attn", "mlp")  # of a block
Modules = dict[str, tuple[str, ...]]


def weight_modules(model: Model) -> Modules:
    """The parameters of each module, by canonical name: `weights.embed`, `weights.blocks.3.mlp`, `weights.unembed`.

    A block has `attn`, `mlp` and `norms` (its own norms; norms inside attention belong to `attn`). `embed` is all that
    lies in front of the blocks, positions included. Where the unembedding is tied it is part of `embed`, and there is
    no `unembed`. Modules without parameters are left out.
    """
    blocks = {id(weight): (layer, name) for layer, name, weight in _in_blocks(model)}
    final = {id(weight) for weight in model.final_norm.parameters()}
    head = {id(weight) for weight in model.hf.get_output_embeddings().parameters()}
    before = {id(weight) for weight in model.hf.get_input_embeddings().parameters()}
    found: dict[str, list[str]] = {name: [] for name in _names(model)}
    for name, weight in model.hf.named_parameters():
        if id(weight) in blocks:
            layer, part = blocks[id(weight)]
            module = f"blocks.{layer}.{part}"
        elif id(weight) in final:
            module = "final_norm"
        else:
            module = "unembed" if id(weight) in head - before else "embed"
        found[f"weights.{module}"].append(name)
    return {module: tuple(names) for module, names in found.items() if names}


def check_twins(one: Model, other: Model) -> None:
    """Raises InputError `model-not-twins` where two models differ in more than the values of their weights."""
    shapes = [{n: (p.shape, p.dtype) for n, p in each.hf.named_parameters()} for each in (one, other)]
    if one.config.model_type != other.config.model_type:
        what = f"one is a {one.config.model_type}, the other a {other.config.model_type}"
    elif shapes[0] != shapes[1]:
        apart = [name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name)]
        what = f"{len(apart)} weights differ in name, shape or number format, the first is {apart[0]}"
    elif one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        what = "their tokenizers differ"
    elif one.device != other.device:
        what = f"one lies on {one.device}, the other on {other.device}"
    else:
        return
    fix = "give a model and what fine-tuning made of it, loaded alike; merge an adapter first"
    raise InputError("model-not-twins", what, where=f"{one.name} and {other.name}", fix=fix)


def differing_modules(one: Model, other: Model) -> tuple[str, ...]:
    """The modules in which the weights of two twins differ, in the order of a forward."""
    first, second = dict(one.hf.named_parameters()), dict(other.hf.named_parameters())
    return tuple(
        module
        for module, names in weight_modules(one).items()
        if not all(torch.equal(first[name], second[name]) for name in names)
    )


def _names(model: Model) -> list[str]:
    blocks = [f"weights.blocks.{layer}.{part}" for layer in range(model.n_layers) for part in PARTS]
    return ["weights.embed", *blocks, "weights.final_norm", "weights.unembed"]


def _in_blocks(model: Model) -> list[tuple[int, str, nn.Parameter]]:
    """Layer, part and parameter for every parameter of a block."""
    attention = model.family.attn_proj.partition(".")[0]
    return [
        (layer, _part(name, child, attention), weight)
        for layer, block in enumerate(model.layers)
        for name, child in block.named_children()
        for weight in child.parameters()
    ]


def _part(name: str, child: nn.Module, attention: str) -> str:
    if name == attention:
        return "attn"
    return "norms" if "norm" in type(child).__name__.lower() else "mlp"
