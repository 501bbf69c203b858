"""Titans and its three ways beside attention, against plain loops over tokens; and what the printed MAC leaks."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from nestmem.errors import InputError
from nestmem.layers import Attention, Mixer, Titans, TitansMAC, TitansMAG, TitansMAL

WIDTH, HEADS, TOKENS = 8, 2, 11
SIZE = WIDTH // HEADS


def rows(batch: int = 2, tokens: int = TOKENS, seed: int = 4) -> torch.Tensor:
    return torch.randn(
        batch, tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def stirred(make: Callable[[], Mixer]) -> Mixer:
    """The layer with every parameter moved, so that none stands at a number which hides it."""
    torch.manual_seed(6)
    layer = make().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


# The papers' formulas for one sequence, without batches, heads as loops, gradients by autograd.


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def normed(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def convolved(conv: torch.nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """All tokens [T, D] of a sequence."""
    if conv is None:
        return F.silu(x)
    weight = conv.weight[:, 0]  # pyright: ignore
    size = weight.shape[-1]
    padded = torch.cat([x.new_zeros(size - 1, x.shape[1]), x])
    return F.silu(sum(weight[:, j] * padded[j : j + len(x)] for j in range(size)))  # pyright: ignore


class Memory:
    """The neural memory of one sequence, which has read all of `x` given so far."""

    def __init__(self, layer: Titans) -> None:
        self.layer, self.x = layer, torch.empty(0, WIDTH, dtype=torch.float64)
        self.weights = [[w[h] for w in layer.initial] for h in range(HEADS)]
        self.speed = [[torch.zeros_like(w) for w in each] for each in self.weights]
        self.anchor = self.weights

    def model(self, h: int, weights, k):
        z = k
        for i, w in enumerate(weights):
            z = (z if i == 0 else F.gelu(z)) @ w
        layer = self.layer
        if layer.norm_weight is not None and layer.norm_bias is not None:
            centred = z - z.mean()
            unit = centred / torch.sqrt(centred.square().mean() + 1e-6)
            return k + unit * layer.norm_weight[h] + layer.norm_bias[h]
        return k + z if len(weights) > 1 else z

    def token(self, x_t: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        place = len(self.x)
        self.x = torch.cat([self.x, x_t[None]])
        mixed = convolved(layer.conv, self.x @ layer.qkv.weight.T)[-1]
        if place % layer.chunk == 0:
            self.anchor = [list(each) for each in self.weights]
        logits = (layer.gates.weight @ x_t).reshape(-1, HEADS) + layer.gate_bias
        heads = []
        for h in range(HEADS):
            q, k, v = (part[h * SIZE : (h + 1) * SIZE] for part in mixed.split(WIDTH))
            rate, decay = layer.rate_max * torch.sigmoid(logits[0, h]), torch.sigmoid(logits[1, h])
            momentum = torch.sigmoid(logits[2, h]) if layer.momentum else 0.0
            at = [w.detach().requires_grad_() for w in self.anchor[h]]
            loss = (self.model(h, at, normed(k)) - v).square().sum()
            found = torch.autograd.grad(loss, at)
            self.speed[h] = [momentum * s - rate * g for s, g in zip(self.speed[h], found, strict=True)]
            self.weights[h] = [decay * w + s for w, s in zip(self.weights[h], self.speed[h], strict=True)]
            heads.append(self.model(h, self.weights[h], normed(q)))
        y = torch.cat([rms(head, layer.output.norm.weight) for head in heads])
        return layer.output.project.weight @ (y * F.silu(layer.output.gate.weight @ x_t))

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.token(x_t) for x_t in x])


def turned(x: torch.Tensor, place: int) -> torch.Tensor:
    """One head's vector as complex numbers x_i + i x_{i + K/2}, each turned by place 10000^(-2 i / K)."""
    half = SIZE // 2
    angle = place * 10_000.0 ** (-2 * torch.arange(half, dtype=torch.float64) / SIZE)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag])


def softmax_read(q: torch.Tensor, seen: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Attention of one query [D], each head turned already, over keys and values [D]."""
    out = []
    for h in range(HEADS):
        cut = slice(h * SIZE, (h + 1) * SIZE)
        keys, values = (torch.stack([pair[i][cut] for pair in seen]) for i in (0, 1))
        out.append(torch.softmax(keys @ q[cut] / math.sqrt(SIZE), 0) @ values)
    return torch.cat(out)


def turned_heads(x: torch.Tensor, place: int) -> torch.Tensor:
    return torch.cat([turned(part, place) for part in x.split(SIZE)])


def windowed(layer: Attention, x: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
    assert layer.window is not None
    always = []
    if prefix is not None:
        always = [(k, v) for _, k, v in (part.split(WIDTH) for part in prefix.detach() @ layer.qkv.weight.T)]
    made, kept = [], []
    for t, x_t in enumerate(x):
        q, k, v = (layer.qkv.weight @ x_t).split(WIDTH)
        kept.append((turned_heads(k, t), v))
        y = softmax_read(turned_heads(q, t), always + kept[-layer.window :])
        made.append(layer.output.weight @ y)
    return torch.stack(made)


def with_prefix(layer: Titans, x: torch.Tensor) -> torch.Tensor:
    return x if layer.persistent is None else torch.cat([layer.persistent, x])


def lmm(layer: Titans, x: torch.Tensor) -> torch.Tensor:
    return Memory(layer).tokens(with_prefix(layer, x))[-len(x) :]


def mag(layer: TitansMAG, x: torch.Tensor) -> torch.Tensor:
    y = rms(windowed(layer.attention, x, layer.memory.persistent), layer.attention_norm.weight)
    return y * torch.sigmoid(rms(lmm(layer.memory, x), layer.memory_norm.weight))


def mal(layer: TitansMAL, x: torch.Tensor) -> torch.Tensor:
    every = with_prefix(layer.memory, x)
    read = Memory(layer.memory).tokens(every)
    y = windowed(layer.attention, rms(every + read, layer.norm.weight), None)
    return (read + y)[-len(x) :]


def mac(layer: TitansMAC, x: torch.Tensor, *, literal: bool = False) -> torch.Tensor:
    """`literal` is the paper's text: all of h before the segment, and reads from the memory after it."""
    memory, made = Memory(layer.memory), []
    asked = convolved(layer.ask_conv, x @ layer.ask.weight.T)

    def pair(z: torch.Tensor, place: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        k, v = (layer.key_value.weight @ z).split(WIDTH)
        return (k if place is None else turned_heads(k, place)), v

    always = [] if layer.persistent is None else [pair(p, None) for p in layer.persistent]
    for start in range(0, len(x), layer.segment):
        segment = x[start : start + layer.segment]
        before = [list(each) for each in memory.weights]
        recalled = []
        for q in asked[start : start + layer.segment]:
            parts = [normed(part) for part in q.split(SIZE)]
            heads = [memory.model(h, before[h], part) for h, part in enumerate(parts)]
            recalled.append(torch.cat([rms(head, layer.recalled_norm.weight) for head in heads]))
        ys, reads = [], []
        for j, x_j in enumerate(segment):
            shown = range(len(segment) if literal else j + 1)
            seen = [pair(recalled[i], i) for i in shown] + [pair(segment[i], i) for i in range(j + 1)]
            q = turned_heads(layer.query.weight @ x_j, j)
            y = rms(
                layer.project.weight @ softmax_read(q, always + seen),
                layer.attention_norm.weight,
            )
            ys.append(y)
            reads.append(memory.token(y))
        if literal:
            reads = [after_all(memory, y, start + j) for j, y in enumerate(ys)]
        made += [
            y * torch.sigmoid(rms(read, layer.memory_norm.weight)) for y, read in zip(ys, reads, strict=True)
        ]
    return torch.stack(made)


def after_all(memory: Memory, y: torch.Tensor, place: int) -> torch.Tensor:
    """M_t(y) by the weights as they are after the segment."""
    layer = memory.layer
    q = convolved(layer.conv, memory.x @ layer.qkv.weight.T)[place, :WIDTH]
    heads = [memory.model(h, memory.weights[h], normed(part)) for h, part in enumerate(q.split(SIZE))]
    out = torch.cat([rms(head, layer.output.norm.weight) for head in heads])
    return layer.output.project.weight @ (out * F.silu(layer.output.gate.weight @ y))


CASES: dict[str, tuple[Callable[[], Mixer], Callable]] = {
    "lmm": (lambda: Titans(WIDTH, HEADS, chunk=4), lmm),
    "lmm, as printed": (lambda: Titans(WIDTH, HEADS, depth=3, norm=False, chunk=3, expansion=1), lmm),
    "lmm, linear": (
        lambda: Titans(WIDTH, HEADS, depth=1, norm=False, momentum=False, conv=0, chunk=2, persistent=2),
        lmm,
    ),
    "mac": (lambda: TitansMAC(WIDTH, HEADS, segment=4, persistent=2), mac),
    "mac, short chunks": (
        lambda: TitansMAC(WIDTH, HEADS, segment=5, chunk=2, conv=0, persistent=0),
        mac,
    ),
    "mac, segments of one": (lambda: TitansMAC(WIDTH, HEADS, segment=1, chunk=3), mac),
    "mag": (lambda: TitansMAG(WIDTH, HEADS, window=3, chunk=4, persistent=2), mag),
    "mag, no persistent": (lambda: TitansMAG(WIDTH, HEADS, window=5, chunk=4, persistent=0), mag),
    "mal": (lambda: TitansMAL(WIDTH, HEADS, window=3, chunk=4, persistent=2), mal),
    "mal, no persistent": (lambda: TitansMAL(WIDTH, HEADS, window=5, chunk=4, persistent=0), mal),
}


@pytest.mark.parametrize("name", CASES)
def test_the_plain_loop(name):
    make, loop = CASES[name]
    layer, x = stirred(make), rows()
    with torch.no_grad():
        y, _ = layer(x)
    with torch.enable_grad():
        expected = torch.stack([loop(layer, row).detach() for row in x])
    torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-8)


SEGMENT = 4


def changed_before(outputs: Callable[[torch.Tensor], torch.Tensor], place: int) -> torch.Tensor:
    """How far outputs at tokens before `place` move when that token changes, [place]."""
    x = rows(1, 2 * SEGMENT)[0]
    other = x.clone()
    other[place] += 1.0
    with torch.enable_grad():
        return (outputs(x).detach() - outputs(other).detach())[:place].abs().amax(-1)


def test_the_printed_mac_leaks_the_future_and_ours_does_not():
    layer = stirred(lambda: TitansMAC(WIDTH, HEADS, segment=SEGMENT, conv=0))
    assert isinstance(layer, TitansMAC)
    last = 2 * SEGMENT - 1
    literal = changed_before(lambda x: mac(layer, x, literal=True), last)
    # Every token of the last one's segment has seen it; the segment before has not.
    assert bool((literal[SEGMENT:] > 1e-4).all())
    assert bool((literal[:SEGMENT] < 1e-12).all())
    for place in range(1, last + 1):
        assert changed_before(lambda x: layer(x[None])[0][0], place).max() < 1e-12


def test_in_segments_of_one_token_the_printed_mac_is_ours():
    """Where nothing can leak they are one thing."""
    layer = stirred(lambda: TitansMAC(WIDTH, HEADS, segment=1, chunk=1, conv=0))
    assert isinstance(layer, TitansMAC)
    x = rows(1)
    with torch.enable_grad():
        expected = mac(layer, x[0], literal=True).detach()
    torch.testing.assert_close(layer(x)[0][0].detach(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layer", [Titans, TitansMAC, TitansMAG, TitansMAL])
def test_a_token_repeated_for_long_keeps_the_memory_bounded(layer):
    torch.manual_seed(0)
    made = layer(32, 2, rate=0.4)
    x = torch.randn(1, 400, 32)
    x[:, 100:] = x[:, 100:101]
    with torch.no_grad():
        y, state = made(x)
    memory = state.memory if layer is Titans else state.memory.memory
    assert bool(torch.isfinite(y).all())
    assert max(float(w.abs().max()) for w in memory.weights.values()) < 100


def test_without_its_norm_the_memory_diverges_on_a_repeated_token():
    torch.manual_seed(0)
    made = Titans(32, 2, rate=0.4, norm=False)
    with torch.no_grad():
        _, state = made(torch.randn(1, 1, 32).expand(1, 400, 32))
    weights = state.memory.weights.values()
    assert not all(bool((w.abs() < 100).all()) for w in weights)


def test_what_a_window_no_longer_shows_the_memory_still_tells():
    """Attention alone forgets a token after its window; MAG and MAL do not."""
    x = rows(1, 12)
    other = x.clone()
    other[:, 0] += 1.0
    for layer in (TitansMAG, TitansMAL):
        made = stirred(lambda layer=layer: layer(WIDTH, HEADS, window=3, chunk=4))
        assert not torch.allclose(made(x)[0][:, -1], made(other)[0][:, -1], atol=1e-6)
    alone = stirred(lambda: Attention(WIDTH, HEADS, window=3))
    torch.testing.assert_close(alone(x)[0][:, -1], alone(other)[0][:, -1])


def test_what_a_segment_no_longer_shows_the_memory_recalls():
    x = rows(1, 2 * SEGMENT)
    other = x.clone()
    other[:, 0] += 1.0
    made = stirred(lambda: TitansMAC(WIDTH, HEADS, segment=SEGMENT))
    assert not torch.allclose(made(x)[0][:, SEGMENT + 1], made(other)[0][:, SEGMENT + 1], atol=1e-6)


@pytest.mark.parametrize("layer", [Titans, TitansMAC, TitansMAG, TitansMAL])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, "multiple of heads"),
        ({"depth": 0}, "depth"),
        ({"expansion": 0}, "expansion"),
        ({"chunk": 0}, "chunk"),
        ({"conv": -1}, "conv"),
        ({"persistent": -1}, "persistent"),
        ({"rate": 0.0}, "rate < rate_max"),
        ({"rate": 1.0}, "rate < rate_max"),
    ],
)
def test_bad_options(layer, options, message):
    with pytest.raises(InputError, match=message):
        layer(**{"width": WIDTH, "heads": HEADS} | options)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (TitansMAC, {"segment": 0}, "segment"),
        (TitansMAC, {"width": 6}, "odd"),
        (TitansMAG, {"window": 0}, "window"),
        (TitansMAL, {"window": 0}, "window"),
    ],
)
def test_bad_options_of_one(layer, options, message):
    with pytest.raises(InputError, match=message):
        layer(**{"width": WIDTH, "heads": HEADS} | options)
