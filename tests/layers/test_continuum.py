"""The continuum memory: what its levels compute and write, and what they refuse."""

import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from nestmem.core import DeltaGradientDescent, Momentum
from nestmem.errors import InputError
from nestmem.layers.continuum import ContinuumMemory, teach_signal
from nestmem.layers.fast import FastLevel, Transposed, merge
from nestmem.ops.endtoend import chunked, init
from nestmem.optim.inner import DGD, Muon

WIDTH, HIDDEN, TOKENS = 6, 5, 13
VARIANTS = ("sequential", "nested", "independent")


def layer(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return ContinuumMemory(WIDTH, HIDDEN, **options).double()


def tokens(batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(
        batch, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def plain(cms: Any, x: torch.Tensor) -> Any:
    """The layer of weights that are never written, from its equation."""
    if cms.variant == "independent":
        return sum(a * mlp(x) for a, mlp in zip(cms.share, cms.mlps, strict=True))
    z = x + cms.mlps[0](x)
    for norm, mlp in zip(cms.norms, cms.mlps[1:], strict=True):
        z = z + mlp(norm(z))
    return z - x


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@pytest.mark.parametrize("objective", ["lm", "teach", "kv"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_at_rate_zero_it_is_plain_mlps(variant, objective, mlp):
    cms = layer(
        variant=variant, objective=objective, mlp=mlp, periods=(2, 4, None), rate=0.0, learn_rate=False
    )
    torch.testing.assert_close(cms(tokens())[0], plain(cms, tokens()), rtol=1e-12, atol=1e-12)


def test_one_level_with_a_long_period_is_one_mlp():
    for objective, period in (("kv", TOKENS), ("kv", None), ("lm", 2)):
        cms = layer(periods=(period,), objective=objective)
        torch.testing.assert_close(cms(tokens())[0], cms.mlps[0](tokens()), rtol=1e-12, atol=1e-12)


def test_a_short_period_is_not():
    cms = layer(periods=(4, None), objective="kv")
    y, expected = cms(tokens())[0].detach(), plain(cms, tokens()).detach()
    torch.testing.assert_close(y[:, :4], expected[:, :4], rtol=1e-12, atol=1e-12)
    assert float((y[:, 4:] - expected[:, 4:]).norm() / expected[:, 4:].norm()) > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_kv_is_a_plain_loop(variant):
    """One sequence at a time, every level by autograd of its own loss, with the norms and the rule written out."""
    periods = (2, 6)
    cms = layer(
        variant=variant,
        objective="kv",
        periods=periods,
        rate=0.3,
        restart_rate=0.2,
        clip=0.8,
        momentum=0.5,
        optimizer=Momentum(),
        # The logarithm would be rounded to float32.
        learn_rate=False,
    )
    x = tokens()
    found = cms(x)[0].detach()
    for row in range(2):
        total = torch.zeros(TOKENS, WIDTH, dtype=torch.float64)
        for i, period in enumerate(periods):
            z = x[row] if i == 0 or variant == "independent" else cms.norms[i - 1](x[row] + total)
            z = z.detach()
            k = z @ cms.keys[str(i)].weight.T
            k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            v = z @ cms.values[str(i)].weight.T
            w = {n: p.detach() for n, p in cms.mlps[i].named_parameters()}
            start, speed, gathered, y = dict(w), dict.fromkeys(w, 0.0), dict.fromkeys(w, 0.0), []
            for begin in range(0, TOKENS, period):
                at = slice(begin, begin + period)
                leaves = {n: p.clone().requires_grad_() for n, p in w.items()}
                y.append(torch.func.functional_call(cms.mlps[i], w, (z[at],)))
                loss = (
                    (torch.func.functional_call(cms.mlps[i], leaves, (k[at].detach(),)) - v[at].detach())
                    .square()
                    .sum()
                )
                g = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
                gathered = {n: gathered[n] + g[n] for n in g}
                again = variant == "nested" and i == 0 and (begin + period) % periods[1] == 0
                share, mean = (gathered, periods[1]) if again else (g, period)
                share = {n: s / mean for n, s in share.items()}
                size = math.sqrt(sum(float(s.square().sum()) for s in share.values()))
                share = {n: s * min(1.0, 0.8 / size) for n, s in share.items()}
                if again:
                    w = start = {n: p - 0.2 * share[n] for n, p in start.items()}
                    speed, gathered = dict.fromkeys(w, 0.0), dict.fromkeys(w, 0.0)
                else:
                    speed = {n: 0.5 * speed[n] - 0.3 * s for n, s in share.items()}
                    w = {n: p + speed[n] for n, p in w.items()}
            y = torch.cat(y)
            total = total + (cms.share[i] * y if variant == "independent" else y).detach()
        torch.testing.assert_close(found[row], total, rtol=1e-9, atol=1e-9)


def test_kv_learns_its_values():
    """The same tokens again and again: the error at what was written falls."""
    cms = layer(periods=(4,), objective="kv", rate=0.2, clip=None)
    x = tokens(1)[:, :4].repeat(1, 20, 1)
    _, before = cms(x[:, :4])
    _, after = cms(x)

    def error(state):
        w = {n: p[0] for n, p in state.memories["0"].weights.items()}
        key = F.rms_norm(cms.keys["0"](x[0, :4]), (WIDTH,), eps=1e-6)
        guess = torch.func.functional_call(cms.mlps[0], w, (key,))
        return float((guess - cms.values["0"](x[0, :4])).square().sum())

    with torch.no_grad():
        assert error(after) < 0.5 * error(before)


@pytest.mark.parametrize("optimizer", ["adam", "muon", "newton_schulz", "delta_momentum", "dmgd", "m3"])
def test_kv_with_every_optimizer_keeps_the_laws(optimizer):
    cms = layer(periods=(2, 4), objective="kv", rate=0.05, momentum=0.6, optimizer=optimizer)
    x = tokens()
    whole, end = cms(x)
    parts, state = [], None
    for piece in x.split([3, 1, 4, 5], 1):
        y, state = cms(piece, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-9)
    assert pytree.tree_structure(state) == pytree.tree_structure(end)
    torch.testing.assert_close(cms(x[1:])[0], whole[1:], rtol=1e-9, atol=1e-9)
    assert float((whole - plain(cms, x)).detach().norm()) > 1e-3
    whole.square().sum().backward()
    for name, p in cms.named_parameters():
        assert p.grad is not None and bool((p.grad != 0).any()), name


def test_outer_gradient_of_kv_is_its_derivative():
    cms = layer(periods=(2, 4), objective="kv", variant="nested", mlp="gelu", rate=0.2)
    x = tokens(1)[:, :9]
    names = [n for n, _ in cms.named_parameters()]

    def loss(x, *values):
        return torch.func.functional_call(cms, dict(zip(names, values, strict=True)), (x,))[0].sin().sum()

    given = [x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in cms.parameters())]
    assert torch.autograd.gradcheck(loss, given, fast_mode=True)


def test_checkpointing_in_training_changes_nothing():
    cms = layer(periods=(2, 4), objective="kv")
    found = []
    for training in (True, False):
        cms.train(training)
        found.append(torch.autograd.grad(cms(tokens())[0].sin().sum(), list(cms.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_levels_name_what_the_model_writes():
    cms = layer(periods=(2, 8, None), variant="nested", rate=0.5, restart_rate=0.25, clip=2.0)
    quick, slow = cms.levels()
    assert quick.names == ("mlps.0.gate.weight", "mlps.0.up.weight", "mlps.0.down.weight")
    assert (quick.period, quick.restart, slow.period, slow.restart) == (2, 8, 8, None)
    assert set(quick.names) <= dict(cms.named_parameters()).keys()
    assert quick.rate.item() == pytest.approx(0.5) and quick.restart_rate.item() == pytest.approx(0.25)
    (g,) = torch.autograd.grad(slow.rate, cms.log_rate)
    assert g.tolist() == pytest.approx([0.0, 0.5])
    assert layer(objective="kv").levels() == []
    assert layer(periods=(None, None)).levels() == []
    assert all(level.teach for level in layer(objective="teach").levels())


def test_the_options_of_a_config_are_text():
    options = json.loads(json.dumps({"periods": [2, 4, None], "objective": "kv", "optimizer": "muon"}))
    assert layer(**options)(tokens())[0].shape == (2, TOKENS, WIDTH)


def test_merged_levels_are_clipped_together():
    shared = {"period": 4, "rate": 0.5, "clip": 1.0}
    blocks = [FastLevel(names=("w",), **shared).under(f"{i}.") for i in range(3)]
    other = FastLevel(names=("v",), period=8, rate=0.5)
    (joint, alone) = merge([*blocks[:2], other, blocks[2]])
    assert joint.names == ("0.w", "1.w", "2.w") and (joint.period, joint.clip) == (4, 1.0)
    assert alone.names == ("v",) and alone.period == 8

    def step(outer, fast, inputs, carry) -> Any:
        out = sum((inputs * w).sum(-1) for w in fast.values())
        return out, out, carry

    fast = {f"{i}.w": torch.zeros(2, dtype=torch.float64) for i in range(3)}
    _, _, after = chunked(step, (), torch.ones(1, 4, 2).double(), init(fast, 1, levels=joint), levels=joint)
    moved = torch.stack([w[0] for w in after.weights.values()])
    torch.testing.assert_close(moved, torch.full((3, 2), -0.5 / 6**0.5, dtype=torch.float64))


def test_learned_rates_are_levels_of_their_own():
    rate = torch.tensor(0.5, requires_grad=True)
    same = [FastLevel(names=(n,), period=4, rate=rate) for n in "ab"]
    other = FastLevel(names=("c",), period=4, rate=rate.clone())
    assert [level.names for level in merge([*same, other])] == [("a", "b"), ("c",)]


def test_optimizers_see_rows_as_inputs():
    """Muon's step grows with outputs over inputs; torch's weights are [O, I]."""
    (level,) = merge([FastLevel(names=("w",), period=1, optimizer="muon")])
    assert level.optimizer == Transposed(Muon())
    w, g = torch.randn(2, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rate, decay, momentum = (torch.tensor(x, dtype=torch.float64) for x in (0.1, 1.0, 0.0))
    new, _ = level.optimizer.update(
        {"w": w}, {"w": g}, level.optimizer.init({"w": w}), rate, decay, momentum, {}
    )
    straight, _ = Muon().update({"w": w.mT}, {"w": g.mT}, Muon().init({"w": w.mT}), rate, decay, momentum, {})
    torch.testing.assert_close(new["w"], straight["w"].mT)
    # 8 outputs for 2 inputs: twice an orthogonal step.
    assert float((new["w"] - w).norm()) > 0.1 * 1.5 * 2**0.5


def test_teach_signal_is_the_gradient_at_the_head():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 4, WIDTH, generator=g, dtype=torch.float64).requires_grad_()
    head = torch.randn(11, WIDTH, generator=g, dtype=torch.float64)
    targets = torch.randint(0, 11, (3, 4), generator=g)
    targets[0, 1] = -100
    logits = hidden @ head.T
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    (expected,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    found = teach_signal(logits, targets, head.requires_grad_())
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad and not bool(found[0, 1].any())
    mapped = torch.func.vmap(teach_signal, in_dims=(0, 0, None))(logits, targets, head)
    torch.testing.assert_close(mapped, expected)


def test_bad_settings_are_refused():
    bad: list[tuple[dict[str, Any], str]] = [
        ({"periods": ()}, "at least one level"),
        ({"periods": 64}, "at least one level"),
        ({"periods": (0,)}, "a period is a whole number of tokens"),
        ({"periods": (4, 6)}, "6 is not a multiple of the shortest, 4"),
        ({"periods": (2, 4, 6), "variant": "nested"}, "6 is not a multiple of 4"),
        ({"variant": "parallel"}, "variant is one of sequential, nested, independent"),
        ({"objective": "l2"}, "objective is one of lm, teach, kv"),
        ({"mlp": "relu"}, "mlp is one of swiglu, gelu"),
        ({"rate": 0.0}, "a learned rate is positive"),
        ({"rate": -1.0, "learn_rate": False}, "rate is -1"),
        ({"clip": 0.0}, "clip is a positive norm"),
        ({"optimizer": "sgd"}, "no inner optimizer is called 'sgd'"),
        ({"optimizer": Momentum}, "optimizer is a value such as Momentum"),
        ({"optimizer": DGD()}, "DGD reads the inputs"),
        ({"optimizer": DeltaGradientDescent()}, "DeltaGradientDescent reads the inputs"),
    ]
    for options, words in bad:
        with pytest.raises(InputError, match=words):
            layer(**options)
    with pytest.raises(InputError, match="names is empty"):
        FastLevel(names=(), period=3)
    with pytest.raises(InputError, match="one model has one inner loss"):
        merge([FastLevel(names=("a",), period=3), FastLevel(names=("b",), period=3, teach=True)])
    with pytest.raises(InputError, match="ContinuumState"):
        layer(objective="kv")(
            tokens(), init({"w": torch.zeros(2)}, 2, levels=merge([FastLevel(names=("w",), period=2)]))
        )
