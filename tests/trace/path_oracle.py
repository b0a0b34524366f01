"""Path patching as it is written down: forwards of the stock model with a plain hook at every component.

First forward: the sender has the donor's output, every other attention and MLP its recipient's, and what each receiver
reads is computed where it lies. Second forward: receivers are replaced, all else is live.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product
from typing import Any

import torch

from patchlight.model.anatomy import Model
from patchlight.trace.sites import read_site
from tests.trace.oracle import activation, blocks, hook, logit_diff, one, oracle_module, projection

PARALLEL = ("gptj", "codegen", "gpt_neox", "falcon", "cohere", "cohere2", "phi")


def path_value(model: Model, donor: list[int], recipient: list[int], sender: str, receivers: list[str]) -> float | None:
    """The logit difference after patching one path; None where none leads there."""
    sent, read = read_site(sender), [read_site(name) for name in receivers]
    reads = [site for site in read if _rank(model, site, reads=True) > _rank(model, sent)]
    if not reads:
        return None
    found: dict[Any, torch.Tensor] = {}
    final = _frozen(model, donor, recipient, sent, reads, found)
    if any(site.component == "logits" for site in reads):
        assert len(reads) == 1
        return final
    with ExitStack() as stack:
        for site in reads:
            module, part = _target(model, site)
            columns = slice(None) if part is None else part

            def put(tensor: torch.Tensor, given: torch.Tensor = found[site], columns: slice = columns) -> torch.Tensor:
                tensor = tensor.clone()
                one(tensor)[:, columns] = given[:, columns]
                return tensor

            stack.callback(hook(*module, put).remove)
        return logit_diff(model, recipient)


def _rank(model: Model, site: Any, reads: bool = False) -> float:
    """When a component is written, or read, in the order of a forward."""
    if site.component == "logits":
        return 1e9
    if site.component == "embed":
        return -1
    parallel = model.config.model_type in PARALLEL and getattr(model.config, "parallel_attn", True)  # Falcon says
    if site.component == "mlp_out":
        return 10 * site.layer + (0 if parallel and reads else 5)
    return 10 * site.layer + (0 if reads else 2)


def _target(model: Model, site: Any) -> tuple[tuple[Any, str], slice | None]:
    if site.component == "mlp_out":
        return oracle_module(model, "mlp_out", site.layer), None
    module, part = projection(model, site.layer, site.component, site.unit)
    return (module, "out"), part


def _frozen(
    model: Model, donor: list[int], recipient: list[int], sent: Any, reads: list[Any], found: dict[Any, torch.Tensor]
) -> float:
    """The metric of the first forward; what the receivers made of it is kept in `found`."""
    held = _held(model, donor, recipient, sent)
    with ExitStack() as stack:
        for site in reads:
            if site.component != "logits":
                module, _ = _target(model, site)
                keep = lambda tensor, site=site: found.__setitem__(site, one(tensor).detach().clone())  # noqa: E731
                stack.callback(hook(*module, keep).remove)
        for (component, layer), given in held.items():
            put = lambda tensor, given=given: given.reshape(tensor.shape)  # noqa: E731
            stack.callback(hook(*oracle_module(model, component, layer), put).remove)
        return logit_diff(model, donor if sent.component == "embed" else recipient)


def _held(model: Model, donor: list[int], recipient: list[int], sent: Any) -> dict[tuple[str, int], torch.Tensor]:
    """What every attention and MLP gives while all is frozen but the sender."""
    held = {}
    for component, layer in product(("attn_out", "mlp_out"), range(len(blocks(model)))):
        from_donor = (component, layer) == (sent.component, sent.layer)
        held[component, layer] = activation(model, donor if from_donor else recipient, component, layer)
    if sent.component == "head_out":
        held["attn_out", sent.layer] = _with_head(model, donor, recipient, sent)
    return held


def _with_head(model: Model, donor: list[int], recipient: list[int], sent: Any) -> torch.Tensor:
    """A block's attention output with one head's from the donor."""
    given, part = activation(model, donor, "head_out", sent.layer), model.head_dim
    columns = slice(sent.unit * part, (sent.unit + 1) * part)

    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        one(tensor)[:, columns] = given[:, columns]
        return tensor

    handle = hook(*oracle_module(model, "head_out", sent.layer), put)
    try:
        return activation(model, recipient, "attn_out", sent.layer)
    finally:
        handle.remove()
