"""Stacked levels: pretrained models whose MLPs learn while they read."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from nestmem.core import load_state, save_state
from nestmem.errors import InputError
from nestmem.models.stacking import StackedForCausalLM, stack_levels

VOCABULARY, TOKENS = 19, 13

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama, tied, bias": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}, use_sliding_window=False)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "qwen3, windows": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ),
    "mistral, window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5)),
}


def make(name: str = "qwen3"):
    torch.manual_seed(0)
    return MODELS[name]().double().eval()


def tokens(batch: int = 2, seed: int = 1, count: int = TOKENS) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, count), generator=torch.Generator().manual_seed(seed))


def close(a, b) -> None:
    assert pytree.tree_structure(a) == pytree.tree_structure(b)
    for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_at_rate_zero_it_is_the_model(name):
    model, ids = make(name), tokens()
    expected = model(ids, labels=ids)
    stacked = stack_levels(model, {1: 4, 2: 2}, rate=0.0, learn_rate=False)
    loss, logits, _ = stacked(ids, labels=ids)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-10, atol=1e-10)
    # transformers' own loss is in float32.
    torch.testing.assert_close(loss.float(), expected.loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "qwen3, windows", "mistral, window"])
def test_pieces_are_the_whole(name):
    stacked, ids = stack_levels(make(name), {1: 4, 2: 2}, rate=0.5), tokens()
    _, whole, end = stacked(ids)
    for sizes in ([1] * TOKENS, [4, 4, 5], [3, 6, 4], [12, 1]):
        parts, state = [], None
        for piece in ids.split(sizes, 1):
            _, logits, state = stacked(piece, state=state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-9)
        close(state, end)


def test_it_is_a_plain_loop():
    """One sequence: the model's own forward over all tokens so far, and two MLPs written by autograd of its loss."""
    model, ids, period, rate, clip = make("qwen3"), tokens(1), 4, 0.5, 0.3
    names = [
        n for n, _ in model.named_parameters() if ".mlp." in n and ("layers.1." in n or "layers.2." in n)
    ]
    stacked = stack_levels(model, [period, period], rate=rate, clip=clip, learn_rate=False)
    _, found, state = stacked(ids)
    weights = {n: p.detach() for n, p in model.named_parameters() if n in names}
    cached, expected = [], []
    for begin in range(0, TOKENS, period):
        # Keys and values made by earlier weights stay as they were made.
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        last = min(begin + period, TOKENS)
        logits, cached = _with_past(model, leaves, ids[:, begin:last], cached)
        expected.append(logits.detach())
        if begin + period < TOKENS:
            loss = F.cross_entropy(logits[0], ids[0, begin + 1 : begin + period + 1])
            g = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            size = torch.stack([x.square().sum() for x in g.values()]).sum().sqrt()
            assert float(size) > clip
            weights = {n: w - rate * g[n] * clip / size for n, w in weights.items()}
    torch.testing.assert_close(found, torch.cat(expected, 1), rtol=1e-9, atol=1e-9)
    for n, w in weights.items():
        torch.testing.assert_close(state.late.learning.weights[n.removeprefix("model.")][0], w)


def _with_past(model, weights, ids, past):
    from transformers import DynamicCache

    cache: Any = DynamicCache(past) if past else DynamicCache()
    out = torch.func.functional_call(model, weights, (ids,), {"past_key_values": cache, "use_cache": True})
    return out.logits, [(layer.keys.detach(), layer.values.detach()) for layer in cache.layers]


def test_no_token_sees_the_future_and_rows_do_not_meet():
    stacked, ids = stack_levels(make(), {1: 2, 2: 4}, rate=0.5), tokens()
    _, whole, _ = stacked(ids)
    for place in range(TOKENS):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % VOCABULARY
        _, changed, _ = stacked(other)
        torch.testing.assert_close(changed[0, :place], whole[0, :place], rtol=0, atol=1e-12)
        torch.testing.assert_close(changed[1], whole[1], rtol=0, atol=1e-12)
        assert not torch.allclose(changed[0, place], whole[0, place])
    _, alone, _ = stacked(ids[1:])
    torch.testing.assert_close(alone[0], whole[1], rtol=1e-9, atol=1e-9)


def test_reading_a_text_again_lowers_its_loss():
    ids = tokens(1, count=8).repeat(1, 12)
    stacked = stack_levels(make("llama"), {1: 8, 2: 8}, rate=0.3)
    with pytest.raises(InputError, match="96 tokens are more than max_position_embeddings, 64"):
        stacked(ids)
    stacked.model.config.max_position_embeddings = 96
    with torch.no_grad():
        _, logits, _ = stacked(ids)
        fixed = stacked.model(ids).logits
    each, never = (
        F.cross_entropy(x[0, :-1], ids[0, 1:], reduction="none")[-8:].mean().item() for x in (logits, fixed)
    )
    assert each < 0.7 * never


@pytest.mark.parametrize("training", [True, False])
def test_training_reaches_every_parameter_and_the_rates(training):
    stacked, ids = stack_levels(make("llama, tied, bias"), {1: 2, 2: 4}, rate=0.3), tokens()
    stacked.train(training)
    stacked(ids, labels=ids).loss.backward()
    for name, p in stacked.named_parameters():
        assert p.grad is not None and bool((p.grad != 0).any()), name


def test_outer_gradient_is_the_derivative(monkeypatch):
    # transformers' norms compute in float32, which finite differences cannot see through.
    exact = lambda norm, x: F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)  # noqa: E731
    monkeypatch.setattr(Qwen3RMSNorm, "forward", exact)
    stacked, ids = stack_levels(make("qwen3"), {1: 2, 2: 4}, rate=0.3).train(), tokens(1, count=9)
    given = dict(stacked.named_parameters())
    chosen = [
        "log_rate",
        "model.model.layers.1.mlp.up_proj.weight",
        "model.model.layers.0.self_attn.k_proj.weight",
    ]

    def loss(*values):
        mine = dict(zip(chosen, values, strict=True))
        return torch.func.functional_call(stacked, mine, (ids, ids)).loss

    values = [given[n].detach().clone().requires_grad_() for n in chosen]
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


def test_generating_is_reading_what_was_written():
    stacked, ids = stack_levels(make("llama"), {1: 2, 2: 4}, rate=0.5), tokens(count=5)
    made, state = stacked.generate(ids, 7)
    assert made.shape == (2, 12) and torch.equal(made[:, :5], ids)
    _, logits, whole = stacked(made[:, :-1])
    assert torch.equal(logits[:, 4:].argmax(-1), made[:, 5:])
    close(state, whole)
    drawn = [
        stacked.generate(ids, 5, temperature=1.0, generator=torch.Generator().manual_seed(seed))[0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_saved_and_loaded(tmp_path):
    stacked, ids = (
        stack_levels(make("qwen3"), {1: 2, 2: 4}, rate=0.3, optimizer="momentum", momentum=0.5),
        tokens(),
    )
    with torch.no_grad():
        assert stacked.log_rate is not None
        stacked.log_rate.add_(torch.tensor([0.1, -0.2]))
    stacked.save(tmp_path)
    loaded = StackedForCausalLM.load(tmp_path, dtype=torch.float64).eval()
    assert loaded.periods == {1: 2, 2: 4}
    _, expected, state = stacked(ids)
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=1e-12, atol=1e-12)
    save_state(tmp_path / "state.safetensors", state.detach())
    again, _ = load_state(tmp_path / "state.safetensors")
    close(loaded(ids, state=again).logits, stacked(ids, state=state).logits)

    about = json.loads((tmp_path / "nestmem_levels.json").read_text())
    (tmp_path / "nestmem_levels.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(InputError, match="another format"):
        StackedForCausalLM.load(tmp_path)
    (tmp_path / "nestmem_levels.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        StackedForCausalLM.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="stack_levels makes"):
        StackedForCausalLM.load(tmp_path / "nothing")


def test_half_precision():
    stacked, ids = stack_levels(make("llama").bfloat16(), {1: 4, 2: 4}, rate=0.1), tokens()
    _, logits, state = stacked(ids)
    assert logits.dtype == torch.bfloat16 and bool(torch.isfinite(logits).all())
    assert all(w.dtype == torch.float32 for w in state.late.learning.weights.values())


def test_what_does_not_fit_is_refused():
    model = make()
    for periods, words in (
        ({3: 4}, r"layers 0\.\.2; got a period for layer 3"),
        ([4, 4, 4, 4], r"layers 0\.\.2; got a period for layer -1"),
        ([None, None], "names no layer"),
        ({1: 0}, "a period is a whole number"),
        ({1: 4, 2: 6}, "period 6 is not a multiple of the chunk, 4"),
    ):
        with pytest.raises(InputError, match=words):
            stack_levels(model, periods)
    with pytest.raises(InputError, match="a learned rate is positive"):
        stack_levels(model, [4], rate=0.0)
    with pytest.raises(InputError, match="no inner optimizer is called"):
        stack_levels(model, [4], optimizer="sgd")
    with pytest.raises(InputError, match="llama, mistral, qwen2, qwen3; got GPT2LMHeadModel"):
        stack_levels(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=19)), [4])
    for name, value, words in (
        ("attention_dropout", 0.1, "attention_dropout is 0.1"),
        ("rope_parameters", {"rope_type": "dynamic"}, "type dynamic"),
        ("_attn_implementation", "flex_attention", "flex_attention cannot"),
    ):
        other = make()
        setattr(other.config, name, value)
        with pytest.raises(InputError, match=words):
            stack_levels(other, [4])
    stacked = stack_levels(model, [4])
    with pytest.raises(InputError, match="below vocab_size 19"):
        stacked(tokens() + 10)
    with pytest.raises(InputError, match=r"whole numbers \[B, T\]"):
        stacked(tokens()[0])
    with pytest.raises(InputError, match="labels are"):
        stacked(tokens(), labels=tokens()[:, 1:])
    _, _, state = stacked(tokens())
    with pytest.raises(InputError, match="the state is that of 2 sequences"):
        stacked(tokens(3), state=state)
    with pytest.raises(InputError, match="StackedState"):
        stacked(tokens(), state=state.late)
