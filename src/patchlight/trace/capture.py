"""Captured runs: one stock forward, with the activations that later steps read."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from patchlight.errors import GateFailed, InputError
from patchlight.trace.hooks import attention, hooked, observed
from patchlight.trace.kernels import faster

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
    final norm. `final` is the normed stream at the positions that are read, the last one or few. `arguments` is what
    each block gets beside the stream.
    """

    ids: Int[Tensor, "prompt position"]
    final: Float[Tensor, "prompt step width"]
    sites: dict[str, list[Tensor]]
    arguments: list[dict[str, Any]]

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
) -> Run:
    """One stock forward of prompts of one length, keeping `resid_pre` and the components named.

    The last `read` positions are read. `embed` takes the place of the token embeddings (a corruption).
    Raises InputError where the prompts are longer than the model's context or an activation is not finite.
    """
    if model.context is not None and ids.shape[1] > model.context:
        what = f"a prompt has {ids.shape[1]} tokens, the model's context is {model.context}"
        raise InputError("trace-prompt-too-long", what, where=model.name, fix="shorten the prompt")
    sites: dict[str, list[Tensor]] = {}
    stream: list[Tensor] = []
    arguments: list[dict[str, Any]] = []

    def keep(component: str) -> Callable[[int, Tensor], None]:
        kept = sites.setdefault(component, [])
        # A clone, because some blocks add to a sublayer's output in place; a view, because OPT drops the prompt axis.
        return lambda layer, tensor: kept.append(tensor.clone().view(*ids.shape, -1))

    def attend(stock: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **rest: Any) -> Any:
        for component, tensor in zip("qkv", (q, k, v), strict=True):
            if component in components:
                sites.setdefault(component, []).append(tensor.contiguous())
        if "pattern" in components:
            # Values that are a basis come out as the weights, from whichever function the model attends with.
            basis = torch.eye(k.shape[2], dtype=v.dtype, device=v.device).expand(*k.shape[:3], -1)
            weights, _ = stock(module, q, k, basis, mask, **rest)
            sites.setdefault("pattern", []).append(weights.transpose(1, 2))
        return stock(module, q, k, v, mask, **rest)

    wanted = {"resid_pre", *(name for name in HOOKED if name in components)}
    if "resid_mid" in components:
        wanted.add("attn_out")
    with ExitStack() as stack:
        stack.enter_context(faster(model))
        if model.family.interface:
            stack.enter_context(attention(model, attend))
        stack.enter_context(hooked(model, {name: keep(name) for name in sorted(wanted)}))
        for block in model.layers:
            stack.enter_context(observed(block, lambda _, given: arguments.append(given)))
        stack.enter_context(observed(model.final_norm, lambda tensor, _: stream.append(tensor)))
        if embed is not None:
            stack.callback(model.embed.register_forward_hook(lambda *_: embed).remove)
        output = model.hf.base_model(input_ids=ids.to(model.device), use_cache=False)
    sites["resid_pre"].append(stream[0])
    if "resid_mid" in components:
        both = zip(sites["resid_pre"], sites["attn_out"], strict=False)
        sites["resid_mid"] = [pre + model.residual_scale * out for pre, out in both]
    run = Run(ids, output.last_hidden_state[:, -read:], sites, arguments)
    _check(model, run, components)
    return run


def _check(model: Model, run: Run, components: Collection[str]) -> None:
    for component in components:
        if len(run.sites.get(component, ())) < model.n_layers:
            what = f"{component} was captured in {len(run.sites.get(component, ()))} of {model.n_layers} layers"
            fix = "the entry of this architecture in patchlight/model/families.py does not fit this model"
            raise GateFailed("trace-not-captured", what, where=model.name, fix=fix)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (run.final, run.sites["resid_pre"][-1])):
        what = "the model's activations are not finite (NaN or infinite)"
        raise InputError("trace-not-finite", what, where=model.name, fix="try dtype float32, and check the weights")
