"""Small models from scratch: a tokenizer learnt from the corpus, and a GPT-2 with random weights."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
import torch
import transformers

from patchlight.model.anatomy import Model
from patchlight.model.devices import usable_device

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> transformers.PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer like GPT-2's, learnt from `texts`, with at most `vocabulary` entries.

    `<|endoftext|>` ends a text and pads; nothing is put in front of a text.
    """
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),  # no text is ever unknown
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def new_gpt2(
    tokenizer: transformers.PreTrainedTokenizerBase,
    *,
    layers: int,
    width: int,
    heads: int,
    context: int,
    seed: int,
    device: str = "cpu",
) -> Model:
    """A small GPT-2 with random weights from `seed`, the same on every device, ready for `finetune`."""
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        n_positions=context,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = transformers.GPT2LMHeadModel(config)
    name = f"gpt2, {layers} layers of width {width}, seed {seed}"
    return Model(hf.to(usable_device(device)).requires_grad_(False).eval(), tokenizer, name)
