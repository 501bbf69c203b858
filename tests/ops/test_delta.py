"""The delta rule: what it stores, its limits and neighbours, bad input, and the call of fla's kernels."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nestmem.core import L2, Gates, GradientDescent, Linear, Memory, Period
from nestmem.errors import InputError, MissingExtra
from nestmem.ops import delta, kernels, linear

B, H, T, K, V = 2, 3, 21, 4, 5
both = pytest.mark.parametrize("scan", [delta.chunked, delta.recurrent])


def inputs(
    dtype=torch.float64, *, tokens: int = T, highest: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """queries, unit keys, values, rate."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, H, tokens, d, generator=generator, dtype=torch.float64) for d in (K, K, V))
    rate = highest * torch.rand(B, H, tokens, generator=generator, dtype=torch.float64)
    return q.to(dtype), F.normalize(k, dim=-1).to(dtype), v.to(dtype), rate.to(dtype)


def decays(low: float, dtype=torch.float64, tokens: int = T) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return (low + (1 - low) * torch.rand(B, H, tokens, generator=generator, dtype=torch.float64)).to(dtype)


def assert_same(found, expected, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    weights = (found[1].weights["0"], expected[1].weights["0"])
    torch.testing.assert_close(*weights, rtol=tolerance, atol=tolerance)
    assert found[1].position == expected[1].position


@both
def test_orthonormal_keys_store_as_many_pairs_as_they_are_wide(scan) -> None:
    d = 16
    k = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0][None, None]
    v = torch.randn(1, 1, d, V, dtype=torch.float64)
    _, state = scan(k, k, v, torch.ones(1, 1, d, dtype=torch.float64), chunk=5)
    torch.testing.assert_close(k @ state.weights["0"], v)


@both
def test_a_key_written_again_holds_the_new_value_only(scan) -> None:
    _, k, v, _ = inputs()
    k = k[:, :, :1].expand(B, H, T, K)
    _, state = scan(k, k, v, torch.ones(B, H, T, dtype=torch.float64), chunk=8)
    torch.testing.assert_close(k[:, :, :1] @ state.weights["0"], v[:, :, -1:])


@both
def test_it_is_gradient_descent_on_half_the_squared_error(scan) -> None:
    """arXiv 2406.06484, section 2.2: the core's linear memory with L2(1/2) and one step per token."""
    q, k, v, _ = inputs()
    memory = Memory(model=Linear(K, V), objective=L2(0.5), optimizer=GradientDescent(), period=Period(1))
    start = memory.init(B, H, dtype=torch.float64)
    expected = memory.scan(start, q, k, v, Gates(rate=0.3), chunked=False)
    rate = torch.full((B, H, T), 0.3, dtype=torch.float64)
    assert_same(scan(q, k, v, rate, None, start), expected)


@both
def test_decay_one_is_deltanet_and_rate_zero_only_forgets(scan) -> None:
    q, k, v, rate = inputs()
    ones, zeros = torch.ones_like(rate), torch.zeros_like(rate)
    assert_same(scan(q, k, v, rate, ones, chunk=8), scan(q, k, v, rate, chunk=8))
    start = delta.init(B, H, K, V, weights={"0": torch.randn(H, K, V, dtype=torch.float64)})
    decay = decays(0.5)
    _, state = scan(q, k, v, zeros, decay, start, chunk=8)
    kept = decay.prod(-1)[..., None, None]
    torch.testing.assert_close(state.weights["0"], kept * start.weights["0"])


def test_small_writes_of_large_values_are_linear_attention() -> None:
    """rate e with values v / e: what is erased vanishes like e, and linear attention with decay is left."""
    q, k, v, _ = inputs()
    decay = decays(0.5)
    expected, _ = linear.chunked(q, k, v, decay)
    errors = []
    for small in (1e-3, 5e-4):
        out, _ = delta.chunked(q, k, v / small, torch.full_like(decay, small), decay)
        errors.append(float((out - expected).norm()))
    assert errors[0] < 0.05 * float(expected.norm())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.01)


@both
def test_rate_two_reflects_and_so_keeps_parity(scan) -> None:
    """arXiv 2411.12537: the eigenvalue 1 - rate = -1 along the key flips a sign at every 1, for any length."""
    tokens = 200
    bits = torch.randint(0, 2, (1, 1, tokens), generator=torch.Generator().manual_seed(3)).double()
    k = torch.ones(1, 1, tokens, 1, dtype=torch.float64)
    start = delta.init(1, 1, 1, 1, weights={"0": torch.ones(1, 1, 1, dtype=torch.float64)})
    out, _ = scan(k, k, torch.zeros_like(k), 2 * bits, None, start, negative_eigenvalues=True, chunk=64)
    torch.testing.assert_close(out[0, 0, :, 0], 1 - 2 * (bits.cumsum(-1)[0, 0] % 2))


def test_without_values_a_stable_rate_never_grows_the_state() -> None:
    q, k, v, rate = inputs(highest=2.0)
    start = delta.init(B, H, K, V, weights={"0": torch.randn(H, K, V, dtype=torch.float64)})
    norm, state = torch.linalg.matrix_norm(start.weights["0"]), start
    for t in range(T):
        q_t, k_t, v_t, rate_t = (x[:, :, t : t + 1] for x in (q, k, 0 * v, rate))
        _, state = delta.chunked(q_t, k_t, v_t, rate_t, None, state, negative_eigenvalues=True)
        now = torch.linalg.matrix_norm(state.weights["0"])
        assert (now <= norm + 1e-12).all()
        norm = now


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 64])
def test_any_chunk_gives_the_same(chunk: int, decay: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, rate = inputs(highest=2.0)
    gate = decays(0.01) if decay else None
    start = delta.init(B, H, K, V, weights={"0": torch.randn(H, K, V, dtype=torch.float64)})
    expected = delta.recurrent(q, k, v, rate, gate, start, negative_eigenvalues=True)
    for span in (1, 60, 8192):
        monkeypatch.setattr("nestmem.ops.linear.chunk.SPAN_TOKENS", span)
        assert_same(
            delta.chunked(q, k, v, rate, gate, start, negative_eigenvalues=True, chunk=chunk), expected
        )


@pytest.mark.parametrize("strength", [0.01, 1e-6, 1e-30])
def test_strong_decay_in_float32(strength: float) -> None:
    q, k, v, rate = inputs(torch.float32, tokens=130)
    decay = torch.full((B, H, 130), strength)
    decay[:, :, ::3] = 1.0
    leaves = [x.requires_grad_() for x in (q, k, v, rate, decay)]
    out, state = delta.chunked(q, k, v, rate, decay, chunk=64)
    exact, exact_state = delta.recurrent(q.double(), k.double(), v.double(), rate.double(), decay.double())
    torch.testing.assert_close(out.double(), exact, rtol=2e-6, atol=5e-6)
    torch.testing.assert_close(state.weights["0"].double(), exact_state.weights["0"], rtol=2e-6, atol=5e-6)
    weigh = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((out * weigh).sum(), leaves)
    expected = torch.autograd.grad((exact * weigh).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [1.0, 2.0])
def test_equal_keys_in_float32(rate: float) -> None:
    """The hardest triangular system: every key of the chunk is the same, and rate 2 only reflects."""
    q, k, v, _ = inputs(torch.float32, tokens=256)
    k = k[:, :, :1].expand_as(k)
    rates = torch.full((B, H, 256), rate)
    out, _ = delta.chunked(q, k, v, rates, negative_eigenvalues=True, chunk=64)
    exact, _ = delta.recurrent(q.double(), k.double(), v.double(), rates.double(), negative_eigenvalues=True)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


@both
def test_normalize_is_unit_queries_and_keys(scan) -> None:
    q, k, v, rate = inputs()
    expected = scan(F.normalize(q, dim=-1), k, v, rate)
    assert_same(scan(7 * q, 3 * k, v, rate, normalize=True), expected, 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tokens_are_summed_in_float32(dtype: torch.dtype) -> None:
    q, k, v, rate = inputs(dtype)
    decay = decays(0.5, dtype)
    out, state = delta.chunked(q, k, v, rate, decay, chunk=8)
    assert out.dtype == dtype
    assert state.weights["0"].dtype == torch.float32
    exact, exact_state = delta.recurrent(
        q.double(), k.double(), v.double(), rate.double(), decay.double(), check=False
    )
    torch.testing.assert_close(out, exact.to(dtype))
    torch.testing.assert_close(state.weights["0"], exact_state.weights["0"].float(), rtol=1e-5, atol=1e-5)


def test_unit_keys_rounded_to_half_precision_bear_rate_two() -> None:
    generator = torch.Generator().manual_seed(0)
    k = F.normalize(torch.randn(1, 1, 2000, 64, generator=generator), dim=-1).bfloat16()
    delta.chunked(k, k, k, torch.full((1, 1, 2000), 2.0), negative_eigenvalues=True)


@pytest.mark.parametrize("decay", [False, True])
def test_vmap_and_compile(decay: bool) -> None:
    q, k, v, rate = inputs()
    gate = decays(0.5) if decay else None

    def scan(q: Tensor, v: Tensor) -> Tensor:
        return delta.chunked(q, k, v, rate, gate, chunk=8)[0]

    expected = scan(q, v)
    stacked = torch.func.vmap(scan)(torch.stack([q, 2 * q]), torch.stack([v, 3 * v]))
    torch.testing.assert_close(stacked, torch.stack([expected, 6 * expected]))
    torch.testing.assert_close(torch.compile(scan, backend="eager", fullgraph=True)(q, v), expected)


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": torch.ones(B, T, H)}, r"rate is \[B, H, T\] = \(2, 3, 21\)"),
        ({"rate": torch.full((B, H, T), -0.5)}, r"rate is -0.5 at \[0, 0, 0\]"),
        ({"rate": torch.full((B, H, T), 1.5)}, "rate is 1.5 at .*negative_eigenvalues=True allows 2"),
        ({"rate": torch.full((B, H, T), 2.5), "negative_eigenvalues": True}, "rate is 2.5 at .*up to 2"),
        (
            {"keys": torch.ones(B, H, T, K, dtype=torch.float64)},
            r"rate \* \|\|key\|\|\^2 is 4 at .*normalize=True",
        ),
        ({"decay": torch.zeros(B, H, T)}, r"decay is 0 at \[0, 0, 0\], outside \(0, 1\]"),
        ({"decay": torch.ones(H)}, r"decay is \[B, H, T\]"),
        ({"rate": torch.full((B, H, T), float("inf"))}, r"rate .* holds inf at \[0, 0, 0\]"),
        ({"chunk": 0}, "chunk is a whole number"),
        ({"rate": Gates()}, r"rate is given a Gates; .* tensors or numbers; state=\.\.\."),
        ({"decay": delta.init(B, H, K, V)}, "decay is given a MemoryState"),
        ({"rate": None}, "rate is None"),
        ({"rate": 1.5}, "rate is 1.5 at .*negative_eigenvalues=True allows 2"),
        ({"state": (delta.init(B, H, K, V), {})}, r"load_state returns \(state, header\)"),
        (
            {"values": 1.7e308 * (-1.0) ** torch.arange(T, dtype=torch.float64)[:, None].expand(B, H, T, V)},
            "diverged",
        ),
        ({"state": delta.init(B, H, K, V)}, "use state.to"),
        ({"state": delta.init(B, H, K, V + 1, dtype=torch.float64)}, r"\[B, H, K, V\] = \[2, 3, 4, 5\]"),
    ],
)
def test_bad_input(scan, changes: dict, message: str) -> None:
    q, k, v, _ = inputs()
    good = {"queries": q, "keys": k, "values": v, "rate": torch.ones(B, H, T, dtype=torch.float64)}
    with pytest.raises(InputError, match=message):
        scan(**(good | changes))


@both
def test_numbers_for_gates_are_the_same_at_every_token(scan) -> None:
    q, k, v, rate = inputs()
    full = torch.ones_like(rate)
    for decay in (0.75, 1):
        found, expected = scan(q, k, v, 0.5, decay), scan(q, k, v, 0.5 * full, decay * full)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1].weights["0"], expected[1].weights["0"])


def test_check_false_skips_the_look_at_numbers_only() -> None:
    q, k, v, rate = inputs()
    out, _ = delta.chunked(q, 3 * k, v, rate, check=False)
    torch.testing.assert_close(out, delta.recurrent(q, 3 * k, v, rate, check=False)[0], rtol=1e-8, atol=1e-8)
    with pytest.raises(InputError, match="rate is"):
        delta.chunked(q, k, v, rate[:, :, 1:], check=False)


def fake_fla(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """fla's documented functions in plain torch: [B, T, H, .], log decays, scale 1 / sqrt(K) unless given."""
    called: list[str] = []

    def run(q, k, v, beta, g, scale, initial_state, output_final_state):
        assert q.dtype == k.dtype == v.dtype == beta.dtype == torch.bfloat16
        assert initial_state.dtype == torch.float32
        assert all(x.is_contiguous() for x in (q, k, v, beta))
        q, k, v, beta = (x.transpose(1, 2).float() for x in (q, k, v, beta))
        decay = None if g is None else g.transpose(1, 2).exp()
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        state = delta.init(0, 0, 0, 0).replace(weights={"0": initial_state})
        out, state = delta.recurrent(scale * q, k, v, beta, decay, state, check=False)
        return out.transpose(1, 2).bfloat16(), state.weights["0"] if output_final_state else None

    def chunk_delta_rule(q, k, v, beta, scale=None, initial_state=None, output_final_state=False):
        called.append("chunk_delta_rule")
        return run(q, k, v, beta, None, scale, initial_state, output_final_state)

    def chunk_gated_delta_rule(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False):
        called.append("chunk_gated_delta_rule")
        assert g.dtype == torch.float32
        return run(q, k, v, beta, g, scale, initial_state, output_final_state)

    for name, function in (("delta_rule", chunk_delta_rule), ("gated_delta_rule", chunk_gated_delta_rule)):
        module = types.ModuleType(f"fla.ops.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "fla", types.ModuleType("fla"))
    monkeypatch.setattr(kernels, "device_type", lambda x: "cuda")
    monkeypatch.setattr(kernels, "_said", set())
    return called


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("decay", [False, True])
def test_fla_gets_its_layout_scale_and_log_decay(
    decay: bool, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = fake_fla(monkeypatch)
    q, k, v, rate = inputs(torch.bfloat16)
    gate = decays(0.3, torch.float32) if decay else None
    start = delta.init(B, H, K, V, weights={"0": torch.randn(H, K, V)})
    expected = delta.recurrent(q, k, v, rate, gate, start, normalize=normalize)
    for kernel in ("auto", "fla"):
        found = delta.chunked(q, k, v, rate, gate, start, normalize=normalize, kernel=kernel)
        assert found[0].dtype == torch.bfloat16
        # Outputs are rounded to bfloat16; normalised queries and keys are as well, before the kernel.
        assert_same(found, expected, 3e-2 if normalize else 1e-2)
    assert called == ["chunk_gated_delta_rule" if decay else "chunk_delta_rule"] * 2


def test_tokens_that_fla_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_fla(monkeypatch)
    with pytest.warns(RuntimeWarning, match="half precision tokens only"):
        delta.chunked(*inputs(torch.float32))
    delta.chunked(*inputs(torch.float32))  # said once
    delta.chunked(*inputs())
    delta.chunked(*inputs(torch.bfloat16, tokens=1))
    assert called == []
    with pytest.raises(InputError, match="cast them to bfloat16"):
        delta.chunked(*inputs(torch.float32), kernel="fla")
    wide = torch.zeros(1, 1, 2, 257, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="keys up to 256 wide; got 257"):
        delta.chunked(wide, wide, wide, torch.ones(1, 1, 2), kernel="fla")


def test_without_fla(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nestmem\[gpu\]'"):
        delta.chunked(*inputs(torch.bfloat16), kernel="fla")
