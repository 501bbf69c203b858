"""The laws of a write rule, the same for every rule and architecture."""

import random
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from nestmem.adapters.fast_weights import RULES, FastWeights, load_fast_weights
from nestmem.adapters.rows import LENGTHS, ROWS, Row, fixed_batches
from nestmem.errors import InputError, ModelError

from .conftest import CONFIGS, tiny

TOLD = [
    [("What is my dog's name?", "Ines")],
    [("Where do I live?", "Port Almira"), ("What is my city?", "Port Almira")],
    [("What do I drink?", "black tea")],
    [("What is the name of my boat?", "Sea Quill")],
    [("Who is my neighbour?", "Torvald")],
]


@pytest.fixture(scope="module")
def make(tokenizer: PreTrainedTokenizerFast) -> Callable[[str, str], FastWeights]:
    made: dict[tuple[str, str], FastWeights] = {}

    def build(kind: str, rule: str) -> FastWeights:
        if (kind, rule) not in made:
            made[kind, rule] = FastWeights(tiny(kind), tokenizer, rule=rule, rank=16, last=2)
        return made[kind, rule]

    return build


def write(weights: FastWeights, memories: list) -> tuple:
    """State and payloads of a fresh user who was told these memories."""
    ((state, payloads),) = weights.write([weights.rule_object.empty()], [memories])
    return state, payloads


def nats(weights: FastWeights, state, memories: list) -> float:
    """Cross-entropy of the answers under a state."""
    rows = [weights.encode_pair(*pair) for pairs in memories for pair in pairs]
    banks = [bank[None] for bank in weights.banks_of(state)]
    total = 0.0
    for _, ids, chosen in fixed_batches(rows, device=torch.device("cpu")):
        total += float(weights.banked.keys_errors(ids, chosen, banks=banks)[2].detach().sum())
    return total


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_on_every_architecture(make, kind: str, rule: str) -> None:
    """A write lowers the loss on what was told; erasing, rebuilding and writing without it give the same bits."""
    weights = make(kind, rule)
    law = weights.rule_object
    one, _ = write(weights, TOLD[:1])
    assert nats(weights, one, TOLD[:1]) < nats(weights, law.empty(), TOLD[:1])
    state, payloads = write(weights, TOLD)
    kept = [("fast", payload) for payload in payloads[:1] + payloads[2:]]
    without, _ = write(weights, TOLD[:1] + TOLD[2:])
    assert law.digest(law.erase(state, [("fast", payloads[1])], kept)) == law.digest(without)
    assert law.digest(law.rebuild(kept)) == law.digest(without)
    assert law.digest(law.rebuild([("fast", payload) for payload in payloads])) == law.digest(state)
    assert law.digest(state) != law.digest(without)


@pytest.mark.parametrize("rule", RULES)
def test_a_state_is_a_value(make, rule: str) -> None:
    weights = make("qwen3", rule)
    state, payloads = write(weights, TOLD[:2])
    before = weights.rule_object.rebuild([("fast", payload) for payload in payloads])
    weights.write([state], [TOLD[2:]])
    weights.rule_object.erase(state, [("fast", payloads[0])], [("fast", payloads[1])])
    assert weights.rule_object.digest(before) == weights.rule_object.digest(state)
    for a, b in zip(weights.rule_object.banks(before), weights.rule_object.banks(state), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rule", RULES)
def test_many_users_in_one_batch_equal_each_alone(make, rule: str) -> None:
    weights = make("qwen3", rule)
    empty = weights.rule_object.empty()
    users = [TOLD[:1], TOLD[1:4], TOLD[4:], TOLD]
    together = weights.write([empty] * 4, users)
    for told, (state, payloads) in zip(users, together, strict=True):
        alone, alone_payloads = write(weights, told)
        assert payloads == alone_payloads
        assert weights.rule_object.digest(state) == weights.rule_object.digest(alone)


def test_additive_order_does_not_matter(make) -> None:
    weights = make("qwen3", "additive")
    state, payloads = write(weights, TOLD)
    updates = [("fast", payload) for payload in payloads]
    for seed in range(5):
        random.Random(seed).shuffle(updates)
        assert weights.rule_object.digest(weights.rule_object.rebuild(updates)) == weights.rule_object.digest(
            state
        )


def test_additive_writes_add_up_over_sessions(make) -> None:
    weights = make("qwen3", "additive")
    state, _ = write(weights, TOLD)
    first, _ = write(weights, TOLD[:2])
    ((second, _),) = weights.write([first], [TOLD[2:]])
    assert weights.rule_object.digest(second) == weights.rule_object.digest(state)


def test_promotion_moves_exactly_and_changes_no_answer(make) -> None:
    weights = make("qwen3", "additive")
    law = weights.rule_object
    state, payloads = write(weights, TOLD)
    moved = law.promote(state, [("fast", payloads[0]), ("fast", payloads[3])], "medium")
    assert sorted(moved.levels) == ["fast", "medium"]
    for a, b in zip(law.banks(moved), law.banks(state), strict=True):
        assert torch.equal(a, b)
    back = law.promote(moved, [("medium", payloads[0]), ("medium", payloads[3])], "fast")
    assert law.digest(back) == law.digest(state)


def test_forgetting_everything_leaves_nothing(make) -> None:
    weights = make("qwen3", "additive")
    law = weights.rule_object
    state, payloads = write(weights, TOLD)
    bare = law.erase(state, [("fast", payload) for payload in payloads], [])
    assert law.digest(bare) == law.digest(law.empty())
    assert not any(bool(bank.any()) for bank in law.banks(bare))


def test_taking_away_what_was_never_written_is_refused(make) -> None:
    weights = make("qwen3", "additive")
    _, payloads = write(weights, TOLD[:1])
    with pytest.raises(ModelError, match="holds nothing"):
        weights.rule_object.erase(weights.rule_object.empty(), [("fast", payloads[0])], [])


@pytest.mark.parametrize("kind", CONFIGS)
def test_statistics_of_an_example_do_not_depend_on_its_batch(make, kind: str) -> None:
    """The ground of exact forgetting: a row has the same int16 factors wherever it stands and whoever is beside it."""
    weights = make(kind, "additive")
    rows = [weights.encode_pair(*pair) for pairs in TOLD for pair in pairs]
    alone = weights.rule_object._factors([rows[0]])[0]
    for place in range(ROWS):
        others = (rows[1:] * 3)[: ROWS - 1]
        found = weights.rule_object._factors([*others[:place], rows[0], *others[place:]])[place]
        assert all(torch.equal(found[name], alone[name]) for name in alone)


@pytest.mark.parametrize("length", LENGTHS[:7])
def test_the_same_holds_at_every_length(make, length: int) -> None:
    weights = make("qwen3", "additive")
    generator = random.Random(length)
    rows = [
        Row(
            ids=[generator.randrange(2, 400) for _ in range(length)], weights=[0.0] * (length - 4) + [1.0] * 4
        )
        for _ in range(ROWS)
    ]
    together = weights.rule_object._factors(rows)
    for row, found in zip(rows, together, strict=True):
        alone = weights.rule_object._factors([row])[0]
        assert all(torch.equal(found[name], alone[name]) for name in alone)


def test_repeating_a_fact_saturates(make) -> None:
    """A ridge regression is bounded: the hundredth telling moves the banks less than the second."""
    weights = make("qwen3", "additive")
    law = weights.rule_object
    _, payloads = write(weights, TOLD[:1])
    norms = [float(law.banks(law.rebuild([("fast", payloads[0])] * n))[0].norm()) for n in (1, 2, 100, 101)]
    assert norms[0] < norms[1] < norms[2] < 60 * norms[0]
    assert norms[3] - norms[2] < 0.1 * (norms[1] - norms[0])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_tmem_is_sgd_on_the_b_of_a_lora(tokenizer: PreTrainedTokenizerFast) -> None:
    """The published rule, done with PEFT and torch.optim.SGD, gives the same banks."""
    weights = FastWeights(tiny("qwen3"), tokenizer, rule="tmem")
    state, _ = write(weights, TOLD[:1])
    names = [site.name for site in weights.banked.sites]
    lora = get_peft_model(
        tiny("qwen3"), LoraConfig(r=6, lora_alpha=6, target_modules=names, lora_dropout=0.0)
    )
    parameters = dict(lora.named_parameters())
    bs = []
    for site, basis in zip(weights.banked.sites, weights.banked.bases, strict=True):
        prefix = f"base_model.model.{site.name}"
        parameters[f"{prefix}.lora_A.default.weight"].data.copy_(basis)
        bs.append(parameters[f"{prefix}.lora_B.default.weight"])
    row = weights.encode_pair(*TOLD[0][0])
    ids = torch.tensor([row.ids])
    chosen = torch.tensor([row.weights])[:, 1:] > 0
    optimizer = torch.optim.SGD(bs, lr=5e-4)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(lora(input_ids=ids).logits[:, :-1][chosen], ids[:, 1:][chosen]).backward()
        optimizer.step()
    for bank, b in zip(weights.rule_object.banks(state), bs, strict=True):
        torch.testing.assert_close(bank, b.detach(), rtol=1e-3, atol=1e-7)
        assert bool(b.any())


def test_a_statement_too_long_to_learn_is_refused() -> None:
    with pytest.raises(InputError, match="2000 tokens cannot be learned at once"):
        list(fixed_batches([Row(ids=[3] * 2000, weights=[1.0] * 2000)], device=torch.device("cpu")))


@pytest.mark.filterwarnings("ignore")
def test_a_very_long_answer_is_learned_in_part(make) -> None:
    weights = make("gpt2", "additive")
    row = weights.encode_pair("What did I say? " * 60, "word " * 2000)
    assert len(row.ids) == 256
    assert sum(row.weights) == 128
    state, _ = write(weights, [[("What did I say?", "word " * 2000)]])
    assert state.levels


def test_a_damaged_base_is_refused_before_it_writes(tokenizer: PreTrainedTokenizerFast) -> None:
    weights = FastWeights(tiny("qwen3"), tokenizer, rank=8, last=1)
    with torch.no_grad():
        weights.banked.sites[0].module.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="weights are damaged"):
        write(weights, TOLD)
    with pytest.raises(ModelError, match="damaged"):
        FastWeights(weights.model, tokenizer, rank=8, last=1)


def test_an_unknown_rule_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="rule='adam': expected one of nested, additive, rls, tmem"):
        FastWeights(tiny("qwen3"), tokenizer, rule="adam")


@pytest.mark.parametrize("device", ["tpu", "cuda:77"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(InputError, match=f"device='{device}' cannot be used here"):
        load_fast_weights("mini", device=device)
