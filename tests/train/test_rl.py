"""Reinforcement learning of the writer: rollouts own their banks, the update is GRPO's, and rewards cannot be had
cheaply. Models are tiny and random; what they write is held to a few phrases, so that it can be learned from."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3Config, Qwen3ForCausalLM
from typer.testing import CliRunner

from nestmem.adapters.copying import Spans
from nestmem.adapters.fast_weights import CALIBRATION, FastWeights, load_fast_weights, parse_pairs
from nestmem.cli.train import training
from nestmem.errors import InputError
from nestmem.personas import PersonaGenerator
from nestmem.train import rl
from nestmem.train.reward import (
    RewardWeights,
    answer_logprobs,
    drift,
    exact,
    gain,
    grounded,
    measure,
    old_loss,
    score,
    screen,
)
from nestmem.train.rl import (
    Lesson,
    Policy,
    RLConfig,
    evaluation_sets,
    group_advantages,
    grpo_loss,
    lessons,
    referred,
    train_rl,
    unread,
    update,
    writing,
)
from nestmem.train.rollout import (
    Action,
    Allowed,
    Constraint,
    Pairs,
    Probe,
    Rollout,
    Sampled,
    Sampling,
    Stream,
    StreamShape,
    Version,
    collect,
    end_token,
    extractive_writing,
    persona_stream,
    recompute,
    sample,
    writer_prompt,
)
from nestmem.train.tokenizer import train_tokenizer

PLACES = ("Leeds", "York", "Bath")
SMALL = Sampling(write_tokens=40, answer_tokens=4)


def tiny(
    *,
    kind: str = "qwen3",
    rule: str = "additive",
    extractive: bool = False,
    dtype: torch.dtype = torch.float32,
    rate: float = 1.0,
) -> FastWeights:
    """A random model, the same at every call, with a tokenizer that knows the words of these tests; it writes at
    `rate` times the rate that calibration finds."""
    torch.manual_seed(0)
    words = [f"{q} {a} Q: Where do I live? A: {' '.join(PLACES)} I live in, none" for q, a in CALIBRATION]
    tokenizer = train_tokenizer(words * 10, vocabulary=420)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=420, n_embd=32, n_layer=2, n_head=2, n_positions=256, eos_token_id=1)
    else:
        config = Qwen3Config(
            vocab_size=420,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=256,
            pad_token_id=0,
            eos_token_id=1,
        )
    config.extractive = extractive
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    weights = FastWeights(model, tokenizer, rule=rule, rank=16, last=1)
    if rate == 1.0:
        return weights
    settings = replace(weights.settings, rate=tuple(rate * value for value in weights.settings.rate))
    return FastWeights(
        model, tokenizer, rule=rule, rank=16, last=1, settings=settings, bases=weights.banked.bases
    )


def phrases(weights: FastWeights, *texts: str) -> Constraint:
    """Every message is written about with one of the texts."""
    fixed = tuple(
        tuple(weights.tokenizer(" " + text, add_special_tokens=False)["input_ids"]) for text in texts
    )
    spans = Spans(source=(), starts=(), ends=(), phrases=fixed, stop=(end_token(weights),))
    return lambda messages: lambda row, made: spans.allowed(made)


def places(weights: FastWeights) -> Constraint:
    return phrases(weights, *(f"Q: Where do I live? A: {place}" for place in PLACES))


def one_stream(place: str, sessions: int = 1) -> Stream:
    """Sessions of one message that names every place, and a probe about each."""
    probes = [
        Probe(question="Where is my house?", answer=place, session=s, message=0, due=s)
        for s in range(sessions)
    ]
    told = (("I live in Leeds, York, Bath",),) * sessions
    return Stream(sessions=told, probes=tuple(probes))


def live(weights: FastWeights, streams: list[Stream], *, seed: int = 0, **options) -> list[Rollout]:
    chosen = {
        "screen": screen,
        "measure": measure,
        "constraint": places(weights),
        "statements": False,
    } | options
    return collect(weights, streams, SMALL, generator=torch.Generator().manual_seed(seed), **chosen)


def told(rollouts: list[Rollout]) -> list[tuple[Sampled, Version]]:
    return [(action.sampled, life.versions[action.version]) for life in rollouts for action in life.actions]


def drawn_logprobs(rows: list[tuple[Sampled, Version]], like: Tensor) -> Tensor:
    drawn = torch.zeros_like(like)
    for b, (made, _) in enumerate(rows):
        drawn[b, : len(made.logprobs)] = torch.tensor(made.logprobs)
    return drawn


# -- the policy is one thing when it draws and when it learns ---------------------------------------------------


@pytest.mark.parametrize(("kind", "rule"), [("qwen3", "additive"), ("qwen3", "rls"), ("gpt2", "additive")])
def test_the_ratio_is_1_at_the_first_update(kind: str, rule: str) -> None:
    weights = tiny(kind=kind, rule=rule)
    rollouts = live(weights, [one_stream("York", sessions=2)] * 3)
    rows = told(rollouts)
    again, mask = recompute(weights, rows, temperature=1.0)
    assert int(mask.sum()) == sum(len(made.tokens) for made, _ in rows)
    torch.testing.assert_close(again, drawn_logprobs(rows, again), atol=1e-4, rtol=0)
    # The version matters: under the banks before the last write the tokens have other chances.
    later = [(life.actions[-1].sampled, life.versions[0]) for life in rollouts]
    at_start, _ = recompute(weights, later, temperature=1.0)
    assert float((at_start - drawn_logprobs(later, at_start)).abs().max()) > 1e-2


def test_the_ratio_is_1_under_the_copying_constraint_and_a_temperature() -> None:
    weights = tiny(extractive=True)
    start = weights.tokenizer(" Q: Where do I live? A:", add_special_tokens=False)["input_ids"]
    copying = extractive_writing(weights)

    def constraint(messages: list[str]) -> Allowed:
        limit = copying(messages)
        return lambda row, made: [start[len(made)]] if len(made) < len(start) else limit(row, made)

    messages = ["I live in York", "Bath, Leeds", "none"] * 4
    made = sample(
        weights,
        [writer_prompt(weights, text) for text in messages],
        None,
        constraint(messages),
        temperature=0.7,
        max_new_tokens=len(start) + 6,
        generator=torch.Generator().manual_seed(1),
    )
    for text, drawn in zip(messages, made, strict=True):
        assert all(grounded(pair, text) for pair in parse_pairs(drawn.text))
        assert drawn.logprobs[: len(start)] == (0.0,) * len(start)
        assert all(not free or token in free for token, free in zip(drawn.tokens, drawn.allowed, strict=True))
    assert len({drawn.text for drawn in made}) > 3
    empty = Version(number=0, digest="", banks=tuple(weights.rule_object.banks(weights.rule_object.empty())))
    rows = [(drawn, empty) for drawn in made]
    again, _ = recompute(weights, rows, temperature=0.7)
    torch.testing.assert_close(again, drawn_logprobs(rows, again), atol=1e-4, rtol=0)


def test_chances_over_the_allowed_tokens_add_up_to_1() -> None:
    weights = tiny()
    rollouts = live(weights, [one_stream("York")] * 64, seed=3)
    found = {}
    for life in rollouts:
        found[life.actions[0].sampled.text] = sum(life.actions[0].sampled.logprobs)
    assert len(found) == 3
    assert float(torch.tensor(list(found.values())).exp().sum()) == pytest.approx(1.0, abs=1e-4)


# -- banks belong to one rollout, and no gradient goes through a write ------------------------------------------


def test_the_banks_of_a_rollout_do_not_leak_into_others() -> None:
    weights = tiny()
    said: dict[str, Pairs] = {
        "York": [("Where do I live?", "York")],
        "Bath": [("Where do I live?", "Bath")],
        "none": [],
    }
    streams = [
        Stream(sessions=((name,),), probes=(Probe(question="?", answer="x", session=0, message=0, due=0),))
        for name in said
    ]

    def fixed(_pairs: Pairs, message: str) -> Pairs:
        return said[message]

    together = live(weights, streams, screen=fixed)
    for stream, life in zip(streams, together, strict=True):
        (alone,) = live(weights, [stream], screen=fixed)
        assert life.versions[1].digest == alone.versions[1].digest
        for mine, other in zip(life.versions[1].banks, alone.versions[1].banks, strict=True):
            assert torch.equal(mine, other)
    york, bath, silent = (life.versions[1].banks for life in together)
    assert not torch.equal(york[0], bath[0])
    assert not any(bool(bank.any()) for bank in silent)
    assert not any(bool(bank.any()) for life in together for bank in life.versions[0].banks)


def test_an_answer_is_drawn_under_its_own_rollouts_banks() -> None:
    weights = tiny()
    together = live(weights, [one_stream(place) for place in PLACES])
    rows = [(life.actions[-1].sampled, together[n - 1].versions[1]) for n, life in enumerate(together)]
    own = [(life.actions[-1].sampled, life.versions[1]) for life in together]
    right, _ = recompute(weights, own, temperature=1.0)
    wrong, _ = recompute(weights, rows, temperature=1.0)
    torch.testing.assert_close(right, drawn_logprobs(own, right), atol=1e-4, rtol=0)
    texts = [life.actions[0].sampled.text for life in together]
    differ = [n for n in range(3) if texts[n] != texts[n - 1]]
    assert differ
    assert all(float((right - wrong)[n].abs().max()) > 1e-3 for n in differ)


def test_no_gradient_goes_through_a_write() -> None:
    weights = tiny(dtype=torch.float64)
    policy = Policy(weights, lora_rank=2, seed=0)
    rollouts = live(weights, [one_stream("York")] * 2)
    rows = [(life.actions[-1].sampled, life.versions[1]) for life in rollouts]
    assert not any(bank.requires_grad for life in rollouts for v in life.versions for bank in v.banks)
    name = next(n for n in policy.trained if n.endswith("0.up"))
    phi = policy.trained[name]
    recompute(weights, rows, temperature=1.0)[0].sum().backward()
    assert phi.grad is not None
    analytic = float(phi.grad.flatten()[0])

    def total(shift: float, *, rewrite: bool) -> float:
        with torch.no_grad():
            phi.view(-1)[0] += shift
            versions = [life.versions[1] for life in rollouts]
            if rewrite:
                pairs = [[list(life.accepted[0, 0])] for life in rollouts]
                states = [s for s, _ in weights.write([weights.rule_object.empty()] * 2, pairs)]
                fresh = [tuple(weights.rule_object.banks(state)) for state in states]
                versions = [replace(v, banks=b) for v, b in zip(versions, fresh, strict=True)]
            value = recompute(
                weights, [(m, v) for (m, _), v in zip(rows, versions, strict=True)], temperature=1.0
            )
            phi.view(-1)[0] -= shift
            return float(value[0].sum())

    held = (total(1e-3, rewrite=False) - total(-1e-3, rewrite=False)) / 2e-3
    through = (total(0.1, rewrite=True) - total(-0.1, rewrite=True)) / 0.2
    assert analytic == pytest.approx(held, rel=1e-3)
    assert abs(through - analytic) > 0.1 * abs(analytic)


# -- GRPO -------------------------------------------------------------------------------------------------------


def test_the_gradient_of_the_loss_is_the_formulas() -> None:
    torch.manual_seed(1)
    logprob = (-torch.rand(40, 6, dtype=torch.float64)).requires_grad_()
    drawn = logprob.detach() + 0.5 * torch.randn(40, 6, dtype=torch.float64)
    reference = logprob.detach() + 0.5 * torch.randn(40, 6, dtype=torch.float64)
    advantage = torch.randn(40, dtype=torch.float64)
    mask = (torch.rand(40, 6) > 0.3).double()
    loss = grpo_loss(logprob, drawn, reference, advantage, mask, clip=0.2, beta=0.3)
    (got,) = torch.autograd.grad(loss, logprob)
    ratio = (logprob - drawn).exp().detach()
    value, expected = 0.0, torch.zeros_like(got)
    for b in range(40):
        for t in range(6):
            r, a = float(ratio[b, t]), float(advantage[b])
            d = float(reference[b, t] - logprob.detach()[b, t])
            held = min(max(r, 0.8), 1.2)
            clipped = (a > 0 and r > 1.2) or (a < 0 and r < 0.8)
            there = float(mask[b, t])
            value += there * (-min(r * a, held * a) + 0.3 * (2.718281828459045**d - d - 1))
            expected[b, t] = there * ((0.0 if clipped else -r * a) + 0.3 * (1 - 2.718281828459045**d))
    assert float(loss.detach()) == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(got, expected)
    assert 0 < int(((ratio - 1).abs() > 0.2).sum()) < ratio.numel()


def test_advantages_compare_within_a_group_only() -> None:
    found = group_advantages(torch.tensor([[1.0, 3.0], [100.0, 100.0], [5.0, 5.001]]), 0.1)
    torch.testing.assert_close(found[0], torch.tensor([-1.0, 1.0]) / 1.1)
    assert found[1].tolist() == [0.0, 0.0]
    assert float(found[2].abs().max()) < 0.01
    torch.testing.assert_close(found.sum(1), torch.zeros(3), atol=1e-4, rtol=0)


def toy(**options) -> RLConfig:
    values = {"out": Path("unused"), "learning_rate": 0.02, "statements": False, "beta": 0.0} | options
    return RLConfig(**values)


@pytest.mark.parametrize("home", ["York", "Bath"])
def test_the_write_that_is_rewarded_is_learned(home: str) -> None:
    """Three things can be written, one of them answers the probes to come: only the banks' gain tells which."""
    weights = tiny(rate=8.0)
    policy = Policy(weights, lora_rank=0, seed=0)
    config = toy(reward=RewardWeights(outcome=0.0, gain_nats=2.0), learning_rate=0.005)
    optimizer = torch.optim.AdamW(list(policy.trained.values()), lr=config.learning_rate)

    def share(lives: list[Rollout]) -> float:
        return sum(life.accepted[0, 0][0][1] == home for life in lives) / len(lives)

    before = share(live(weights, [one_stream(home)] * 64, seed=100))
    for step in range(12):
        lives = live(weights, [one_stream(home)] * 16, seed=step)
        scores = [score(life, config.reward) for life in lives]
        todo = lessons(lives, scores, group=16, config=config)
        update(policy, optimizer, todo, config)
    assert before < 0.6
    assert share(live(weights, [one_stream(home)] * 64, seed=101)) > 0.8


def test_an_update_moves_only_what_is_trained_and_not_the_reference() -> None:
    weights = tiny()
    base = {name: p.detach().clone() for name, p in weights.model.named_parameters()}
    policy = Policy(weights, lora_rank=2, seed=0)
    stream = one_stream("York")
    lives = live(weights, [stream] * 4)
    rows = told(lives)
    with policy.reference():
        before, _ = recompute(weights, rows, temperature=1.0)
    config = toy(beta=0.1)
    optimizer = torch.optim.AdamW(list(policy.trained.values()), lr=0.05)
    todo = [Lesson(sampled=m, version=v, advantage=1.0 - 2 * (n % 2)) for n, (m, v) in enumerate(rows)]
    todo = referred(policy, todo, config)
    first = update(policy, optimizer, todo, config)
    assert first["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert first["kl"] == pytest.approx(0.0, abs=1e-8)
    assert update(policy, optimizer, todo, config)["kl"] > 1e-6
    now = recompute(weights, rows, temperature=1.0)[0].detach()
    with policy.reference():
        after, _ = recompute(weights, rows, temperature=1.0)
    assert torch.equal(before, after)
    assert float((now - before).abs().max()) > 1e-3
    for name, p in weights.model.named_parameters():
        if name.endswith(".original"):
            assert torch.equal(p, base[name.replace("parametrizations.weight.original", "weight")])


def test_a_lesson_without_advantage_counts_with_its_kl_and_its_tokens() -> None:
    weights = tiny()
    policy = Policy(weights, lora_rank=2, seed=0)
    rows = told(live(weights, [one_stream("York")] * 3))
    with torch.no_grad():
        for name, p in policy.trained.items():
            if name.endswith(".up"):
                p.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    config = toy(beta=0.5)
    given = [0.0] * (len(rows) - 1) + [1.0]
    todo = [Lesson(sampled=m, version=v, advantage=a) for (m, v), a in zip(rows, given, strict=True)]
    referred_to = referred(policy, todo, config)
    logprob, mask = recompute(weights, rows, temperature=1.0)
    with policy.reference():
        reference, _ = recompute(weights, rows, temperature=1.0)
    drawn = drawn_logprobs(rows, logprob)
    whole = grpo_loss(logprob, drawn, reference, torch.tensor(given), mask, clip=config.clip, beta=0.5)
    own = list(policy.trained.values())
    wanted = torch.autograd.grad(whole / mask.sum(), own)
    before = [p.detach().clone() for p in own]
    found = update(policy, torch.optim.SGD(own, lr=1.0), referred_to, config)
    assert found["loss"] == pytest.approx(float(whole.detach() / mask.sum()), rel=1e-4)
    gap = (reference - logprob).detach()
    assert found["kl"] == pytest.approx(float(((gap.exp() - gap - 1) * mask).sum() / mask.sum()), rel=1e-4)
    norm = float(torch.stack([g.norm() for g in wanted]).norm())
    assert found["norm"] == pytest.approx(norm, rel=1e-3)
    for p, old, slope in zip(own, before, wanted, strict=True):
        torch.testing.assert_close(old - p.detach(), slope / max(1.0, norm), atol=1e-5, rtol=1e-3)

    # Where nothing has an advantage, the KL alone draws the policy to its reference.
    still = [replace(one, advantage=0.0) for one in referred_to]
    optimizer = torch.optim.Adam(own, lr=0.005)
    kl = [update(policy, optimizer, still, config)["kl"] for _ in range(20)]
    assert kl[0] > 1e-3
    assert kl[-1] < 0.7 * kl[0], kl


# -- rewards, and what should not pay ----------------------------------------------------------------------------


def life_with(
    pairs: Pairs, gains: tuple[tuple[float, ...], ...], *, tokens: int = 10, answer: str = "York"
) -> Rollout:
    """A hand-made life of two sessions of one message each, of which the first is about York."""
    text = "I live in York and I like it very much"
    probes = (Probe(question="Where do I live?", answer=answer, session=0, message=0, due=1),)
    made = Sampled(
        prompt=(1,), tokens=(2,) * tokens, allowed=((),) * tokens, logprobs=(-1.0,) * tokens, text=""
    )
    said = Sampled(prompt=(1,), tokens=(2,), allowed=((),), logprobs=(-1.0,), text="york.")
    return Rollout(
        stream=Stream(sessions=((text,), ("Good morning",)), probes=probes),
        actions=(
            Action(kind="write", version=0, place=(0, 0), sampled=made),
            Action(kind="write", version=1, place=(1, 0), sampled=said),
            Action(kind="answer", version=2, place=(0,), sampled=said),
        ),
        versions=(),
        pairs={(0, 0): pairs, (1, 0): []},
        accepted={(0, 0): screen(pairs, text), (1, 0): []},
        refused=(),
        gains=gains,
        drift=(0.0, 0.1, 0.3),
    )


RIGHT = [("Where do I live?", "York")]
HELPED = ((-6.0,), (-2.0,), (-2.5,))


def test_a_rollouts_score_is_the_sum_of_its_parts() -> None:
    weights = RewardWeights(gain_nats=8.0, tokens=0.1, drift=1.0, old=0.5)
    found = score(life_with(RIGHT, HELPED), weights)
    assert found.answers == {0: 1.0}
    assert found.outcome == 1.0
    assert found.shared == pytest.approx(0.3 + 0.5 * (0.0 + 0.5) / 2)
    assert found.writes[0, 0] == pytest.approx(4 / 8 - 0.1 * 4 * 10 / 38)
    assert found.writes[1, 0] == pytest.approx(-0.1 * 4 * 1 / 12)
    assert gain(life_with(RIGHT, ((-60.0,), (0.0,), (0.0,))), 0, 0, weights) == 1.0
    assert gain(life_with(RIGHT, ((0.0,), (-60.0,), (0.0,))), 0, 0, weights) == -1.0
    assert old_loss(life_with(RIGHT, HELPED), 1) == 0.5


def test_copying_everything_costs_more_than_one_right_pair() -> None:
    text = "I live in York and I like it very much"
    everything = [(f"What about {word}?", word) for word in text.split()]
    weights = RewardWeights()
    one = score(life_with(RIGHT, HELPED), weights).writes[0, 0]
    copied = score(life_with(everything, HELPED, tokens=90), weights).writes[0, 0]
    repeated = score(life_with(RIGHT * 5, HELPED, tokens=50), weights).writes[0, 0]
    assert one - copied > 0.3
    assert one - repeated > 0.5


def test_pairs_without_ground_are_kept_out_and_cost() -> None:
    invented = [("Where do I live?", "Paris")]
    text = "I live in York and I like it very much"
    assert screen([*invented, *RIGHT, *RIGHT], text) == RIGHT
    assert not grounded(("Where?", "or"), text)
    assert not grounded(("York", "York"), text)
    assert not grounded(("Where?", "..."), text)
    weights = RewardWeights()
    assert score(life_with(invented, HELPED), weights).writes[0, 0] == pytest.approx(
        score(life_with(RIGHT, HELPED), weights).writes[0, 0] - weights.ungrounded
    )


def test_gains_are_by_the_token_so_long_answers_gain_no_more() -> None:
    weights = tiny()
    pairs = [("Where do I live?", "York"), ("Where do I live?", "York Leeds York Leeds York Leeds")]
    short, long = answer_logprobs(weights, [pairs], None)[0].tolist()
    for (question, answer), mean in zip(pairs, (short, long), strict=True):
        row = weights.encode_pair(question, answer)
        logprob = weights.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        chosen = [float(logprob[t - 1, row.ids[t]]) for t in range(1, len(row.ids)) if row.weights[t]]
        assert mean == pytest.approx(sum(chosen) / len(chosen), abs=1e-4)
    # A random model finds every token about as unlikely: by the token the two are alike, in sum they are not.
    assert abs(short - long) < 1.0


def test_drift_is_0_without_banks_and_grows_with_them() -> None:
    weights = tiny()
    ((state, _),) = weights.write([weights.rule_object.empty()], [[[("Where do I live?", "York")]]])
    banks = weights.rule_object.banks(state)
    stacked = [torch.stack([0 * bank, bank, 3 * bank]) for bank in banks]
    none, once, more = drift(weights, stacked).tolist()
    assert none == pytest.approx(0.0, abs=1e-6)
    assert 0 < once < more


def test_a_write_beyond_the_trust_region_is_not_committed() -> None:
    weights = tiny()
    (free,) = live(weights, [one_stream("York", sessions=2)])
    (held,) = live(weights, [one_stream("York", sessions=2)], trust_region=1e-9)
    assert free.refused == () and free.drift[-1] > 1e-9
    assert held.refused == (0, 1)
    assert held.versions[2].digest == held.versions[0].digest
    assert held.gains[2] == held.gains[0]
    assert score(held, RewardWeights()).shared == pytest.approx(2 * RewardWeights().refused)


def test_held_out_personas_are_asked_in_words_never_trained_on() -> None:
    train, test = PersonaGenerator("train"), PersonaGenerator("test")
    rng = random.Random(0)
    shared = [key for key in test.keys() if key in train.keys()]  # noqa: SIM118
    trained = {train.question(key, rng) for key in shared for _ in range(60)}
    asked = {test.question(key, rng) for key in shared for _ in range(30)}
    assert len(asked) > 300
    assert not asked & trained


def test_counterfactual_values_belong_to_other_questions() -> None:
    generator, shape = PersonaGenerator("test"), StreamShape(sessions=1, messages=6, idle=0.0)
    plain = persona_stream(generator, random.Random(4), shape)
    moved = persona_stream(generator, random.Random(4), shape, counterfactual=True)
    assert {p.answer for p in plain.probes}.isdisjoint({p.answer for p in moved.probes})
    for probe in moved.probes:
        assert probe.answer in moved.sessions[0][probe.message]


def test_evaluation_sets_are_the_same_for_every_run_and_what_they_say() -> None:
    config = toy(evaluation_personas=2, shape=StreamShape(sessions=1, messages=3))
    sets = evaluation_sets(config)
    assert sets == evaluation_sets(replace(config, seed=7))
    for stream in sets["unread"]:
        assert all(unread(stream.sessions[p.session][p.message]) for p in stream.probes)
    assert {name: len(streams) for name, streams in sets.items()} == {
        "unread": 2,
        "counterfactual": 2,
    }


def test_writing_counts_what_was_written() -> None:
    found = writing([life_with([("Where do I live?", "York"), ("Where?", "Rome")], HELPED, tokens=9)])
    assert found["grounded"] == 0.5
    assert found["true_value"] == 1.0
    assert found["nothing_of_idle"] == 1.0
    assert found["tokens_per_message"] == 5.0
    assert found["pairs_per_message"] == 1.0
    assert exact(" york. ", "York") and not exact("New York", "York")


# -- the run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that ends its turn now and then, so that what it writes differs in its price."""
    weights = tiny()
    model: Any = weights.model
    model.lm_head.weight.data[end_token(weights)] *= 15
    place = tmp_path_factory.mktemp("model")
    model.save_pretrained(place)
    weights.tokenizer.save_pretrained(place)
    return place


def small_run(model: Path, out: Path, **options) -> RLConfig:
    values = {
        "personas": 1,
        "group": 4,
        "shape": StreamShape(sessions=1, messages=2),
        "sampling": Sampling(write_tokens=8, answer_tokens=3),
        "uncovered": 0.0,
        "evaluate_every": 2,
        "evaluation_personas": 2,
        "refresh_every": 3,
    }
    return RLConfig(out=out, model=str(model), **(values | options))


@pytest.mark.parametrize("rank", [0, 2], ids=["all", "lora"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path, rank: int) -> None:
    straight = train_rl(small_run(folder, tmp_path / "a", steps=4, lora_rank=rank))
    train_rl(small_run(folder, tmp_path / "b", steps=2, lora_rank=rank))
    calls: list[tuple[int, int, str]] = []
    resumed = train_rl(
        small_run(folder, tmp_path / "b", steps=4, lora_rank=rank),
        on_progress=lambda *seen: calls.append(seen),
    )
    one, two, base = (Qwen3ForCausalLM.from_pretrained(f).state_dict() for f in (straight, resumed, folder))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], base[name]) for name in one)
    assert [(done, total) for done, total, _ in calls] == [(3, 4), (4, 4)]
    rows = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("event") == "start"] == [0, 2]
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert set(report["before"]) == set(report["after"]) == {"unread", "counterfactual"}
    assert 0 <= report["after"]["unread"]["pairs"]["accuracy"] <= 1
    assert (tmp_path / "b" / "curves.png").stat().st_size > 5_000


@pytest.mark.parametrize("beta", [0.0, 0.02])
def test_a_step_learns_from_every_action(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beta: float
) -> None:
    seen: dict[str, list[Lesson]] = {}

    def kept(*given: Any, **options: Any) -> list[Lesson]:
        made = lessons(*given, **options)
        seen["made"] = [replace(made[0], advantage=1.0), *(replace(one, advantage=0.0) for one in made[1:])]
        return seen["made"]

    def updated(policy: Policy, optimizer: Any, todo: list[Lesson], config: RLConfig) -> dict[str, float]:
        seen["used"] = todo
        return update(policy, optimizer, todo, config)

    monkeypatch.setattr(rl, "lessons", kept)
    monkeypatch.setattr(rl, "update", updated)
    config = small_run(folder, tmp_path, beta=beta)
    policy = rl.load_policy(config)
    optimizer = torch.optim.AdamW(list(policy.trained.values()), lr=1e-4)
    row = rl.train_step(policy, optimizer, 0, config)
    assert len(seen["used"]) == len(seen["made"]) > 1
    assert all((one.reference is not None) == bool(beta) for one in seen["used"])
    assert row["learned_from"] == pytest.approx(1 / len(seen["made"]))


def test_a_half_precision_model_is_trained_by_a_lora(folder: Path, tmp_path: Path) -> None:
    saved = train_rl(small_run(folder, tmp_path, steps=2, lora_rank=2, dtype="bfloat16", rule="rls"))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "norm" in row] == [1, 2]
    assert {p.dtype for p in Qwen3ForCausalLM.from_pretrained(saved).parameters()} == {torch.bfloat16}


def test_the_saved_model_is_the_policy_with_its_lora_merged(folder: Path, tmp_path: Path) -> None:
    weights = load_fast_weights(folder, rule="additive", rank=16, last=1)
    ids = torch.arange(2, 22)[None]
    start = weights.model(input_ids=ids).logits
    policy = Policy(weights, lora_rank=3, seed=1)
    assert torch.equal(weights.model(input_ids=ids).logits, start)
    with torch.no_grad():
        for name, p in policy.trained.items():
            if name.endswith(".up"):
                p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    wanted = weights.model(input_ids=ids).logits.detach()
    policy.save(tmp_path / "m", source=None)
    got = load_fast_weights(tmp_path / "m", rule="additive", rank=16, last=1).model(input_ids=ids).logits
    torch.testing.assert_close(got, wanted)
    assert float((wanted - start).abs().max()) > 1e-3


# -- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 1}, "at least 2 lives"),
        ({"rule": "tmem?"}, "expected one of additive, rls"),
        ({"dtype": "int8"}, "expected one of float32"),
        ({"dtype": "bfloat16"}, "train a LoRA"),
        ({"sampling": Sampling(temperature=0.0)}, "all be the same"),
        ({"personas": 0}, "personas=0"),
        ({"clip": 1.5}, "0 < clip < 1"),
        ({"uncovered": 1.5}, "uncovered=1.5"),
    ],
)
def test_a_run_that_cannot_work_is_refused_at_once(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy(**options)


def test_other_values_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="cost would become a reward"):
        RewardWeights(tokens=-0.1)
    with pytest.raises(InputError, match="gain_nats=0"):
        RewardWeights(gain_nats=0.0)
    with pytest.raises(InputError, match="at least one session"):
        StreamShape(sessions=0)
    with pytest.raises(InputError, match="write_tokens=0"):
        Sampling(write_tokens=0)
    endless = tiny()
    endless.tokenizer.eos_token = None
    with pytest.raises(InputError, match="no action would ever end"):
        live(endless, [one_stream("York")], constraint=None)
    with pytest.raises(InputError, match="different shapes"):
        live(tiny(), [one_stream("York"), one_stream("York", sessions=2)])


def test_a_checkpoint_of_other_parameters_is_refused(folder: Path, tmp_path: Path) -> None:
    train_rl(small_run(folder, tmp_path, steps=1, lora_rank=2))
    with pytest.raises(InputError, match="other parameters"):
        train_rl(small_run(folder, tmp_path, steps=2, lora_rank=3))


def test_the_command_passes_its_options_on(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        training, ["rl", "--model", str(folder), "--out", str(tmp_path), "--group", "1"]
    )
    assert isinstance(result.exception, InputError)
    assert "group=1" in str(result.exception)
