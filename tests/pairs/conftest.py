"""Small tokenizers trained here, and tiny models that know nothing or what they were told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from patchlight.model.anatomy import Model

TEXTS = [
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid.",
    "The capital of Japan is Tokyo. The capital of Egypt is Cairo. The capital of Norway is Oslo.",
    "In France people eat bread in Paris; in Italy, Spain, Japan, Egypt and Norway too.",
]


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's; Japanese comes out as parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="session")
def metaspace() -> PreTrainedTokenizerFast:
    """A SentencePiece-like BPE with byte fallback that puts <s> in front and </s> behind."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def ignorant(byte_level: PreTrainedTokenizerFast) -> Callable[[int], Model]:
    """A tiny GPT-2 of that seed, which knows nothing but has strong opinions."""

    def random_weights(seed: int) -> Model:
        return Model(_tiny(len(byte_level), initializer_range=0.5, seed=seed), byte_level, f"random {seed}")

    return random_weights


@pytest.fixture
def random_model(ignorant: Callable[[int], Model]) -> Model:
    return ignorant(0)


@pytest.fixture(scope="session")
def teach(byte_level: PreTrainedTokenizerFast) -> Callable[[list[str]], Model]:
    """A tiny GPT-2 trained until it says these sentences by heart."""

    def taught(sentences: list[str]) -> Model:
        model = _tiny(len(byte_level), initializer_range=0.02)
        rows = [torch.tensor(byte_level(sentence)["input_ids"]) for sentence in sentences]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(120):
            loss = model(input_ids=ids, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return Model(model, byte_level, "taught")

    return taught


def _tiny(vocabulary: int, initializer_range: float, seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=64,
        n_embd=48,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=initializer_range,
        loss_type="ForCausalLM",
    )
    return GPT2LMHeadModel(config).eval()
