"""What must hold on a loaded model before anything that is measured on it is believed (method, guard 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchlight.model.anatomy import Model
from patchlight.pairs.align import align
from patchlight.records import Pair, Site
from patchlight.trace.capture import Run, capture
from patchlight.trace.engine import replay
from patchlight.trace.hooks import hooked
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import MEMORY

COMPONENTS = ("resid_pre", "attn_out", "mlp_out")
LIMITS = {torch.float64: 1e-9, torch.float32: 5e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
PROMPTS, TOKENS = 3, 9  # of made-up prompts
SITES = 12  # compared with plain hooked forwards, for each component


@dataclass(frozen=True)
class Identity:
    """An identity and its largest error, relative to the largest number compared (or to 1)."""

    name: str
    error: float
    limit: float
    held: bool


@dataclass(frozen=True)
class _Case:
    """Prompts of one length, and the runs of both sides with everything kept that is patched below."""

    model: Model
    clean: Run
    corrupted: Run

    @property
    def size(self) -> tuple[int, int]:
        return self.clean.ids.shape[0], self.clean.ids.shape[1]

    def replayed(self, donor: Run, sites: Sequence[tuple[int, Site]]) -> Float[Tensor, "row token"]:
        """Logits at the last position of corrupted prompts with sites replaced by the engine."""
        rows = Rows.of([prompt for prompt, _ in sites], [[site] for _, site in sites], self.size[1])
        return self.model.logits(replay(self.model, self.corrupted, donor, rows, memory=MEMORY))


def prove(model: Model, pairs: Sequence[Pair] = ()) -> list[Identity]:
    """Every identity with its error and whether it held; on a few of the pairs, or on made-up prompts without any.

    Each compares the engine with stock forwards of the model, or the model with itself: nothing is assumed.
    """
    case = _case(model, *(_of_pairs(model, pairs) if pairs else _made_up(model)))
    found = [
        ("a batch equals its singles", _batch(case)),
        ("the residual stream is the sum of what is written", _sums(case)),
        ("the final stream, unembedded, gives the model's logits", _unembedding(case)),
        ("a run patched with itself does not change", _self_patch(case)),
        ("all positions of one layer restore everything", _full_cut(case)),
        ("what nothing reads changes nothing", _unread(case)),
        *((f"{component}: a patched run equals a plain hooked forward", _hooked(case, component)) for component in COMPONENTS),
    ]
    limit = LIMITS[model.dtype]
    return [Identity(name, error, limit, error <= limit) for name, error in found]


def _case(model: Model, clean: Int[Tensor, "prompt position"], corrupted: Int[Tensor, "prompt position"]) -> _Case:
    wanted = {"k", "v", "attn_out", "mlp_out"} if model.family.interface else {"attn_out", "mlp_out"}
    return _Case(model, capture(model, clean, wanted), capture(model, corrupted, wanted))


def _of_pairs(model: Model, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """The first pairs that are as long as the first one."""
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    length = len(alignments[0].clean_ids)
    chosen = [each for each in alignments if len(each.clean_ids) == length][:PROMPTS]
    return torch.tensor([each.clean_ids for each in chosen]), torch.tensor([each.corrupted_ids for each in chosen])


def _made_up(model: Model) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(len(model.tokenizer), (2, PROMPTS, TOKENS), generator=chance)
    return clean, corrupted


def _error(found: Tensor, expected: Tensor) -> float:
    scale = max(1.0, float(expected.abs().max()))
    return float((found - expected).abs().max()) / scale


@torch.inference_mode()
def _stock(model: Model, ids: Int[Tensor, "prompt position"]) -> Float[Tensor, "prompt token"]:
    logits: Tensor = model.hf(input_ids=ids.to(model.device), use_cache=False).logits[:, -1]
    return logits


def _batch(case: _Case) -> float:
    ids = case.clean.ids
    return _error(torch.cat([_stock(case.model, row[None]) for row in ids]), _stock(case.model, ids))


def _sums(case: _Case) -> float:
    """resid_pre + attn_out + mlp_out = resid_pre of the next layer."""
    run, errors = case.clean, []
    for layer in range(case.model.n_layers):
        written = run.sites["attn_out"][layer] + run.sites["mlp_out"][layer]
        total = run.sites["resid_pre"][layer] + written * case.model.residual_scale
        errors.append(_error(total, run.sites["resid_pre"][layer + 1]))
    return max(errors)


@torch.inference_mode()
def _unembedding(case: _Case) -> float:
    return _error(case.model.logits(case.clean.final), _stock(case.model, case.clean.ids))


@torch.inference_mode()
def _self_patch(case: _Case) -> float:
    # Other token ids with the same activations: the engine may not see that nothing differs, and has to run.
    itself = dataclasses.replace(case.corrupted, ids=case.corrupted.ids + 1)
    prompts, length = case.size
    sites = [
        (prompt, Site(component, layer, None, position))
        for component in COMPONENTS
        for prompt in range(prompts)
        for layer in range(case.model.n_layers)
        for position in (0, length - 1)
    ]
    expected = _stock(case.model, case.corrupted.ids)[[prompt for prompt, _ in sites]]
    return _error(case.replayed(itself, sites), expected)


@torch.inference_mode()
def _full_cut(case: _Case) -> float:
    prompts, _ = case.size
    sites = [(prompt, Site("resid_pre", layer)) for prompt in range(prompts) for layer in range(case.model.n_layers)]
    expected = _stock(case.model, case.clean.ids)[[prompt for prompt, _ in sites]]
    return _error(case.replayed(case.clean, sites), expected)


def _unread(case: _Case) -> float:
    """The last MLP's output before the last position, replaced by plain hooks."""
    found = _plainly(case, "mlp_out", case.model.n_layers - 1, 0)
    return _error(found, _stock(case.model, case.corrupted.ids)) if case.size[1] > 1 else 0.0


@torch.inference_mode()
def _hooked(case: _Case, component: str) -> float:
    """Sites drawn over all layers and positions, each against a stock forward with one plain hook in it."""
    chance = torch.Generator().manual_seed(1)
    prompts, length = case.size
    errors = []
    for _ in range(SITES):
        layer = int(torch.randint(case.model.n_layers, (), generator=chance))
        position = int(torch.randint(length, (), generator=chance))
        sites = [(prompt, Site(component, layer, None, position)) for prompt in range(prompts)]
        errors.append(_error(case.replayed(case.clean, sites), _plainly(case, component, layer, position)))
    return max(errors)


@torch.inference_mode()
def _plainly(case: _Case, component: str, where: int, position: int) -> Float[Tensor, "prompt token"]:
    """Logits of the corrupted prompts in a full stock forward, one site replaced by a hook."""
    given = case.clean.sites[component][where][:, position]

    def put(layer: int, tensor: Tensor) -> Tensor | None:
        if layer != where:
            return None
        patched = tensor.clone()
        patched.view(*case.size, -1)[:, position] = given
        return patched

    with hooked(case.model, {component: put}):
        return _stock(case.model, case.corrupted.ids)
