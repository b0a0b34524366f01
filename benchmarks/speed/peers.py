"""One class a peer, each the way its own documentation patches activations.

A peer is a loaded model with two steps: `capture` runs what is needed of the two prompts, `replace` gives the logit
difference after each replacement, `[place, pair]`. The parity tests use the same classes. Only the standard library
and torch are imported at the top: each peer lives in its own environment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.speed.work import Place, Prompts, together

ROWS = 128  # pairs x places in one forward of the batched peers

# Paths of a block's parts in the stock Hugging Face models, by model type.
PARTS = {
    "gpt2": {"block": "transformer.h.{}", "attention": ".attn", "mlp": ".mlp", "projection": ".attn.c_proj"},
    "llama": {"block": "model.layers.{}", "attention": ".self_attn", "mlp": ".mlp", "projection": ".self_attn.o_proj"},
}
SIDES = {
    "resid_pre": (None, "input"),
    "attn_out": ("attention", "output"),
    "mlp_out": ("mlp", "output"),
    "head_out": ("projection", "input"),
}


@dataclass(frozen=True)
class Captured:
    """The prompts as tensors `[pair, position]`, and what a peer keeps of its reference runs."""

    donor: Tensor
    recipient: Tensor
    answers: Tensor
    kept: Any

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return len(self.recipient)


class Peer(Protocol):
    """A library with the model of a folder loaded (a path from the root: some take others for names on the hub).

    `a_forward_each`: every place costs one whole forward, whichever it is.
    """

    a_forward_each: bool

    def capture(self, prompts: Prompts, components: Collection[str]) -> Captured:
        """The reference runs that the replacements of these components need."""

    def replace(self, captured: Captured, places: Sequence[Place]) -> Tensor:
        """The logit difference at the last position after each replacement, `[place, pair]`."""


class Hooks:
    """Plain PyTorch hooks on the stock model: one forward of all pairs a place."""

    a_forward_each = True
    batched = False

    def __init__(self, folder: str, device: str, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.device = device

    def capture(self, prompts: Prompts, components: Collection[str]) -> Captured:
        donor, recipient, answers = tensors(prompts, self.device)
        kept: dict[tuple[str, int], Tensor] = {}
        layers = range(self.model.config.num_hidden_layers)
        with _all_closed(
            _hooked(self.model, component, layer, lambda tensor, key=(component, layer): _keep(kept, key, tensor))
            for component in components
            for layer in layers
        ):
            self.model(donor, use_cache=False)
        return Captured(donor, recipient, answers, kept)

    def replace(self, captured: Captured, places: Sequence[Place]) -> Tensor:
        at_once = max(1, ROWS // captured.pairs) if self.batched else 1
        return torch.cat([self._forward(captured, group) for group in together(places, at_once)])

    def _forward(self, captured: Captured, group: Sequence[Place]) -> Tensor:
        given = captured.kept[group[0].component, group[0].layer]

        def edit(tensor: Tensor) -> Tensor:
            tensor = tensor.clone()
            for place, rows in zip(group, tensor.split(captured.pairs), strict=True):
                part = index(place, self.model.config)
                rows[part] = given[part]
            return tensor

        with _all_closed([_hooked(self.model, group[0].component, group[0].layer, edit)]):
            ids = captured.recipient.repeat(len(group), 1)
            logits = self.model(ids, use_cache=False, logits_to_keep=1 if self.batched else 0).logits
        return logit_difference(logits, captured.answers.repeat(len(group), 1)).view(len(group), -1)


class HooksBatched(Hooks):
    """The same hooks, many places of a layer in one forward, and only the last position's logits."""

    batched = True


class TransformerLens:
    """TransformerLens 4: a TransformerBridge and its `patching.get_act_patch_*`, one value a pair."""

    a_forward_each = True

    def __init__(self, folder: str, device: str, dtype: torch.dtype) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        self.model = TransformerBridge.boot_transformers(folder, device=device, dtype=dtype).eval()
        self.device = device

    def capture(self, prompts: Prompts, components: Collection[str]) -> Captured:
        donor, recipient, answers = tensors(prompts, self.device)
        return Captured(donor, recipient, answers, self.model.run_with_cache(donor)[1])

    def replace(self, captured: Captured, places: Sequence[Place]) -> Tensor:
        by_component = groupby(places, key=lambda place: place.component)
        return torch.cat([self._component(captured, name, list(some)) for name, some in by_component])

    def _component(self, captured: Captured, component: str, places: Sequence[Place]) -> Tensor:
        import pandas as pd
        from transformer_lens import patching

        function, axes = {
            "resid_pre": (patching.get_act_patch_resid_pre, ["layer", "position"]),
            "attn_out": (patching.get_act_patch_attn_out, ["layer", "position"]),
            "mlp_out": (patching.get_act_patch_mlp_out, ["layer", "position"]),
            "head_out": (patching.get_act_patch_attn_head_out_by_pos, ["layer", "position", "head"]),
            "pattern": (patching.get_act_patch_attn_head_pattern_by_pos, ["layer", "head", "position"]),
        }[component]
        if places[0].position is None:
            function, axes = patching.get_act_patch_attn_head_out_all_pos, ["layer", "head"]
        result = function(
            self.model,
            captured.recipient,
            captured.kept,
            lambda logits: logit_difference(logits, captured.answers),
            index_axis_names=None,
            index_df=pd.DataFrame([place._asdict() for place in places])[axes],
            reduce="none",
        )
        return result.values


class NNsight:
    """nnsight 0.8: the places of a layer as invokes of one trace, the way its tutorial batches them."""

    a_forward_each = True

    def __init__(self, folder: str, device: str, dtype: torch.dtype) -> None:
        from nnsight.modeling.transformers import TransformersModel

        self.load = lambda attention: TransformersModel(
            folder, task="text-generation", dispatch=True, attn_implementation=attention, dtype=dtype
        ).to(device)
        self.model, self.device, self.attention = self.load("sdpa"), device, "sdpa"

    def capture(self, prompts: Prompts, components: Collection[str]) -> Captured:
        import nnsight

        if "pattern" in components and self.attention != "eager":  # the fused function has no pattern to replace
            self.model, self.attention = self.load("eager"), "eager"
        donor, recipient, answers = tensors(prompts, self.device)
        model, layers, kept = self.model, self.model.config.num_hidden_layers, {}
        for component in components:
            with model.trace(donor):
                found = nnsight.save([])
                for layer in range(layers):
                    found.append(_in_trace(model, component, layer).clone())
            kept |= {(component, layer): tensor for layer, tensor in enumerate(found)}
        return Captured(donor, recipient, answers, kept)

    def replace(self, captured: Captured, places: Sequence[Place]) -> Tensor:
        return torch.cat([self._trace(captured, group) for group in together(places, max(1, ROWS // captured.pairs))])

    def _trace(self, captured: Captured, group: Sequence[Place]) -> Tensor:
        import nnsight

        component, layer = group[0].component, group[0].layer
        given = captured.kept[component, layer]
        parts = [index(place, self.model.config) for place in group]
        model, recipient, answers = self.model, captured.recipient, captured.answers
        with model.trace() as tracer:
            values = nnsight.save([])
            for part in parts:
                with tracer.invoke(recipient):
                    _in_trace(model, component, layer)[part] = given[part]
                    values.append(logit_difference(model.lm_head.output, answers))
        return torch.stack(list(values))


class Patchlight:
    """Patchlight: a sweep for each component, as its users call it; the sweep captures the reference runs itself."""

    a_forward_each = False

    def __init__(self, folder: str, device: str, dtype: torch.dtype) -> None:
        from patchlight import load_model

        self.model = load_model(folder, device=device, dtype=str(dtype).removeprefix("torch."))

    def capture(self, prompts: Prompts, components: Collection[str]) -> Captured:
        from patchlight import TokenPair

        donor, recipient, answers = tensors(prompts, "cpu")
        columns = (prompts.donor, prompts.recipient, [row[:1] for row in prompts.answers])
        wrong = [row[1:] for row in prompts.answers]
        pairs = [TokenPair(*map(tuple, row)) for row in zip(*columns, wrong, strict=True)]
        return Captured(donor, recipient, answers, pairs)

    def replace(self, captured: Captured, places: Sequence[Place]) -> Tensor:
        maps = {
            (component, every): torch.from_numpy(self._swept(captured, component, every).values)
            for component, every in {(place.component, place.position is None) for place in places}
        }
        return torch.stack([maps[place.component, place.position is None][_cell(place)] for place in places])

    def _swept(self, captured: Captured, component: str, every: bool) -> Any:
        from patchlight import sweep

        return sweep(self.model, captured.kept, component=component, positions="all" if every else "each")


def _cell(place: Place) -> tuple[slice | int, ...]:
    """Where a place lies in a sweep's values."""
    head = [] if place.head is None else [place.head]
    return slice(None), place.layer, *head, place.position or 0


PEERS: dict[str, type[Peer]] = {
    "hooks": Hooks,
    "hooks_batched": HooksBatched,
    "transformer_lens": TransformerLens,
    "nnsight": NNsight,
    "patchlight": Patchlight,
}


def tensors(prompts: Prompts, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Donor and recipient `[pair, position]`, and answers `[pair, 2]`."""
    donor, recipient, answers = (
        torch.tensor(rows, device=device) for rows in (prompts.donor, prompts.recipient, prompts.answers)
    )
    return donor, recipient, answers


def logit_difference(logits: Tensor, answers: Tensor) -> Tensor:
    """The first answer's logit minus the second's at the last position, a number a row."""
    correct, wrong = logits[:, -1].gather(1, answers).unbind(1)
    return correct - wrong


def index(place: Place, config: Any) -> tuple[slice | int, ...]:
    """Where a place lies in its tensor `[pair, position, width]`, of a pattern `[pair, head, query, key]`."""
    position = slice(None) if place.position is None else place.position
    if place.component == "pattern":
        return slice(None), place.head, position
    if place.head is None:
        return slice(None), position
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return slice(None), position, slice(place.head * width, (place.head + 1) * width)


def _in_trace(model: Any, component: str, layer: int) -> Any:
    """The component's tensor within nnsight's trace."""
    parts = PARTS[model.config.model_type]
    block = parts["block"].format(layer)
    if component == "pattern":
        attention = model.get(block + parts["attention"])
        return attention.source.attention_interface_1.source.nn_functional_dropout_0.output
    part, side = SIDES[component]
    value = getattr(model.get(block + (parts[part] if part else "")), side)
    return value[0] if isinstance(value, tuple) else value


def _keep(kept: dict[tuple[str, int], Tensor], key: tuple[str, int], tensor: Tensor) -> None:
    kept[key] = tensor.clone()


@contextmanager
def _all_closed(handles: Any) -> Iterator[None]:
    opened = list(handles)
    try:
        yield
    finally:
        for handle in opened:
            handle.remove()


def _hooked(model: Any, component: str, layer: int, act: Any) -> Any:
    """A hook that hands `act` the component's tensor; what it returns, if anything, takes its place."""
    parts = PARTS[model.config.model_type]
    part, side = SIDES[component]
    module = model.get_submodule(parts["block"].format(layer) + (parts[part] if part else ""))

    def before(_: Any, args: Any) -> Any:
        changed = act(args[0])
        return None if changed is None else (changed, *args[1:])

    def after(_: Any, __: Any, output: Any) -> Any:
        changed = act(output[0] if isinstance(output, tuple) else output)
        return (changed, *output[1:]) if changed is not None and isinstance(output, tuple) else changed

    return module.register_forward_pre_hook(before) if side == "input" else module.register_forward_hook(after)
