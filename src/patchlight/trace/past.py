"""Keys and values by way of a block's cache: for families whose attention does not go through transformers' interface.

Such a block hands its own keys and values to a cache and goes on with what comes back, so that rows which begin in
the middle of a prompt can be given the recipient's from before. Rows of one start share a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from patchlight.model.anatomy import Model

ARGUMENT = "layer_past"
See = Callable[["Tensor", "Tensor"], "tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Past:
    """Stands in for a cache in one call of a block: gives back what `see` makes of the call's keys and values.

    Both are `[row, head, position, head_dim]`, one head for each that the model really has: some blocks repeat them
    for every query head before they hand them over.
    """

    see: See
    heads: int

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """All keys and values that the call's queries see."""
        copies = keys.shape[1] // self.heads
        keys, values = self.see(keys[:, ::copies], values[:, ::copies])
        return keys.repeat_interleave(copies, dim=1), values.repeat_interleave(copies, dim=1)

    def get_seq_length(self, *_: Any) -> int:
        """Nothing: positions come with the call's other arguments."""
        return 0


@contextmanager
def watched(model: Model, see: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Within it, each block of the model attends to what `see(layer, keys, values)` makes of its keys and values."""
    with ExitStack() as stack:
        for layer, block in enumerate(model.layers):
            past = Past(partial(see, layer), model.n_kv_heads)
            stack.callback(block.register_forward_pre_hook(_giving(past), with_kwargs=True).remove)
        yield


def _giving(past: Past) -> Callable[..., Any]:
    return lambda _, args, given: (args, {**given, ARGUMENT: past})


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
