"""Loading, answering, and exchange with PEFT."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from nestmem.adapters.fast_weights import FastWeights, load_fast_weights, parse_pairs
from nestmem.adapters.peft import export_peft, import_peft
from nestmem.errors import InputError, ModelError, ModelNotFound

from .conftest import tiny

PAIRS = [[("What is my dog's name?", "Ines")], [("Where do I live?", "Port Almira")]]
CHATS = [
    [{"role": "user", "content": "Where do I live?"}],
    [
        {"role": "system", "content": "Memory:\n- (2026-03-02) user: I drink tea."},
        {"role": "user", "content": "What?"},
    ],
]


@pytest.fixture(scope="module")
def weights(tokenizer: PreTrainedTokenizerFast) -> FastWeights:
    return FastWeights(tiny("qwen3"), tokenizer, rank=16, last=2)


def written(weights: FastWeights):
    return weights.write([weights.rule_object.empty()], [PAIRS])[0][0]


def test_a_batch_answers_as_each_alone(weights: FastWeights) -> None:
    states = [written(weights), None]
    together = weights.generate(CHATS, states, max_new_tokens=5)
    alone = [weights.generate([c], [s], max_new_tokens=5)[0] for c, s in zip(CHATS, states, strict=True)]
    assert together == alone


def test_streaming_gives_the_generated_text(weights: FastWeights) -> None:
    state = written(weights)
    streamed = "".join(weights.stream(CHATS[0], state, max_new_tokens=6))
    generated = weights.generate(CHATS[:1], [state], max_new_tokens=6)[0]
    assert streamed.strip() == generated.rstrip("\ufffd").strip()


def test_confidence_is_the_probability_of_the_answer(weights: FastWeights) -> None:
    ((text, probability),) = weights.decode(CHATS[:1], [None], max_new_tokens=1)
    ids = torch.tensor([weights.prompt_ids(CHATS[0])])
    with torch.no_grad():
        chances = weights.model(input_ids=ids).logits[0, -1].softmax(-1)
    assert probability == pytest.approx(float(chances.max()), rel=1e-5)
    assert text == weights.tokenizer.decode([int(chances.argmax())], skip_special_tokens=True).strip()


def test_only_the_answer_is_written(weights: FastWeights) -> None:
    row = weights.encode_pair("Where do I live?", "Port Almira")
    learned = [token for token, weight in zip(row.ids, row.weights, strict=True) if weight]
    assert weights.tokenizer.decode(learned, skip_special_tokens=True).strip() == "Port Almira"
    assert learned[-1] == weights.tokenizer.eos_token_id


def test_a_tokenizer_without_chat_template_is_written_as_plain_lines(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    weights = FastWeights(tiny("llama"), plain, rank=8, last=1)
    row = weights.encode_pair("Where?", "Here")
    assert plain.decode(row.ids, skip_special_tokens=True) == "User: Where?\nAssistant: Here"


def test_the_writers_pairs_are_read_and_junk_is_left_out() -> None:
    assert parse_pairs("Q: Where do I live? A: Leeds\nQ: Who? A: Tom") == [
        ("Where do I live?", "Leeds"),
        ("Who?", "Tom"),
    ]
    assert parse_pairs("none") == []
    assert parse_pairs("Q: Where? A: ") == []


def test_what_is_written_of_a_statement_does_not_depend_on_the_others(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = tiny("qwen3")
    model.config.extractive = True
    writer = FastWeights(model, tokenizer, rank=8, last=1)
    statements = [
        f"My {thing} is called {name}." for thing in ("dog", "cat", "boat", "car") for name in "ABC"
    ]
    chats = [
        [{"role": "system", "content": "Memory:\nx y"}, {"role": "user", "content": text}]
        for text in statements
    ]
    together = writer._decode(chats[:8], [None] * 8, 12, None, width=64)
    alone = [writer._decode([chat] * 8, [None] * 8, 12, None, width=64)[0] for chat in chats[:8]]
    assert together == alone
    assert writer.questions(statements) == [writer.questions([text])[0] for text in statements]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "gpt_neox"])
def test_peft_loads_what_is_exported(kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """PEFT's own loader gives the logits of the banks, and importing gives the banks back."""
    weights = FastWeights(tiny(kind), tokenizer, rank=16, last=2)
    banks = weights.banks_of(written(weights))
    export_peft(weights.banked, banks, tmp_path, base_name="tiny")
    ids = torch.tensor([[5, 9, 30, 7, 11]])
    with torch.no_grad():
        ours = weights.banked([bank[None] for bank in banks], input_ids=ids).logits
        lora = PeftModel.from_pretrained(tiny(kind), tmp_path)(input_ids=ids).logits
    torch.testing.assert_close(ours, lora, rtol=1e-4, atol=1e-5)
    imported = import_peft(weights.banked, tmp_path)
    for bank, again in zip(banks, imported, strict=True):
        torch.testing.assert_close(bank, again, rtol=1e-4, atol=1e-6)
    law = weights.rule_object
    brought = law.with_banks(imported)
    assert law.digest(brought) != law.digest(law.empty())
    for bank, again in zip(imported, law.banks(brought), strict=True):
        assert torch.equal(bank, again)


def test_a_lora_outside_the_bases_is_refused(weights: FastWeights, tmp_path: Path) -> None:
    export_peft(weights.banked, weights.banks_of(written(weights)), tmp_path, base_name="tiny")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: torch.randn_like(t) if "lora_A" in name else t for name, t in tensors.items()}, file)
    with pytest.raises(InputError, match="lies outside this model's basis"):
        import_peft(weights.banked, tmp_path)


def test_a_folder_that_is_no_lora_is_refused(weights: FastWeights, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter_config\.json is missing"):
        import_peft(weights.banked, tmp_path)


def test_a_model_is_loaded_from_a_folder(weights: FastWeights, tmp_path: Path) -> None:
    weights.model.save_pretrained(tmp_path)
    weights.tokenizer.save_pretrained(tmp_path)
    again = load_fast_weights(tmp_path, rank=16, last=2)
    assert again.fingerprint == weights.fingerprint
    assert load_fast_weights(tmp_path, rank=8, last=2).fingerprint != weights.fingerprint


def test_a_missing_model_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        ModelNotFound, match=r"no causal language model could be loaded from.*Expected 'mini', a folder"
    ):
        load_fast_weights(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(ModelNotFound):
        load_fast_weights(tmp_path)


def test_a_torn_weight_file_is_refused(weights: FastWeights, tmp_path: Path) -> None:
    weights.model.save_pretrained(tmp_path)
    weights.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError):
        load_fast_weights(tmp_path)
