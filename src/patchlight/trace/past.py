"""The inside of attention by way of a block's cache: for families that do not go through transformers' interface.

Such a block hands its own keys and values to a cache and goes on with what comes back, so that rows which begin in
the middle of a prompt can be given the recipient's from before. Rows of one start share a call. What comes back can be
followed to the products that it is made for: what is multiplied with the keys are the queries, as attention gets them,
and what is multiplied with the values is the pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.trace.patches import Patches
    from patchlight.trace.pieces import Piece

ARGUMENT = "layer_past"
PRODUCTS = ("matmul", "bmm", "baddbmm", "scaled_dot_product_attention")  # torch's names; `@` is the first
See = Callable[["Tensor", "Tensor"], "tuple[Tensor, Tensor]"]
Ask = Callable[["Tensor"], "Tensor"]
Mix = Callable[[Callable[["Tensor"], "Tensor"], "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Past:
    """Stands in for a cache in one call of a block: gives back what `see` makes of the call's keys and values.

    Both are `[row, head, position, head_dim]`, one head for each that the model really has: some blocks repeat them
    for every query head before they hand them over. `ask` makes of the queries, in that shape, those that the call
    attends with. `mix(product, values)` makes what attention gives, usually `product(values)`: the call's pattern
    times `[row, head, key, any width]`, with as many heads as the block attends with.

    Keys and values carry both with them: nothing has to be switched on in the thread that runs the block.
    """

    see: See
    heads: int
    ask: Ask | None = None
    mix: Mix | None = None

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values that the call's queries see."""
        copies = keys.shape[1] // self.heads
        keys, values = self.see(keys[:, ::copies], values[:, ::copies])
        keys, values = keys.repeat_interleave(copies, dim=1), values.repeat_interleave(copies, dim=1)
        return (
            keys if self.ask is None else _follow(keys, partial(_asked, self.ask, len(keys), keys.dtype)),
            values if self.mix is None else _follow(values, partial(_mixed, self.mix, len(values))),
        )

    def get_seq_length(self, *_: Any) -> int:
        """Nothing: positions come with the call's other arguments."""
        return 0


@contextmanager
def watched(model: Model, past: Callable[[int], Past]) -> Iterator[None]:
    """Within it, each block of the model attends by way of `past(layer)`."""
    with ExitStack() as stack:
        for layer, block in enumerate(model.layers):
            stack.callback(block.register_forward_pre_hook(_giving(past(layer)), with_kwargs=True).remove)
        yield


def _giving(past: Past) -> Callable[..., Any]:
    return lambda _, args, given: (args, {**given, ARGUMENT: past})


def seeing(see: Callable[..., None], heads: int) -> Past:
    """A call goes on as it would; `see` gets q, k, v `[row, head, position, head_dim]`, and what comes of them.

    That is `mixed`, `[row, position, head, head_dim]`. Each, given by name, is what the call goes on with.
    """

    def keys_and_values(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        see(k=keys, v=values)
        return keys, values

    def queries(q: Tensor) -> Tensor:
        see(q=q)
        return q

    def mixed(product: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        made = product(values).transpose(1, 2)
        see(mixed=made)
        return made.transpose(1, 2)

    return Past(keys_and_values, heads, queries, mixed)


def replacing(see: See, heads: int, patches: Patches, layer: int, called: Piece) -> Past:
    """What a call of a block gets so that the replacements inside its attention are made.

    `see` gives the call's keys and values from position 0 on; its queries are those of `called`.
    """

    def seen(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = see(keys, values)
        patches.edit_heads("k", layer, keys, called.rows, 0)
        patches.edit_heads("v", layer, values, called.rows, 0)
        return keys, values

    def ask(queries: Tensor) -> Tensor:
        patches.edit_heads("q", layer, queries, called.rows, called.start)
        return queries

    def mix(product: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        mixed = product(values)
        patches.reweigh(layer, mixed.transpose(1, 2), values, called.rows, called.start)
        return mixed

    asked, mixed = (len(patches.of(name, layer)) for name in ("q", "pattern"))
    return Past(seen, heads, ask if asked else None, mix if mixed else None)


# ---- following keys and values to their products


class _Followed(torch.Tensor):
    """Keys or values on the way through a block's own code; what is made of them alone is followed, too.

    `meet(product, left, right)` takes the place of the product in which they are the right factor.
    """

    meet: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor], Tensor]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls in place of its functions on such a tensor."""
        given = {**dict(enumerate(args)), **(kwargs or {})}
        tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
        if function.__name__ in PRODUCTS and not isinstance(tensors[0], cls):
            return _product(function, given)
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **(kwargs or {}))
        if len(tensors) == 1 and isinstance(result, torch.Tensor) and isinstance(tensors[0], cls):
            return _follow(result, tensors[0].meet)
        return result


def _follow(tensor: Tensor, meet: Any) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        followed = tensor.as_subclass(_Followed)
    followed.meet = meet
    return followed


def _product(function: Any, given: dict[Any, Any]) -> Tensor:
    """What a product gives; `given` has its arguments in their order, by index or name."""
    names = list(given)
    for left, name in pairwise(names):
        right = given[name]
        if isinstance(right, _Followed):
            with torch._C.DisableTorchFunctionSubclass():
                plain = right.as_subclass(torch.Tensor)
            return right.meet(partial(_again, function, given, (left, name)), given[left], plain)
    by_name = {name: given[name] for name in names if isinstance(name, str)}
    result: Tensor = function(*(given[name] for name in names if name not in by_name), **by_name)
    return result


def _again(function: Any, given: dict[Any, Any], places: tuple[Any, Any], left: Tensor, right: Tensor) -> Tensor:
    """The product with these factors in place of those."""
    return _product(function, given | dict(zip(places, (left, right), strict=True)))


def _asked(ask: Ask, rows: int, dtype: torch.dtype, product: Any, queries: Tensor, keys: Tensor) -> Any:
    # Some blocks compute scores in another type than the model's.
    put = ask(_by_row(queries, rows).to(dtype)).to(queries.dtype)
    return product(put.reshape(queries.shape), keys)


def _mixed(mix: Mix, rows: int, product: Any, pattern: Tensor, values: Tensor) -> Tensor:
    def of(others: Tensor) -> Tensor:
        return _by_row(product(pattern, others.reshape(*values.shape[:-1], -1)), rows)

    mixed = mix(of, _by_row(values, rows))
    return mixed.flatten(0, 1) if values.dim() == 3 else mixed


def _by_row(tensor: Tensor, rows: int) -> Tensor:
    """`[row, head, position, width]`, also of what has rows and heads on one axis."""
    return tensor.unflatten(0, (rows, -1)) if tensor.dim() == 3 else tensor


# ---- a block's other arguments


def suffix_arguments(model: Model, arguments: dict[str, Any], length: int, span: slice, rows: int) -> dict[str, Any]:
    """A block's arguments, as recorded for whole prompts, for `rows` rows of these positions and the keys before."""
    stop = span.stop
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "attention_mask": lambda value: value[:1, :, span, :stop],
        # [prompt * head, 1, key], wanted for every row; or [prompt, head, 1, key]
        "alibi": lambda value: (
            value[: model.n_heads, :, :stop].repeat(rows, 1, 1)
            if value.dim() == 3
            else value[:1, ..., :stop].expand(rows, -1, -1, -1)
        ),
        "position_bias": lambda value: value[..., -length:][..., :stop],  # [head, 1, key], up to the last key
    }

    def at_span(value: Tensor) -> Tensor:
        return value[:1, span] if value.dim() >= 2 and value.shape[1] == length else value

    def cut(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(cut(name, part) for part in value)
        return ways.get(name, at_span)(value) if isinstance(value, torch.Tensor) else value

    return {name: cut(name, value) for name, value in arguments.items() if name != ARGUMENT}
