"""What every language model promises, in one table: a new architecture is one line."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from nestmem.models import NestmemConfig, NestmemForCausalLM, config_for

VOCABULARY, TOKENS = 23, 14
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    # So that layers are felt in the logits.
    "initializer_range": 0.3,
}
CMS = {"periods": [4, 8], "rate": 0.3}
PRIME = {"share": 0.5, "period": 4, "rate": 0.3, "clip": 1.0}
MODELS: dict[str, NestmemConfig] = {
    "transformer": config_for("transformer", **SIZES),
    "window": config_for("window", **SIZES, options={"window": {"window": 5}}),
    "retnet": config_for("retnet", **SIZES, options={"retention": {"chunk": 4}}),
    "deltanet": config_for("deltanet", **SIZES, options={"deltanet": {"chunk": 4}}),
    "gated deltanet": config_for("gated_deltanet", **SIZES, options={"gated_deltanet": {"chunk": 4}}),
    "ttt linear": config_for("ttt_linear", **SIZES, options={"ttt_linear": {"chunk": 4}}),
    "ttt mlp": config_for("ttt_mlp", **SIZES, options={"ttt_mlp": {"chunk": 4}}),
    "titans": config_for("titans_lmm", **SIZES, options={"titans": {"chunk": 4}}),
    "mac": config_for("titans_mac", **SIZES, options={"titans_mac": {"segment": 4}}),
    "mag": config_for("titans_mag", **SIZES, options={"titans_mag": {"chunk": 4, "window": 5}}),
    "mal": config_for("titans_mal", **SIZES, options={"titans_mal": {"chunk": 4, "window": 5}}),
    "self-modifying": config_for("self_modifying", **SIZES, options={"self_modifying": {"chunk": 4}}),
    "hope": config_for(
        "hope", **SIZES, options={"self_modifying": {"chunk": 4}, "continuum": CMS | {"objective": "lm"}}
    ),
    "hope, teach": config_for(
        "hope", **SIZES, options={"self_modifying": {"chunk": 4}, "continuum": CMS | {"objective": "teach"}}
    ),
    "hope, keys and values": config_for(
        "hope", **SIZES, options={"self_modifying": {"chunk": 4}, "continuum": CMS | {"objective": "kv"}}
    ),
    "hope, nested": config_for(
        "hope",
        **SIZES,
        options={"self_modifying": {"chunk": 4}, "continuum": CMS | {"variant": "nested"}},
    ),
    "hope, independent": config_for(
        "hope",
        **SIZES,
        options={"self_modifying": {"chunk": 4}, "continuum": CMS | {"variant": "independent"}},
    ),
    "hope attention": config_for("hope_attention", **SIZES, options={"continuum": CMS}),
    "ttt-e2e": config_for("ttt_e2e", **SIZES, options={"window": {"window": 5}}, prime=PRIME),
    "hybrid": config_for("hybrid", **SIZES | {"num_hidden_layers": 4}, options={"titans": {"chunk": 4}}),
}
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (3, TOKENS), generator=torch.Generator().manual_seed(5))


def make(name: str) -> NestmemForCausalLM:
    torch.manual_seed(0)
    return NestmemForCausalLM(MODELS[name]).double().eval()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def pieces(model: NestmemForCausalLM, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    logits, cache = [], None
    for piece in ids.split(sizes, 1):
        out = model(piece, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits.append(out.logits)
    return torch.cat(logits, 1)


@every_model
@torch.no_grad()
def test_one_token_at_a_time_is_the_whole(name, ids):
    model = make(name)
    whole = model(ids, use_cache=False).logits
    close(pieces(model, ids, [1] * TOKENS), whole)
    for cut in (1, 4, 5, 8, 13):
        close(pieces(model, ids, [cut, TOKENS - cut]), whole)
    close(pieces(model, ids, [3, 6, TOKENS - 9]), whole)


@every_model
@torch.no_grad()
def test_no_logit_sees_a_later_token(name, ids):
    model = make(name)
    before = model(ids).logits
    for place in (1, 4, 5, 8, TOKENS - 1):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % VOCABULARY
        after = model(changed).logits
        torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-11)
        assert not torch.allclose(before[:, place], after[:, place])


@every_model
@torch.no_grad()
def test_rows_do_not_meet(name, ids):
    model = make(name)
    close(model(ids).logits[1:2], model(ids[1:2]).logits)


@every_model
@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side, ids):
    model = make(name)
    lengths = [TOKENS, 9, 5]
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, -length:] = 1
    if side == "right":
        mask = mask.flip(1)
    out = model(ids, attention_mask=mask)
    more = torch.randint(0, VOCABULARY, (3, 3), generator=torch.Generator().manual_seed(6))
    then = model(more, past_key_values=out.past_key_values)
    for row in range(3):
        own = ids[row : row + 1, mask[row] == 1]
        alone = model(torch.cat([own, more[row : row + 1]], 1)).logits
        close(out.logits[row : row + 1, mask[row] == 1], alone[:, : own.shape[1]])
        close(then.logits[row : row + 1], alone[:, own.shape[1] :])
        assert bool((out.logits[row, mask[row] == 0] == 0).all())


@every_model
def test_packing_changes_nothing(name, ids):
    model = make(name)
    documents = torch.tensor(
        [[0] * 6 + [1] * 8, [0] * 3 + [1] * 3 + [2] * 8, [7] * 9 + [-1] * 5], dtype=torch.long
    )
    packed = model(ids, document_ids=documents, labels=ids, use_cache=False)
    total, count = 0.0, 0
    for row in range(3):
        for document in sorted(set(documents[row].tolist()) - {-1}):
            places = documents[row] == document
            alone = model(ids[row : row + 1, places], labels=ids[row : row + 1, places])
            close(packed.logits[row : row + 1, places], alone.logits)
            total, count = total + alone.loss * (places.sum() - 1), count + places.sum() - 1
    close(packed.loss, total / count)


@every_model
def test_every_parameter_gets_a_gradient(name, ids):
    model = make(name).train()
    model(ids, labels=ids).loss.backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None and value.grad.abs().max() > 0, parameter


@every_model
def test_checkpointed_gradients_are_the_same(name, ids):
    found = []
    for enable in (False, True):
        model = make(name).train()
        if enable:
            model.activation_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    for parameter, value in found[0].items():
        close(value, found[1][parameter])


@every_model
@torch.no_grad()
def test_saved_loaded_and_generating(name, ids, tmp_path):
    model = make(name)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert isinstance(loaded, PreTrainedModel) and isinstance(loaded, NestmemForCausalLM)
    assert AutoConfig.from_pretrained(tmp_path).pattern == MODELS[name].pattern
    close(model(ids).logits, loaded(ids).logits)

    made = loaded.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    expected = ids
    for _ in range(6):
        after = model(expected).logits[:, -1].argmax(-1)
        expected = torch.cat([expected, after[:, None]], 1)
    assert made.tolist() == expected.tolist()


@every_model
@torch.no_grad()
def test_rows_of_different_lengths_generate_as_alone(name, ids):
    model = make(name)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    together = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
    alone = model.generate(ids[1:2, 5:], max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert together[1, TOKENS:].tolist() == alone[0, TOKENS - 5 :].tolist()
    beams = {"num_beams": 2, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    together = model.generate(ids, attention_mask=mask, **beams)
    assert together[1, TOKENS:].tolist() == model.generate(ids[1:2, 5:], **beams)[0, TOKENS - 5 :].tolist()


@every_model
@torch.no_grad()
def test_it_remembers_between_sessions(name, ids, tmp_path):
    model = make(name)
    memory = model(ids[:, :9], use_cache=True).past_key_values
    memory.save(tmp_path / "memory.safetensors", model.config)
    again = make(name)
    loaded = again.load_memory(tmp_path / "memory.safetensors")
    rest = again(ids[:, 9:], past_key_values=loaded).logits
    close(rest, model(ids).logits[:, 9:])
    made = again.generate(
        ids[:, 9:], past_key_values=loaded, max_new_tokens=3, do_sample=False, pad_token_id=0
    )
    whole = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert made[:, -3:].tolist() == whole[:, -3:].tolist()


@every_model
@torch.no_grad()
def test_a_memory_holds_no_more_than_it_says(name, ids):
    """No state is a view of what was read: the bytes that are kept alive are those of the state."""
    model = make(name)
    state = model(torch.cat([ids] * 4, 1), use_cache=True).past_key_values.state
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in pytree.tree_leaves(state)}
    assert sum(held.values()) <= 1.5 * state.bytes(), (sum(held.values()), state.bytes())


@every_model
@torch.no_grad()
def test_beams_and_samples_go_on_from_a_memory(name, ids):
    model = make(name)
    memory = model(ids[:, :9], use_cache=True).past_key_values.continued()
    beams = {"num_beams": 2, "max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    made = model.generate(ids[:, 9:], past_key_values=memory, attention_mask=mask[:, 9:], **beams)
    whole = model.generate(ids, attention_mask=mask, **beams)
    assert made[:, -3:].tolist() == whole[:, -3:].tolist()


@every_model
def test_weights_of_one_dtype(name, ids, tmp_path):
    make(name).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    out = loaded(ids, use_cache=True)
    assert bool(torch.isfinite(loaded(ids[:, :2], past_key_values=out.past_key_values).logits).all())


@every_model
@torch.no_grad()
def test_memory_layers_keep_one_size(name, ids):
    model = make(name)
    long = torch.cat([ids, ids, ids], 1)
    early = model(long[:, :17], use_cache=True).past_key_values.state.bytes()
    late = model(long[:, :41], use_cache=True).past_key_values.state.bytes()
    if "attention" in model.config.pattern:
        assert late > early
    else:
        assert late == early


def test_losses_of_parts_of_a_batch_add_up(ids):
    """What transformers' Trainer does with gradient accumulation: a sum, divided by the tokens of the whole batch."""
    model = make("deltanet")
    labels = ids.masked_fill(ids < 4, -100)
    asked = int((labels[:, 1:] != -100).sum())
    parts = sum(
        model(ids[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=asked).loss
        for i in range(len(ids))
    )
    close(parts, model(ids, labels=labels).loss)


def test_a_folder_loads_without_nestmem_where_its_code_is_trusted(tmp_path):
    make("deltanet").save_pretrained(tmp_path)
    loads = (
        "import sys; from transformers import AutoModelForCausalLM; assert 'nestmem' not in sys.modules; "
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, trust_remote_code=True); "
        "print(type(model).__name__, model.num_parameters())"
    )
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", loads], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["NestmemForCausalLM", str(make("deltanet").num_parameters())], done.stderr


@pytest.mark.parametrize("first", ["nestmem", "transformers"])
def test_plain_transformers_loads_a_folder_after_importing_nestmem(first, tmp_path):
    make("deltanet").save_pretrained(tmp_path)
    second = "transformers" if first == "nestmem" else "nestmem"
    loads = (
        f"import {first}, {second}; "
        f"print(type(transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["NestmemForCausalLM"], done.stderr


def test_importing_nestmem_imports_no_torch():
    look = "import nestmem, sys; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "False"], done.stderr
