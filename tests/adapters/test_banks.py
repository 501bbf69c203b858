"""Keys, errors and banks: each closed form against autograd, each short cut against the long way."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nestmem.adapters.banks import BankedModel, apply_bank, ridge_banks
from nestmem.adapters.sites import find_sites, right_singular_basis, scaled_singular_basis
from nestmem.errors import UnsupportedArchitecture

from .conftest import CONFIGS, VOCABULARY, tiny


def rows(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids (4, 12) and weights that write the last five tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (4, 12), generator=generator)
    weights = torch.zeros(4, 12)
    weights[:, -5:] = 1
    return ids, weights


def random_banks(banked: BankedModel, users: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [
        0.05 * torch.randn(users, site.d_out, basis.shape[0], generator=generator, dtype=basis.dtype)
        for site, basis in zip(banked.sites, banked.bases, strict=True)
    ]


@pytest.mark.parametrize("kind", CONFIGS)
def test_sites_are_the_feed_forward_layers_of_the_last_blocks(kind: str) -> None:
    sites = find_sites(tiny(kind), last=2)
    assert {site.block for site in sites} == {2, 3}
    x = torch.randn(3, sites[0].d_in)
    bias = getattr(sites[0].module, "bias", None)
    expected = x @ sites[0].weight().T + (0 if bias is None else bias)
    torch.testing.assert_close(sites[0].module(x), expected)


def test_an_unknown_architecture_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedArchitecture, match=r"'Linear' has no known feed-forward layers.*llama"):
        find_sites(nn.Linear(3, 3), last=1)


def test_no_block_to_carry_banks_is_an_error() -> None:
    with pytest.raises(ValueError, match="last=0"):
        find_sites(tiny("llama"), last=0)


def test_basis_is_the_top_right_singular_vectors() -> None:
    weight = torch.randn(30, 20, dtype=torch.float64)
    basis, scaled = right_singular_basis(weight, 6), scaled_singular_basis(weight, 6)
    _, values, vectors = torch.linalg.svd(weight)
    torch.testing.assert_close(basis @ basis.T, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close((basis @ vectors[:6].T).abs(), torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(scaled.norm(dim=1), values[:6])


@pytest.mark.parametrize("kind", CONFIGS)
def test_keys_and_errors_give_the_gradient_of_the_banks(kind: str) -> None:
    """d loss / d bank = sum over tokens of e k^T: the closed form equals autograd through the model."""
    banked = BankedModel(tiny(kind, torch.float64), rank=8, last=2)
    ids, weights = rows()
    banks = [bank.requires_grad_() for bank in random_banks(banked, 1)]
    with banked.using(banks):
        logits = banked.model(input_ids=ids).logits[:, :-1]
    nll = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    expected = torch.autograd.grad((nll * weights[:, 1:]).sum(), banks)
    keys, errors, _ = banked.keys_errors(ids, weights, banks=[bank.detach() for bank in banks])
    for k, e, gradient in zip(keys, errors, expected, strict=True):
        closed = e.flatten(0, 1).T @ k.flatten(0, 1)
        torch.testing.assert_close(closed, gradient[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", CONFIGS)
def test_upper_blocks_from_kept_states_equal_the_whole_model(kind: str) -> None:
    banked = BankedModel(tiny(kind), rank=8, last=2)
    ids, weights = rows()
    banks = random_banks(banked, 1)
    short = banked.upper_loss(banked.lower(ids), ids, weights, banks)
    _, _, loss = banked.keys_errors(ids, weights, banks=banks)
    torch.testing.assert_close(short, loss.sum().detach(), rtol=1e-6, atol=1e-5)


def test_users_of_one_batch_do_not_mix() -> None:
    banked = BankedModel(tiny("qwen3", torch.float64), rank=8, last=2)
    ids, _ = rows()
    banks = random_banks(banked, 4)
    with torch.no_grad():
        together = banked(banks, input_ids=ids).logits
        alone = torch.cat(
            [banked([b[u : u + 1] for b in banks], input_ids=ids[u : u + 1]).logits for u in range(4)]
        )
        base = banked(input_ids=ids).logits
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, base)


def test_banks_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="5 samples cannot be shared equally by the banks of 2 users"):
        apply_bank(torch.zeros(5, 3, 4), torch.zeros(2, 6, 4))


def test_nothing_is_kept_after_a_call() -> None:
    banked = BankedModel(tiny("llama"), rank=8, last=2)
    ids, _ = rows()
    with torch.no_grad():
        before = banked(input_ids=ids).logits
        banked(random_banks(banked, 1), input_ids=ids)
        after = banked.model(input_ids=ids).logits
    assert torch.equal(before, after)


def test_ridge_banks_minimise_the_ridge_regression() -> None:
    """B = argmin sum |B k - v|^2 + ridge |B|^2 with v = -rate e: the gradient at B is zero."""
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    v = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    ridge = torch.tensor(0.3, dtype=torch.float64)
    bank = ridge_banks([(k.T @ k)[None]], [(v.T @ k)[None]], [ridge], [torch.ones((), dtype=torch.float64)])[
        0
    ][0]
    bank = bank.requires_grad_()
    objective = (k @ bank.T - v).square().sum() + ridge * bank.square().sum()
    (gradient,) = torch.autograd.grad(objective, bank)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)


def test_gradients_pass_through_the_ridge_solve() -> None:
    k = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    e = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    ridge = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def read(k, e, ridge, rate):
        return ridge_banks([(k.T @ k)[None]], [-(e.T @ k)[None]], [ridge], [rate])[0]

    assert torch.autograd.gradcheck(read, (k, e, ridge, rate))


def test_outer_gradients_pass_through_the_write() -> None:
    """Finite differences agree with the second-order gradient of an outer loss in a weight of the base."""
    model = tiny("gpt2", torch.float64)  # its norms are computed in float64 too, others' in float32
    model.set_attn_implementation("eager")
    banked = BankedModel(model, rank=6, last=2)
    ids, weights = rows()
    asked, answered = rows(seed=2)
    parameter = banked.sites[0].module.weight

    def outer(entry: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            parameter[0, 0] = entry
        keys, errors, _ = banked.keys_errors(ids, weights, create_graph=True)
        moments = [(k.flatten(0, 1).T @ k.flatten(0, 1))[None] for k in keys]
        cross = [-(e.flatten(0, 1).T @ k.flatten(0, 1))[None] for k, e in zip(keys, errors, strict=True)]
        one = torch.ones((), dtype=torch.float64)
        banks = ridge_banks(moments, cross, [0.5 * one] * len(keys), [one] * len(keys))
        _, _, loss = banked.keys_errors(asked, answered, banks=banks, create_graph=True)
        return loss.sum()

    start, step = parameter[0, 0].item(), 1e-5
    (gradient,) = torch.autograd.grad(outer(torch.tensor(start, dtype=torch.float64)), parameter)
    high = outer(torch.tensor(start + step, dtype=torch.float64)).item()
    low = outer(torch.tensor(start - step, dtype=torch.float64)).item()
    assert gradient[0, 0].item() == pytest.approx((high - low) / (2 * step), rel=1e-5, abs=1e-8)
