"""The law of objectives: `gradient` is the derivative of `loss`, everywhere, and so is the derivative of that."""

import pytest
import torch
from torch import Tensor

from nestmem.core import L2, Dot, Huber, Loss, Lp, Objective
from nestmem.errors import InputError

EVERY = [
    Dot(),
    L2(),
    L2(0.5),
    Huber(),
    Huber(0.3),
    Lp(p=1.5, smooth=1e-3),
    Lp(p=2.0, smooth=0.0),
    Lp(p=3.0),
    Lp(p=3.0, smooth=0.0),
    Loss(lambda p, v: (p - v).pow(4).sum() + (p * v).sum().sin()),
]
objectives = pytest.mark.parametrize("objective", EVERY, ids=str)


def tokens(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions and targets [B, H, T, V], errors from small to large."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    error = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    return target + error * torch.tensor([0.01, 0.1, 0.5, 2.0, 20.0], dtype=torch.float64)[:, None], target


def assert_derivative(
    objective: Objective, prediction: Tensor, target: Tensor, threshold: Tensor | None = None
) -> None:
    prediction = prediction.clone().requires_grad_()
    (expected,) = torch.autograd.grad(objective.loss(prediction, target, threshold).sum(), prediction)
    found = objective.gradient(prediction, target, threshold)
    assert found.shape == prediction.shape
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@objectives
def test_gradient_is_the_derivative_of_the_loss(objective: Objective) -> None:
    prediction, target = tokens()
    assert objective.loss(prediction, target).shape == (2, 3, 5)
    assert_derivative(objective, prediction, target)


@objectives
def test_gradient_is_the_derivative_where_the_error_is_zero(objective: Objective) -> None:
    _, target = tokens()
    assert_derivative(objective, target, target)
    if not isinstance(objective, Dot | Loss):
        assert torch.equal(objective.gradient(target, target), torch.zeros_like(target))


@objectives
def test_one_target_serves_many_predictions(objective: Objective) -> None:
    prediction, target = tokens()
    one = target[:1, :1, :1]
    same = one.expand_as(prediction).contiguous()
    torch.testing.assert_close(objective.gradient(prediction, one), objective.gradient(prediction, same))
    torch.testing.assert_close(objective.loss(prediction, one), objective.loss(prediction, same))


@objectives
def test_outer_derivatives_go_through_the_gradient(objective: Objective) -> None:
    prediction, target = (x[:1, :1].clone().requires_grad_() for x in tokens(1))
    assert torch.autograd.gradcheck(objective.gradient, (prediction, target))


@objectives
def test_outer_derivatives_are_finite_where_the_error_is_zero(objective: Objective) -> None:
    _, target = tokens()
    prediction, target = target.clone().requires_grad_(), target.clone().requires_grad_()
    for each in torch.autograd.grad(
        objective.gradient(prediction, target).sum(), (prediction, target), allow_unused=True
    ):
        assert each is None or torch.isfinite(each).all()


def at_norm(norms: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions whose errors have these norms [T]."""
    _, target = tokens()
    direction = torch.nn.functional.normalize(target.roll(1, dims=0), dim=-1)
    return target + direction * norms[:, None], target


@pytest.mark.parametrize("side", [1 - 1e-6, 1 + 1e-6])
def test_huber_on_both_sides_of_its_threshold(side: float) -> None:
    limits = torch.tensor([0.1, 0.7, 1.0, 3.0, 40.0], dtype=torch.float64)
    prediction, target = at_norm(limits * side)
    threshold = limits.expand(2, 3, 5)
    assert_derivative(Huber(), prediction, target, threshold)
    for t, limit in enumerate(limits.tolist()):
        one = (prediction[:, :, t : t + 1], target[:, :, t : t + 1])
        assert_derivative(Huber(limit), *one)
        # A threshold that comes with the tokens is the fixed one's equal.
        torch.testing.assert_close(
            Huber(limit).gradient(*one), Huber(9.0).gradient(*one, threshold[:, :, t : t + 1])
        )


def test_huber_is_l2_inside_and_has_a_bounded_gradient_outside() -> None:
    prediction, target = tokens()
    limit = torch.tensor([1e9, 1e9, 1e9, 0.2, 0.2], dtype=torch.float64).expand(2, 3, 5)
    gradient = Huber().gradient(prediction, target, limit)
    torch.testing.assert_close(gradient[:, :, :3], L2().gradient(prediction, target)[:, :, :3])
    norm = gradient[:, :, 3:].norm(dim=-1)
    torch.testing.assert_close(norm, torch.full_like(norm, 2 * 0.2))


def test_huber_is_continuous_at_its_threshold() -> None:
    below, above = (at_norm(torch.full((5,), side, dtype=torch.float64)) for side in (1 - 1e-9, 1 + 1e-9))
    for part in (Huber().loss, Huber().gradient):
        torch.testing.assert_close(part(*below), part(*above), rtol=0, atol=1e-8)


def test_huber_threshold_takes_part_in_the_outer_derivative() -> None:
    prediction, target = tokens()
    threshold = torch.full((2, 3, 5), 0.3, dtype=torch.float64, requires_grad=True)
    # No error of the first token reaches its threshold, every one of the last does.
    (found,) = torch.autograd.grad(Huber().gradient(prediction, target, threshold).square().sum(), threshold)
    assert (found[:, :, 0] == 0).all() and (found[:, :, -1] != 0).all()


@pytest.mark.parametrize(("p", "other"), [(2.0, L2(1.0)), (1.0, None), (3.0, None)])
def test_lp_without_smoothing_is_the_p_norm(p: float, other: Objective | None) -> None:
    prediction, target = tokens()
    found = Lp(p=p, smooth=1e-18).loss(prediction, target)
    torch.testing.assert_close(found, (prediction - target).abs().pow(p).sum(-1))
    if other is not None:
        torch.testing.assert_close(
            Lp(p=p, smooth=0.0).gradient(prediction, target), other.gradient(prediction, target)
        )


@pytest.mark.parametrize("same", [Dot(), L2(0.5), Huber(0.4), Lp(p=1.5, smooth=1e-3)], ids=str)
def test_loss_of_a_function_is_the_named_objective(same: Objective) -> None:
    prediction, target = tokens()
    loss = Loss(lambda p, v: same.loss(p[None], v[None])[0])
    torch.testing.assert_close(loss.loss(prediction, target), same.loss(prediction, target))
    torch.testing.assert_close(
        loss.gradient(prediction, target), same.gradient(prediction, target), rtol=1e-10, atol=1e-10
    )


def test_objectives_other_than_huber_ignore_a_threshold() -> None:
    prediction, target = tokens()
    threshold = torch.full((2, 3, 5), 0.1, dtype=torch.float64)
    for objective in (Dot(), L2(), Lp(), EVERY[-1]):
        assert torch.equal(
            objective.gradient(prediction, target, threshold), objective.gradient(prediction, target)
        )
        assert torch.equal(objective.loss(prediction, target, threshold), objective.loss(prediction, target))


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_huber_asks_for_a_positive_threshold(threshold: float) -> None:
    with pytest.raises(InputError, match=rf"Huber's threshold is a positive number; got {threshold}"):
        Huber(threshold)


@pytest.mark.parametrize(
    ("p", "smooth"), [(0.5, 1e-6), (3.0, -1e-6), (1.5, 0.0), (float("nan"), 1e-6), (3.0, float("nan"))]
)
def test_lp_asks_for_a_convex_smooth_loss(p: float, smooth: float) -> None:
    with pytest.raises(InputError, match=rf"Lp needs p >= 1 .*got p={p}, smooth={smooth}"):
        Lp(p=p, smooth=smooth)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_l2_asks_for_a_positive_factor(factor: float) -> None:
    with pytest.raises(InputError, match=f"L2's factor is a positive number; got {factor}"):
        L2(factor)


@pytest.mark.parametrize("given", [{"p": float("inf")}, {"smooth": float("inf")}])
def test_lp_asks_for_finite_numbers(given: dict) -> None:
    with pytest.raises(InputError, match=r"Lp needs p >= 1 .*, both finite; got .*=inf"):
        Lp(**given)
