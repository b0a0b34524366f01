"""What reads a site: the directions that later weights see, and those that none of them does.

A weight sees what lies in its row space; the rest, its null space, it maps to nought. Of the residual stream the
readers are all later projections and the output head, each behind its own norm (its scale held, so that it is
linear); of a head or the hidden layer of an MLP, the one projection that writes them into the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from patchlight.errors import InputError
from patchlight.records import Site
from patchlight.trace.direct import LARGE
from patchlight.trace.vectors import stored

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from patchlight.model.anatomy import Model

UNSEEN = 1e-10  # of the largest squared singular value of a reader: below it is rounding of float32 weights


@torch.no_grad()
def read_directions(model: Model, site: Site) -> Float[Tensor, "read width"]:
    """Orthonormal directions, in float64, of all that the readers of a site see; the others are read by nothing.

    Raises InputError for queries, keys and values, which no weight reads, and for a stream that experts read.
    """
    total: Tensor | None = None
    for reader in _readers(model, site):
        matrix = reader.double()
        squared = matrix @ matrix.T
        size = torch.linalg.matrix_norm(squared)
        if size > 0:
            total = squared / size if total is None else total + squared / size
    if total is None:
        what = "nothing reads this site"
        raise InputError("trace-no-reader", what, where=str(site), fix="choose an earlier site")
    sizes, directions = torch.linalg.eigh(total)
    read: Tensor = directions.T[sizes > UNSEEN * sizes.max()]
    return read


def _readers(model: Model, site: Site) -> Iterator[Float[Tensor, "width output"]]:
    """What each reader makes of every direction of the site."""
    layer = int(site.layer) if isinstance(site.layer, int) else 0
    if site.component in ("q", "k", "v"):
        what = f"{site.component} is read by attention, not by a weight"
        raise InputError("trace-no-reader", what, where=str(site), fix="choose head_out, mlp_hidden or the stream")
    if site.component in ("mlp_hidden", "head_out"):
        part = "mlp_proj" if site.component == "mlp_hidden" else "attn_proj"
        matrix = _linear(model.part(part, layer), _inputs(model.part(part, layer)), model)
        heads = site.component == "head_out"
        yield matrix.unflatten(0, (-1, model.head_dim))[site.unit] if heads else matrix
        return
    first, late = _first(site, layer)
    for index in range(first, model.n_layers):
        yield from _of_block(model, index, late=late and index == first)
    yield model.hf.get_output_embeddings()(_normed(model.final_norm, model)).detach()


def _first(site: Site, layer: int) -> tuple[int, bool]:
    """The first block that reads the site, and whether only its MLP does."""
    if site.component in ("attn_out", "resid_mid"):
        return layer, True
    return (layer + 1 if site.component == "mlp_out" else stored(site)[1]), False


def _of_block(model: Model, layer: int, *, late: bool) -> Iterator[Float[Tensor, "width output"]]:
    """The linear readers of the stream in a block, each behind the norm whose output it was given."""
    inner = {model.part(name, layer) for name in ("attn_proj", "mlp_proj") if getattr(model.family, name)}
    if model.family.mlp_proj is None:
        what = "the stream is read by experts, each for some tokens only"
        raise InputError("trace-no-reader", what, where=model.name, fix="choose head_out")
    late = late and not model.parallel
    events = _events(model, layer)
    begun = not late
    norms: dict[int, nn.Module] = {}
    for module, given, made in events:
        begun = begun or module is model.part("attn_proj", layer)
        if _is_norm(module):
            norms[made] = module
        elif module not in inner and begun and _inputs(module) == model.width:
            norm = norms.get(given)
            vectors = (
                torch.eye(model.width, dtype=model.dtype, device=model.device) if norm is None else _normed(norm, model)
            )
            yield (module(vectors) - module(torch.zeros_like(vectors))).detach()


def _events(model: Model, layer: int) -> list[tuple[nn.Module, int, int]]:
    """The norms and linear maps of a block in the order of a forward, with the memory they read and write."""
    found: list[tuple[nn.Module, int, int]] = []
    held: list[Any] = []  # so that no memory is used twice

    def see(module: nn.Module, given: Any, made: Any) -> None:
        held.extend((given, made))
        found.append((module, given[0].data_ptr(), made.data_ptr()))

    with ExitStack() as stack:
        for module in model.layers[layer].modules():
            if _is_norm(module) or _inputs(module):
                stack.callback(module.register_forward_hook(see).remove)
        model.hf.base_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    return found


def _is_norm(module: nn.Module) -> bool:
    return not list(module.children()) and "norm" in type(module).__name__.lower()


def _inputs(module: nn.Module) -> int:
    """The width of what a linear map reads; 0 for any other module."""
    found: Any = getattr(module, "in_features", None) or getattr(module, "nx", 0)
    return int(found) if not list(module.children()) else 0


def _normed(norm: nn.Module, model: Model) -> Float[Tensor, "width width"]:
    """What a norm makes of every direction, its scale held, up to one factor."""
    each = torch.eye(model.width, dtype=model.dtype, device=model.device) * LARGE
    made: Tensor = norm(each) - norm(torch.zeros_like(each))
    return made


def _linear(module: nn.Module, width: int, model: Model) -> Float[Tensor, "width output"]:
    each = torch.eye(width, dtype=model.dtype, device=model.device)
    made: Tensor = module(each) - module(torch.zeros_like(each))
    return made
