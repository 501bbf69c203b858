"""Every optimizer against the same laws; a new one is one line in TABLE."""

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from nestmem.core import L2, MLP, Gates, Memory
from nestmem.errors import InputError
from nestmem.optim import DGD, DMGD, M3, DeltaMomentum, Momentum, Muon, inner
from tests.optim import printed


@dataclass(frozen=True)
class Case:
    """An optimizer, its inner form, the printed loop, and rates at which it trains the quadratic and Rosenbrock.

    M3 as printed sums every gradient, so it passes a minimum until as much has been summed on the other side: it is
    only asked to more than halve the loss on the way.
    """

    name: str
    make: Callable[..., Any]
    rule: Any
    loop: Callable[..., Any]
    options: dict[str, Any]
    quadratic: float
    rosenbrock: float
    alone: dict[str, Any] = field(default_factory=dict)  # options of the inner form
    any_scale: bool = False  # steps do not depend on the gradient's scale
    settles: bool = True  # comes to rest at a minimum


def case(
    name, make, rule, loop, quadratic, rosenbrock, any_scale=False, settles=True, momentum=0.9, **options
):
    both = {"momentum": momentum, **options}
    return Case(name, make, rule(**options), loop, both, quadratic, rosenbrock, options, any_scale, settles)


TABLE = [
    case("momentum", Momentum, inner.Momentum, printed.momentum, 0.05, 1e-3),
    case("delta", DeltaMomentum, inner.DeltaMomentum, printed.delta_momentum, 0.05, 2e-3),
    case("delta half", DeltaMomentum, inner.DeltaMomentum, printed.delta_momentum, 0.05, 3e-3, forget=0.5),
    case(
        "delta adam", DeltaMomentum, inner.DeltaMomentum, printed.delta_momentum, 0.05, 8e-3, precondition=0.9
    ),
    case("muon", Muon, inner.Muon, printed.muon, 0.1, 0.02, True),
    case("muon plain", Muon, inner.Muon, printed.muon, 0.1, 0.02, True, nesterov=False),
    case("dmgd", DMGD, inner.DMGD, printed.dmgd, 0.1, 0.02, True),
    case("dmgd l2", DMGD, inner.DMGD, printed.dmgd, 0.1, 0.02, True, objective="l2", hidden=7),
    case("dmgd orthogonal", DMGD, inner.DMGD, printed.dmgd, 0.1, 0.02, True, orthogonal=True),
    case("dgd", partial(DGD, model=None), inner.MeanDGD, printed.dgd, 0.3, 4e-3, momentum=0.0),
    case(
        "dgd adam",
        partial(DGD, model=None),
        inner.MeanDGD,
        printed.dgd,
        0.02,
        3e-3,
        precondition=0.9,
        forget=0.1,
    ),
    case("m3", M3, inner.M3, printed.m3, 0.1, 0.02, True, slow=0.5, period=3),
    case(
        "m3 printed", M3, inner.M3, printed.m3, 0.1, 3.0, slow=0.5, period=3, as_printed=True, settles=False
    ),
    case("m3 no second", M3, inner.M3, printed.m3, 0.1, 0.02, True, slow=0.2, period=4, second=False),
]
every = pytest.mark.parametrize("case", TABLE, ids=lambda c: c.name)
matrix_methods = pytest.mark.parametrize("case", TABLE[1:], ids=lambda c: c.name)


def gradients(shape, count=11, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(count)]


def parameters(*shapes, seed=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def drive(optimizer, params, sequences):
    """Steps with given gradients."""
    for each in zip(*sequences, strict=True):
        for p, g in zip(params, each, strict=True):
            p.grad = None if g is None else g.clone()
        optimizer.step()


@every
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 4), (4, 1)], ids=str)
def test_steps_are_the_printed_ones(case: Case, shape) -> None:
    (p,) = parameters(shape)
    wanted = case.loop(p.detach().clone(), gradients(shape), lr=0.03, weight_decay=0.1, **case.options)
    drive(case.make([p], lr=0.03, weight_decay=0.1, **case.options), [p], [gradients(shape)])
    assert torch.allclose(p, wanted, rtol=1e-9, atol=1e-9)


@every
def test_inner_form_is_torch_form(case: Case) -> None:
    (p,) = parameters((5, 3))
    weights = {"0": p.detach().clone().mT[None, None]}
    gates = [
        torch.full((1, 1), x, dtype=torch.float64) for x in (0.03, 1 - 0.03 * 0.1, case.options["momentum"])
    ]
    no_inputs = {"0": torch.zeros(1, 1, 3, 3, dtype=torch.float64)}
    slots = case.rule.init(weights)
    for g in gradients((5, 3)):
        weights, slots = case.rule.update(weights, {"0": g.mT[None, None]}, slots, *gates, no_inputs)
    drive(case.make([p], lr=0.03, weight_decay=0.1, **case.options), [p], [gradients((5, 3))])
    assert torch.allclose(weights["0"][0, 0].mT, p, rtol=1e-10, atol=1e-12)


@every
def test_quadratic(case: Case) -> None:
    params = parameters((6, 4), (4, 6), (3, 2, 2), (5,), dtype=torch.float32)
    targets = parameters((6, 4), (4, 6), (3, 2, 2), (5,), seed=9, dtype=torch.float32)
    options = {} if case.make is Momentum else {"adam_ratio": 0.1 / case.quadratic}
    optimizer = case.make(params, lr=case.quadratic, **case.options, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 300)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = sum(
            (0.5 * (p - t).square().sum() for p, t in zip(params, targets, strict=True)), torch.tensor(0.0)
        )
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0] if case.settles else min(losses) < 0.5 * losses[0]


@every
def test_rosenbrock(case: Case) -> None:
    p = nn.Parameter(torch.tensor([[-1.2, 1.0]], dtype=torch.float64))
    optimizer = case.make([p], lr=case.rosenbrock, **case.options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 1000)
    losses = []
    for _ in range(1000):
        optimizer.zero_grad()
        x, y = p[0]
        loss = (1 - x) ** 2 + 100 * (y - x * x) ** 2
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 if case.settles else min(losses) < 0.5 * losses[0]


@every
def test_one_cycle_of_rate_and_momentum(case: Case) -> None:
    params = parameters((4, 3), (5,), dtype=torch.float32)
    optimizer = case.make(params, lr=0.1, **case.options)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=case.quadratic, total_steps=60)
    first = sum(p.square().sum().item() for p in params)
    for _ in range(59):
        optimizer.zero_grad()
        torch.stack([0.5 * p.square().sum() for p in params]).sum().backward()
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] < 0.01 * case.quadratic
    assert sum(p.square().sum().item() for p in params) < first


@every
def test_state_dict_goes_on_identically(case: Case) -> None:
    shapes = ((5, 3), (5, 3), (2, 3, 2), (4,))
    first = [gradients(s, 4, seed=i, dtype=torch.float32) for i, s in enumerate(shapes)]
    then = [gradients(s, 7, seed=10 + i, dtype=torch.float32) for i, s in enumerate(shapes)]
    params = parameters(*shapes, dtype=torch.float32)
    optimizer = case.make(params, lr=0.01, **case.options)
    drive(optimizer, params, first)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    other = case.make(others, lr=0.5)
    other.load_state_dict(saved)
    again = other.state_dict()
    assert again["param_groups"] == saved["param_groups"]
    for i, state in saved["state"].items():
        assert all(torch.equal(state[name], again["state"][i][name]) for name in state)
    drive(optimizer, params, then)
    drive(other, others, then)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


@every
@pytest.mark.parametrize("scales", [[1e-30], [1e-12], [1e12], [1e30], [1e30, 1e-30, 0.0, 1.0]], ids=str)
def test_gradients_of_any_scale(case: Case, scales) -> None:
    shapes = ((6, 4), (3, 7), (5,))
    params = parameters(*shapes, dtype=torch.float32)
    optimizer = case.make(params, lr=0.01, **case.options)
    for step in range(12):
        scale = scales[step % len(scales)]
        drive(
            optimizer,
            params,
            [[scale * g for g in gradients(s, 1, step, dtype=torch.float32)] for s in shapes],
        )
    for p in params:
        assert torch.isfinite(p).all()
        assert all(torch.isfinite(t).all() for t in optimizer.state[p].values())


@pytest.mark.parametrize("case", [c for c in TABLE if c.any_scale], ids=lambda c: c.name)
def test_steps_do_not_depend_on_the_gradients_scale(case: Case) -> None:
    ends = []
    for scale in (1.0, 1e-20, 1e20):
        (p,) = parameters((5, 3))
        drive(case.make([p], lr=0.05, **case.options), [p], [gradients((5, 3), scale=scale)])
        ends.append(p.detach())
    assert torch.allclose(ends[0], ends[1], rtol=1e-9, atol=1e-11)
    assert torch.allclose(ends[0], ends[2], rtol=1e-9, atol=1e-11)


@every
def test_zero_gradients_leave_weight_decay(case: Case) -> None:
    params = parameters((4, 3), (5,))
    before = [p.detach().clone() for p in params]
    optimizer = case.make(params, lr=0.1, weight_decay=0.5, **case.options)
    drive(optimizer, params, [[torch.zeros_like(p)] * 3 for p in before])
    for p, old in zip(params, before, strict=True):
        ratio = 0.95 if p.ndim > 1 or case.make is Momentum else 1 - 0.1 * 0.1 * 0.5
        assert torch.allclose(p, old * ratio**3, rtol=1e-12)


@every
def test_missing_gradients_and_rate_zero_do_not_move(case: Case) -> None:
    params = parameters((4, 3), (4, 3), (5,))
    before = [p.detach().clone() for p in params]
    optimizer = case.make(params, lr=0.1, **case.options)
    drive(optimizer, params, [[None] * 3, gradients((4, 3), 3), [None] * 3])
    assert torch.equal(params[0], before[0]) and torch.equal(params[2], before[2])
    assert not torch.equal(params[1], before[1])
    # A stack of different ages: the first parameter joins later.
    drive(optimizer, params, [gradients((4, 3), 3, 1), gradients((4, 3), 3, 2), gradients((5,), 3)])
    (alone,) = parameters((4, 3))
    drive(case.make([alone], lr=0.1, **case.options), [alone], [gradients((4, 3), 3, 1)])
    assert torch.allclose(params[0], alone, atol=1e-12)
    still = parameters((4, 3), (5,))
    before = [p.detach().clone() for p in still]
    drive(case.make(still, lr=0.0, **case.options), still, [gradients((4, 3), 4), gradients((5,), 4)])
    assert all(torch.equal(a, b) for a, b in zip(still, before, strict=True))


@every
def test_closure_and_gradients_untouched(case: Case) -> None:
    (p,) = parameters((4, 3))
    optimizer = case.make([p], lr=0.1, **case.options)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.item() > 0 and p.grad is not None
    kept = p.grad.clone()
    optimizer.step()
    assert torch.equal(p.grad, kept)


@matrix_methods
def test_convolutions_are_flattened_and_stacks_are_independent(case: Case) -> None:
    params = parameters((4, 3, 2, 2), (4, 12), (12, 4))
    flat = [nn.Parameter(p.detach().clone().flatten(1)) for p in params]
    steps = [gradients(p.shape, seed=i) for i, p in enumerate(params)]
    drive(case.make(params, lr=0.05, **case.options), params, steps)
    for p, f, g in zip(params, flat, steps, strict=True):
        drive(case.make([f], lr=0.05, **case.options), [f], [[x.flatten(1) for x in g]])
        assert torch.allclose(p.flatten(1), f, rtol=1e-9, atol=1e-10)


@matrix_methods
def test_vectors_and_marked_groups_go_by_adam(case: Case) -> None:
    params, same = parameters((5,), (6, 4)), parameters((5,), (6, 4))
    groups = [{"params": [params[0]]}, {"params": [params[1]], "adam": True, "lr": 0.01}]
    optimizer = case.make(
        groups, lr=0.02, adam_ratio=0.5, adam_betas=(0.8, 0.9), weight_decay=0.1, **case.options
    )
    adam = torch.optim.AdamW(same, lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
    steps = [gradients((5,)), gradients((6, 4))]
    drive(optimizer, params, steps)
    drive(adam, same, steps)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(params, same, strict=True))


@every
def test_groups_have_their_own_numbers(case: Case) -> None:
    a, b = parameters((4, 3), (4, 3))
    optimizer = case.make([{"params": [a]}, {"params": [b], "lr": 0.0}], lr=0.1, **case.options)
    before = b.detach().clone()
    drive(optimizer, [a, b], [gradients((4, 3)), gradients((4, 3))])
    assert torch.equal(b, before)
    with pytest.raises(InputError, match="lr is a number"):
        optimizer.add_param_group({"params": parameters((2, 2)), "lr": -1.0})
    assert len(optimizer.param_groups) == 2


@every
@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -0.1), ("lr", float("nan")), ("momentum", 1.0), ("momentum", "0.9"), ("weight_decay", -1.0)],
)
def test_bad_numbers(case: Case, name, value) -> None:
    with pytest.raises(InputError, match=rf"{name} is a number in .*got {value!r}"):
        case.make(parameters((2, 2)), **{**case.options, name: value})


@every
def test_bad_gradients(case: Case) -> None:
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(InputError, match="sparse=False"):
        case.make(table.parameters(), **case.options).step()
    (half,) = parameters((3, 2), dtype=torch.bfloat16)
    half.grad = torch.ones_like(half)
    with pytest.raises(InputError, match="autocast"):
        case.make([half], **case.options).step()


@every
def test_copies_go_on(case: Case) -> None:
    (p,) = parameters((4, 3))
    optimizer = case.make([p], lr=0.1, **case.options)
    drive(optimizer, [p], [gradients((4, 3), 3)])
    p2, other = copy.deepcopy((p, optimizer))
    drive(optimizer, [p], [gradients((4, 3), 3, 1)])
    drive(other, [p2], [gradients((4, 3), 3, 1)])
    assert torch.equal(p, p2)


# The inner forms, writing a memory. DGD over one token's input is tested in place of its mean form.
INNER = [(c.name, inner.DGD(**c.alone) if isinstance(c.rule, inner.MeanDGD) else c.rule) for c in TABLE]
inner_forms = pytest.mark.parametrize("rule", [r for _, r in INNER], ids=[n for n, _ in INNER])


def tokens(count, width=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, 2, count, width, generator=generator, dtype=dtype) for _ in range(2))
    return k, v


@inner_forms
def test_inner_rate_zero_returns_the_weights(rule) -> None:
    model = MLP((3, 4, 3), bias=True)
    memory = Memory(model=model, objective=L2(), optimizer=rule)
    k, v = tokens(4)
    start = memory.init(2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    frozen = {n: w.clone() for n, w in start.weights.items()}
    end = memory.write(start, k, v, Gates(rate=0.0))
    assert all(torch.equal(w, frozen[n]) for n, w in end.weights.items())
    memory.write(start, k, v, Gates(rate=0.1, decay=0.9, momentum=0.5))
    assert all(torch.equal(w, frozen[n]) for n, w in start.weights.items())


@inner_forms
def test_inner_goes_on_from_any_token(rule) -> None:
    memory = Memory(model=MLP((3, 4, 3), bias=True), objective=L2(), optimizer=rule)
    k, v = tokens(7)
    gates = Gates(rate=0.02, decay=0.95, momentum=0.6)
    start = memory.init(2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, end = memory.scan(start, k, k, v, gates)
    assert torch.isfinite(whole).all()
    for cut in range(1, 7):
        a, state = memory.scan(start, k[:, :, :cut], k[:, :, :cut], v[:, :, :cut], gates)
        b, state = memory.scan(state, k[:, :, cut:], k[:, :, cut:], v[:, :, cut:], gates)
        assert torch.equal(torch.cat([a, b], 2), whole)
        assert all(torch.equal(state.weights[n], end.weights[n]) for n in end.weights)
    first = start.map(lambda t: t[:1] if t.ndim else t)
    alone, _ = memory.scan(first, k[:1], k[:1], v[:1], gates)
    assert torch.allclose(alone, whole[:1], atol=1e-12)


@inner_forms
def test_inner_outer_gradient(rule) -> None:
    memory = Memory(model=MLP((2, 2)), objective=L2(), optimizer=rule)
    k, v = tokens(4, width=2)

    def loss(w, k, rate, momentum):
        state = memory.init(2, weights={"0": w}, dtype=torch.float64)
        gates = Gates(rate=rate.expand(2, 2, 4), momentum=momentum.expand(2, 2, 4))
        return memory.scan(state, k, k, v, gates)[0].square().sum()

    w = torch.randn(2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    inputs = [w, k, torch.tensor(0.05, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)]
    for x in inputs:
        x.requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)
    # A zero gradient, as of a pair that is already known, does not spoil the outer gradient.
    zero = torch.zeros_like(k)
    state = memory.init(2, weights={"0": w}, dtype=torch.float64)
    out, _ = memory.scan(state, k, zero, zero, Gates(rate=0.05, momentum=0.6))
    assert torch.isfinite(torch.autograd.grad(out.square().sum(), w)[0]).all()


@inner_forms
def test_inner_under_vmap(rule) -> None:
    start, g = gradients((3, 1, 2, 4, 3), 2)
    x = gradients((3, 1, 2, 4), 1)[0]
    gates = [torch.full((1, 2), each, dtype=torch.float64) for each in (0.05, 0.9, 0.6)]

    def two_steps(w, g, x):
        weights, slots = {"0": w}, rule.init({"0": w})
        for _ in range(2):
            weights, slots = rule.update(weights, {"0": g}, slots, *gates, {"0": x})
        return weights["0"]

    one_by_one = torch.stack([two_steps(*each) for each in zip(start, g, x, strict=True)])
    mapped = torch.func.vmap(two_steps, randomness="same")  # DMGD.init draws
    assert torch.allclose(mapped(start, g, x), one_by_one, atol=1e-12)
