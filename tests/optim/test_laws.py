"""What each rule promises on its own: its objective, its bounds, and the rules it contains."""

from functools import partial
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestmem.core import DeltaGradientDescent
from nestmem.errors import InputError
from nestmem.optim import DGD, DMGD, M3, DeltaMomentum, Momentum, Muon, inner

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def stepped(make, start, gradients, **options):
    """The weight after these gradients."""
    p = nn.Parameter(start.clone())
    optimizer = make([p], **options)
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


def gate(x):
    return torch.full((1, 1), x, dtype=DOUBLE)


def test_momentum_is_a_step_on_its_objective() -> None:
    g = randn(4, 3)
    m = randn(4, 3, seed=1).requires_grad_()
    (slope,) = torch.autograd.grad((m * g).sum(), m)
    slots = {"momentum": {"0": m.detach()[None, None]}}
    _, after = inner.Momentum().update(
        {"0": torch.zeros(1, 1, 4, 3, dtype=DOUBLE)}, {"0": g[None, None]}, slots, gate(0.1), gate(1.0), gate(0.8), {}
    )  # fmt: skip
    assert torch.allclose(after["momentum"]["0"][0, 0], 0.8 * m - 0.1 * slope, atol=1e-14)


def test_delta_momentum_is_a_step_on_its_objective() -> None:
    g = randn(4, 3)
    m = randn(4, 3, seed=1).requires_grad_()
    n = g / g.norm()
    (slope,) = torch.autograd.grad(0.7 / 2 * (n.T @ m).square().sum() + 0.1 * (m * g).sum(), m)
    slots = {"momentum": {"0": m.detach()[None, None]}}
    _, after = inner.DeltaMomentum(forget=0.7).update(
        {"0": torch.zeros(1, 1, 4, 3, dtype=DOUBLE)}, {"0": g[None, None]}, slots, gate(0.1), gate(1.0), gate(0.8), {}
    )  # fmt: skip
    assert torch.allclose(after["momentum"]["0"][0, 0], 0.8 * m - slope, atol=1e-14)


def test_delta_momentum_without_forgetting_is_momentum() -> None:
    w, gs = randn(4, 3), [randn(4, 3, seed=i) for i in range(5)]
    a = stepped(DeltaMomentum, w, gs, lr=0.1, forget=0.0)
    assert torch.allclose(a, stepped(Momentum, w, gs, lr=0.1), atol=1e-13)


def test_delta_momentum_forgets_a_direction_it_meets_again() -> None:
    """Momentum along a vector gradient is gone in one step where forget = momentum, and stays across it."""
    p = nn.Parameter(torch.zeros(1, 2, dtype=DOUBLE))
    optimizer = DeltaMomentum([p], lr=1.0, momentum=0.9, forget=0.9)
    for g in ([3.0, 0.0], [0.0, 2.0]):
        p.grad = torch.tensor([g], dtype=DOUBLE)
        optimizer.step()
    assert torch.allclose(optimizer.state[p]["momentum"], torch.tensor([[-2.7, -2.0]], dtype=DOUBLE))
    p.grad = torch.tensor([[1e-3, 0.0]], dtype=DOUBLE)
    optimizer.step()
    assert torch.allclose(optimizer.state[p]["momentum"], torch.tensor([[-1e-3, -1.8]], dtype=DOUBLE))


def toy_steps(rule: inner.Momentum | inner.DeltaMomentum, k: float, a: float, omega: float) -> float:
    """Steps to psi < 1e-3 for good, at the best of 26 rates, on the toy of Nested Learning, Fig. 4; all rates at once."""
    rates = torch.logspace(-3, 0, 26, dtype=DOUBLE)[:, None]
    weights = {"0": torch.tensor([-3.5, 2.0], dtype=DOUBLE).reshape(1, 1, 2, 1).repeat(26, 1, 1, 1)}
    slots = rule.init(weights)
    last = torch.zeros(26)
    for step in range(1, 401):
        with torch.enable_grad():
            x = weights["0"].detach().requires_grad_()
            r, theta = x[:, 0, 0, 0], x[:, 0, 1, 0]
            psi = r**2 + k * (r - theta + a * torch.sin(omega * r)) ** 2
            (g,) = torch.autograd.grad(psi.sum(), x)
        last[~(psi < 1e-3)] = step
        weights, slots = rule.update(
            weights, {"0": g.nan_to_num()}, slots, rates, rates * 0 + 1, rates * 0 + 0.9, {}
        )
    return last.min().item()


@torch.no_grad()
@pytest.mark.parametrize(("k", "a", "omega"), [(1, 0.5, 2), (3, 0.25, 4), (3, 0.5, 1), (10, 0.25, 1)])
def test_delta_momentum_is_faster_on_the_papers_toy_where_it_is_round(k, a, omega) -> None:
    """Each at its best rate, both with momentum 0.9. Where the valley is steep (k = 30 and more) and winds, momentum
    is often faster, so the paper's figure holds for some of its unnamed k, alpha, omega and not for others."""
    assert toy_steps(inner.DeltaMomentum(forget=0.25), k, a, omega) < 0.7 * toy_steps(
        inner.Momentum(), k, a, omega
    )


@torch.no_grad()
def test_delta_momentum_is_slower_in_a_steep_winding_valley() -> None:
    rule = inner.DeltaMomentum(forget=1.0)
    assert toy_steps(rule, 30, 0.5, 1) > toy_steps(inner.Momentum(), 30, 0.5, 1)


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4)], ids=str)
def test_muon_steps_are_near_orthogonal(shape) -> None:
    move = stepped(Muon, torch.zeros(shape, dtype=DOUBLE), [randn(*shape)], lr=1.0)
    values = torch.linalg.svdvals(move) / max(1, shape[0] / shape[1]) ** 0.5
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_turns_with_the_coordinates() -> None:
    w, gs = randn(6, 4), [randn(6, 4, seed=i) for i in range(4)]
    left, right = torch.linalg.qr(randn(6, 6, seed=7))[0], torch.linalg.qr(randn(4, 4, seed=8))[0]
    turned = stepped(Muon, left @ w @ right, [left @ g @ right for g in gs], lr=0.1)
    assert torch.allclose(turned, left @ stepped(Muon, w, gs, lr=0.1) @ right, atol=1e-11)


def test_dmgd_contains_momentum_and_muon() -> None:
    w, gs = randn(4, 4), [randn(4, 4, seed=i) for i in range(5)]
    unit = [2 * g / g.norm() for g in gs]
    assert torch.allclose(
        stepped(DMGD, w, gs, lr=0.1, hidden=0), stepped(Momentum, w, unit, lr=0.1 * (1 - 0.9)), atol=1e-13
    )
    deep = stepped(DMGD, w, gs, lr=0.1, hidden=0, orthogonal=True)
    assert torch.allclose(deep, stepped(Muon, w, unit, lr=0.1, momentum=0.9, nesterov=False), atol=1e-12)


@pytest.mark.parametrize("rank", [1, 4])
def test_dmgd_memory_is_bounded(rank) -> None:
    p = nn.Parameter(torch.zeros(4, 6, dtype=DOUBLE))
    optimizer = DMGD([p], lr=0.1, hidden=16)
    g = randn(4, rank) @ randn(rank, 6, seed=1)
    for step in range(300):
        p.grad = g * 10.0 ** (step % 7) * (1 if step % 50 < 40 else -1)
        optimizer.step()
        state = optimizer.state[p]
        assert state["out"].norm() <= 1 and state["momentum"].square().sum(0).mean() <= 1 + 1e-12


def test_dmgd_answers_a_known_row_with_its_negative() -> None:
    """The shared weights alone: rows that were written are answered by the opposite of themselves, others less."""
    p = nn.Parameter(torch.zeros(8, 40, dtype=DOUBLE))
    optimizer = DMGD([p], lr=0.1, hidden=256)
    known, other = torch.linalg.qr(randn(8, 2))[0].T
    for _ in range(50):
        p.grad = known[:, None].repeat(1, 40)
        optimizer.step()
    a, b = (optimizer.state[p][name].mT for name in ("in", "out"))
    answers = torch.tanh(torch.stack([known, other]) @ a) @ b / 16
    assert F.cosine_similarity(answers[0], -known, dim=0) > 0.9
    assert answers[1].norm() < 0.5 * answers[0].norm()


def test_m3_without_slow_and_second_is_muon() -> None:
    w, gs = randn(5, 5), [randn(5, 5, seed=i) for i in range(7)]
    a = stepped(M3, w, gs, lr=0.1, momentum=0.9, slow=0.0, second=False)
    assert torch.allclose(a, stepped(Muon, w, gs, lr=0.1, momentum=0.9, nesterov=False), atol=1e-12)


def test_m3_as_printed_follows_the_sum_of_gradients() -> None:
    w, gs = randn(5, 5), [randn(5, 5, seed=i) for i in range(3)]
    a = stepped(M3, w, gs, lr=0.1, slow=0.0, second=False, as_printed=True)
    sums = [sum(gs[: i + 1], torch.zeros_like(w)) for i in range(3)]
    assert torch.allclose(a, stepped(Muon, w, sums, lr=0.1, momentum=0.0), atol=1e-12)


def test_m3_second_moment_moves_the_step_not_its_size() -> None:
    w, gs = torch.zeros(5, 5, dtype=DOUBLE), [randn(5, 5, seed=1)]
    plain, divided = (stepped(M3, w, gs, lr=0.1, second=s) for s in (False, True))
    assert torch.allclose(plain.norm(), divided.norm(), rtol=1e-12)
    assert not torch.allclose(plain, divided, atol=1e-3)


@pytest.mark.parametrize("forget", [1.0, 0.3])
def test_dgd_is_the_minimum_of_its_objective_for_one_input(forget) -> None:
    """Through a real layer and its hook, exact to 1e-12, for an input of any length."""
    layer = nn.Linear(4, 3, bias=False, dtype=DOUBLE)
    start = layer.weight.detach().clone()
    x, rate = 2.5 * randn(1, 4), 0.7
    optimizer = DGD(layer.parameters(), lr=rate, forget=forget, model=layer)
    y = layer(x)
    loss = F.cross_entropy(y, torch.tensor([2]))
    (d,) = torch.autograd.grad(loss, y, retain_graph=True)
    loss.backward()
    optimizer.step()
    w = layer.weight.detach().clone().requires_grad_()
    answer = x @ w.T
    objective = (
        forget / 2 * answer.square().sum() + (answer * d).sum() + (w - start).square().sum() / (2 * rate)
    )
    (slope,) = torch.autograd.grad(objective, w)
    assert slope.abs().max() < 1e-12
    if forget == 1.0:
        share = rate / (1 + rate * x.square().sum())
        closed = start @ (torch.eye(4, dtype=DOUBLE) - share * x.T @ x) - share * d.T @ x
        assert (closed - layer.weight).abs().max() < 1e-12


def test_dgd_for_unit_inputs_is_the_delta_rule_of_core() -> None:
    w, g, x = randn(1, 1, 4, 3), randn(1, 1, 4, 3, seed=1), F.normalize(randn(1, 1, 4, seed=2), dim=-1)
    rule = inner.DGD()
    ours, _ = rule.update({"0": w}, {"0": g}, rule.init({"0": w}), gate(0.5), gate(1.0), gate(0.0), {"0": x})
    core, _ = DeltaGradientDescent().update(
        {"0": w}, {"0": g}, {}, gate(0.5 / 1.5), gate(1.0), gate(0.0), {"0": x}
    )
    assert torch.allclose(ours["0"], core["0"], atol=1e-9)


def test_dgd_in_the_mean_is_first_order_of_the_steps_in_turn() -> None:
    """Halving the rate quarters the distance to N exact steps at rate / N."""
    x, d, start = randn(5, 4), randn(5, 3, seed=1), randn(3, 4, seed=2)

    def distance(rate: float) -> float:
        w = start.clone()
        for each, error in zip(x, d, strict=True):
            share = rate / 5 / (1 + rate / 5 * each.square().sum())
            w = w - share * (w @ each + error)[:, None] * each
        p = nn.Parameter(start.clone())
        optimizer = DGD([p], lr=rate, model=None)
        optimizer.observe(p, x)
        p.grad = d.T @ x / 5
        optimizer.step()
        return (p - w).norm().item()

    assert 3.8 < distance(2e-3) / distance(1e-3) < 4.2


def test_dgd_collects_what_the_gradients_belong_to() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    optimizer = DGD(model.parameters(), lr=0.1, model=model)
    a, b, c = randn(2, 5, 4), randn(3, 4, seed=1), randn(7, 4, seed=2)
    model(a).square().mean().backward()
    model(c)  # no backward pass: leaves no trace
    model(b).square().mean().backward()
    first = cast(Tensor, model[0].weight)
    x = torch.cat([a.flatten(0, 1), b])
    assert torch.allclose(optimizer.inputs([first])["0"][0, 0], x.T @ x / 13, atol=1e-14)
    optimizer.step()
    assert not optimizer.inputs([first])["0"].any()
    model(a).square().mean().backward()
    optimizer.zero_grad()
    assert not optimizer.inputs([first])["0"].any()
    optimizer.detach()
    model(a).square().mean().backward()
    assert not optimizer.inputs([first])["0"].any()


def test_dgd_without_forgetting_is_gradient_descent() -> None:
    w, gs = randn(4, 3), [randn(4, 3, seed=i) for i in range(4)]
    assert torch.allclose(stepped(DGD, w, gs, lr=0.1, forget=0.0, model=None), w - 0.1 * sum(gs), atol=1e-13)


def test_dgd_says_what_it_cannot_attach() -> None:
    with pytest.raises(InputError, match=r"no nn\.Linear in Linear"):
        DGD(nn.Linear(3, 2).parameters(), model=nn.Linear(3, 2))
    p = nn.Parameter(torch.zeros(2, 3))
    with pytest.raises(InputError, match="do not fit"):
        DGD([p], model=None).observe(p, torch.zeros(5, 2))
    layer = inner.DGD()
    w = {"0": torch.zeros(1, 1, 2, 2, dtype=DOUBLE)}
    with pytest.raises(InputError, match="needs the input"):
        layer.update(w, w, layer.init(w), gate(0.1), gate(1.0), gate(0.0), {})


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (DeltaMomentum, {"forget": 1.95}, "forget is a number in .*got 1.95"),
        (DeltaMomentum, {"precondition": 1.0}, "precondition is a number"),
        (DMGD, {"objective": "cosine"}, "objective is 'dot' or 'l2'; got 'cosine'"),
        (DMGD, {"hidden": -1}, "hidden is a whole number"),
        (DMGD, {"memory_rate": 0.0}, "memory_rate is a number"),
        (partial(DGD, model=None), {"forget": -0.1}, "forget is a number"),
        (M3, {"period": 0}, "period is a whole number of at least 1; got 0"),
        (M3, {"beta2": 1.0}, "beta2 is a number"),
        (Muon, {"steps": 2.5}, "steps is a whole number"),
        (Muon, {"adam_eps": 0.0}, "adam_eps is a number"),
        (Muon, {"adam_betas": (0.9, 1.0)}, "adam_betas is a number"),
        (Muon, {"adam_betas": 0.9}, "adam_betas are two numbers"),
        (Muon, {"betas": (0.9, 0.99)}, "Muon has no option"),
    ],
    ids=str,
)
def test_bad_options(make, options, message) -> None:
    with pytest.raises(InputError, match=message):
        make([nn.Parameter(torch.zeros(2, 2))], **options)
