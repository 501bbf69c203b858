"""Extractive decoding: only spans of words of the source, or the fixed phrase, can come out."""

import random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from nestmem.adapters.copying import spans_of
from nestmem.adapters.fast_weights import UNKNOWN, FastWeights

from .conftest import tiny

TEXT = "My neighbour Torvald Breck, aged 42, drinks black coffee at 6:40."


def all_answers(tokenizer: PreTrainedTokenizerFast, limit: int = 400) -> set[str]:
    """Every answer that random choices among the allowed tokens can make."""
    stop = tokenizer.eos_token_id
    spans = spans_of(tokenizer, TEXT, phrases=(UNKNOWN,), stop=(stop,))
    rng = random.Random(0)
    found = set()
    for _ in range(limit):
        made: list[int] = []
        while (token := rng.choice(spans.allowed(made))) != stop:
            made.append(token)
        found.add(tokenizer.decode(made).strip())
    return found


def test_every_answer_is_a_span_of_whole_words_or_the_phrase(tokenizer: PreTrainedTokenizerFast) -> None:
    answers = all_answers(tokenizer)
    padded = f" {TEXT} "
    for answer in answers - {UNKNOWN}:
        assert answer in TEXT
        before, _, after = padded.partition(answer)
        assert before.endswith(" ")
        assert not (answer[-1].isalpha() and after[0].isalpha())
    assert {"Torvald", "Torvald Breck", "black coffee", UNKNOWN} & answers >= {"Torvald", UNKNOWN}


def test_nothing_allowed_ends_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    spans = spans_of(tokenizer, TEXT, stop=(1,))
    assert spans.allowed([399, 398]) == [1]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_extractive_model_quotes(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Even a random model, told to be extractive, reads and writes only what stands in the text."""
    torch.manual_seed(0)
    model = tiny(kind)
    model.config.extractive = True
    weights = FastWeights(model, tokenizer, rank=8, last=1)
    chats = [
        [{"role": "system", "content": f"Memory:\n{TEXT}"}, {"role": "user", "content": "Who?"}],
        [{"role": "user", "content": "Who?"}],
    ]
    quoted, free = weights.generate(chats, [None, None], max_new_tokens=60)
    assert quoted in TEXT or UNKNOWN.startswith(quoted)
    assert free not in TEXT
    assert "".join(weights.stream(chats[0], None, max_new_tokens=60)) == quoted
    assert all(answer in TEXT for _, answer in weights.questions([TEXT])[0])
