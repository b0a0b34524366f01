"""Ways into a stock model while it runs: hooks at the components of a block, and an attention function of our own.

Everything is put back on leaving, whatever happened: the model stays the stock module that it was.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from torch import Tensor

    from patchlight.model.anatomy import Model

INTERFACE = "patchlight"
FEW_KEYS = 32
SIDES = {  # component -> the part of a block that reads or writes it, and on which side
    "resid_pre": ("block", "input"),
    "head_out": ("attn_proj", "input"),
    "attn_out": ("attn_out", "output"),
    "mlp_hidden": ("mlp_proj", "input"),
    "mlp_out": ("mlp_out", "output"),
}

# Stands in for attention: gets the stock function, then what the block gave; returns what the stock function would.
Attend = Callable[..., "tuple[Tensor, Tensor | None]"]
Act = Callable[[int, "Tensor"], "Tensor | None"]

_attend: ContextVar[tuple[Attend, str]] = ContextVar("patchlight_attend")
_turns: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()


def alone(model: Model) -> RLock:
    """Held by the thread that changes how a model runs, for as long as it does: others wait for their turn."""
    return _turns.setdefault(model.hf, RLock())


def _dispatch(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **rest: Any) -> Any:
    """What the model calls in place of attention, with the names that some architectures give the arguments."""
    attend, implementation = _attend.get()
    return attend(_stock(module, implementation), module, query, key, value, attention_mask, **rest)


ALL_ATTENTION_FUNCTIONS.register(INTERFACE, _dispatch)
AttentionMaskInterface.register(INTERFACE, eager_mask)  # sliding windows and chunks come as an explicit mask


def _stock(module: nn.Module, implementation: str) -> Callable[..., Any]:
    """The attention function that the model would use: the family's own, or torch's fused one.

    On a processor the family's own is up to twice as fast for few keys or one query. It computes the weights in float32
    whatever the model's type, so that float64 keeps to what the model uses.
    """
    own: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    fused: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if implementation == "eager":
        return own

    def by_length(module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **named: Any) -> Any:
        few = key.shape[2] <= FEW_KEYS or query.shape[2] == 1
        return (own if few and key.device.type == "cpu" and key.dtype == torch.float32 else fused)(
            module, query, key, *rest, **named
        )

    return by_length


@contextmanager
def attention(model: Model, attend: Attend) -> Iterator[None]:
    """Within it, every attention of the model goes through `attend`."""
    with alone(model):
        configs = {id(module.config): module.config for module in model.hf.modules() if hasattr(module, "config")}
        before = {key: config._attn_implementation for key, config in configs.items()}
        token = _attend.set((attend, before[id(model.config)]))
        try:
            for config in configs.values():
                config._attn_implementation = INTERFACE
            yield
        finally:
            for key, config in configs.items():
                config._attn_implementation = before[key]
            _attend.reset(token)


@contextmanager
def hooked(model: Model, acts: dict[str, Act]) -> Iterator[None]:
    """Within it, `acts[component](layer, tensor)` is called at each block's component and may return another."""
    with alone(model), ExitStack() as stack:
        for component, act in acts.items():
            part, side = SIDES[component]
            for layer, block in enumerate(model.layers):
                module = block if part == "block" else model.part(part, layer)
                hook = _on_output if side == "output" else _on_input
                stack.callback(hook(module, layer, act).remove)
        yield


@contextmanager
def observed(module: nn.Module, see: Callable[[Tensor, dict[str, Any]], None]) -> Iterator[None]:
    """Within it, `see(stream, other arguments)` is called before the module runs."""
    names = inspect.signature(module.forward)
    first = next(iter(names.parameters))

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = names.bind(*args, **kwargs)
        others = given.arguments | given.arguments.get("kwargs", {})
        see(others[first], {name: value for name, value in others.items() if name not in (first, "kwargs")})

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _on_output(module: nn.Module, layer: int, act: Act) -> Any:
    def after(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return act(layer, output)
        changed = act(layer, output[0])  # behind it, what a router chose
        return None if changed is None else (changed, *output[1:])

    return module.register_forward_hook(after)


def _on_input(module: nn.Module, layer: int, act: Act) -> Any:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = act(layer, args[0] if args else kwargs["hidden_states"])
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return module.register_forward_pre_hook(before, with_kwargs=True)


def at_positions(arguments: dict[str, Any], length: int, positions: Tensor) -> dict[str, Any]:
    """A block's arguments, as recorded for whole prompts, for packed tokens at these positions.

    What has an element a position (position ids, rotary angles) is taken there; `attention` sees to the mask.
    """

    def take(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(take(part) for part in value)
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            return value
        if value.dim() >= 2 and value.shape[1] == length:
            return value[:1, positions]
        return value[positions] if value.shape == (length,) else value

    return {name: None if name == "attention_mask" else take(value) for name, value in arguments.items()}
