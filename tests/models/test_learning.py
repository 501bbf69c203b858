"""Models whose weights learn while they read, against a loop written plainly here."""

import copy

import pytest
import torch
import torch.nn.functional as F

from nestmem.models import NestmemForCausalLM, config_for

SIZES = {
    "vocab_size": 13,
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "initializer_range": 0.3,
}
PERIOD, RATE, CLIP = 4, 0.7, 0.5


def ttt_e2e(rate: float = RATE) -> NestmemForCausalLM:
    torch.manual_seed(0)
    prime = {"share": 0.25, "period": PERIOD, "rate": rate, "clip": CLIP}
    config = config_for("ttt_e2e", **SIZES, prime=prime, options={"window": {"window": 6}})
    return NestmemForCausalLM(config).double().eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 13, (1, 15), generator=torch.Generator().manual_seed(3))


def test_prime_mlps_stand_in_the_last_quarter_only():
    model = ttt_e2e()
    assert [block.prime is not None for block in model.blocks] == [False, False, False, True]
    assert {
        name for block in model.blocks for level in block.levels(model.config.prime) for name in level.names
    } == {
        "prime.gate.weight",
        "prime.up.weight",
        "prime.down.weight",
    }


def test_ttt_e2e_is_gradient_descent_on_what_was_read(ids):
    """W_i = W_{i-1} - rate clip(1/b sum of gradients of b losses); the whole model is read anew with each W_i.

    Attention looks back at keys made by blocks below the written MLP only, since it stands in the last block, so that
    reading everything again with other weights of that MLP gives the same keys.
    """
    model = ttt_e2e()
    plain = copy.deepcopy(model)
    names = [n for n, _ in plain.named_parameters() if ".prime.g" in n or ".prime.u" in n or ".prime.d" in n]
    expected = []
    for start in range(0, ids.shape[1], PERIOD):
        stop = min(start + PERIOD, ids.shape[1])
        with plain.without_learning():
            logits = plain(ids[:, : stop + 1], use_cache=False).logits[0]
        expected.append(logits[start:stop])
        if stop < ids.shape[1]:
            loss = F.cross_entropy(logits[start:stop], ids[0, start + 1 : stop + 1])
            fast = [plain.get_parameter(n) for n in names]
            gradients = torch.autograd.grad(loss, fast)
            norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            with torch.no_grad():
                for w, g in zip(fast, gradients, strict=True):
                    w -= RATE * g * min(1.0, CLIP / float(norm))
    torch.testing.assert_close(model(ids).logits[0], torch.cat(expected), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_reading_without_learning_is_the_plain_model(ids):
    model, still = ttt_e2e(), ttt_e2e(rate=0.0)
    learned = model(ids).logits
    with model.without_learning():
        torch.testing.assert_close(model(ids).logits, still(ids).logits, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(learned[:, PERIOD:], still(ids).logits[:, PERIOD:])
    torch.testing.assert_close(learned[:, :PERIOD], still(ids).logits[:, :PERIOD], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(ids).logits, learned, rtol=0, atol=0)


def test_the_outer_gradient_goes_through_the_writes(ids):
    """The derivative of the loss by an initial weight, against finite differences, and not that of first order."""
    model = ttt_e2e().train()
    weight = model.get_parameter("blocks.3.prime.up.weight")
    model(ids, labels=ids).loss.backward()
    step = 1e-6
    with torch.no_grad():
        found = []
        for sign in (1, -1):
            weight[2, 3] += sign * step
            found.append(model(ids, labels=ids).loss.item())
            weight[2, 3] -= sign * step
    assert weight.grad[2, 3].item() == pytest.approx((found[0] - found[1]) / (2 * step), rel=1e-5)
    exact = weight.grad.clone()
    still = ttt_e2e(rate=0.0).train()
    still(ids, labels=ids).loss.backward()
    assert not torch.allclose(exact, still.get_parameter("blocks.3.prime.up.weight").grad, rtol=1e-3)


def test_learning_lowers_the_loss_of_what_comes_again(ids):
    """A text that repeats is better predicted the second time by a model that learned from the first."""
    again = torch.cat([ids[:, :12]] * 3, 1)
    losses = {}
    for rate in (0.0, RATE):
        logits = ttt_e2e(rate)(again).logits
        losses[rate] = F.cross_entropy(logits[0, 23:-1], again[0, 24:]).item()
    assert losses[RATE] < losses[0.0] - 0.05


@pytest.mark.parametrize("objective", ["lm", "teach"])
def test_the_inner_loss_of_a_continuum_memory(objective, ids):
    """What the levels of all blocks have become after the first period is one step on that loss."""
    torch.manual_seed(0)
    options = {
        "continuum": {
            "periods": [PERIOD],
            "objective": objective,
            "rate": RATE,
            "clip": None,
            "learn_rate": False,
        }
    }
    config = config_for("hope_attention", **SIZES | {"num_hidden_layers": 2}, options=options)
    model = NestmemForCausalLM(config).double().eval()
    memory = model(ids[:, : PERIOD + 1], use_cache=True).past_key_values
    weights = memory.state.states[0].late.learning.weights

    h = model.embed_tokens(ids[:, :PERIOD])
    added = []
    for block in model.blocks:
        y, _ = block.mixer(block.mixer_norm(h))
        h = h + y
        x = block.feed_forward_norm(h)
        y, _ = block.feed_forward(x)
        h = h + y
        added.append(block.feed_forward(x.detach())[0])
    logits = model.lm_head(model.norm(h))[0]
    loss = F.cross_entropy(logits, ids[0, 1 : PERIOD + 1])
    if objective == "teach":
        delta = logits.softmax(-1) - F.one_hot(ids[0, 1 : PERIOD + 1], 13)
        loss = ((delta @ model.lm_head.weight).detach() * sum(added)[0]).sum(-1).mean()
    names = [n for n, _ in model.named_parameters() if "feed_forward.mlps" in n]
    for name, g in zip(
        names, torch.autograd.grad(loss, [model.get_parameter(n) for n in names]), strict=True
    ):
        expected = model.get_parameter(name) - RATE * g
        torch.testing.assert_close(weights[name.removeprefix("blocks.")][0], expected, rtol=1e-9, atol=1e-10)
