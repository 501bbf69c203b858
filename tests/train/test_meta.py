"""Meta-training the write: derivatives against finite differences, the rules of the adapters, and whole runs."""

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from typer.testing import CliRunner

from nestmem.adapters.fast_weights import CALIBRATION, FastWeights
from nestmem.adapters.rules import AdditiveRule, RecursiveLeastSquares
from nestmem.cli.main import app
from nestmem.errors import InputError, ModelError, UnsupportedArchitecture
from nestmem.personas import belongs_to_test
from nestmem.train.evolution import estimate_gradient
from nestmem.train.inner import InnerConfig, Order, WriteLearner, live, prepare, read, written_logits
from nestmem.train.meta import (
    Bench,
    MetaConfig,
    answers,
    bench_of,
    learner_of,
    load_trained,
    outcome,
    prepared,
    preset,
    scores,
    settings_of,
    train_on,
)
from nestmem.train.record import load_checkpoint
from nestmem.train.streams import (
    STATEMENT,
    Asked,
    Pair,
    Personas,
    Session,
    Stream,
    Streams,
    batch_of,
    read_streams,
)
from nestmem.train.tokenizer import train_tokenizer

VOCABULARY = 400
SIZES = {"vocab_size": VOCABULARY, "num_hidden_layers": 3, "max_position_embeddings": 256, "eos_token_id": 1}
SIZES |= {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "pad_token_id": 0}
CONFIGS = {
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=1, head_dim=12, initializer_range=0.15),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=1, bos_token_id=1, initializer_range=0.15),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=24,
        n_layer=3,
        n_head=2,
        n_positions=256,
        eos_token_id=1,
        bos_token_id=1,
        initializer_range=0.15,
    ),
}
PLACES = ("Leeds", "Port Almira", "the mill", "Ines Quill", "6:40", "dark green", "Sea Thistle", "coffee")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([" ".join(pair) for pair in CALIBRATION] * 20, vocabulary=VOCABULARY)


def life(name: str, first: int, *, sessions: int = 4) -> Stream:
    """Two facts in the first session and one in each later one, asked from then on."""
    told, questions = [], []
    for n in range(sessions):
        keys = ["door", "boat"] if n == 0 else [f"letter {n}"]
        pairs = []
        for m, key in enumerate(keys):
            answer = PLACES[(first + 3 * n + m) % len(PLACES)]
            pairs.append(
                Pair(question=f"What is my {key}?", answer=answer, statement=f"My {key} is {answer}.")
            )
            asked = Asked(question=f"The {key}?", answer=answer, after=sessions - 1, evidence=n)
            questions.append(asked)
        messages = tuple(
            turn for pair in pairs for turn in (("user", pair.statement), ("assistant", "I see."))
        )
        told.append(Session(messages=messages, pairs=tuple(pairs)))
    return Stream(id=name, sessions=tuple(told), questions=tuple(questions))


def lives() -> Streams:
    return Streams([life(f"person {n}", n) for n in range(8)])


def bench(
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    kind: str = "qwen3",
    *,
    name: str = "sessions",
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    source: Streams | Personas | None = None,
    **values: object,
) -> Bench:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind], attn_implementation=attention).to(dtype)
    weights = FastWeights(exactly_normed(model), tokenizer, rule="additive", rank=6, last=2)
    given = {"users": 2, "sessions": 4, "evaluate_users": 2, "ask": 4, "segment": 24} | values
    config = preset(name, model="tiny", out=tmp_path / "run", **given)
    return bench_of(weights, source or lives(), config)


def exactly_normed(model: torch.nn.Module) -> torch.nn.Module:
    """RMS norms as they are defined: Hugging Face's compute in float32 whatever the dtype, too coarse to differ."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):

            def norm(x: Tensor, weight: Any = module.weight, eps: Any = module.variance_epsilon) -> Tensor:
                return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)

            module.forward = norm
    return model


def gradient(bench: Bench, order: Order, *, sessions: int = 4, **values: object) -> tuple[Tensor, float]:
    """The gradient of the outer loss for all learned parameters, and the loss."""
    made = dataclasses.replace(bench, config=dataclasses.replace(bench.config, **values))
    learner = perturbed(made)
    batch = prepared(made, "train", random.Random(1), users=2, sessions=sessions)
    seen = outcome(made, learner, batch, order=order)
    own = [p for p in learner.parameters() if p.requires_grad]
    found = torch.autograd.grad(seen.loss, own, allow_unused=True)
    parts = [
        torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(own, found, strict=True)
    ]
    return torch.cat(parts), seen.loss.item()


def perturbed(bench: Bench) -> WriteLearner:
    """A learner away from its start, where no derivative vanishes by symmetry."""
    learner = learner_of(bench)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learner.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter += 0.05 * noise
    return learner


# -- derivatives ---------------------------------------------------------------------------------------------------

INNER = {
    "ridge": InnerConfig(medium_every=2, slow_every=3, steps=2, initial=True, protect=2.0),
    "sgd": InnerConfig(step="sgd", steps=2, clip=0.5, levels=1),
    "adam": InnerConfig(step="adam", steps=2, token="mlp", levels=1, gate=False),
}


@pytest.mark.parametrize(
    ("kind", "step"),
    [("qwen3", "ridge"), ("llama", "ridge"), ("gpt2", "ridge"), ("qwen3", "sgd"), ("qwen3", "adam")],
)
def test_the_full_gradient_is_that_of_finite_differences(tokenizer, tmp_path, kind, step) -> None:
    made = bench(tokenizer, tmp_path, kind, inner=INNER[step], rate=0.02 if step == "adam" else 0.0)
    learner = perturbed(made)
    batch = prepared(made, "train", random.Random(1), users=2, sessions=3)
    own = [p for p in learner.parameters() if p.requires_grad]
    loss = outcome(made, learner, batch, order="full").loss
    found = torch.autograd.grad(loss, own, allow_unused=True)
    generator = torch.Generator().manual_seed(2)
    eps = 1e-5
    checked = 0.0
    for parameter, slope in zip(own, found, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * eps * direction
            values.append(outcome(made, learner, batch, order="none").loss.item())
            with torch.no_grad():
                parameter -= sign * eps * direction
        wanted = (values[0] - values[1]) / (2 * eps)
        got = 0.0 if slope is None else float((slope * direction).sum())
        # Adam divides by the size of a gradient: where that is tiny, no finite difference is fine enough.
        assert got == pytest.approx(wanted, rel=2e-3 if step == "adam" else 1e-5, abs=1e-9)
        checked += abs(wanted)
    assert checked > 1e-3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_truncated_is_full_until_the_stream_is_longer_than_what_is_kept(
    tokenizer, tmp_path, attention
) -> None:
    made = bench(tokenizer, tmp_path, attention=attention)
    full, _ = gradient(made, "full", sessions=2)
    truncated, _ = gradient(made, "truncated", sessions=2, keep=2)
    assert torch.equal(full, truncated)
    full, loss = gradient(made, "full", sessions=4)
    truncated, same = gradient(made, "truncated", sessions=4, keep=2)
    assert loss == pytest.approx(same, rel=1e-12)
    assert (full - truncated).norm() > 1e-3 * full.norm()
    assert torch.cosine_similarity(full, truncated, dim=0) > 0.3


def test_first_order_differs_exactly_where_keys_and_errors_depend_on_banks(tokenizer, tmp_path) -> None:
    inner = InnerConfig(levels=1)
    made = bench(tokenizer, tmp_path, inner=inner)
    one_full, _ = gradient(made, "full", sessions=1)
    one_first, _ = gradient(made, "first", sessions=1)
    assert torch.allclose(one_full, one_first, rtol=1e-9, atol=1e-12)
    full, loss = gradient(made, "full", sessions=3)
    first, same = gradient(made, "first", sessions=3)
    assert loss == pytest.approx(same, rel=1e-12)
    assert (full - first).norm() > 1e-4 * full.norm()
    assert torch.cosine_similarity(full, first, dim=0) > 0.3


def test_evolution_strategies_point_with_the_true_gradient(tokenizer, tmp_path) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(6, 6, dtype=torch.float64)
    matrix = matrix @ matrix.T + torch.eye(6, dtype=torch.float64)
    theta = torch.randn(6, dtype=torch.float64)
    found, mean = estimate_gradient(
        lambda x: float(x @ matrix @ x / 2),
        theta,
        pairs=400,
        sigma=0.1,
        generator=torch.Generator().manual_seed(1),
    )
    assert torch.cosine_similarity(found, matrix @ theta, dim=0) > 0.95
    assert mean > float(theta @ matrix @ theta / 2)

    made = bench(tokenizer, tmp_path, kind="llama")
    learner = perturbed(made)
    batch = prepared(made, "train", random.Random(1), users=2, sessions=2)
    scalars = learner.scalars()
    exact = torch.autograd.grad(outcome(made, learner, batch, order="full").loss, scalars, allow_unused=True)
    true = parameters_to_vector(
        [torch.zeros_like(p) if g is None else g for p, g in zip(scalars, exact, strict=True)]
    )
    start = parameters_to_vector(scalars).detach().clone()

    @torch.no_grad()
    def loss(values: Tensor) -> float:
        torch.nn.utils.vector_to_parameters(values, scalars)
        return outcome(made, learner, batch, order="none").loss.item()

    found, _ = estimate_gradient(
        loss, start, pairs=60, sigma=0.02, generator=torch.Generator().manual_seed(3)
    )
    assert torch.cosine_similarity(found, true, dim=0) > 0.6


def test_evolution_skips_what_is_not_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    found, mean = estimate_gradient(
        lambda x: math.nan, torch.ones(3), pairs=3, sigma=0.1, generator=generator
    )
    assert math.isnan(mean) and not found.any()
    with pytest.raises(InputError, match="at least one pair"):
        estimate_gradient(float, torch.ones(3), pairs=0, sigma=0.1, generator=generator)


# -- the inner loop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_from_the_cached_lower_blocks_the_model_says_the_same(tokenizer, tmp_path, kind) -> None:
    made = bench(tokenizer, tmp_path, kind)
    batch = prepared(made, "train", random.Random(0), users=2, sessions=2)
    torch.manual_seed(3)
    banks = [torch.randn(2, site.d_out, 6, dtype=torch.float64) * 0.1 for site in made.weights.banked.sites]
    with torch.no_grad(), made.banked.using(banks):
        short = written_logits(made.banked, batch.ask)
    rows = batch.ask.rows
    with torch.no_grad():
        whole = made.banked(banks, input_ids=rows.ids, use_cache=False).logits
    assert torch.allclose(short, whole[:, :-1][rows.weights[:, 1:] > 0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("step", sorted(INNER))
def test_users_in_one_batch_are_as_users_alone(tokenizer, tmp_path, step) -> None:
    made = bench(tokenizer, tmp_path, inner=INNER[step])
    learner = perturbed(made)
    people = [life("a", 0), life("b", 5)]
    people[1] = dataclasses.replace(
        people[1], sessions=(dataclasses.replace(people[1].sessions[1]), *people[1].sessions[1:])
    )

    def banks(streams: list[Stream]) -> list[Tensor]:
        rows = batch_of(
            streams, made.encoder, random.Random(0), sessions=3, raw=False, order_free=False, ask=9
        )
        parts = [prepare(made.banked, part) for part in rows.writes]
        return read(learner, live(made.banked, learner, parts, users=len(streams), order="none"))

    both = banks(people)
    for u, person in enumerate(people):
        for together, alone in zip(both, banks([person]), strict=True):
            assert torch.allclose(together[u], alone[0], rtol=1e-9, atol=1e-12)
            assert bool(alone.any())


def test_one_step_of_everything_is_the_additive_rule_and_steps_in_a_row_are_rls(tokenizer, tmp_path) -> None:
    inner = InnerConfig(levels=1, gate=False)
    made = bench(tokenizer, tmp_path, inner=inner, order_free=True)
    learner = learner_of(made)
    with torch.no_grad():
        learner.log_rate.add_(0.3)
        learner.log_ridge.sub_(0.2)
        for u in learner.token:
            u += 0.1
    settings = settings_of(made, learner)
    stream = life("a", 0)
    memories = [
        [
            made.encoder.pair(text, pair.answer)
            for pair in session.pairs
            for text in (pair.question, pair.statement)
        ]
        for session in stream.sessions
    ]

    def learned(order_free: bool) -> list[Tensor]:
        batch = batch_of(
            [stream], made.encoder, random.Random(0), sessions=4, raw=False, order_free=order_free, ask=1
        )
        parts = [prepare(made.banked, part) for part in batch.writes]
        return read(learner, live(made.banked, learner, parts, users=1, order="none"))

    additive = AdditiveRule(made.banked, settings)
    ((state, _),) = additive.write([additive.empty()], [memories], "fast")
    for ours, theirs in zip(learned(True), additive.banks(state), strict=True):
        assert (ours[0] - theirs).norm() < 2e-3 * theirs.norm()
    rls = RecursiveLeastSquares(made.banked, settings)
    ((state, _),) = rls.write([rls.empty()], [memories], "fast")
    for ours, theirs in zip(learned(False), rls.banks(state), strict=True):
        assert (ours[0] - theirs).norm() < 1e-5 * theirs.norm()


def test_a_transfer_without_decay_changes_nothing_that_is_read(tokenizer, tmp_path) -> None:
    banks = []
    for every in (1, 100):
        inner = InnerConfig(medium_every=every, slow_every=2 * every)
        made = bench(tokenizer, tmp_path, inner=inner)
        learner = learner_of(made)
        with torch.no_grad():
            learner.decay_logit.fill_(40.0)
        batch = prepared(made, "train", random.Random(0), users=2, sessions=3)
        state = live(made.banked, learner, batch.writes, users=2, order="none")
        banks.append(read(learner, state))
        assert any(bool(level[0].any()) for level in state.levels[1:]) == (every == 1)
    for moved, kept in zip(*banks, strict=True):
        assert torch.allclose(moved, kept, rtol=1e-9, atol=1e-12)


def test_the_gate_leaves_out_what_is_known(tokenizer, tmp_path) -> None:
    made = bench(tokenizer, tmp_path)
    learner = learner_of(made)
    batch = prepared(made, "train", random.Random(0), users=2, sessions=1)

    def size() -> float:
        state = live(made.banked, learner, batch.writes, users=2, order="none")
        return sum(float(bank.norm()) for bank in read(learner, state))

    open_gate = size()
    with torch.no_grad():
        learner.tau.fill_(50.0)
    assert size() < 1e-9 * open_gate


@pytest.mark.parametrize("name", ["sessions", "fit", "perk", "dynamic"])
def test_every_preset_learns_all_that_it_uses(tokenizer, tmp_path, name) -> None:
    made = bench(tokenizer, tmp_path, name=name)
    learner = perturbed(made)
    batch = prepared(made, "train", random.Random(0), users=2, sessions=3)
    seen = outcome(made, learner, batch, order="truncated")
    assert math.isfinite(seen.loss.item())
    seen.loss.backward()
    assert learner.log_rate.grad is not None
    moving = learner.log_rate.grad.abs().sum(1)
    kept = made.config.keep_steps or made.config.inner.steps
    assert bool((moving[-kept:] > 0).all())
    if name == "perk":
        assert not bool(moving[:-kept].any())
        assert learner.network is not None
        assert all(p.grad is not None and bool(p.grad.any()) for p in learner.network.parameters())
        assert all(bank.grad is not None and bool(bank.grad.any()) for bank in learner.initial)
        assert len(batch.writes) == 1
    if name == "dynamic":
        assert len(batch.writes) >= 3 and "coming" in seen.terms
    if name == "sessions":
        assert set(seen.terms) == {"new", "old", "kl"}


def test_a_model_in_half_precision_learns_in_single(tokenizer, tmp_path) -> None:
    made = bench(tokenizer, tmp_path, dtype=torch.bfloat16)
    learner = learner_of(made)
    batch = prepared(made, "train", random.Random(0), users=2, sessions=2)
    seen = outcome(made, learner, batch, order="full")
    assert seen.banks[0].dtype == torch.bfloat16 and learner.log_rate.dtype == torch.float32
    seen.loss.backward()
    assert learner.log_rate.grad is not None and bool(torch.isfinite(learner.log_rate.grad).all())
    assert bool(learner.log_rate.grad.any())


# -- runs ----------------------------------------------------------------------------------------------------------


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("order", ["truncated", "first", "full", "es"])
def test_training_lowers_the_held_out_loss(tokenizer, tmp_path, order) -> None:
    made = bench(
        tokenizer, tmp_path, order=order, steps=10, scalar_rate=0.1, evaluate_every=10, dtype=torch.float32
    )
    train_on(made)
    checked = [row["validation"]["people"]["loss"] for row in rows(made.config.out) if "validation" in row]
    assert checked[-1] < checked[0] - 0.01
    assert (made.config.out / "curves.png").stat().st_size > 5_000


@pytest.mark.parametrize("order", ["truncated", "es"])
def test_a_stopped_run_resumes_exactly(tokenizer, tmp_path, order) -> None:
    values = {"order": order, "evaluate_every": 2, "scalar_rate": 0.05, "es_pairs": 1}
    whole = train_on(bench(tokenizer, tmp_path / "a", steps=4, **values))
    train_on(bench(tokenizer, tmp_path / "b", steps=2, **values))
    resumed = train_on(bench(tokenizer, tmp_path / "b", steps=4, **values))
    one, two = load_checkpoint(whole / "last.pt"), load_checkpoint(resumed / "last.pt")
    assert one["step"] == two["step"] == 4
    for name, value in one["learner"].items():
        assert torch.equal(value, two["learner"][name]), name
    assert (whole / "banks.safetensors").read_bytes() == (resumed / "banks.safetensors").read_bytes()
    with pytest.raises(InputError, match="made with other settings"):
        train_on(bench(tokenizer, tmp_path / "b", steps=5, inner=InnerConfig(steps=3), **values))


def test_what_was_learned_is_loaded_onto_its_base(tokenizer, tmp_path) -> None:
    base = tmp_path / "base"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS["qwen3"]).save_pretrained(base)
    tokenizer.save_pretrained(base)
    sizes = ["--steps", "2", "--sessions", "3", "--users", "2", "--rank", "6", "--last", "2", "--copy-base"]
    sizes += ["--inner-steps", "2", "--protect", "3", "--evaluate-every", "1"]
    where = ["--model", str(base), "--out", str(tmp_path / "run"), "--data", str(saved(tmp_path))]
    result = CliRunner().invoke(app, ["train", "meta", *where, *sizes], catch_exceptions=False)
    assert result.exit_code == 0 and str(tmp_path / "run") in result.output
    for rule in ("additive", "rls"):
        weights = load_trained(tmp_path / "run", rule=rule)
        assert weights.rule == rule
        ((state, _),) = weights.write(
            [weights.rule_object.empty()], [[[("Where do I live?", "Leeds")]]], "fast"
        )
        assert any(bool(bank.any()) for bank in weights.banks_of(state))
    beside = load_trained(tmp_path / "run").settings
    assert 2.5 < beside.protect < 3.5
    header = json.loads((tmp_path / "run" / "config.json").read_text())
    assert header["config"]["inner"]["steps"] == 2 and header["config"]["inner"]["protect"] == 3
    from nestmem.adapters.fast_weights import load_fast_weights

    assert load_fast_weights(tmp_path / "run" / "model").settings.rate == beside.rate
    with pytest.raises(InputError, match="no folder of `nestmem train meta`"):
        load_trained(tmp_path)


def test_answers_of_unknown_evidence_are_a_group_of_their_own(tokenizer, tmp_path) -> None:
    def undated(stream: Stream, *places: int) -> Stream:
        questions = list(stream.questions)
        for place in places:
            questions[place] = dataclasses.replace(questions[place], evidence=None)
        return dataclasses.replace(stream, questions=tuple(questions))

    people = [life(f"person {n}", n) for n in range(8)]
    made = bench(tokenizer, tmp_path, ask=9, source=Streams([undated(one, 0, 4) for one in people]))
    learner = learner_of(made)
    batch = prepared(made, "train", random.Random(0), users=2, sessions=4)
    ages = batch.batch.age
    assert sorted(ages.tolist()) == [-1, -1, -1, -1, 1, 1, 2, 2, 3, 3]
    seen = outcome(made, learner, batch, order="none")
    assert set(seen.terms) == {"old", "undated", "kl"}
    nats, _ = answers(made.banked, seen.banks, batch.ask)
    assert seen.terms["undated"] == pytest.approx(float(nats[ages < 0].mean()))
    assert seen.loss.item() == pytest.approx(sum(seen.terms.values()))
    found = scores(made, learner, "people", sessions=4, users=2)
    assert "age unknown" in found and "age 0" not in found


@pytest.mark.parametrize(("name", "step"), [("perk", "adam"), ("dynamic", "sgd")])
def test_what_no_rule_writes_by_is_not_given_out_as_settings(tokenizer, tmp_path, name, step) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS["qwen3"]).save_pretrained(base)
    tokenizer.save_pretrained(base)
    given = ["train", "meta", "--model", str(base), "--out", str(run), "--data", str(saved(tmp_path))]
    given += [
        "--preset",
        name,
        "--steps",
        "1",
        "--sessions",
        "2",
        "--users",
        "2",
        "--rank",
        "6",
        "--last",
        "2",
    ]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0
    assert f"{step} steps" in result.stderr and "no banks.safetensors" in result.stderr
    assert (run / "learned.safetensors").exists() and not (run / "banks.safetensors").exists()
    with pytest.raises(InputError, match=f"a run of {step} steps"):
        load_trained(run)
    made = bench(tokenizer, tmp_path, name=name)
    learner = learner_of(made)
    with pytest.raises(InputError, match="none of the rules'"):
        settings_of(made, learner)
    with pytest.raises(InputError, match=f"--copy-base with {step} steps"):
        preset(name, model=str(base), out=run, copy_base=True)


def test_scores_are_those_of_the_same_people_every_time(tokenizer, tmp_path) -> None:
    made = bench(tokenizer, tmp_path)
    learner = learner_of(made)
    first = scores(made, learner, "people", sessions=4, users=2)
    assert first == scores(made, learner, "people", sessions=4, users=2)
    assert first["asked"] == 8 and {"told", "placebo", "age 0", "age 2-3"} <= set(first)


# -- streams -------------------------------------------------------------------------------------------------------


def saved(folder: Path, streams: list[Stream] | None = None) -> Path:
    """Streams as a file of the user's."""
    lines = []
    for stream in streams or [life(f"person {n}", n) for n in range(4)]:
        sessions = [
            {
                "messages": [{"role": role, "content": content} for role, content in session.messages],
                "pairs": [dataclasses.asdict(pair) for pair in session.pairs],
            }
            for session in stream.sessions
        ]
        questions = [
            {
                "question": a.question,
                "answers": [a.answer],
                "after_session": a.after,
                "evidence": a.evidence,
                "kind": "fact" if a.told else "never_told",
            }
            for a in stream.questions
        ]
        lines.append(json.dumps({"id": stream.id, "sessions": sessions, "questions": questions}))
    path = folder / "streams.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_file_gives_the_streams_that_were_written(tmp_path) -> None:
    known = {f"person {n}": life(f"person {n}", n) for n in range(4)}
    found = read_streams(saved(tmp_path))
    assert {s.id: s for s in (*found.train, *found.held_out)} == known
    assert len(found.held_out) == 1
    assert found.lengths("people", 9) == [1, 2, 3, 4]
    assert found.lengths("people", 9, more=1) == [1, 2, 3]
    with pytest.raises(InputError, match="no stream of part 'train' has 7 sessions"):
        found.draw("train", random.Random(0), sessions=7, before=6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no stream"),
        ("{", "not JSON"),
        ('{"id": "a", "questions": []}', "KeyError 'sessions'"),
        ('{"sessions": [], "questions": []}', "the stream is empty"),
        ('{"sessions": [{"messages": []}], "questions": []}', "the stream is empty"),
        ('{"sessions": [{"pairs": [{"question": "a", "answer": "b"}]}], "questions": []}', "no questions"),
        (
            '{"sessions": [{"pairs": [{"question": "a", "answer": "b"}]}], '
            '"questions": [{"question": "a", "answers": ["b"], "after_session": 1}]}',
            "after_session < 1",
        ),
    ],
)
def test_a_bad_file_says_what_is_wrong_with_it(tmp_path, text, said) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_streams(path)
    with pytest.raises(InputError, match="does not exist"):
        read_streams(tmp_path / "nothing.jsonl")


def test_personas_are_split_by_person_and_by_family() -> None:
    source = Personas(facts=3, updates=0.5)
    families = {}
    for part in ("train", "people", "families"):
        streams = [source.draw(part, random.Random(n), sessions=4, before=3) for n in range(6)]
        families[part] = {asked.family for stream in streams for asked in stream.questions}
        assert all(belongs_to_test(family) == (part == "families") for family in families[part])
        for stream in streams:
            assert [len(session.pairs) for session in stream.sessions] == [3] * 4
            for number, session in enumerate(stream.sessions):
                answers = {asked.answer for asked in stream.asked(number) if asked.told}
                assert {pair.answer for pair in session.pairs} <= answers
            replaced = [a for a in stream.questions if a.told and a.after < 3]
            assert all(a not in stream.asked(3) for a in replaced)
    assert not families["train"] & families["families"]
    assert families["train"] & families["people"]
    same = [source.draw("train", random.Random(7), sessions=2, before=1) for _ in range(2)]
    assert same[0] == same[1]
    with pytest.raises(InputError, match="facts=0"):
        Personas(facts=0)
    with pytest.raises(InputError, match="fewer --sessions"):
        Personas(facts=20).draw("families", random.Random(0), sessions=40, before=39)


def test_order_free_pairs_keep_the_last_word(tokenizer, tmp_path) -> None:
    made = bench(tokenizer, tmp_path)
    old = Pair(question="Where do I live?", answer="Leeds", statement="I live in Leeds.")
    new = Pair(question="Where do I live?", answer="York")
    ask = Asked(question="Home?", answer="York", after=1, evidence=1)
    sessions = tuple(Session(messages=(), pairs=(pair,)) for pair in (old, new))
    stream = Stream(id="a", sessions=sessions, questions=(ask,))
    values = {"sessions": 2, "raw": False, "ask": 3}
    free = batch_of([stream], made.encoder, random.Random(0), order_free=True, **values)
    assert len(free.writes) == 1 and free.writes[0].ids.shape[0] == 1
    assert free.writes[0].ids[0].tolist() == made.encoder.pair(new.question, new.answer).ids
    ordered = batch_of([stream], made.encoder, random.Random(0), order_free=False, **values)
    assert [write.form.tolist().count(STATEMENT) for write in ordered.writes] == [1, 0]
    with pytest.raises(InputError, match="nothing to write: no session has messages"):
        batch_of([stream], made.encoder, random.Random(0), order_free=False, **(values | {"raw": True}))


# -- bad input -----------------------------------------------------------------------------------------------------


def test_a_damaged_base_is_refused_after_a_few_steps(tokenizer, tmp_path) -> None:
    made = bench(tokenizer, tmp_path, steps=9, evaluate_every=9)
    with torch.no_grad():
        made.weights.model.get_parameter("model.norm.weight").fill_(math.nan)
    with pytest.raises(ModelError, match=r"not finite|damaged"):
        train_on(made)


def test_a_model_without_known_layers_is_refused(tmp_path) -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, is_decoder=True
    )
    from nestmem.adapters.banks import BankedModel

    with pytest.raises(UnsupportedArchitecture, match="'bert' has no known feed-forward layers"):
        BankedModel(BertLMHeadModel(config), rank=2, last=1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"order": "second"}, "expected one of truncated, first, full, es"),
        ({"users": 0}, "users=0"),
        ({"rate": -1.0}, "rate=-1"),
        ({"dtype": "float13"}, "expected a torch dtype by name"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, values, said) -> None:
    with pytest.raises(InputError, match=said):
        MetaConfig(model="mini", out=tmp_path, **values)


def test_wrong_inner_settings_are_named(tmp_path) -> None:
    with pytest.raises(InputError, match="expected one of ridge, sgd, adam"):
        InnerConfig(step="newton")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="at least 1"):
        InnerConfig(steps=0)
    with pytest.raises(InputError, match="only ridge steps protect"):
        InnerConfig(step="sgd", protect=300.0)
    with pytest.raises(InputError, match="expected one of sessions, fit, perk, dynamic"):
        preset("sleep", model="mini", out=tmp_path)
