from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import Prompt

from .models import VOCAB


def make_tokenizer(*, bos: bool = False, pad: bool = False, vocab_size: int = VOCAB) -> PreTrainedTokenizerFast:
    """A small real tokenizer with characters as tokens, with or without a BOS and a pad token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from tokenizers.decoders import Fuse

    characters = [chr(code) for code in range(32, 127)][: vocab_size - 3]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{character: i for i, character in enumerate(characters, 3)}}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = Fuse()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, **({"pad_token": "</s>"} if pad else {}))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that adds no BOS and has no pad token."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GGUF files can hold."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["The river ran past the old mill.", "Nobody said that the mill stood empty."], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Prompts of mixed lengths; one has the eos token in its text."""
    return [
        Prompt("The capital of France", " is Paris."),
        Prompt("A", " longer continuation than its prompt, by far."),
        Prompt("x = 1", "; y = 2"),
        Prompt("One line ends here.</s>Another begins", " and has an end</s> too"),
        Prompt("It was a dark and stormy night; the rain fell in torrents", "."),
        Prompt("0123456789" * 4, "0123456789"),
        Prompt("Who goes", " there?"),
        Prompt("To be or not to be, that is", " the question"),
    ]
