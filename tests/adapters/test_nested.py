"""The default write: each level is a fit on top of the slower ones, a function of the sets of memories alone."""

import random
import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nestmem.adapters import nested
from nestmem.adapters.fast_weights import FastWeights
from nestmem.adapters.nested import NestedRule, fit
from nestmem.adapters.rows import Row, pack_rows
from nestmem.errors import ModelError

from .conftest import CONFIGS, tiny

TOLD = [
    ("What is my dog's name?", "Ines"),
    ("Where do I live?", "Port Almira"),
    ("What do I drink?", "black tea"),
    ("What is the name of my boat?", "Sea Quill"),
    ("Who is my neighbour?", "Torvald"),
    ("What is my job?", "beekeeper"),
]


@pytest.fixture(scope="module")
def weights(tokenizer: PreTrainedTokenizerFast) -> FastWeights:
    """A random model with an output wide enough to be sure of anything."""
    model = tiny("qwen3")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return FastWeights(model, tokenizer, rule="nested", rank=24, last=2)


@pytest.fixture(scope="module")
def payloads(weights: FastWeights) -> list[bytes]:
    return [pack_rows([weights.encode_pair(*pair)]) for pair in TOLD]


def rows(weights: FastWeights, *numbers: int) -> list[Row]:
    return [weights.encode_pair(*TOLD[n]) for n in numbers]


def nats(weights: FastWeights, banks: list[Tensor], *numbers: int) -> float:
    """Mean log-loss of the answers, a row at a time."""
    total = 0.0
    for row in rows(weights, *numbers):
        ids, wanted = torch.tensor([row.ids]), torch.tensor([row.weights])
        _, _, loss = weights.banked.keys_errors(ids, wanted, banks=[bank[None] for bank in banks])
        total += float(loss) / sum(weight > 0 for weight in row.weights)
    return total / len(numbers)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_fit_is_the_ridge_step_repeated(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    """Against a plain loop: one row at a time, the whole model, keys and errors of `keys_errors`, an inverse."""
    weights = FastWeights(tiny(kind), tokenizer, rule="nested", rank=16, last=2)
    told, model, own = rows(weights, 0, 1, 2), weights.banked, weights.settings
    before = [torch.eye(basis.shape[0], dtype=torch.float64) for basis in model.bases]
    made = fit(model, own, told, moments=before, step=0.3, passes=1)
    S = [moment.clone() for moment in before]
    C = [
        torch.zeros(s.d_out, b.shape[0], dtype=torch.float64)
        for s, b in zip(model.sites, model.bases, strict=True)
    ]
    for row in told:
        ids, wanted = torch.tensor([row.ids]), torch.tensor([row.weights])
        keys, errors, _ = model.keys_errors(ids, wanted)
        for s in range(len(S)):
            for t in torch.nonzero(wanted[0, 1:] > 0)[:, 0]:
                k, e = keys[s][0, t].double(), errors[s][0, t].double()
                S[s] += torch.outer(k, k)
                C[s] -= torch.outer(e, k)
    for s, bank in enumerate(made.banks):
        eye = torch.eye(S[s].shape[0], dtype=torch.float64)
        expected = 0.3 * own.rate[s] * C[s] @ torch.linalg.inv(S[s] + own.ridge[s] * eye)
        torch.testing.assert_close(bank.double(), expected, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(made.moments[s], S[s], rtol=1e-3, atol=1e-5)


def test_a_fit_comes_to_know_its_rows(weights: FastWeights) -> None:
    made = fit(weights.banked, weights.settings, rows(weights, *range(6)), floor=0.1, passes=60)
    assert made.loss <= 0.1
    assert nats(weights, list(made.banks), *range(6)) < 0.2
    assert made.passes > 1


def test_the_loss_never_ends_above_its_start(weights: FastWeights) -> None:
    """A rate a thousand times too large explodes at once; the step shrinks until it helps."""
    wild = replace(weights.settings, rate=tuple(1e3 * rate for rate in weights.settings.rate))
    start = nats(weights, nested._zeros(weights.banked), 0, 1)
    made = fit(weights.banked, wild, rows(weights, 0, 1))
    assert all(bool(torch.isfinite(bank).all()) for bank in made.banks)
    assert nats(weights, list(made.banks), 0, 1) < start


def test_order_and_history_do_not_matter(weights: FastWeights, payloads: list[bytes]) -> None:
    """However the memories came to their levels, the state is the same, bit for bit."""
    law = weights.rule_object
    parts = [("slow", p) for p in payloads[:2]] + [("medium", p) for p in payloads[2:4]]
    parts += [("fast", p) for p in payloads[4:]]
    wanted = law.digest(law.rebuild(parts))
    for seed in range(3):
        random.Random(seed).shuffle(parts)
        law._fits.clear()
        assert law.digest(law.rebuild(parts)) == wanted
    (state, made), *_ = law.write([law.empty()], [[[weights.encode_pair(*pair)] for pair in TOLD]], "fast")
    assert made == payloads
    state = law.promote(state, [("fast", p) for p in payloads[:4]], "medium")
    state = law.promote(state, [("medium", p) for p in payloads[:2]], "slow")
    assert law.digest(state) == wanted


@pytest.mark.parametrize("gone", range(6))
def test_taking_one_back_is_a_life_without_it(weights: FastWeights, payloads: list[bytes], gone: int) -> None:
    law = weights.rule_object
    levels = ["slow", "slow", "medium", "medium", "fast", "fast"]
    parts = list(zip(levels, payloads, strict=True))
    rest = parts[:gone] + parts[gone + 1 :]
    whole = law.rebuild(parts)
    without = law.erase(whole, [parts[gone]], rest)
    law._fits.clear()
    assert law.digest(without) == law.digest(law.rebuild(rest)) != law.digest(whole)


def test_taking_back_what_is_not_held_is_refused(weights: FastWeights, payloads: list[bytes]) -> None:
    law = weights.rule_object
    with pytest.raises(ModelError, match="does not hold"):
        law.erase(law.rebuild([("fast", payloads[0])]), [("slow", payloads[0])], [])


def test_a_level_is_fitted_on_top_of_the_slower_ones(weights: FastWeights, payloads: list[bytes]) -> None:
    law = NestedRule(weights.banked, weights.settings, replay=0)
    slow = law.rebuild([("slow", p) for p in payloads[:3]])
    both = law.rebuild([*(("slow", p) for p in payloads[:3]), ("fast", payloads[3])])
    expected = fit(
        weights.banked,
        weights.settings,
        rows(weights, 3),
        start=slow.fits["slow"].banks,
        moments=slow.fits["slow"].moments,
    )
    for a, b in zip(law.banks(both), expected.banks, strict=True):
        assert torch.equal(a, b)
    assert both.fits["slow"] is slow.fits["slow"]


def test_moments_of_the_slower_levels_protect_them(weights: FastWeights) -> None:
    slow = fit(weights.banked, weights.settings, rows(weights, 0, 1, 2), floor=0.02, passes=60)
    new = rows(weights, 3, 4, 5)
    known = nats(weights, list(slow.banks), 0, 1, 2)
    more = {"start": slow.banks, "floor": 0.02, "passes": 60}
    guarded = fit(weights.banked, weights.settings, new, moments=slow.moments, **more)
    bare = fit(weights.banked, weights.settings, new, **more)
    assert guarded.loss < 0.1
    assert bare.loss < 0.1
    lost = nats(weights, list(guarded.banks), 0, 1, 2) - known
    assert lost < nats(weights, list(bare.banks), 0, 1, 2) - known


def test_replay_fits_some_of_the_slower_memories_again(weights: FastWeights, payloads: list[bytes]) -> None:
    parts = [*(("slow", p) for p in payloads[:3]), *(("fast", p) for p in payloads[3:])]
    some = NestedRule(weights.banked, weights.settings, replay=2)
    state = some.rebuild(parts)
    assert state.fits["fast"].rows == 3 + 2
    assert state.fits["slow"].rows == 3
    rest = NestedRule(weights.banked, weights.settings, replay=2).rebuild(parts[1:])
    assert some.digest(some.erase(state, parts[:1], parts[1:])) == some.digest(rest)
    none = NestedRule(weights.banked, weights.settings, replay=0).rebuild(parts)
    kept, lost = (nats(weights, list(s.top.banks), 0, 1, 2) for s in (state, none))
    assert kept < lost


def test_one_level_fits_everything_together(weights: FastWeights, payloads: list[bytes]) -> None:
    alone = NestedRule(weights.banked, weights.settings, levels=["slow"])
    state = alone.rebuild([("fast", payloads[0]), ("medium", payloads[1]), ("slow", payloads[2])])
    assert list(state.levels) == ["slow"]
    assert alone.digest(state) == alone.digest(alone.rebuild([("slow", p) for p in payloads[:3]]))
    assert alone.digest(alone.erase(state, [("medium", payloads[1])], [])) == alone.digest(
        alone.rebuild([("slow", payloads[0]), ("slow", payloads[2])])
    )


def test_a_snapshot_saves_the_fitting_after_a_restart(
    weights: FastWeights, payloads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    law = weights.rule_object
    parts = [("slow", p) for p in payloads[:3]] + [("fast", payloads[3])]
    state = law.rebuild(parts)
    data = law.snapshot(state)
    law._fits.clear()
    law.adopt(data)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(nested, "fit", never)
    again = law.rebuild(parts)
    assert law.digest(again) == law.digest(state)
    assert again.top.loss == state.top.loss
    with pytest.raises(AssertionError, match="fitted again"):
        law.rebuild(parts[1:])


def test_a_damaged_snapshot_is_named(weights: FastWeights, payloads: list[bytes]) -> None:
    data = weights.rule_object.snapshot(weights.rule_object.rebuild([("slow", payloads[0])]))
    with pytest.raises(ModelError, match="damaged"):
        weights.rule_object.adopt(data[: len(data) // 2])
    weights.rule_object.adopt(b"")


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(kind, "eager") for kind in CONFIGS] + [(kind, "sdpa") for kind in CONFIGS if kind != "gemma2"],
)
def test_from_the_kept_hidden_states_upwards(
    tokenizer: PreTrainedTokenizerFast, kind: str, attention: str
) -> None:
    """Keys, errors, loss and logits equal those of the whole model, also where blocks get their mask by place."""
    whole = tiny(kind)
    whole.set_attn_implementation(attention)
    weights = FastWeights(whole, tokenizer, rule="additive", rank=8, last=2)
    model = weights.banked
    row = weights.encode_pair(*TOLD[1])
    ids, wanted = torch.tensor([row.ids]), torch.tensor([row.weights])
    generator = torch.Generator().manual_seed(0)
    banks = [
        torch.randn(1, s.d_out, b.shape[0], generator=generator) * 0.1
        for s, b in zip(model.sites, model.bases, strict=True)
    ]
    keys, errors, loss = model.keys_errors(ids, wanted, banks=banks)
    lower, chosen = model.lower(ids), wanted[:, 1:] > 0
    up_keys, up_errors, up_loss = model.upper_keys_errors(lower, ids, wanted, banks)
    assert up_loss == pytest.approx(float(loss), rel=1e-5)
    for a, b in zip([*keys, *errors], [*up_keys, *up_errors], strict=True):
        torch.testing.assert_close(a[chosen], b, rtol=1e-4, atol=1e-6)
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    whole = model(banks, input_ids=ids, use_cache=False).logits[0]
    torch.testing.assert_close(model.upper(lower, everywhere, banks), whole, rtol=1e-4, atol=1e-5)


def test_exact_is_what_greedy_decoding_gives(weights: FastWeights, payloads: list[bytes]) -> None:
    state = weights.rule_object.rebuild([("fast", p) for p in payloads])
    others = ["What is my cat's name?", "Where does my sister live?"]
    questions = [*(question for question, _ in TOLD), *others]
    given = weights.generate([[{"role": "user", "content": q}] for q in questions], [state] * len(questions))
    answers = [*(answer for _, answer in TOLD), "Ines", "Port Almira"]
    found = weights.exact(list(zip(questions, answers, strict=True)), [state] * len(questions))
    assert [right for right, _ in found] == [a == b for a, b in zip(given, answers, strict=True)]
    assert sum(right for right, _ in found) >= 5
    assert all(log <= 0 for _, log in found)
    bare = weights.exact(TOLD, [None] * len(TOLD))
    assert not any(right for right, _ in bare)
    assert max(log for _, log in bare) < min(log for right, log in found if right)


def test_drift_is_zero_for_nobody_and_grows(weights: FastWeights, payloads: list[bytes]) -> None:
    law = weights.rule_object
    still = weights.drift(law.empty())
    assert still.kl == pytest.approx(0, abs=1e-6)
    assert still.norm == 0
    assert still.finite
    some = weights.drift(law.rebuild([("fast", payloads[0])]))
    more = weights.drift(law.rebuild([("fast", p) for p in payloads]))
    assert 0 < some.norm < more.norm
    assert some.kl > 0
    broken = weights.drift(law.with_banks([torch.full_like(b, float("nan")) for b in law.banks(law.empty())]))
    assert not broken.finite


def test_weights_apply_where_something_was_written(weights: FastWeights, payloads: list[bytes]) -> None:
    law = weights.rule_object
    chats = [[{"role": "user", "content": TOLD[0][0]}]]
    assert weights.applies(chats, law.empty()) == [0.0]
    (there,) = weights.applies(chats, law.rebuild([("fast", payloads[0])]))
    assert there == pytest.approx(1.0, rel=1e-3)


def test_one_model_serves_many_threads(weights: FastWeights, payloads: list[bytes]) -> None:
    """While one thread answers, another fits: nobody is refused, and nobody gets anything of the other's."""
    weights.discard()
    state = weights.rebuild([("fast", p) for p in payloads])
    wanted = weights.rule_object.digest(state)
    chats = [[{"role": "user", "content": question}] for question, _ in TOLD]
    alone = weights.generate(chats, [state] * len(chats))
    digests: list[str] = []

    def fitting() -> None:
        for _ in range(6):
            weights.discard()
            digests.append(weights.rule_object.digest(weights.rebuild([("fast", p) for p in payloads])))

    thread = threading.Thread(target=fitting)
    thread.start()
    while thread.is_alive():
        assert weights.generate(chats, [state] * len(chats)) == alone
    thread.join()
    assert digests == [wanted] * 6


def test_what_is_taken_back_leaves_the_cache(weights: FastWeights, payloads: list[bytes]) -> None:
    parts = [("slow", p) for p in payloads[:3]]
    state = weights.rebuild(parts)
    weights.banks_of(state)
    weights.erase(state, parts[:1], parts[1:])
    assert not any(nested._sha(payloads[0]) in kept.holds for kept in weights.rule_object._fits.values())
    assert weights.rule_object.digest(state) not in weights._cache


def test_a_snapshot_with_other_numbers_is_not_believed(weights: FastWeights, payloads: list[bytes]) -> None:
    data = bytearray(weights.rule_object.snapshot(weights.rebuild([("slow", payloads[0])])))
    data[-5] ^= 64
    with pytest.raises(ModelError, match="do not add up"):
        weights.adopt(bytes(data))
