"""Linear attention: identities, strong decay in float32, bad input, and the call of fla's kernels."""

import sys
import types
import warnings

import pytest
import torch
from torch import Tensor

from nestmem.core import Gates
from nestmem.errors import InputError, MissingExtra
from nestmem.ops import kernels, linear

B, H, T, K, V = 2, 3, 21, 4, 5


def inputs(dtype=torch.float64, *, tokens: int = T, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, H, tokens, d, generator=generator, dtype=torch.float64) for d in (K, K, V))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def decays(*shape: int, low: float = 0.0, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return (
        low + (1 - low) * torch.rand(*shape, generator=generator, dtype=torch.float64).clamp_min(1e-3)
    ).to(dtype)


def assert_same(found, expected, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    weights = (found[1].weights["0"], expected[1].weights["0"])
    torch.testing.assert_close(*weights, rtol=tolerance, atol=tolerance)
    assert found[1].position == expected[1].position


def test_without_decay_it_is_attention_without_softmax() -> None:
    q, k, v = inputs()
    out, state = linear.chunked(q, k, v, chunk=8)
    torch.testing.assert_close(out, (q @ k.mT).tril() @ v)
    torch.testing.assert_close(state.weights["0"], k.mT @ v)


def test_retnet_s_parallel_form_is_the_recurrent_one() -> None:
    """arXiv 2307.08621, eq. 5: (Q K^T * D) V with D[n, m] = decay^(n - m)."""
    q, k, v = inputs()
    decay = linear.retention_decay(H, dtype=torch.float64)
    assert decay.tolist() == [1 - 2.0**-5, 1 - 2.0**-6, 1 - 2.0**-7]
    distance = torch.arange(T)[:, None] - torch.arange(T)
    weight = (decay[:, None, None] ** distance.clamp_min(0)).tril()
    parallel = ((q @ k.mT) * weight) @ v
    for scan in (linear.recurrent, linear.chunked):
        torch.testing.assert_close(scan(q, k, v, decay, chunk=8)[0], parallel)


def test_the_kinds_of_decay_agree_where_they_say_the_same() -> None:
    q, k, v = inputs()
    head = linear.retention_decay(H, dtype=torch.float64)
    token = head[None, :, None].expand(B, H, T)
    expected = linear.chunked(q, k, v, head, chunk=8)
    assert_same(linear.chunked(q, k, v, token, chunk=8), expected)
    assert_same(linear.chunked(q, k, v, token[..., None].expand(B, H, T, K), chunk=8), expected)
    ones = torch.ones(B, H, T, K, dtype=torch.float64)
    assert_same(linear.chunked(q, k, v, ones, chunk=8), linear.chunked(q, k, v, chunk=8))


@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 64])
@pytest.mark.parametrize(
    "shape", [(), (H,), (B, H, T), (B, H, T, K)], ids=["none", "head", "token", "channel"]
)
def test_any_chunk_gives_the_same(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = inputs()
    decay = decays(*shape) if shape else None
    start = linear.init(B, H, K, V, weights={"0": torch.randn(H, K, V, dtype=torch.float64)})
    expected = linear.recurrent(q, k, v, decay, start, scale=0.5)
    for span in (1, 60, 8192):
        monkeypatch.setattr("nestmem.ops.linear.chunk.SPAN_TOKENS", span)
        assert_same(linear.chunked(q, k, v, decay, start, scale=0.5, chunk=chunk), expected)


@pytest.mark.parametrize("strength", [0.01, 1e-6, 1e-30])
@pytest.mark.parametrize("channels", [False, True])
def test_strong_decay_in_float32(strength: float, channels: bool) -> None:
    """The products over a chunk of 64 underflow float32 by far; each output still has float32 accuracy."""
    q, k, v = inputs(torch.float32, tokens=130)
    decay = torch.full((B, H, 130, K) if channels else (B, H, 130), strength)
    # Some tokens keep all, so that strong and weak decays meet in a chunk.
    decay[:, :, ::3] = 1.0
    leaves = [x.requires_grad_() for x in (q, k, v, decay)]
    out, state = linear.chunked(q, k, v, decay, chunk=64)
    exact, exact_state = linear.recurrent(q.double(), k.double(), v.double(), decay.double())
    torch.testing.assert_close(out.double(), exact, rtol=2e-6, atol=5e-6)
    torch.testing.assert_close(state.weights["0"].double(), exact_state.weights["0"], rtol=2e-6, atol=5e-6)
    weigh = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((out * weigh).sum(), leaves)
    expected = torch.autograd.grad((exact * weigh).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_products_of_decays() -> None:
    from nestmem.ops.gates import gate_products

    decay = decays(3, 7)
    between, since, until = gate_products(decay)
    for i in range(7):
        torch.testing.assert_close(since[:, i], decay[:, : i + 1].prod(-1))
        torch.testing.assert_close(until[:, i], decay[:, i + 1 :].prod(-1))
        for j in range(7):
            expected = decay[:, j + 1 : i + 1].prod(-1) if j <= i else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(between[:, i, j], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tokens_are_summed_in_float32(dtype: torch.dtype) -> None:
    q, k, v = inputs(dtype)
    decay = decays(B, H, T, low=0.5, dtype=dtype)
    out, state = linear.chunked(q, k, v, decay, chunk=8)
    assert out.dtype == dtype
    assert state.weights["0"].dtype == torch.float32
    exact, exact_state = linear.recurrent(q.double(), k.double(), v.double(), decay.double())
    torch.testing.assert_close(out, exact.to(dtype))
    torch.testing.assert_close(state.weights["0"], exact_state.weights["0"].float())


def test_one_token_at_a_time_makes_no_larger_state() -> None:
    q, k, v = inputs()
    decay = decays(B, H, T, K)
    whole = linear.chunked(q, k, v, decay)
    state, outputs = linear.init(B, H, K, V, dtype=torch.float64), []
    for t in range(T):
        cut = slice(t, t + 1)
        out, state = linear.chunked(q[:, :, cut], k[:, :, cut], v[:, :, cut], decay[:, :, cut], state)
        assert state.bytes() == B * H * K * V * 8
        outputs.append(out)
    assert_same((torch.cat(outputs, dim=2), state), whole)


@pytest.mark.parametrize("shape", [(), (B, H, T), (B, H, T, K)], ids=["none", "token", "channel"])
def test_vmap_and_compile(shape: tuple[int, ...]) -> None:
    q, k, v = inputs()
    decay = decays(*shape) if shape else None

    def scan(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return linear.chunked(q, k, v, decay, chunk=8)[0]

    expected = scan(q, k, v)
    stacked = torch.func.vmap(scan)(*(torch.stack([x, 2 * x]) for x in (q, k, v)))
    torch.testing.assert_close(stacked, torch.stack([expected, 8 * expected]))
    compiled = torch.compile(scan, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), expected)


def bad(**changes):
    q, k, v = inputs()
    return {"queries": q, "keys": k, "values": v} | changes


@pytest.mark.parametrize("scan", [linear.chunked, linear.recurrent])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"queries": torch.zeros(B, H, T, K + 1, dtype=torch.float64)},
            "queries .* and keys .* differ in width",
        ),
        (
            {"values": torch.zeros(B, H, T - 1, V, dtype=torch.float64)},
            "values .* and keys .* differ in batch",
        ),
        ({"values": torch.zeros(B, H, T, V)}, "values are torch.float32"),
        ({"decay": torch.ones(B, T, H)}, r"decay is \[B, H, T\]"),
        ({"decay": torch.ones(H + 1)}, r"decay is \[H\], \[B, H, T\] or \[B, H, T, K\]"),
        ({"decay": torch.ones(B, H, T, V)}, r"decay is \[H\], \[B, H, T\] or \[B, H, T, K\]"),
        ({"decay": torch.ones(())}, r"decay is \[H\]"),
        ({"decay": torch.ones(H, dtype=torch.int64)}, "decay is torch.int64"),
        ({"decay": torch.full((H,), 1.5)}, r"decay is 1.5 at \[0\], outside \(0, 1\]"),
        ({"decay": torch.zeros(B, H, T, K)}, r"decay is 0 at \[0, 0, 0, 0\]"),
        ({"decay": Gates()}, r"decay is given a Gates; .* tensors or numbers; state=\.\.\."),
        ({"decay": linear.init(B, H, K, V)}, "decay is given a MemoryState"),
        ({"decay": 1.5}, "decay is 1.5 at"),
        ({"state": (linear.init(B, H, K, V), {})}, r"load_state returns \(state, header\)"),
        ({"values": torch.full((B, H, T, V), 1.7e308, dtype=torch.float64)}, "diverged"),
        ({"chunk": 0}, "chunk is a whole number of tokens, at least 1; got 0"),
        ({"state": linear.init(B, H, K, V)}, "use state.to"),
        ({"state": linear.init(B, H, V, K, dtype=torch.float64)}, r"state.weights\['0'\] is \[B, H, K, V\]"),
        ({"state": linear.init(B, H, K, V, dtype=torch.float16)}, "float32 or float64"),
    ],
)
def test_bad_input(scan, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scan(**bad(**changes))


def test_a_number_for_decay_is_the_same_at_every_token() -> None:
    given = bad()
    full = torch.full((B, H, T), 0.75, dtype=torch.float64)
    for scan in (linear.chunked, linear.recurrent):
        found, expected = scan(**(given | {"decay": 0.75})), scan(**(given | {"decay": full}))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1].weights["0"], expected[1].weights["0"])


def test_learned_weights_of_another_shape() -> None:
    with pytest.raises(InputError, match=r"\{'0': \[H, K, V\] = \[3, 4, 5\]\}; got \{'0': \[3, 5, 4\]\}"):
        linear.init(B, H, K, V, weights={"0": torch.zeros(H, V, K)})


def fake_fla(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """fla's documented functions in plain torch: [B, T, H, .], log decays, scale 1 / sqrt(K) unless given."""
    called: list[str] = []

    def run(q, k, v, log_decay, scale, initial_state, output_final_state):
        assert all(x.is_contiguous() for x in (q, k, v))
        assert initial_state.dtype == torch.float32
        q, k, v = (x.transpose(1, 2).double() for x in (q, k, v))
        state = linear.init(0, 0, 0, 0).replace(weights={"0": initial_state.double()})
        decay = None if log_decay is None else log_decay.double().exp()
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        out, state = linear.recurrent(q, k, v, decay, state, scale=scale)
        return out.transpose(1, 2).float(), state.weights["0"].float() if output_final_state else None

    def chunk_simple_gla(
        q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False
    ):
        called.append(
            "chunk_simple_gla" + ("+g" if g is not None else "") + ("+g_gamma" if g_gamma is not None else "")
        )
        assert g is None or g_gamma is None
        decay = g_gamma if g is None else g.transpose(1, 2)
        return run(q, k, v, decay, scale, initial_state, output_final_state)

    def chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False):
        called.append("chunk_gla")
        return run(q, k, v, g.transpose(1, 2), scale, initial_state, output_final_state)

    for name, function in (("simple_gla", chunk_simple_gla), ("gla", chunk_gla)):
        module = types.ModuleType(f"fla.ops.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "fla", types.ModuleType("fla"))
    return called


def on(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(kernels, "device_type", lambda x: device)
    monkeypatch.setattr(kernels, "_said", set())


@pytest.mark.parametrize(
    ("shape", "learned", "function"),
    [
        ((), False, "chunk_simple_gla"),
        ((H,), False, "chunk_simple_gla+g_gamma"),
        ((H,), True, "chunk_simple_gla+g"),
        ((B, H, T), False, "chunk_simple_gla+g"),
        ((B, H, T, K), False, "chunk_gla"),
    ],
)
def test_fla_gets_its_layout_scale_and_log_decay(
    shape: tuple[int, ...], learned: bool, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = fake_fla(monkeypatch)
    on(monkeypatch, "cuda")
    q, k, v = inputs(torch.float32)
    decay = decays(*shape, low=0.3, dtype=torch.float32).requires_grad_(learned) if shape else None
    start = linear.init(B, H, K, V, weights={"0": torch.randn(H, K, V)})
    for kernel in ("auto", "fla"):
        found = linear.chunked(q, k, v, decay, start, scale=0.3, kernel=kernel)
        assert_same(found, linear.recurrent(q, k, v, decay, start, scale=0.3), 1e-5)
    assert called == [function] * 2
    linear.chunked(q, k, v, decay, start, kernel="torch")
    assert len(called) == 2


def test_fla_leaves_out_float64_and_single_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_fla(monkeypatch)
    on(monkeypatch, "cuda")
    linear.chunked(*inputs())
    linear.chunked(*inputs(torch.float32, tokens=1))
    assert called == []
    with pytest.raises(InputError, match="no float64"):
        linear.chunked(*inputs(), kernel="fla")


def test_without_fla_the_torch_form_on_cuda_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)
    on(monkeypatch, "cuda")
    with pytest.warns(RuntimeWarning, match=r"slower torch form .* pip install 'nestmem\[gpu\]'"):
        linear.chunked(*inputs(torch.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear.chunked(*inputs(torch.float32))
        linear.chunked(*inputs(torch.float32), kernel="torch")
    with pytest.raises(MissingExtra, match=r"pip install 'nestmem\[gpu\]'"):
        linear.chunked(*inputs(torch.float32), kernel="fla")


def test_on_cpu_auto_is_torch_and_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_fla(monkeypatch)
    linear.chunked(*inputs(torch.float32))
    assert called == []
    with pytest.raises(InputError, match="runs on CUDA; keys are on cpu"):
        linear.chunked(*inputs(torch.float32), kernel="fla")
    with pytest.raises(InputError, match='"auto", "torch" or "fla"; got \'triton\''):
        linear.chunked(*inputs(torch.float32), kernel="triton")  # pyright: ignore[reportArgumentType]
