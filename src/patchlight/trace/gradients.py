"""What replacing an activation would change, estimated from gradients at the activations: fast, and only an estimate.

Sources: attribution patching [Nanda 2023; Syed et al. 2023], AtP* [Kramár et al. 2024, arXiv 2403.00745], integrated
gradients over the inputs [Hanna et al. 2024, EAP-IG].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from patchlight.trace.capture import Run
from patchlight.trace.direct import mixed_by_heads
from patchlight.trace.hooks import attention, hooked, observed
from patchlight.trace.past import Past, seeing, watched

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

METHODS = ("attribution", "atp_star", "integrated")
STEPS = 5
STREAM = {"embed": slice(0, 1), "resid_pre": slice(0, -1), "resid_post": slice(1, None)}  # parts of one list
ATTENTION = ("q", "k", "v")
HOOKED = ("head_out", "attn_out", "mlp_hidden", "mlp_out")

Gradients = dict[str, "list[Tensor]"]  # by component and layer, in the shapes of `Run.sites`


@dataclass(frozen=True)
class Tape:
    """A forward that can be differentiated: its activations by component and layer, and the metric of each prompt.

    `resid_pre` has one layer more than the model: the stream before the final norm. `mixed` is what attention makes of
    q, k and v, `[prompt, position, head, head_dim]`; `attend[layer]` makes it of others.
    """

    sites: dict[str, list[Tensor]]
    attend: list[Callable[[Tensor, Tensor, Tensor], Tensor]]
    metric: Float[Tensor, "prompt"]


@dataclass(frozen=True)
class Exchange:
    """Prompts of one length that receive activations, and those that give them, with the (correct, wrong) tokens."""

    model: Model
    recipient: Run
    donor: Run
    answers: Int[Tensor, "pair 2"]


def reads(components: Collection[str]) -> set[str]:
    """What `capture` must keep of both runs so that these components can be estimated."""
    wanted = {component for component in components if component not in STREAM}
    return wanted | set(ATTENTION) if wanted & {"q", "k"} else wanted


def metric(
    model: Model, final: Float[Tensor, "row *step width"], answers: Int[Tensor, "row 2"]
) -> Float[Tensor, "row"]:
    """logit(correct) - logit(wrong), in logits, from the normed stream at the last position; can be differentiated."""
    last = final if final.dim() == 2 else final[:, -1]
    correct, wrong = model.answer_logits(last, answers).unbind(1)
    return correct - wrong


def estimated(
    exchange: Exchange, components: Collection[str], method: str, steps: int
) -> dict[str, Float[Tensor, "pair layer *head position"]]:
    """The estimated change of the metric in logits, were each activation replaced alone, by component.

    `attribution`: (donor - recipient) . gradient at the recipient. `integrated`: the gradient is the mean over `steps`
    points midway in equal parts of the straight line between the token embeddings. `atp_star`: q and k through the
    attention pattern recomputed exactly, and the mean of absolute estimates over the whole gradient and those in which
    the sublayers of one layer are dropped (GradDrop; not the layer whose sublayer the site is in), with the sign of
    their sum.
    """
    if method == "atp_star":
        return _atp_star(exchange, components)
    points = [(step + 0.5) / steps for step in range(steps)] if method == "integrated" else [0.0]
    totals = {component: torch.zeros(()) for component in components}
    for point in points:
        tape = _tape(exchange, components, point)
        gradients = _gradients(exchange.model, tape.metric.sum(), None, _watched(tape, components))
        for component in components:
            totals[component] = totals[component] + _first_order(exchange, component, gradients) / len(points)
    return totals


@torch.enable_grad()
def _tape(exchange: Exchange, components: Collection[str], point: float) -> Tape:
    """A forward from the recipient's embeddings, moved to `point` (0 to 1) of the way to the donor's."""
    model, ids = exchange.model, exchange.recipient.ids
    own, given = (run.sites["resid_pre"][0] for run in (exchange.recipient, exchange.donor))
    embedded = torch.lerp(own, given, point).requires_grad_()
    sites: dict[str, list[Tensor]] = {}
    again: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = []

    def keep(component: str) -> Callable[[int, Tensor], Tensor]:
        kept = sites.setdefault(component, [])

        def act(layer: int, tensor: Tensor) -> Tensor:
            kept.append(embedded if component == "resid_pre" and layer == 0 else tensor)
            return kept[-1].clone()  # some blocks add to a sublayer's output in place

        return act

    def see(**seen: Tensor) -> None:
        for component, tensor in seen.items():
            sites.setdefault(component, []).append(tensor)

    def attend(stock: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **rest: Any) -> Any:
        mixed, weights = stock(module, q, k, v, mask, **rest)
        see(q=q, k=k, v=v, mixed=mixed)
        again.append(lambda q, k, v: stock(module, q, k, v, mask, **rest)[0])
        return mixed, weights

    def past(layer: int) -> Past:
        again.append(partial(mixed_by_heads, model, exchange.recipient, layer))
        return seeing(see, model.n_kv_heads)

    wanted = {"resid_pre", *(name for name in HOOKED if name in components)}
    if "resid_mid" in components:
        wanted.add("attn_out")
    with ExitStack() as stack:
        if model.family.interface:
            stack.enter_context(attention(model, attend))
        else:
            stack.enter_context(watched(model, past))
        stack.enter_context(hooked(model, {name: keep(name) for name in sorted(wanted)}))
        stack.enter_context(observed(model.final_norm, lambda stream, _: sites["resid_pre"].append(stream)))
        output = model.hf.base_model(input_ids=ids.to(model.device), use_cache=False)
    if "resid_mid" in components:
        sites["resid_mid"] = sites["attn_out"]
    return Tape(sites, again, metric(model, output.last_hidden_state[:, -1], exchange.answers))


def _watched(tape: Tape, components: Collection[str], recomputed: Collection[str] = ()) -> dict[str, list[Tensor]]:
    """The activations whose gradients the estimates read; for what is recomputed, attention's output."""
    names = {"resid_pre", *("mixed" if component in recomputed else component for component in components)}
    return {name: tensors for name, tensors in tape.sites.items() if name in names}


def _gradients(model: Model, of: Tensor, along: Tensor | None, at: dict[str, list[Tensor]]) -> Gradients:
    flat = [tensor for tensors in at.values() for tensor in tensors]
    found = iter(torch.autograd.grad(of, flat, along, retain_graph=True))
    gradients = {name: [next(found) for _ in tensors] for name, tensors in at.items()}
    if "resid_mid" in gradients:  # reached through what attention adds, times this factor, to the stream
        gradients["resid_mid"] = [gradient / model.residual_scale for gradient in gradients["resid_mid"]]
    return gradients


def _layers(component: str, sites: dict[str, list[Tensor]]) -> list[Tensor]:
    return sites["resid_pre"][STREAM[component]] if component in STREAM else sites[component]


def _first_order(
    exchange: Exchange, component: str, gradients: Gradients
) -> Float[Tensor, "pair layer *head position"]:
    """(donor - recipient) . gradient of each activation."""
    own, given = (_layers(component, run.sites) for run in (exchange.recipient, exchange.donor))
    changes = []
    for before, after, gradient in zip(own, given, _layers(component, gradients), strict=True):
        product = (after - before) * gradient.reshape(before.shape)  # OPT drops the prompt axis
        if component == "head_out":
            product = product.unflatten(-1, (exchange.model.n_heads, -1)).transpose(1, 2)
        changes.append(product.sum(-1))
    return torch.stack(changes, dim=1)


# ---- AtP*


def _atp_star(exchange: Exchange, components: Collection[str]) -> dict[str, Float[Tensor, "pair layer *head position"]]:
    model, tape = exchange.model, _tape(exchange, components, 0.0)
    recomputed = [component for component in components if component in ("q", "k")]
    sums, sizes = ({component: torch.zeros(()) for component in components} for _ in range(2))
    mixed = []
    for gradients in _with_drops(model, tape, _watched(tape, components, recomputed)):
        mixed.append(gradients.get("mixed", []))
        for component in components:
            if component not in recomputed:
                change = _first_order(exchange, component, gradients)
                sums[component], sizes[component] = sums[component] + change, sizes[component] + change.abs()
    for component in recomputed:
        changes = _through_softmax(
            exchange, component, tape, (torch.stack(every) for every in zip(*mixed, strict=True))
        )
        sums[component], sizes[component] = changes.sum(0), changes.abs().sum(0)
    # A sublayer's site is cut off where its own layer is dropped; the stream goes on.
    kept = {name: model.n_layers + (name in STREAM or name == "resid_mid") for name in components}
    return {name: torch.copysign(sizes[name] / kept[name], sums[name]) for name in components}


def _with_drops(model: Model, tape: Tape, watched: dict[str, list[Tensor]]) -> Iterator[Gradients]:
    """The gradients, then those in which nothing flows back through one layer's sublayers, layer by layer.

    The stream carries a gradient past a layer unchanged. So what is below a dropped layer sees, at the layer's input,
    the gradient of its output; only the layers below have to be gone through again.
    """
    whole = _gradients(model, tape.metric.sum(), None, watched)
    yield whole
    for layer in range(model.n_layers):
        carried = whole["resid_pre"][layer + 1]
        below: Gradients = {name: [] for name in watched}
        if layer:
            at = {name: tensors[:layer] for name, tensors in watched.items()}
            below = _gradients(model, tape.sites["resid_pre"][layer], carried, at)
        dropped = {}
        for name, (gradient, *above) in ((name, gradients[layer:]) for name, gradients in whole.items()):
            of_stream = name in ("resid_pre", "resid_mid")
            here = carried.reshape(gradient.shape) if of_stream else torch.zeros_like(gradient)
            dropped[name] = [*below[name], here, *above]
        yield dropped


@torch.no_grad()
def _through_softmax(
    exchange: Exchange,
    component: str,
    tape: Tape,
    gradients: Iterable[Float[Tensor, "drop pair position head head_dim"]],
) -> Float[Tensor, "drop pair layer head position"]:
    """The exact change of attention's output were each query or key replaced alone, times its gradients."""
    own, given = exchange.recipient.sites, exchange.donor.sites
    changes = []
    for layer, gradient in enumerate(gradients):
        q, k, v = (own[name][layer] for name in ATTENTION)
        attend, before, donor = tape.attend[layer], tape.sites["mixed"][layer], given[component][layer]
        if component == "q":  # each query makes its own row of the pattern
            changes.append(torch.einsum("pthd,npthd->npht", attend(donor, k, v) - before, gradient))
            continue
        columns = []
        for position in range(k.shape[2]):
            keys = k.clone()
            keys[:, :, position] = donor[:, :, position]
            columns.append(torch.einsum("pthd,npthd->nph", attend(q, keys, v) - before, gradient))
        per_query_head = torch.stack(columns, dim=-1)
        changes.append(per_query_head.unflatten(2, (k.shape[1], -1)).sum(3))
    return torch.stack(changes, dim=2)
