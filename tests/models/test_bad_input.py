"""What a model says to input that it cannot use."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, Qwen3Config, Qwen3ForCausalLM

from nestmem.errors import InputError
from nestmem.models import MemoryCache, NestmemConfig, NestmemForCausalLM, config_for, matched, parameters

SIZES = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def model() -> NestmemForCausalLM:
    torch.manual_seed(0)
    return NestmemForCausalLM(config_for("deltanet", **SIZES)).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.arange(10).reshape(2, 5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pattern": ["titans", "memory"]}, "pattern is a list of attention"),
        ({"pattern": []}, "pattern is a list of attention"),
        ({"feed_forward": "mlp"}, "feed_forward is one of swiglu"),
        ({"options": {"delta": {}}}, r"options are for the layers of this model, attention; got \['delta'\]"),
        (
            {"options": {"titans": {}}},
            r"options are for the layers of this model, attention; got \['titans'\]",
        ),
        ({"prime": {"rates": 1.0}}, "prime has share, .*; got rates"),
        ({"prime": {}}, "prime needs a period"),
        ({"prime": {"period": 4, "share": 0.0}}, "above 0 and at most 1; got 0.0"),
        ({"num_attention_heads": 3}, "hidden_size is a multiple of num_attention_heads; got 8 and 3"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is a whole number, at least 1; got 0"),
        ({"format_version": 99}, "format 99, and this nestmem reads format 1"),
    ],
)
def test_configs(change, says):
    with pytest.raises(InputError, match=says):
        NestmemConfig(**(SIZES | change))


def test_options_that_a_layer_does_not_have():
    with pytest.raises(InputError, match=r"options of .deltanet. do not fit its layer.*chunks"):
        NestmemForCausalLM(config_for("deltanet", **SIZES, options={"deltanet": {"chunks": 4}}))


def test_names_and_fields_of_presets():
    with pytest.raises(InputError, match="no architecture is called 'mamba'; there are transformer"):
        config_for("mamba")
    with pytest.raises(InputError, match="a config has no width"):
        config_for("hope", width=4)
    with pytest.raises(InputError, match="100 are wanted"):
        matched("hope", 100, **SIZES)


def test_matched_sizes_are_near_the_target():
    for name in ("transformer", "titans_mag", "hope", "ttt_e2e"):
        found = parameters(matched(name, 20_000, **SIZES))
        assert abs(found - 20_000) < 400, (name, found)


def test_tokens_of_another_vocabulary(model, ids):
    with pytest.raises(
        InputError, match="below vocab_size 11; got 3 to 12: the tokenizer is another model's"
    ):
        model(ids + 3)
    with pytest.raises(InputError, match="whole numbers"):
        model(ids[0])


def test_masks_and_documents(model, ids):
    with pytest.raises(InputError, match=r"attention_mask is \[B, T\].*\[2, 4\]"):
        model(ids, attention_mask=torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(InputError, match="every place is padding"):
        model(ids, attention_mask=torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(InputError, match="document_ids are"):
        model(ids, document_ids=torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(InputError, match="packed rows, which leave no memory"):
        model(ids, document_ids=torch.zeros_like(ids), use_cache=True)


def test_labels(model, ids):
    with pytest.raises(
        InputError, match=r"labels are whole numbers \[B, T\] as input_ids, \[2, 5\]; got .*\[2, 4\]"
    ):
        model(ids, labels=ids[:, :4])
    with pytest.raises(InputError, match=r"labels are below vocab_size 11, or -100 .*; got 11"):
        model(ids, labels=ids + 3)


def test_arguments_that_it_does_not_know(model, ids):
    with pytest.raises(InputError, match="forward takes no documents_ids"):
        model(ids, documents_ids=torch.zeros_like(ids))
    with pytest.raises(InputError, match="forward takes no output_hidden_states"):
        model(ids, output_hidden_states=True)
    with pytest.raises(InputError, match="logits_to_keep is a number of columns; got Tensor"):
        model(ids, logits_to_keep=torch.tensor([1]))
    with pytest.raises(InputError, match=r"count 0, 1, 2, \.\.\. and start again"):
        model(ids, position_ids=torch.tensor([[0, 2, 3, 4, 5]] * 2))


def test_positions_that_start_again_are_documents(model, ids):
    positions = torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 3, 4]])
    documents = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    one = model(ids, position_ids=positions, labels=ids)
    other = model(ids, document_ids=documents, labels=ids)
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.loss, other.loss)


def test_caches_of_others(model, ids):
    with pytest.raises(InputError, match="a MemoryCache that this model returned; got DynamicCache"):
        model(ids, past_key_values=DynamicCache())
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(InputError, match="the memory is that of 2 rows"):
        model(ids[:1], past_key_values=cache)
    assert model(ids[:1], past_key_values=cache.select(torch.tensor([1]))).logits.shape == (1, 5, 11)
    with pytest.raises(InputError, match=r"the memory has rows 0 to 1; got \[2\]"):
        cache.select(torch.tensor([2]))


def test_memories_that_another_model_made(model, ids):
    memory = model(ids, use_cache=True).past_key_values
    other = NestmemForCausalLM(config_for("retnet", **SIZES)).eval()
    with pytest.raises(InputError, match="the memory is that of a model of another shape"):
        other(ids, past_key_values=memory)
    with pytest.raises(InputError, match="the memory was made by a model of another config"):
        memory.save("anywhere", other.config)
    for rows in (0, [[0]], [0.5], []):
        with pytest.raises(InputError, match=r"select takes rows \[M\]"):
            memory.select(torch.tensor(rows))
    assert memory.select([0, 0, 1]).rows == 3


def test_generating_from_nothing_new_or_behind_padding(model, ids):
    memory = model(ids, use_cache=True).past_key_values
    with pytest.raises(InputError, match=r"has read 5 tokens .* has 3; give all of it .*continued\(\)"):
        model.generate(ids[:, :3], past_key_values=memory, max_new_tokens=2, pad_token_id=10)
    made = model.generate(ids[:, :3], past_key_values=memory.continued(), max_new_tokens=2, pad_token_id=10)
    assert made.shape == (2, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with pytest.raises(InputError, match=r"a row ends in padding, .*padding_side"):
        model.generate(ids, attention_mask=mask, max_new_tokens=2, pad_token_id=10)


def test_learning_that_cannot_be_turned_off(model, ids):
    with (
        pytest.raises(InputError, match="no weights of this model learn from its own loss"),
        model.without_learning(),
    ):
        model(ids)


def test_contexts_longer_than_the_model_supports(ids):
    model = NestmemForCausalLM(config_for("transformer", **SIZES, max_position_embeddings=7)).eval()
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(InputError, match="10 tokens are more than max_position_embeddings, 7"):
        model(ids, past_key_values=cache)


def test_memories_of_other_models(model, ids, tmp_path):
    path = tmp_path / "memory.safetensors"
    model(ids, use_cache=True).past_key_values.save(path, model.config)
    other = NestmemForCausalLM(config_for("retnet", **SIZES))
    with pytest.raises(InputError, match="memory of a model of another shape"):
        other.load_memory(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        model.load_memory(path)
    with pytest.raises(FileNotFoundError, match="no saved state"):
        MemoryCache.load(tmp_path / "none", model.config)


def test_checkpoints_of_another_architecture(tmp_path):
    small = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    Qwen3ForCausalLM(
        Qwen3Config(**small, head_dim=8, num_key_value_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a checkpoint of architecture 'qwen3', not 'nestmem'"):
        NestmemForCausalLM.from_pretrained(tmp_path)


def test_checkpoints_of_another_version_or_shape(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"format_version": 2}))
    with pytest.raises(InputError, match="format 2, and this nestmem reads format 1"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    path.write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"not those of its config: missing keys such as \['blocks.2"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_truncated_checkpoints(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"the weights in .* are damaged"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
