"""The published method as it stands: the whole output of one named module replaced, at every position at once.

Plain forward hooks on the stock model, a full forward a patch, so that nothing lies between this and the publication
(Bahador 2025, arXiv 2504.02976, and its released script).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from patchlight.errors import InputError
from patchlight.pairs.align import align
from patchlight.records import Site, TokenPair
from patchlight.trace.hooks import alone
from patchlight.trace.sites import is_structural

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from patchlight.model.anatomy import Model

ROWS = 24  # run together; a row is one patch
Edit = Callable[[Tensor], "Tensor | None"]


@dataclass(frozen=True)
class ModuleEffects:
    """The metric of one pair in both runs, and after each module's output was replaced, `patched` `[module]`."""

    clean: float
    corrupted: float
    patched: Float[np.ndarray, " module"]


def of_type(model: Model, kind: type[nn.Module]) -> list[str]:
    """The names of the modules that a hook on every instance of a type reaches, in the order of the model."""
    return [name for name, module in model.hf.named_modules() if isinstance(module, kind)]


def projections(model: Model) -> list[str]:
    """The names of the matrices inside the blocks: `Conv1D` where the architecture has it, `nn.Linear` otherwise."""
    blocks = [module for block in model.layers for module in block.modules()]
    kind = Conv1D if any(isinstance(module, Conv1D) for module in blocks) else nn.Linear
    inside = {id(module) for module in blocks}
    return [name for name, module in model.hf.named_modules() if isinstance(module, kind) and id(module) in inside]


def by_printed_name(model: Model, names: Sequence[str]) -> dict[str, list[str]]:
    """The modules that share each key of a table keyed by `str(module)`; only the last of them leaves its result."""
    keys: dict[str, list[str]] = {}
    for name in names:
        keys.setdefault(str(model.hf.get_submodule(name)), []).append(name)
    return keys


def first_feed_forward(model: Model) -> str:
    """The name of the module that gives the feed-forward output of the first block."""
    return _name_of(model, model.part("mlp_out", 0))


def output_head(model: Model) -> str:
    """The name of the module that gives the logits."""
    return _name_of(model, model.hf.get_output_embeddings())


def is_full_cut(model: Model, name: str, pair: TokenPair) -> bool:
    """Whether replacing this module's output at every position restores everything by construction (guard 2).

    A module inside a block is taken for all that the block adds to the stream: where even that is no cut, it is none.
    """
    return is_structural(_sites(model, name), align(model.tokenizer, pair), model)


def phrase_difference(logits: Float[Tensor, "position token"], pair: TokenPair) -> float:
    """The mean logit of the correct phrase's tokens minus that of the wrong phrase's, all at the last position.

    The metric of the released script: no order, no continuation, each token as if it came next.
    """
    last = logits[-1].double()
    return float(last[list(pair.correct_ids)].mean() - last[list(pair.wrong_ids)].mean())


@torch.inference_mode()
def patch_modules(
    model: Model,
    pair: TokenPair,
    names: Sequence[str],
    on_progress: Callable[[int, int], None] | None = None,
) -> ModuleEffects:
    """The metric after each module's output at every position was replaced by that of the clean run, one at a time.

    Raises InputError `trace-module-lengths` where the prompts differ in length, for then no output of one run fits
    into the other, and `trace-module-output` for a module that does not return one tensor.
    """
    clean_ids, corrupted_ids = _ids(model, pair)
    with alone(model):
        clean, donors = _observed(model, clean_ids, names)
        patched = _metrics(model, pair, [(name, donors[name]) for name in names], on_progress)
        corrupted = model.hf(input_ids=corrupted_ids, use_cache=False).logits
    return ModuleEffects(phrase_difference(clean[0], pair), phrase_difference(corrupted[0], pair), patched)


@torch.inference_mode()
def tokens_alone(model: Model, pair: TokenPair, names: Sequence[str]) -> Float[np.ndarray, " module"]:
    """What a module's output would bring back if it read every token by itself, in the metric's unit.

    The donor is what the module gives where each token of the clean prompt is a prompt of its own, at its position;
    the recipient has the same of the corrupted prompt. What comes back is what a table of the tokens would bring, an
    embedding extended by the module. Raises as `patch_modules` does.
    """
    with alone(model):
        both = [
            _metrics(model, pair, [(name, of_tokens[name]) for name in names])
            for of_tokens in (_tokens_alone(model, ids, names) for ids in _ids(model, pair))
        ]
    brought: np.ndarray = both[0] - both[1]
    return brought


def _ids(model: Model, pair: TokenPair) -> tuple[Tensor, Tensor]:
    if len(pair.clean_ids) != len(pair.corrupted_ids):
        what = f"the prompts have {len(pair.clean_ids)} and {len(pair.corrupted_ids)} tokens"
        raise InputError("trace-module-lengths", what, fix="write prompts of the same number of tokens")
    clean, corrupted = (torch.tensor([ids], device=model.device) for ids in (pair.clean_ids, pair.corrupted_ids))
    return clean, corrupted


def _metrics(
    model: Model,
    pair: TokenPair,
    rows: Sequence[tuple[str, Tensor]],
    on_progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, " row"]:
    """The metric of the corrupted run with one module's output replaced, a row for each module and output."""
    _, corrupted_ids = _ids(model, pair)
    found: list[float] = []
    for start in range(0, len(rows), ROWS):
        logits = _replaced(model, corrupted_ids, rows[start : start + ROWS])
        found += [phrase_difference(row, pair) for row in logits]
        if on_progress is not None:
            on_progress(len(found), len(rows))
    return np.array(found)


def _observed(
    model: Model, ids: Int[Tensor, "row position"], names: Sequence[str], **more: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits of a run, and each module's output in it."""
    seen: dict[str, Tensor] = {}

    def keeping(name: str) -> Edit:
        def keep(output: Tensor) -> None:
            seen[name] = output

        return keep

    with _edited(model, {name: keeping(name) for name in names}):
        logits = model.hf(input_ids=ids, use_cache=False, **more).logits
    return logits, seen


def _tokens_alone(model: Model, ids: Int[Tensor, "1 position"], names: Sequence[str]) -> dict[str, Tensor]:
    """Each module's output, position by position, where every token is a prompt of its own, at its position."""
    accepted = inspect.signature(model.hf.forward).parameters
    positions = torch.arange(ids.shape[1], device=ids.device)[:, None]
    more = {"position_ids": positions} if "position_ids" in accepted else {}
    return _observed(model, ids.T, names, **more)[1]


def _replaced(
    model: Model, ids: Int[Tensor, "1 position"], rows: Sequence[tuple[str, Tensor]]
) -> Float[Tensor, "row position token"]:
    """The logits of one run a row, in each of which one module gives what the row brings."""

    def putting(name: str) -> Edit:
        def put(output: Tensor) -> Tensor:
            # Some families flatten prompts and positions into one axis inside a block.
            by_row = output.clone().reshape(len(rows), -1)
            for row, (of, donor) in enumerate(rows):
                if of == name:
                    by_row[row] = donor.reshape(-1)
            return by_row.reshape(output.shape)

        return put

    with _edited(model, {name: putting(name) for name, _ in rows}):
        logits: Tensor = model.hf(input_ids=ids.repeat(len(rows), 1), use_cache=False).logits
    return logits


@contextmanager
def _edited(model: Model, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Within it, each named module's output goes through its edit."""
    with ExitStack() as stack:
        for name, edit in edits.items():
            stack.callback(model.hf.get_submodule(name).register_forward_hook(_hook(name, edit)).remove)
        yield


def _hook(name: str, edit: Edit) -> Callable[..., Tensor | None]:
    def hook(_: nn.Module, __: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):
            what = f"{name} returns {type(output).__name__}, not one tensor"
            raise InputError("trace-module-output", what, fix="name a module inside it")
        return edit(output)

    return hook


def _sites(model: Model, name: str) -> list[Site]:
    """What a module's output settles, at every position; for a part of a block, all that the block adds."""
    module = model.hf.get_submodule(name)
    whole = {
        id(model.embed): Site("embed"),
        id(model.final_norm): Site("final_norm"),
        id(model.hf.get_output_embeddings()): Site("logits"),
        **{id(block): Site("resid_post", layer) for layer, block in enumerate(model.layers)},
    }
    if id(module) in whole:
        return [whole[id(module)]]
    for layer, block in enumerate(model.layers):
        if any(part is module for part in block.modules()):
            return [Site("attn_out", layer), Site("mlp_out", layer)]
    raise InputError("trace-module-unknown", f"{name} is no part of the decoder", where=model.name, fix="name another")


def _name_of(model: Model, module: nn.Module) -> str:
    names: dict[int, str] = {id(each): name for name, each in model.hf.named_modules()}
    return names[id(module)]
