"""Self-modifying Titans: the layer is its rule between a convolution and an output projection."""

import pytest
import torch
import torch.nn.functional as F

from nestmem.core import L2, Dot
from nestmem.errors import InputError
from nestmem.layers import SelfModifying
from nestmem.ops import selfmod

WIDTH, HEADS, TOKENS = 8, 2, 11


def rows(batch: int = 2, tokens: int = TOKENS) -> torch.Tensor:
    return torch.randn(batch, tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def layer_of(**options) -> SelfModifying:
    torch.manual_seed(2)
    return SelfModifying(WIDTH, HEADS, **options).double()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"chunk": 4}, {"chunk": 4}),
        ({"chunk": 4, "unit_values": False}, {"chunk": 4, "unit_values": False}),
        ({"chunk": 4, "chunk_aux": 2, "hidden": 3}, {"chunk": 4, "chunk_aux": 2}),
        ({"chunk": 1, "objective": "dot", "depth": 1}, {"chunk": 1, "objective": Dot()}),
        ({"chunk": 1, "objective": "square", "depth": 1}, {"chunk": 1, "objective": L2(1.0)}),
        ({"chunk": 3, "read": "token", "adaptive_q": True}, {"chunk": 3, "read": "token"}),
        (
            {"chunk": 2, "activation": "silu", "rate": 0.3, "decay": 0.9, "rate_max": 0.5},
            {"chunk": 2, "activation": "silu"},
        ),
    ],
)
def test_the_layer_is_the_rule_as_a_loop(options, rule):
    layer, x = layer_of(**options), rows()
    y, after = layer(x)

    def heads(z):
        z = z.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        return z / z.norm(dim=-1, keepdim=True)

    assert layer.conv is not None
    window = F.pad(x, (0, 0, 3, 0)).unfold(1, 4, 1)
    mixed = F.silu((window * layer.conv.weight[:, 0]).sum(-1))
    queries = heads(mixed) if layer.query is None else heads(mixed @ layer.query.weight.T)
    readout = selfmod.Readout(
        rate_weight=layer.rate_weight,
        rate_bias=layer.rate_bias,
        decay_weight=layer.decay_weight,
        decay_bias=layer.decay_bias,
        rate_max=options.get("rate_max", 1.0),
    )
    start = {}
    for name, w in layer.initial.items():
        shares = [min(1.0, (w.shape[-1] / float(head.detach().square().sum())) ** 0.5) for head in w]
        start[name.replace("_", ".")] = w * torch.tensor(shares, dtype=w.dtype)[:, None, None]
    start = selfmod.init(2, weights=start)
    out, memory = selfmod.recurrent(
        queries,
        heads(mixed),
        readout,
        start,
        **{"objective": L2(0.5), "unit_values": True, **rule},
        check=False,
    )
    torch.testing.assert_close(y, layer.output(out, x), rtol=1e-8, atol=1e-8)
    for name, w in memory.weights.items():
        torch.testing.assert_close(after.memory.weights[name], w, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2])
def test_every_initial_memory_is_learned_through_its_writes(depth):
    layer = layer_of(chunk=3, depth=depth, adaptive_q=True)
    y, _ = layer(rows())
    y.sin().sum().backward()
    assert {name.split("_")[0] for name in layer.initial} == {*selfmod.MEMORIES, "queries"}
    for name, w in layer.initial.items():
        assert w.grad is not None
        # Each head's memory on its own.
        assert bool((w.grad.flatten(1).abs().amax(1) > 0).all()), name


def test_within_the_first_chunk_only_the_first_memory_is_read():
    """With reads before the chunk, what is written shows from the next chunk on."""
    layer = layer_of(chunk=TOKENS)
    layer(rows())[0].sin().sum().backward()
    assert layer.initial["memory_0"].grad.abs().max() > 0
    for name in ("keys_0", "values_0", "rate_0", "decay_0"):
        grad = layer.initial[name].grad
        assert grad is None or bool((grad == 0).all())


def test_gates_start_where_they_are_told_to():
    layer = layer_of(rate=0.1, decay=0.9)
    assert torch.allclose(layer.decay_bias.sigmoid(), torch.tensor(0.9, dtype=torch.float64))
    share = layer.decay_bias.sigmoid() * layer.rate_bias.sigmoid()
    assert torch.allclose(share, torch.tensor(0.1, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("chunk", [4, 32])
def test_inputs_of_any_size_keep_the_memory_bounded(scale, chunk):
    torch.manual_seed(0)
    layer = SelfModifying(32, HEADS, chunk=chunk, rate=0.2)
    with torch.no_grad():
        # As training might leave them.
        for w in layer.initial.values():
            w.mul_(5)
        x = scale * torch.randn(1, 600, 32)
        x[:, 300:] = x[:, 300:301]
        y, state = layer(x)
    assert bool(torch.isfinite(y).all())
    assert max(float(w.abs().max()) for w in state.memory.weights.values()) < 10


def test_large_starts_with_values_of_any_length_diverge():
    """What unit values and bounded starts are for: one token again and again, in the bare rule."""
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(1, HEADS, 1, 32), dim=-1).expand(1, HEADS, 600, 32)
    state, readout = selfmod.init(1, HEADS, dim=32), selfmod.Readout.init(HEADS, 32, rate=0.2, decay=0.999)
    sizes = {}
    for scale, unit_values in ((1.5, False), (1.0, True)):
        start = selfmod.init(1, weights={name: scale * w[0] for name, w in state.weights.items()})
        _, after = selfmod.chunked(x, x, readout, start, chunk=16, unit_values=unit_values, check=False)
        sizes[unit_values] = max(float(w.abs().max()) for w in after.weights.values())
    assert sizes[True] < 10
    assert not sizes[False] < 100


def test_half_precision_keeps_its_state_in_float32():
    layer = layer_of(chunk=4).bfloat16()
    y, state = layer(rows().bfloat16())
    assert y.dtype == torch.bfloat16
    assert {w.dtype for w in state.memory.weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, "multiple of heads"),
        ({"chunk": 0}, "chunk is a whole number"),
        ({"chunk": 4, "chunk_aux": 3}, "multiple of the other"),
        ({"chunk_aux": 0}, "chunk_aux"),
        ({"objective": "huber"}, "objective is one of"),
        ({"read": "now"}, "read is"),
        ({"depth": 3}, "depth is 1"),
        ({"depth": 1, "hidden": 4}, "no hidden layer"),
        ({"hidden": 0}, "hidden"),
        ({"activation": "tanh"}, "activation is one of"),
        ({"conv": -1}, "conv"),
        ({"rate": 0.99, "decay": 0.9}, "rate < rate_max decay"),
        ({"rate_max": 2.0}, "rate_max"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        SelfModifying(**{"width": WIDTH, "heads": HEADS} | options)
