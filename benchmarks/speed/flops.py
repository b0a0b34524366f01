"""Floating-point operations: what patching naively takes, what it really needs, and what this machine can do.

Only products of matrices and of vectors are counted (a multiplication and an addition are two operations); norms,
softmax and activation functions are not. GPT-2 and Llama blocks, attention before the MLP.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.speed.work import Place

GPT2_PRODUCTS = ((768, 2304), (768, 768), (768, 3072), (3072, 768))  # width in, width out
TOKENS = 2048  # rows of the products whose rate is measured


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that its operations depend on."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_weights: int  # numbers in the matrices of one MLP
    vocabulary: int

    @property
    def query(self) -> int:
        """Operations for one token's queries, or for its way from the heads back into the stream."""
        return 2 * self.width * self.heads * self.head_dim

    @property
    def keys_values(self) -> int:
        """Operations for one token's keys and values."""
        return 4 * self.width * self.kv_heads * self.head_dim

    @property
    def mlp(self) -> int:
        """Operations for one token's MLP."""
        return 2 * self.mlp_weights

    def attention(self, keys: int) -> int:
        """Operations for one query over so many keys: scores, and the weighted sum of the values."""
        return 4 * self.heads * self.head_dim * keys


def shape_of(config: Any) -> Shape:
    """The shape that a Hugging Face configuration of GPT-2 or Llama describes."""
    heads, width = config.num_attention_heads, config.hidden_size
    if config.model_type == "gpt2":
        mlp = 2 * width * (config.n_inner or 4 * width)
        return Shape(config.n_layer, width, heads, heads, width // heads, mlp, config.vocab_size)
    mlp = 3 * width * config.intermediate_size
    head_dim = getattr(config, "head_dim", None) or width // heads
    return Shape(config.num_hidden_layers, width, heads, config.num_key_value_heads, head_dim, mlp, config.vocab_size)


def forward(shape: Shape, tokens: int) -> int:
    """A whole forward of one prompt with every position's logits, as a library runs it: square attention."""
    token = 2 * shape.query + shape.keys_values + shape.mlp + shape.attention(tokens)
    return tokens * (shape.layers * token + 2 * shape.width * shape.vocabulary)


def naive(shape: Shape, places: Sequence[Place], pairs: int, tokens: int) -> int:
    """A whole forward for every place of every pair, and one for the donor."""
    return pairs * (len(places) + 1) * forward(shape, tokens)


def needed(shape: Shape, places: Sequence[Place], pairs: int, tokens: int, differing: Sequence[int]) -> int:
    """What every exact method has to compute: what differs from the recipient's run and reaches the metric.

    Pairs differ at the positions `differing`. The two reference runs are in it, the donor's from the first of these on.
    """
    if not differing:
        return pairs * _onwards(shape, 0, 0, tokens)
    references = _onwards(shape, 0, 0, tokens) + _onwards(shape, 0, min(differing), tokens)
    return pairs * (references + sum(for_place(shape, place, tokens, differing) for place in places))


def for_place(shape: Shape, place: Place, tokens: int, differing: Sequence[int]) -> int:
    """What one replacement in one pair needs; 0 where donor and recipient are equal or nothing reads the place."""
    first, last_layer = min(differing), place.layer == shape.layers - 1
    if place.component == "head_out":
        # The difference of one head, through its share of the projection, at every position that is read.
        positions = 1 if last_layer else tokens - first
        joining = positions * (shape.query // shape.heads + shape.mlp)
        return joining + _onwards(shape, place.layer + 1, first, tokens)
    at = place.position
    if at is None or at < first:
        return 0
    if place.component == "resid_pre":
        equal = place.layer == 0 and at not in differing
        return 0 if equal else _onwards(shape, place.layer, at, tokens, joined=1)
    if last_layer and at != tokens - 1:
        return 0
    own = shape.mlp if place.component == "attn_out" else 0
    return own + _onwards(shape, place.layer + 1, at, tokens, joined=1)


def _onwards(shape: Shape, layer: int, start: int, tokens: int, joined: int | None = None) -> int:
    """From the entry of `layer` to the metric, once the stream differs at `joined` positions from `start` on (or all).

    Attention carries the difference to all later positions: those have new keys and values from the next layer on.
    In the last layer only the last position asks.
    """
    behind = tokens - start
    entering = behind if joined is None else joined
    total = 2 * shape.width  # the metric: one row of the unembedding, correct minus wrong
    for above in range(layer, shape.layers):
        total += entering * shape.keys_values
        if above == shape.layers - 1:
            asks = shape.query if entering == behind else 0
            return total + asks + shape.attention(tokens) + shape.query + shape.mlp
        total += (entering + behind) * shape.query + behind * shape.mlp
        total += sum(shape.attention(query + 1) for query in range(start, tokens))
        entering = behind
    return total


def rates(device: str, repeats: int = 7) -> dict[str, float]:
    """Measured operations a second of float32 products, median of `repeats`: 2048^3, and the four of GPT-2 small.

    On the processor with oneDNN's packed weights where this build of torch has them (`packed` is then 1), elsewhere
    by torch's own product.
    """
    packed = device == "cpu" and _packs()
    square = _rate(TOKENS, 2048, 2048, device, packed, repeats)
    of_gpt2 = {f"{one}x{other}": _rate(TOKENS, one, other, device, packed, repeats) for one, other in GPT2_PRODUCTS}
    return {"packed": float(packed), "2048^3": square, **of_gpt2}


def _packs() -> bool:
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


@torch.inference_mode()
def _rate(rows: int, width: int, out: int, device: str, packed: bool, repeats: int) -> float:
    tokens, weight = torch.randn(rows, width, device=device), torch.randn(out, width, device=device)
    product: Callable[[], torch.Tensor] = lambda: torch.nn.functional.linear(tokens, weight)  # noqa: E731
    if packed:
        reordered = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        product = lambda: torch.ops.mkldnn._linear_pointwise(tokens, reordered, None, "none", [], "")  # noqa: E731
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        product()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * rows * width * out / statistics.median(times[2:])
