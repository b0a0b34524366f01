"""The same products, faster or not at all: what stands in for parts of a model's blocks while they are swept.

On a processor, float32 weights are packed once for oneDNN, and the activation behind a product is made part of it.
The packed product is a private operation of torch: where it is gone, and for other devices and number formats, the
stock modules run. For orientation the products can be computed in bfloat16, the stream between them in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import local
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.functional import gelu
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation, SiLUActivation
from transformers.pytorch_utils import Conv1D

from patchlight.errors import InputError
from patchlight.trace.hooks import alone

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

Forward = Callable[..., "Tensor"]
ACTIVATIONS: dict[type[nn.Module], tuple[str, str]] = {  # as oneDNN names them
    NewGELUActivation: ("gelu", "tanh"),
    GELUTanh: ("gelu", "tanh"),
    GELUActivation: ("gelu", "none"),
    nn.GELU: ("gelu", "none"),  # unless it says otherwise itself
    nn.SiLU: ("swish", ""),
    SiLUActivation: ("swish", ""),
    nn.ReLU: ("relu", ""),
}
NONE = ("none", "")


@dataclass
class Packed:
    """A weight as oneDNN wants it, a mark of the weight that it was made from, and what follows the product."""

    weight: Tensor
    mark: Tensor
    activation: tuple[str, str] = NONE


class Projections(local):
    """The tokens, in each thread, for which the projections in front of attention compute; None stands for all.

    For the others they give anything, at no cost.
    """

    def __init__(self) -> None:
        self.chosen: Int[Tensor, "some"] | None = None


PRODUCTS = {"exact": torch.float32, "bfloat16": torch.bfloat16}
Weights = WeakKeyDictionary[nn.Module, Packed]
_weights: dict[torch.dtype, Weights] = {dtype: WeakKeyDictionary() for dtype in PRODUCTS.values()}


def check_products(model: Model, products: str) -> None:
    """Raises InputError for an unknown way to compute products, and where bfloat16 ones cannot be had."""
    if products not in PRODUCTS:
        fix = f"choose one of: {', '.join(PRODUCTS)}"
        raise InputError("trace-unknown-products", f"no products {products!r}", fix=fix)
    if products != "exact" and not (model.dtype == torch.float32 and _packable(next(model.layers[0].parameters()))):
        what = f"{products} products need a float32 model on a processor, this one is {model.dtype} on {model.device}"
        fix = f"load the model with dtype='{products}' instead"
        raise InputError("trace-no-products", what, where=model.name, fix=fix)


@contextmanager
def faster(model: Model, products: str = "exact") -> Iterator[Projections]:
    """Within it, the blocks of the model compute what they always do, with packed weights where there are such."""
    switch = Projections()
    with alone(model), ExitStack() as stack:
        for layer, block in enumerate(model.layers):
            stand_ins = _stand_ins(block, PRODUCTS[products])
            for module in _projections(model, layer):
                stand_ins[module] = _switched(switch, stand_ins.get(module, module.forward), _width(module))
            for module, forward in stand_ins.items():
                stack.enter_context(_standing_in(module, forward))
        yield switch


def _projections(model: Model, layer: int) -> list[nn.Module]:
    """The linear layers of a block's attention in front of its heads."""
    path, _, _ = str(model.family.attn_proj).rpartition(".")
    behind = set(model.part("attn_proj", layer).modules())
    inside = model.layers[layer].get_submodule(path).modules()
    return [module for module in inside if isinstance(module, nn.Linear | Conv1D) and module not in behind]


def _width(module: Any) -> int:
    return int(module.nf if isinstance(module, Conv1D) else module.out_features)


def _stand_ins(block: nn.Module, dtype: torch.dtype) -> dict[nn.Module, Forward]:
    """A faster way to compute what each of these modules of a block computes."""
    found: dict[nn.Module, Forward] = {}
    weights = _weights[dtype]
    for module in block.modules():
        if "forward" in vars(module):  # a stand-in already, of ours or of those who move weights between devices
            continue
        if isinstance(module, NewGELUActivation):
            found[module] = lambda stream: gelu(stream, approximate="tanh")
        elif type(module) in (nn.Linear, Conv1D) and _packable(module.weight):
            found[module] = _product(module, _pack(module, weights, dtype), dtype)
    for module in block.modules():
        if module is not block:
            found.update(_fused(module, found, weights, dtype))
    return found


def _packable(weight: Any) -> bool:
    return (
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _pack(module: Any, weights: Weights, dtype: torch.dtype) -> Packed:
    """The packed weight of this module: made now, unless the weight is what was packed before."""
    weight = (module.weight.t() if isinstance(module, Conv1D) else module.weight).detach()
    # A value for each row, by which a weight that was changed in place is told from what was packed.
    mark = torch.mv(weight, torch.linspace(0.5, 1.5, weight.shape[1], dtype=weight.dtype))
    known = weights.get(module)
    if known is None or not torch.equal(known.mark, mark):
        ordered = weight.to(dtype).contiguous()
        known = weights[module] = Packed(torch.ops.mkldnn._reorder_linear_weight(ordered, None), mark)
    return known


def _product(module: Any, packed: Packed, dtype: torch.dtype, activation: tuple[str, str] = NONE) -> Forward:
    weight, (name, algorithm) = packed.weight, activation

    def product(stream: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.to(dtype)
        result = torch.ops.mkldnn._linear_pointwise(stream.to(dtype), weight, bias, name, [], algorithm)
        return result.to(stream.dtype)  # type: ignore[no-any-return]

    return product


def _fused(
    mlp: nn.Module, found: dict[nn.Module, Forward], weights: Weights, dtype: torch.dtype
) -> dict[nn.Module, Forward]:
    """The activation of an MLP as part of the product in front of it, where that gives what the MLP gives."""
    children = list(mlp.children())
    activations = [child for child in children if type(child) in ACTIVATIONS and "forward" not in vars(child)]
    linear = [child for child in children if child in weights and child in found]
    if len(activations) != 1 or not linear:
        return {}
    kind, algorithm = ACTIVATIONS[type(activations[0])]
    name = kind, getattr(activations[0], "approximate", algorithm)
    for child in linear:
        packed, passing = weights[child], {activations[0]: nn.Identity().forward}
        if packed.activation != name:
            exact = _pack(child, _weights[torch.float32], torch.float32)
            tried = {child: _product(child, exact, torch.float32, name), **passing}
            if not _same(mlp, _width_in(child), tried):
                continue
            packed.activation = name
        return {child: _product(child, packed, dtype, name), **passing}
    return {}


@torch.no_grad()
def _same(mlp: nn.Module, width: int, stand_ins: dict[nn.Module, Forward]) -> bool:
    """Whether the MLP gives the same with the stand-ins, tried on a few vectors."""
    tried = torch.randn(4, width, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    try:
        expected = mlp(tried)
        with ExitStack() as stack:
            for module, forward in stand_ins.items():
                stack.enter_context(_standing_in(module, forward))
            return torch.allclose(mlp(tried), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    except (TypeError, RuntimeError, AttributeError):  # it takes, or gives, more than a stream
        return False


def _width_in(module: Any) -> int:
    return int(module.nx if isinstance(module, Conv1D) else module.in_features)


def _switched(switch: Projections, forward: Forward, width: int) -> Forward:
    def project(stream: Tensor, *rest: Any, **named: Any) -> Tensor:
        chosen = switch.chosen
        if chosen is None:
            return forward(stream, *rest, **named)
        result = stream.new_empty(*stream.shape[:-1], width)
        if len(chosen):
            result[..., chosen, :] = forward(stream[..., chosen, :], *rest, **named)
        return result

    return project


@contextmanager
def _standing_in(module: nn.Module, forward: Forward) -> Iterator[None]:
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
