"""What every sequence layer promises, in one table: a new layer is one line."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from nestmem.core import load_state, save_state
from nestmem.errors import InputError
from nestmem.layers import (
    TTT,
    Attention,
    DeltaNet,
    Mixer,
    Retention,
    SelfModifying,
    Titans,
    TitansMAC,
    TitansMAG,
    TitansMAL,
)
from nestmem.layers.continuum import ContinuumMemory

WIDTH, HEADS, TOKENS = 8, 2, 13

LAYERS: dict[str, Callable[[], Mixer]] = {
    "attention": lambda: Attention(WIDTH, HEADS),
    "attention, norm": lambda: Attention(WIDTH, HEADS, qk_norm=True),
    "window": lambda: Attention(WIDTH, HEADS, window=4),
    "window of one": lambda: Attention(WIDTH, HEADS, window=1),
    "retention": lambda: Retention(WIDTH, HEADS, chunk=4),
    "delta": lambda: DeltaNet(WIDTH, HEADS, chunk=4),
    "delta, negative": lambda: DeltaNet(WIDTH, HEADS, negative_eigenvalues=True, chunk=4),
    "gated delta": lambda: DeltaNet(WIDTH, HEADS, gated=True, chunk=4),
    "ttt linear": lambda: TTT(WIDTH, HEADS, chunk=4),
    "ttt mlp": lambda: TTT(WIDTH, HEADS, memory="mlp", chunk=4, expansion=2),
    "ttt, conv, gate": lambda: TTT(WIDTH, HEADS, chunk=3, conv=3, gate=True),
    "titans": lambda: Titans(WIDTH, HEADS, chunk=4),
    "titans, linear": lambda: Titans(WIDTH, HEADS, depth=1, norm=False, chunk=4, conv=0, momentum=False),
    "titans, linear with norm": lambda: Titans(WIDTH, HEADS, depth=1, chunk=4),
    "titans, deep": lambda: Titans(WIDTH, HEADS, depth=3, chunk=5, persistent=3),
    "titans mac": lambda: TitansMAC(WIDTH, HEADS, segment=4, persistent=3),
    "titans mac, short chunks": lambda: TitansMAC(WIDTH, HEADS, segment=5, chunk=2, conv=0, persistent=0),
    "titans mag": lambda: TitansMAG(WIDTH, HEADS, window=4, chunk=4, persistent=3),
    "titans mal": lambda: TitansMAL(WIDTH, HEADS, window=4, chunk=4, persistent=3),
    "self-modifying": lambda: SelfModifying(WIDTH, HEADS, chunk=4),
    "self-modifying, two clocks": lambda: SelfModifying(WIDTH, HEADS, chunk=4, chunk_aux=2, conv=0, hidden=6),
    "self-modifying, token": lambda: SelfModifying(WIDTH, HEADS, chunk=4, read="token", adaptive_q=True),
    "self-modifying, linear": lambda: SelfModifying(WIDTH, HEADS, chunk=1, depth=1, objective="dot"),
    "self-modifying, tracking": lambda: SelfModifying(
        WIDTH, 1, chunk=1, depth=1, objective="square", rate=0.5, read="token"
    ),
    "continuum": lambda: ContinuumMemory(WIDTH, 6, learn_rate=False),
    "continuum, kv": lambda: ContinuumMemory(WIDTH, 6, periods=(2, 4, None), objective="kv", rate=0.3),
    "continuum, kv, nested": lambda: ContinuumMemory(
        WIDTH, 6, periods=(2, 4), objective="kv", variant="nested", optimizer="momentum", momentum=0.5
    ),
    "continuum, kv, independent": lambda: ContinuumMemory(
        WIDTH, 6, periods=(3, None), objective="kv", variant="independent", optimizer="muon", mlp="gelu"
    ),
}
# Attention keeps tokens; every other state has one size for any length.
GROWING = {"attention", "attention, norm"}

every_layer = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def make(name: str) -> Mixer:
    torch.manual_seed(0)
    return LAYERS[name]().double()


def close(a, b) -> None:
    assert pytree.tree_structure(a) == pytree.tree_structure(b)
    for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def pieces(layer: Mixer, x: torch.Tensor, sizes: list[int]):
    outputs, state = [], None
    for piece in x.split(sizes, 1):
        y, state = layer(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


@every_layer
@pytest.mark.parametrize("cut", range(1, TOKENS))
def test_two_pieces_are_the_whole(name, cut, tokens):
    layer = make(name)
    close(pieces(layer, tokens, [cut, TOKENS - cut]), layer(tokens))


@every_layer
def test_token_by_token_is_the_whole(name, tokens):
    layer = make(name)
    close(pieces(layer, tokens, [1] * TOKENS), layer(tokens))


@every_layer
@pytest.mark.parametrize("place", [0, 3, 4, 7, TOKENS - 1])
def test_no_token_sees_a_later_one(name, place, tokens):
    layer = make(name)
    changed = tokens.clone()
    changed[:, place] += 1.0
    before, after = layer(tokens)[0], layer(changed)[0]
    torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, place], after[:, place])


@every_layer
def test_rows_do_not_meet(name, tokens):
    layer = make(name)
    whole = layer(tokens)[0]
    torch.testing.assert_close(whole[1:], layer(tokens[1:])[0], rtol=1e-9, atol=1e-9)
    other = torch.cat([tokens[:1] + 1.0, tokens[1:]])
    torch.testing.assert_close(whole[1:], layer(other)[0][1:], rtol=0, atol=1e-12)


@every_layer
def test_every_parameter_gets_a_gradient(name, tokens):
    layer = make(name)
    layer(tokens)[0].square().sum().backward()
    for parameter, value in layer.named_parameters():
        assert value.grad is not None and value.grad.abs().max() > 0, parameter


@every_layer
def test_gradients_through_a_carried_state(name, tokens):
    layer = make(name)
    found = []
    for sizes in ([TOKENS], [5, 1, TOKENS - 6]):
        x = tokens.clone().requires_grad_()
        y, _ = pieces(layer, x, sizes)
        parameters = [x, *layer.parameters()]
        found.append(torch.autograd.grad(y.sin().sum(), parameters))
    close(*found)


@every_layer
def test_inside_an_inner_loop(name, tokens):
    """vmap over sequences and grad over parameters, which is how an end-to-end memory calls a layer."""
    layer = make(name)
    parameters = {n: p.detach() for n, p in layer.named_parameters()}

    def loss(given, x):
        y, _ = torch.func.functional_call(layer, given, (x[None],))
        return y[0].sin().sum()

    with sdpa_kernel(SDPBackend.MATH):
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, tokens)
    layer(tokens[1:])[0].sin().sum().backward()
    for n, p in layer.named_parameters():
        torch.testing.assert_close(each[n][1], p.grad, rtol=1e-8, atol=1e-10)


@every_layer
def test_recomputed_in_backward(name, tokens):
    if "kv" in name:
        pytest.skip("torch.func.grad refuses saved tensor hooks; the layer recomputes by itself in training")
    layer = make(name)
    x = tokens.clone().requires_grad_()
    plain = torch.autograd.grad(layer(x)[0].sin().sum(), x)
    again = torch.autograd.grad(checkpoint(layer, x, None, use_reentrant=False)[0].sin().sum(), x)
    close(plain, again)


@every_layer
def test_a_saved_state_goes_on(name, tokens, tmp_path):
    layer = make(name)
    _, state = layer(tokens[:, :6])
    save_state(tmp_path / "state.safetensors", state.detach())
    loaded, _ = load_state(tmp_path / "state.safetensors")
    close(layer(tokens[:, 6:], loaded), layer(tokens[:, 6:], state))


@every_layer
def test_the_state_has_one_size(name, tokens):
    layer = make(name)
    _, early = layer(tokens[:, :8])
    _, late = layer(tokens)
    if name in GROWING:
        assert late.bytes() > early.bytes()
    else:
        assert late.bytes() == early.bytes()


@every_layer
def test_the_state_of_another_layer_is_refused(name, tokens):
    layer = make(name)
    other = Attention(WIDTH, HEADS) if not isinstance(layer, Attention) else DeltaNet(WIDTH, HEADS)
    _, state = other.double()(tokens)
    with pytest.raises(InputError, match=r"state is a \w+ from init; got (KeyValues|LayerState)"):
        layer(tokens, state)


@every_layer
def test_half_precision(name, tokens):
    layer = make(name).bfloat16()
    y, state = layer(tokens.bfloat16())
    assert y.dtype == torch.bfloat16
    y, _ = layer(tokens.bfloat16(), state)
    assert bool(torch.isfinite(y).all())
