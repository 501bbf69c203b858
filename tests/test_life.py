"""Lives of many writes on a tiny random model: what each level holds, and that every arm can be played."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from nestmem.adapters.fast_weights import CALIBRATION, FastWeights
from nestmem.errors import InputError
from nestmem.evals import life
from nestmem.personas import PersonaGenerator
from nestmem.train.tokenizer import train_tokenizer

GENERATOR = PersonaGenerator("test")
ARMS = {arm.name: arm for arm in life.ARMS}


@pytest.fixture(scope="module")
def weights() -> FastWeights:
    tokenizer = train_tokenizer([" ".join(pair) for pair in CALIBRATION] * 20, vocabulary=400)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        extractive=True,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    return FastWeights(model, tokenizer, rank=12, last=2)


def drawn(seed: int = 0, **options: int) -> life.Life:
    return life.draw_life(
        GENERATOR, random.Random(seed), **{"writes": 40, "per_session": 2, "keys": 8} | options
    )


def test_a_life_tells_every_key_then_updates_some_and_never_others() -> None:
    one = drawn(writes=200, keys=16)
    keys = [write.fact.key for write in one.writes]
    assert len(set(keys[:16])) == 16 == len(set(keys))
    changed = set(keys[16:])
    assert len(changed) <= 12
    assert all(write.fact.updates is not None for write in one.writes[16:])
    first = next(write for write in one.writes if write.fact.key == keys[16])
    assert one.writes[16].older == (first.fact.value,)
    assert all(write.fact.value not in write.older for write in one.writes)


def test_lives_are_a_function_of_their_seed() -> None:
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


@pytest.mark.parametrize("wrong", [{"keys": 1}, {"keys": 41}, {"per_session": 0}, {"never": 1.0}])
def test_an_impossible_life_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        drawn(**wrong)


@pytest.mark.parametrize("upto", [2, 8, 20, 22, 40])
def test_levels_hold_what_holds_and_nothing_twice(upto: int) -> None:
    one = drawn()
    levels = life.held(one, upto, ARMS["nested 3 levels"], sleep_every=4)
    together = sorted((w for writes in levels.values() for w in writes), key=lambda w: w.index)
    assert together == one.current(upto)
    assert all(upto - w.index <= 2 for w in levels["fast"])
    assert all(w.index < (upto - 1) // 8 * 8 for w in levels["slow"])


def test_late_erasing_keeps_what_was_superseded_until_the_sleep() -> None:
    one = drawn()
    late = life.held(one, 38, ARMS["nested 3 levels, late erasing"], sleep_every=4)
    at_once = life.held(one, 38, ARMS["nested 3 levels"], sleep_every=4)
    assert late["slow"] == one.current(32)
    assert {w.index for w in at_once["slow"]} < {w.index for w in late["slow"]}
    assert late["fast"] == at_once["fast"]


def test_one_level_at_sleep_misses_what_came_after() -> None:
    one = drawn()
    arm = life.Arm(name="x", rule="nested", levels=("slow",), every=4)
    assert life.held(one, 38, arm, sleep_every=4) == {"slow": one.current(32)}
    assert life.held(one, 40, arm, sleep_every=4) == {"slow": one.current(40)}


def test_checkpoints_are_the_states_of_having_written_all_along(weights: FastWeights) -> None:
    one, arm = drawn(writes=8, keys=3), ARMS["nested 3 levels"]
    own = life.prepare(weights, arm, seed=0)
    [reached] = life.walk(own, one, arm, [8], sleep_every=2)
    rule, state = own.rule_object, own.rule_object.empty()
    held: dict[int, tuple[str, bytes]] = {}
    for upto in range(2, 9, 2):
        told = one.writes[upto - 2 : upto]
        [(state, payloads)] = own.write([state], [[write.pairs() for write in told]], "fast")
        held |= {w.index: ("fast", payload) for w, payload in zip(told, payloads, strict=True)}
        wanted = life.held(one, upto, arm, sleep_every=2)
        of = {write.index: level for level, writes in wanted.items() for write in writes}
        for index in [index for index in held if index not in of]:
            state = rule.erase(state, [held.pop(index)], list(held.values()))
        for index, level in of.items():
            if held[index][0] != level:
                state = rule.promote(state, [held[index]], level)
                held[index] = (level, held[index][1])
    assert rule.digest(state) == rule.digest(reached.state)


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_is_played(weights: FastWeights, name: str) -> None:
    text = torch.arange(5, 69).view(2, 32)
    setting = life.Setting(checkpoints=(4, 12), sleep_every=2, questions=4, text=text)
    records = life.play(
        weights,
        ARMS[name],
        drawn(writes=12, keys=6),
        drawn(1, writes=12, keys=6),
        setting,
        generator=GENERATOR,
        seed=0,
    )
    assert [record["writes"] for record in records] == [4, 12]
    count = 2 if ARMS[name].rule == "text" or ARMS[name].text else 4
    assert [len(record["answers"]) for record in records] == [count, count]
    answers = [life.Answered.from_plain(values) for values in records[1]["answers"]]
    assert {answer.age for answer in answers} >= {1, 2}
    assert [answer.plain() for answer in answers] == records[1]["answers"]
    found = life.summary([{"seed": 0, "checkpoints": records}])
    assert found["exact"]["n"] == 2 * count
    assert sum(share["n"] for share in found["by_age"].values() if share) == 2 * count
    if ARMS[name].rule in ("nested", "additive", "rls", "tmem", "fast") and ARMS[name].every == 1:
        assert records[1]["read_bytes"] > 0 and records[1]["bytes"] > 0


class Scripted:
    """Answers every question with one of the given answers."""

    def __init__(self, said: dict[str, str]):
        self.said = said

    def exact(self, pairs: list[tuple[str, str]], states: list[None]) -> list[tuple[bool, float]]:
        return [(self.said.get(question) == answer, -1.0) for question, answer in pairs]


def test_stale_is_an_older_value_given_as_the_answer() -> None:
    updated = [write for write in drawn().current(40) if write.older][:2]
    once = next(write for write in drawn().current(40) if not write.older)
    said = {updated[0].asked: updated[0].older[0], updated[1].asked: updated[1].fact.value}
    said[updated[0].indirect or "none"] = updated[0].fact.value
    answers = life.ask(Scripted(said), [*updated, once], None, 40)
    assert [answer.stale for answer in answers] == [True, False, None]
    assert [answer.exact for answer in answers] == [False, True, False]
    assert answers[0].indirect is (True if updated[0].indirect else None)


def test_text_tells_what_holds_now(weights: FastWeights) -> None:
    told, one = life.Told(weights), drawn()
    for write in one.writes:
        told.tell(write, one.session(write.index + 1))
    assert told.bytes == sum(len(write.fact.statement.encode()) for write in one.writes)
    held = told.ledger.memories(life.SCOPE)
    assert sorted(m.answer or "" for m in held) == sorted(write.fact.value for write in one.current(40))
    for write in one.current(40):
        assert told.answer(write.fact.canonical, None) == write.fact.value


def test_differences_are_paired_by_question_and_seed() -> None:
    def run(seed: int, exacts: list[bool]) -> dict:
        kinds = ["fact", "habit"]
        answers = [
            life.Answered(age=1, kind=kind, exact=exact, nats=-1.0, stale=None, indirect=None).plain()
            for kind, exact in zip(kinds, exacts, strict=True)
        ]
        return {"seed": seed, "checkpoints": [{"writes": 10, "answers": answers}]}

    ours = [run(0, [True, True]), run(1, [True, False]), run(2, [True, True])]
    theirs = [run(0, [True, False]), run(1, [False, False])]
    found = life.difference(ours, theirs)
    assert found is not None and found["n"] == 4 and found["mean"] == 0.5
    habits = life.difference(ours, theirs, kind="habit")
    assert habits is not None and habits["n"] == 2 and habits["mean"] == 0.5
    assert life.difference(ours, theirs, kind="indirect") is None


def test_random_bases_are_orthonormal_as_far_as_the_own_ones(weights: FastWeights) -> None:
    other = life.variant(weights, "nested", random=7)
    for own, drawn_ in zip(weights.banked.bases, other.banked.bases, strict=True):
        assert drawn_.shape == own.shape
        gram = drawn_ @ drawn_.T
        assert torch.allclose(gram, gram[0, 0] * torch.eye(len(gram)), atol=1e-5)
        assert not torch.allclose(own, drawn_, atol=1e-2)


def test_variants_are_shortened_bases_and_fewer_blocks(weights: FastWeights) -> None:
    small = life.variant(weights, "additive", rank=5, blocks=1)
    assert small.rule == "additive"
    assert [basis.shape[0] for basis in small.banked.bases] == [5, 5, 5]
    assert {site.block for site in small.banked.sites} == {1}
    assert torch.equal(small.banked.bases[0], weights.banked.bases[3][:5])


def test_general_loss_is_that_of_the_base_without_memory(weights: FastWeights) -> None:
    ids = torch.arange(5, 69).view(2, 32)
    empty = life.general_loss(weights, weights.rule_object.empty(), ids)
    assert life.general_loss(weights, None, ids) == pytest.approx(empty, abs=1e-6)


def test_a_short_text_and_odd_checkpoints_are_refused(weights: FastWeights, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need 6400"):
        life.windows(weights, "too short", count=50, length=128)
    setting = life.Setting(checkpoints=(3,))
    with pytest.raises(InputError, match="multiples of 2"):
        setting.check(drawn())
