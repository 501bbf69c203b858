"""Vocabularies that are learned from text: byte-level BPE, digits apart, one token per role."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
LEAST_VOCABULARY = len(SPECIAL) + 256

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Content follows its role after one space, so that a word has the same tokens in a statement and as an answer."""


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, longest: int = 2048) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of `vocabulary` tokens (specials and the 256 bytes included) from `texts`.

    Fewer come out where the text has no more pairs to merge. `longest` is the context it tells programs about.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        # Generation goes on from the last column.
        padding_side="left",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )
