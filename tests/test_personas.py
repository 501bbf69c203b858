"""Tests of the generated personas."""

import json
import random
import re

import pytest

from nestmem.personas import (
    NEVER_TOLD_ANSWER,
    Life,
    PersonaGenerator,
    belongs_to_test,
    split_list,
)
from nestmem.personas import generator as module
from nestmem.personas.generator import Split

SPLITS: tuple[Split, ...] = ("train", "test")
FIELDS = ("statements", "updates", "questions")


def _phrasing_lists():
    """Yield a label and every list of phrasings in the bank."""
    related = module._bank("related")
    for relation in [*module._bank("self"), *related["attributes"]]:
        for field in FIELDS:
            yield f"{relation['id']}/{field}", relation[field]
        for owner_type, more in relation.get("more", {}).items():
            for field, entries in more.items():
                yield f"{relation['id']}/{owner_type}/{field}", entries
    for name, entries in module._bank("smalltalk").items():
        yield name, entries


def _life(split: Split = "train", seed=7, **options):
    settings = {"sessions": 8, "facts_per_session": 4, "update_rate": 0.3} | options
    return PersonaGenerator(split).life(f"life-{seed}", random.Random(seed), **settings)


def _told_text(life, until):
    return "\n".join(
        message["content"]
        for session in life.sessions[: until + 1]
        for message in session.messages
        if message["role"] == "user"
    )


def test_equal_seeds_give_equal_lives():
    assert _life() == _life()
    assert _life(seed=1).sessions != _life(seed=2).sessions


def test_there_are_many_keys_in_both_splits():
    train, test = PersonaGenerator("train"), PersonaGenerator("test")
    assert train.keys() == test.keys()
    assert len(train.keys()) == len(set(train.keys())) >= 300


def test_the_bank_is_large_enough():
    assert len(module._bank("self")) >= 45
    for relation in module._bank("self"):
        counts = [len(relation[field]) for field in FIELDS]
        assert all(count >= least for count, least in zip(counts, (14, 5, 10), strict=True)), relation["id"]


@pytest.mark.parametrize(("label", "entries"), list(_phrasing_lists()))
def test_lists_hold_no_phrasing_twice(label, entries):
    assert len({entry.lower() for entry in entries}) == len(entries)


@pytest.mark.parametrize("name", list(module._bank("pools")))
def test_pools_hold_no_value_twice(name):
    values = module._bank("pools")[name].get("values", [])
    assert len({value.lower() for value in values}) == len(values)


def test_split_list_cuts_off_the_last_quarter_and_at_least_two():
    assert split_list(list("abcdefgh"), "test") == ["g", "h"]
    assert split_list(list("abcdefgh"), "train") == list("abcdef")
    assert split_list(list("abc"), "test") == ["b", "c"]
    with pytest.raises(ValueError, match="2 entries"):
        split_list(["a", "b"], "train")


def test_phrasings_of_the_splits_are_disjoint():
    topics = {split: module._topics(split) for split in SPLITS}
    for field in FIELDS:
        for key, train in topics["train"].items():
            test = topics["test"][key]
            assert not set(getattr(train, field)) & set(getattr(test, field)), (key, field)


def test_canonical_questions_are_not_among_the_test_questions():
    for key, topic in module._topics("test").items():
        assert topic.canonical not in topic.questions, key


@pytest.mark.parametrize("made_up", [0.0, 1.0])
def test_values_of_the_splits_are_disjoint(made_up):
    drawn = {split: {} for split in SPLITS}
    for split in SPLITS:
        rng = random.Random(3)
        for name in module._bank("pools"):
            drawn[split][name] = {module._draw_value(name, split, made_up, rng).lower() for _ in range(60)}
    for name, train in drawn["train"].items():
        assert not train & drawn["test"][name], name


def test_a_listed_value_is_on_the_same_side_across_pools():
    sides = {}
    for pool in module._bank("pools").values():
        for split in SPLITS if "values" in pool else ():
            for value in split_list(pool["values"], split):
                assert sides.setdefault(value.lower(), split) == split, value


def test_invented_values_follow_the_hash_rule():
    rng = random.Random(5)
    for split in SPLITS:
        for pool in module._bank("pools").values():
            if pool.get("made_up"):
                value = module._invented_value(pool, split, rng)
                assert belongs_to_test(value) == (split == "test")


@pytest.mark.parametrize("split", SPLITS)
def test_every_slot_is_filled_and_every_statement_holds_its_value(split):
    generator, rng = PersonaGenerator(split), random.Random(11)
    for key, topic in module._topics(split).items():
        value = generator.value(key, rng)
        old = generator.fact(key, rng, old=value).value
        for template in (*topic.statements, *topic.updates):
            assert "{v}" in template, (key, template)
            text = module._with_value(template, value, old)
            assert value in text, (key, text)
            assert not re.search(r"[{}]", text), (key, text)
        for text in (*topic.questions, topic.canonical, topic.topic, generator.forget(key, rng)):
            assert not re.search(r"[{}]", text), (key, text)
        for text in topic.questions:
            assert text.endswith(("?", ".")), (key, text)


@pytest.mark.parametrize("split", SPLITS)
def test_told_messages_hold_the_value_in_any_frame(split):
    generator, rng = PersonaGenerator(split), random.Random(13)
    for key in module._topics(split):
        fact = generator.fact(key, rng)
        message = generator.told(fact, rng)
        assert fact.value in message, message
        assert not re.search(r"[{}]", message), message


def test_a_fact_with_an_old_value_is_an_update_to_another_value():
    generator, rng = PersonaGenerator("train"), random.Random(1)
    fact = generator.fact("self/home_city", rng, value="Oslo", old="Graz")
    assert (fact.value, fact.updates) == ("Oslo", "Graz")
    assert "Oslo" in fact.statement
    assert all(
        generator.fact("self/blood_type", rng, old="A negative").value != "A negative" for _ in range(20)
    )


def test_facts_have_different_keys_and_values_and_one_partner():
    generator = PersonaGenerator("train")
    partners = {"wife", "husband", "girlfriend", "boyfriend"}
    for seed in range(20):
        facts = generator.facts(40, random.Random(seed))
        assert len({fact.key for fact in facts}) == 40
        assert len({fact.value.lower() for fact in facts}) == 40
        assert len(partners & {fact.key.split("/")[0] for fact in facts}) <= 1


def test_facts_refuses_more_than_one_persona_can_have():
    with pytest.raises(ValueError, match="n is 5000"):
        PersonaGenerator("test").facts(5000, random.Random(0))


def test_a_life_survives_json():
    life = _life()
    line = life.to_json()
    assert "\n" not in line
    assert Life.from_json(line) == life
    assert set(json.loads(line)) == {"id", "sessions", "questions"}


@pytest.mark.parametrize("split", SPLITS)
def test_answers_were_told_before_the_question(split):
    for seed in range(15):
        life = _life(split, seed)
        for question in life.questions:
            assert 0 <= question.after_session < len(life.sessions)
            told = _told_text(life, question.after_session)
            if question.kind == "never_told":
                assert question.answers == [NEVER_TOLD_ANSWER]
            else:
                assert question.answers[0] in told


def test_lives_hold_every_kind_of_question_and_messages_take_turns():
    kinds = set()
    for seed in range(20):
        life = _life(seed=seed)
        kinds |= {question.kind for question in life.questions}
        for session in life.sessions:
            roles = [message["role"] for message in session.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert [s.at for s in life.sessions] == sorted(s.at for s in life.sessions)
    assert kinds == {"fact", "preference", "habit", "updated", "never_told"}


def test_the_number_of_questions_can_be_chosen():
    assert len(_life(questions=5).questions) == 5
    assert len(_life(questions=0).questions) == 0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="'dev'"):
        PersonaGenerator("dev")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="made_up is 2"):
        PersonaGenerator("train", made_up=2)
    with pytest.raises(KeyError, match="self/nothing"):
        PersonaGenerator("train").question("self/nothing", random.Random(0))
    with pytest.raises(ValueError, match="sessions is 0"):
        _life(sessions=0)


def test_further_training_phrasings_are_not_close_to_a_test_phrasing() -> None:
    """Less than 60 % of the words of a training paraphrase are those of a test phrasing of the same relation."""
    more = module._bank("paraphrases")
    banks = {"self": module._bank("self"), "related": module._bank("related")["attributes"]}
    relations = {f"{kind}/{relation['id']}": relation for kind, bank in banks.items() for relation in bank}
    assert set(more) == set(relations)
    for name, fields in more.items():
        for field, phrasings in fields.items():
            for held_out in split_list(relations[name][field], "test"):
                test_words = set(re.findall(r"\{\w\}|\w+", held_out.lower()))
                for phrasing in phrasings:
                    words = set(re.findall(r"\{\w\}|\w+", phrasing.lower()))
                    assert len(words & test_words) < 0.6 * len(words | test_words), (phrasing, held_out)
