"""Captured runs: one stock forward, with the activations that later steps read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from patchlight.errors import GateFailed, InputError
from patchlight.trace.hooks import attention, hooked, observed
from patchlight.trace.kernels import faster
from patchlight.trace.past import Past, watched

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

HOOKED = ("head_out", "attn_out", "mlp_hidden", "mlp_out")


@dataclass(frozen=True)
class Run:
    """A captured run of prompts of one length.

    `sites[component][layer]` is `[prompt, position, width]`, for q, k and v `[prompt, head, position, head_dim]`, for
    the pattern `[prompt, head, query, key]`. `resid_pre` has one layer more than the model: the stream before the
    final norm. All lie where the model's first weights lie. `final` is the normed stream at the positions that are
    read, the last one or few. `arguments` is what each block gets beside the stream, for the positions from `start` on.
    """

    ids: Int[Tensor, "prompt position"]
    final: Float[Tensor, "prompt step width"]
    sites: dict[str, list[Tensor]]
    arguments: list[dict[str, Any]]
    start: int = 0  # in front of it, a run that begins alike was taken over

    @property
    def length(self) -> int:
        """Tokens in each prompt."""
        return self.ids.shape[1]

    @property
    def read(self) -> int:
        """How many positions are read at the end of each prompt."""
        return self.final.shape[1]


@torch.inference_mode()
def capture(
    model: Model,
    ids: Int[Tensor, "prompt position"],
    components: Collection[str],
    *,
    read: int = 1,
    embed: Float[Tensor, "prompt position width"] | None = None,
    before: Run | None = None,
    products: str = "exact",
) -> Run:
    """One stock forward of prompts of one length, keeping `resid_pre` and the components named.

    The last `read` positions are read. `embed` takes the place of the token embeddings (a corruption). `before`, a
    run of prompts that begin alike, saves what they share: in front of the first token that differs in any of them,
    activations are its own where it holds them, else NaN; it has to hold `k` and `v`. `products` of `bfloat16` are
    coarse: for orientation only.

    Raises InputError where the prompts are longer than the model's context or hold a token that it does not have, the
    model is in training mode, or an activation is not finite.
    """
    if model.hf.training:
        what = "the model is in training mode, in which dropout makes every run another"
        raise InputError("trace-in-training", what, where=model.name, fix="call model.hf.eval()")
    if model.context is not None and ids.shape[1] > model.context:
        what = f"a prompt has {ids.shape[1]} tokens, the model's context is {model.context}"
        raise InputError("trace-prompt-too-long", what, where=model.name, fix="shorten the prompt")
    model.require_tokens(ids)
    start = 0 if before is None else _shared(before.ids, ids, read)
    begun = None if before is None or start == 0 else DynamicCache(_earlier(before, start))
    seen = _Seen(model, components, ids[:, start:].shape, begun)
    with ExitStack() as stack:
        stack.enter_context(faster(model, products))
        seen.watch(stack)
        if embed is not None:
            stack.callback(model.embed.register_forward_hook(lambda *_: embed).remove)
        output = model.hf.base_model(
            input_ids=ids[:, start:].to(model.device), cache=begun, use_cache=begun is not None
        )
    sites = seen.complete()
    if before is not None and start:
        sites = {name: _behind(name, tensors, before, start) for name, tensors in sites.items()}
    run = Run(ids, output.last_hidden_state[:, -read:].to(model.device), sites, seen.arguments, start)
    _check(model, run, components)
    return run


class _Seen:
    """What a forward shows of itself: `sites` as in a run, of the positions that are run."""

    def __init__(self, model: Model, components: Collection[str], shape: Sequence[int], begun: Any) -> None:
        self.model, self.components, self.shape, self.begun = model, components, tuple(shape), begun
        self.sites: dict[str, list[Tensor]] = {}
        self.stream: list[Tensor] = []
        self.arguments: list[dict[str, Any]] = []

    def watch(self, stack: ExitStack) -> None:
        """Puts the hooks in place, for as long as the stack lasts."""
        model = self.model
        if model.family.interface:
            stack.enter_context(attention(model, self._attend))
        elif {"q", "k", "v", "pattern"} & set(self.components) or self.begun is not None:
            stack.enter_context(watched(model, self._past))
        wanted = {"resid_pre", *(name for name in HOOKED if name in self.components)}
        if "resid_mid" in self.components:
            wanted.add("attn_out")
        stack.enter_context(hooked(model, {name: self._keep(name) for name in sorted(wanted)}))
        for block in model.layers:
            stack.enter_context(observed(block, lambda _, given: self.arguments.append(given)))
        stack.enter_context(observed(model.final_norm, lambda tensor, _: self.stream.append(tensor)))

    def complete(self) -> dict[str, list[Tensor]]:
        """The sites, with those that follow from others."""
        self.sites["resid_pre"].append(self.stream[0].to(self.model.device))
        if "resid_mid" in self.components:
            both = zip(self.sites["resid_pre"], self.sites["attn_out"], strict=False)
            self.sites["resid_mid"] = [pre + self.model.residual_scale * out for pre, out in both]
        return self.sites

    def _keep(self, component: str) -> Callable[[int, Tensor], None]:
        # A clone, because some blocks add to a sublayer's output in place; a view, because OPT drops the prompt axis.
        return lambda _, tensor: self._add(component, tensor.clone().view(*self.shape, -1))

    def _add(self, component: str, tensor: Tensor) -> None:
        self.sites.setdefault(component, []).append(tensor.to(self.model.device))

    def _attend(self, stock: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **rest: Any) -> Any:
        for component, tensor in zip("qkv", (q, k, v), strict=True):
            if component in self.components:
                self._add(component, tensor.contiguous())
        if "pattern" in self.components:
            weights, _ = stock(module, q, k, _basis(v), mask, **rest)
            self._add("pattern", weights.transpose(1, 2))
        return stock(module, q, k, v, mask, **rest)

    def _past(self, layer: int) -> Past:
        ask, mix = ("q" in self.components, "pattern" in self.components)
        see, heads = partial(self._see, layer), self.model.n_kv_heads
        return Past(see, heads, self._ask if ask else None, self._mix if mix else None)

    def _ask(self, queries: Tensor) -> Tensor:
        self._add("q", queries.contiguous().clone())
        return queries

    def _mix(self, product: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        self._add("pattern", product(_basis(values)))
        return product(values)

    def _see(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.begun is not None:
            earlier = self.begun.layers[layer]
            keys, values = torch.cat([earlier.keys, keys], dim=2), torch.cat([earlier.values, values], dim=2)
        for component, tensor in (("k", keys), ("v", values)):
            if component in self.components:
                self._add(component, tensor.clone())
        return keys, values


def _basis(values: Float[Tensor, "prompt head key head_dim"]) -> Float[Tensor, "prompt head key key"]:
    """Values that come out of attention as its weights, whichever function the model attends with."""
    return torch.eye(values.shape[2], dtype=values.dtype, device=values.device).expand(*values.shape[:3], -1)


def _shared(one: Int[Tensor, "prompt position"], other: Int[Tensor, "prompt position"], read: int) -> int:
    """How many tokens all prompts share with their counterparts, those that are read apart."""
    differs = (one != other).any(0)
    first = int(differs.int().argmax()) if bool(differs.any()) else len(differs)
    return min(first, len(differs) - read)


def _earlier(run: Run, stop: int) -> list[tuple[Tensor, Tensor]]:
    return [(k[:, :, :stop], v[:, :, :stop]) for k, v in zip(run.sites["k"], run.sites["v"], strict=True)]


def _behind(name: str, tensors: list[Tensor], before: Run, start: int) -> list[Tensor]:
    """The activations of whole prompts, those of the run before in front; keys and values are whole already."""
    if name in ("k", "v"):
        return tensors
    axis = 2 if name in ("q", "pattern") else 1
    known = before.sites.get(name)
    whole = []
    for layer, tensor in enumerate(tensors):
        shape = [*tensor.shape[:axis], start, *tensor.shape[axis + 1 :]]
        front = tensor.new_full(shape, torch.nan) if known is None else known[layer].narrow(axis, 0, start)
        whole.append(torch.cat([front, tensor], dim=axis))
    return whole


def _check(model: Model, run: Run, components: Collection[str]) -> None:
    for component in components:
        if len(run.sites.get(component, ())) < model.n_layers:
            what = f"{component} was captured in {len(run.sites.get(component, ()))} of {model.n_layers} layers"
            fix = "the entry of this architecture in patchlight/model/families.py does not fit this model"
            raise GateFailed("trace-not-captured", what, where=model.name, fix=fix)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (run.final, run.sites["resid_pre"][-1])):
        what = "the model's activations are not finite (NaN or infinite)"
        raise InputError("trace-not-finite", what, where=model.name, fix="try dtype float32, and check the weights")
