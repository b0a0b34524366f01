"""A stock GPT-2 whose weights are written by hand, one head and one neuron at a time.

The stream has named dimensions. Two things of a GPT-2 are in the way of exact arithmetic and are made harmless without
leaving the stock modules: the epsilon of its norms is so large, and their gain its root, that they divide by one; and
one more dimension balances each vector that is written, so that the mean which a norm takes away is nought. What
remains is float64's rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tokenizers
import torch
import transformers

from patchlight.model.anatomy import Model

EPSILON = 1e24  # 12 orders above any stream here: norms divide by its root, and multiply by it
SHARP = 2e3  # a score that leaves exactly no weight to others
Vector = Mapping[str, float]


class Handmade:
    """A GPT-2 under construction: all weights are nought until they are written.

    `dimensions` name the stream. A head or neuron reads and writes sums such as `{"here": 1, "there": -2}`; `one` is a
    dimension that every position has.
    """

    def __init__(
        self, words: Sequence[str], dimensions: Sequence[str], *, layers: int, heads: int, positions: int, neurons: int
    ) -> None:
        self.words = {word: number for number, word in enumerate(words)}
        self.index = {name: number for number, name in enumerate((*dimensions, "one"))}
        width = heads * (1 + len(self.index) // heads)  # room for the balance, and divisible
        config = transformers.GPT2Config(
            vocab_size=len(words),
            n_layer=layers,
            n_head=heads,
            n_embd=width,
            n_inner=neurons,
            n_positions=positions,
            activation_function="relu",
            layer_norm_epsilon=EPSILON,
            tie_word_embeddings=False,
            scale_attn_weights=False,
            bos_token_id=0,
            eos_token_id=0,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        )
        self.hf = transformers.GPT2LMHeadModel(config).double().requires_grad_(False)
        self.part = width // heads
        self.written = [0] * layers
        for name, weight in self.hf.named_parameters():
            weight.fill_(EPSILON**0.5 if "ln_" in name and name.endswith("weight") else 0.0)
        self.hf.transformer.wpe.weight[:, self.index["one"]] = 1.0

    def word(self, word: str, vector: Vector) -> None:
        """What a word puts into the stream."""
        self._add(self.hf.transformer.wte.weight[self.words[word]], vector)

    def position(self, position: int, vector: Vector) -> None:
        """What a position puts into the stream."""
        self._add(self.hf.transformer.wpe.weight[position], vector)

    def answer(self, word: str, vector: Vector) -> None:
        """What a word's logit reads from the stream at the end."""
        self._add(self.hf.lm_head.weight[self.words[word]], vector)

    def head(
        self, layer: int, head: int, match: Sequence[tuple[Vector, Vector]], copy: Sequence[tuple[Vector, Vector]]
    ) -> None:
        """Writes a head: its score is the sum over `match` of query times key, and it moves `copy` (read, written).

        Raises ValueError for more pairs than the head is wide.
        """
        if max(len(match), len(copy)) > self.part:
            raise ValueError(f"a head of width {self.part} has no room for {len(match)} and {len(copy)} pairs")
        attention, width = self.hf.transformer.h[layer].attn, self.part * self.hf.config.n_head
        for number, (query, key) in enumerate(match):
            column = head * self.part + number
            self._add(attention.c_attn.weight[:, column], query)
            self._add(attention.c_attn.weight[:, width + column], key)
        for number, (read, written) in enumerate(copy):
            column = head * self.part + number
            self._add(attention.c_attn.weight[:, 2 * width + column], read)
            self._add(attention.c_proj.weight[column], written)

    def neuron(self, layer: int, read: Vector, written: Vector) -> None:
        """Adds a neuron to a layer's MLP: what it reads, if positive, times what it writes."""
        mlp, number = self.hf.transformer.h[layer].mlp, self.written[layer]
        self._add(mlp.c_fc.weight[:, number], read)
        self._add(mlp.c_proj.weight[number], written)
        self.written[layer] += 1

    def finish(self, name: str) -> Model:
        """The model, with every written vector balanced."""
        inner = self.hf.transformer
        weights = [inner.wte.weight, inner.wpe.weight]
        weights += [weight for block in inner.h for weight in (block.attn.c_proj.weight, block.mlp.c_proj.weight)]
        for weight in weights:
            weight[:, -1] = -weight[:, :-1].sum(dim=1)
        return Model(self.hf.eval(), _tokenizer(self.words), name)

    def _add(self, into: torch.Tensor, vector: Vector) -> None:
        for name, value in vector.items():
            into[self.index[name]] += value


def _tokenizer(words: Mapping[str, int]) -> transformers.PreTrainedTokenizerFast:
    """One token a word; words are told apart by spaces, an answer begins with one."""
    table = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(words), unk_token=next(iter(words))))
    table.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=table, unk_token=next(iter(words)))
