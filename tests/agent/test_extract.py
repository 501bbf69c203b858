"""The rules, on sentences written by hand and on the bank of phrasings that the embedded model learns from."""

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestmem.agent.extract import Known, extract
from nestmem.personas import PersonaGenerator
from nestmem.personas.generator import Split

# (statement, question, answer): each is found with exactly these words.
LEARNED = [
    ("My dog is called Biscuit.", "What is my dog's name?", "Biscuit"),
    ("I just adopted a dog, his name is Zibo", "What is my dog's name?", "Zibo"),
    ("We got a kitten and we named her Mo Tang.", "What is my cat's name?", "Mo Tang"),
    ("My cat's name is luna del rey", "What is my cat's name?", "luna del rey"),
    ('My boat\'s called "Sea Biscuit".', "What is my boat's name?", "Sea Biscuit"),
    ("The name of my dog is Rook & Thistle.", "What is my dog's name?", "Rook & Thistle"),
    ("Biscuit is the name of my dog.", "What is my dog's name?", "Biscuit"),
    ("I ended up calling my horse Old Grey Tom.", "What is my horse's name?", "Old Grey Tom"),
    ("we renamed the dog to Captain Fluff", "What is my dog's name?", "Captain Fluff"),
    ("My boss is Karen.", "What is my boss's name?", "Karen"),
    ("Karen Oduya-Smith is my boss.", "What is my boss's name?", "Karen Oduya-Smith"),
    ("My best friend is Leo.", "What is my best friend's name?", "Leo"),
    ("My sister's dog is called Rook.", "What is my sister's dog's name?", "Rook"),
    ("My landlord is called Mr. Tibbs.", "Who is my landlord?", "Mr. Tibbs"),
    ("my name is Oluwaseun", "What is my name?", "Oluwaseun"),
    ("Hi, I'm Jonas and I live in Basel.", "What is my name?", "Jonas"),
    ("Call me Zed.", "What is my nickname?", "Zed"),
    ("I live in Leeds.", "Where do I live?", "Leeds"),
    ("i live in leeds", "Where do I live?", "leeds"),
    ("By the way, we've moved to Porto last month.", "Where do I live?", "Porto"),
    ("I moved from Oslo to Bergen.", "Where do I live?", "Bergen"),
    ("I'm based in Salt Lake City these days.", "Where do I live?", "Salt Lake City"),
    ("We live in a small flat in Ghent.", "Where do I live?", "Ghent"),
    ("I live in Portland, Oregon.", "Where do I live?", "Portland, Oregon"),
    ("Leeds is where I live.", "Where do I live?", "Leeds"),
    ("I grew up in Lima.", "Where did I grow up?", "Lima"),
    ("I'm originally from Accra.", "Where am I from?", "Accra"),
    ("I was born in Graz.", "Where was I born?", "Graz"),
    ("I was born on 4 March 1990.", "When is my birthday?", "4 March 1990"),
    ("My birthday is March 4th.", "When is my birthday?", "March 4th"),
    ("I'm 34 years old.", "How old am I?", "34"),
    ("I work as a nurse.", "What is my job?", "nurse"),
    ("I'm a bus driver.", "What is my job?", "bus driver"),
    ("I work for Blue Harbour Foods.", "Which company do I work for?", "Blue Harbour Foods"),
    ("I'm a software engineer at Google.", "Which company do I work for?", "Google"),
    ("I studied physics at ETH Zurich.", "What did I study?", "physics"),
    ("I'm allergic to peanuts.", "What am I allergic to?", "peanuts"),
    ("My husband Paulo is allergic to shellfish.", "What is my husband allergic to?", "shellfish"),
    ("I'm vegetarian.", "What diet do I follow?", "vegetarian"),
    ("I can't stand cilantro.", "Which food do I dislike?", "cilantro"),
    ("I really love hiking.", "What do I like?", "hiking"),
    ("I prefer tea over coffee.", "What do I prefer?", "tea"),
    ("My favorite color is teal.", "What is my favourite colour?", "teal"),
    ("Teal is my favourite color", "What is my favourite colour?", "teal"),
    ("The colour I like best is teal.", "What is my favourite colour?", "teal"),
    ("My all-time favourite movie is Spirited Away", "What is my favourite film?", "Spirited Away"),
    ("No film beats Spirited Away.", "What is my favourite film?", "Spirited Away"),
    ("My sister Anna's favourite food is sushi.", "What is my sister's favourite food?", "sushi"),
    ("I drive a Volvo V60.", "What car do I drive?", "Volvo V60"),
    ("I play the cello", "Which instrument do I play?", "cello"),
    ("The instrument I play is the cello.", "Which instrument do I play?", "cello"),
    ("I'm learning to play the harp.", "Which instrument do I play?", "harp"),
    ("I'm learning Basque.", "Which language am I learning?", "Basque"),
    ("I wake up at 6:30.", "What time do I get up?", "6:30"),
    ("I go swimming every Tuesday.", "When do I go swimming?", "every Tuesday"),
    ("I keep the spare key under the blue pot.", "Where do I keep the spare key?", "under the blue pot"),
    ("My flight leaves at 9:40 on Monday.", "When does my flight leave?", "9:40 on Monday"),
    ("The wifi password is hunter2-blue.", "What is my wifi password?", "hunter2-blue"),
    ("I changed my wifi password to plum-tart-9.", "What is my wifi password?", "plum-tart-9"),
    ("The code for my locker is 4471.", "What is my locker code?", "4471"),
    ("my email is zed@example.org", "What is my email address?", "zed@example.org"),
    ("Our project's codename is Copper Lantern.", "What is the codename of my project?", "Copper Lantern"),
    ("The codename of our project is Blue Heron.", "What is the codename of my project?", "Blue Heron"),
    ("Did I tell you that my dog is called Biscuit?", "What is my dog's name?", "Biscuit"),
    ("I live in Leeds, can you recommend a pub?", "Where do I live?", "Leeds"),
    ("Please always answer in French.", "How do I like your answers?", "in French"),
    ("Keep your answers short, please.", "How do I like your answers?", "short"),
]  # fmt: skip

NOT_LEARNED = [
    "The museum opens at nine.",
    "Where do I live?",
    "Is my dog called Rex",
    "What is the best name for my dog?",
    "If I lived in Paris, I would eat bread.",
    "I wish I lived in Rome.",
    "I might move to Spain.",
    "My friend said that she lives in Rome.",
    "My neighbour told me his dog is called Rex.",
    '"I live in Rome" is what she wrote.',
    "In the novel, I am a detective named Marlowe.",
    "Write a story about a dog called Rex.",
    "She works in a bank.",
    "The dog is called Rex.",
    "You are a great assistant.",
    "My name is not Tom.",
    "I don't live in Rome.",
    "I am not a nurse.",
    "I used to live in Rome.",
    "I doubt that my dog is called Rex.",
    "> I live in Rome.",
    "```\nname = 'I live in Rome.'\n```",
    "Can you help me with my essay?",
    "Don't forget to water the plants.",
    "Thanks, that was helpful!",
    "I'm feeling great today.",
    "I love you.",
]

SAME_KEY = [
    (
        "I live in Leeds.",
        "We moved to York.",
        "My home is in Porto.",
        "I'm based in Oslo.",
        "I call Rome home.",
    ),
    (
        "My dog is called A.",
        "Our puppy's name is B.",
        "we named our dog C",
        "I have a dog called D.",
        "E is my dog.",
    ),
    ("My favorite color is teal.", "Red is my favourite colour.", "The colour I like best is blue."),
    ("I work as a nurse.", "I'm a baker.", "My job is being a baker.", "I earn my living as a baker."),
    ("My mum lives in Lima.", "My mother moved to Cork.", "Oslo is where my mother lives."),
    ("The wifi password is a1.", "My wi-fi password is a2.", "I changed our wifi password to a3."),
    ("I'm allergic to nuts.", "I have an allergy to nuts.", "I have a nuts allergy."),
]


@pytest.mark.parametrize(("said", "question", "answer"), LEARNED)
def test_statements_are_read(said, question, answer):
    found = {(i.question, i.answer) for i in extract(said).items}
    assert (question, answer) in found


@pytest.mark.parametrize("said", NOT_LEARNED)
def test_what_is_no_statement_of_the_speaker_is_left_alone(said):
    assert not [i for i in extract(said).items if i.answer]


@pytest.mark.parametrize("group", SAME_KEY)
def test_the_same_thing_said_differently_has_one_key(group):
    keys = [{i.key for i in extract(said).items if i.answer} for said in group]
    assert all(keys), keys
    assert len(set.union(*keys)) == 1, keys


def test_one_message_tells_several_things_with_their_places():
    said = "Hi! My sister Anna lives in Leeds and works as a nurse. She loves sushi."
    items = {i.key: i for i in extract(said).items}
    assert {k: i.answer for k, i in items.items()} == {
        "sister/name": "Anna",
        "sister/home_city": "Leeds",
        "sister/job": "nurse",
        "sister/likes/sushi": "sushi",
    }
    start, end = items["sister/job"].span
    assert said[start:end] == "My sister Anna lives in Leeds and works as a nurse."
    assert items["sister/likes/sushi"].text == "(my sister) She loves sushi."


def test_relative_clauses_and_names_keep_their_subject():
    items = extract(
        "I have a brother named Tom who lives in York and drives a Fiat Panda. Tom is a baker."
    ).items
    assert {(i.key, i.answer) for i in items} == {
        ("brother/name", "Tom"),
        ("brother/home_city", "York"),
        ("brother/car", "Fiat Panda"),
        ("brother/job", "baker"),
    }


def test_names_known_from_before_are_recognised():
    known = [Known(key="sister/name", question="What is my sister's name?", answer="Anna")]
    [item] = extract("Anna moved to York.", known=known).items
    assert (item.key, item.answer, item.depends) == ("sister/home_city", "York", ("sister/name",))
    assert not extract("Anna moved to York.").items


KNOWN = [
    Known(key="dog/name", question="What is my dog's name?", answer="Biscuit"),
    Known(key="self/home_city", question="Where do I live?", answer="Leeds"),
]


@pytest.mark.parametrize(
    ("said", "key", "answer"),
    [
        ("Sorry, I meant York.", "self/home_city", "York"),
        ("Actually it's not Leeds but York.", "self/home_city", "York"),
        ("It's York, not Leeds.", "self/home_city", "York"),
        ("Not Biscuit but Bruno.", "dog/name", "Bruno"),
        ("I said Leeds but I meant York.", "self/home_city", "York"),
        ("I switched from Leeds to York.", "self/home_city", "York"),
        ("Scratch that, it should be York.", "self/home_city", "York"),
    ],
)
def test_corrections_find_what_they_correct(said, key, answer):
    [item] = extract(said, known=KNOWN).items
    assert (item.key, item.answer, item.depends) == (key, answer, (key,))


def test_corrections_inside_a_message_need_nothing_from_before():
    for said in (
        "The name of my dog is Biscuit. Actually no, it's Bruno.",
        "my dog's name is Biscuit, sorry, I meant Bruno",
    ):
        [item] = extract(said).items
        assert (item.key, item.answer, item.depends) == ("dog/name", "Bruno", ())


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("My uncle gave up chess and is into ballet now.", "ballet"),
        ("My uncle swapped chess for ballet.", "ballet"),
        ("My uncle switched from chess to ballet.", "ballet"),
        ("My uncle does not like chess any more but ballet.", "ballet"),
        ("Ballet is nothing my uncle would swap.", None),
    ],
)
def test_a_known_value_that_gives_way_names_what_changed(said, answer):
    known = [
        Known(key="uncle/favourite_sport", question="What is my uncle's favourite sport?", answer="chess"),
        Known(key="self/favourite_sport", question="What is my favourite sport?", answer="chess"),
    ]
    told = [(i.key, i.answer) for i in extract(said, known=known).items if i.answer]
    assert told == ([("uncle/favourite_sport", answer)] if answer else [])


def test_an_end_without_a_new_value_and_with_one():
    [ended] = extract("I no longer live in Leeds.").items
    assert (ended.key, ended.ends, ended.answer) == ("self/home_city", True, None)
    [moved] = extract("I no longer live in Leeds, I live in York now.").items
    assert (moved.key, moved.ends, moved.answer) == ("self/home_city", False, "York")


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("Please forget my locker code.", "my locker code"),
        ("Can you forget my address?", "my address"),
        ("forget what I told you about my salary", "my salary"),
        ("Delete everything you know about my sister, please.", "my sister"),
        ("I'd like you to forget that my dog is called Rex.", "my dog is called Rex"),
    ],
)
def test_requests_to_forget_are_reported_and_teach_nothing(said, what):
    found = extract(said)
    assert [f.what for f in found.forgets] == [what]
    assert not found.items


@pytest.mark.parametrize(
    "said", ["Don't forget my birthday.", "I forgot my keys.", "Forget it.", "Delete the last paragraph."]
)
def test_other_uses_of_forgetting_are_none(said):
    assert not extract(said).forgets


def test_a_first_person_statement_that_fits_no_rule_stays_open():
    [item] = extract("Yesterday I finished my first marathon with Pia.").items
    assert (item.question, item.answer, item.kind) == (None, None, "event")
    assert item.key.startswith("self/open/")


def test_each_of_several_speakers_is_their_own_self():
    [item] = extract("I moved to York.", speaker="Caroline").items
    assert (item.key, item.question) == ("caroline/home_city", "Where does Caroline live?")
    [item] = extract("My dog is called Rex.", speaker="Caroline").items
    assert (item.key, item.question) == ("caroline.dog/name", "What is Caroline's dog's name?")


def test_nothing_said_is_too_strange():
    for said in (
        "",
        "...",
        "?!",
        "I",
        "my",
        "I am",
        "My is is is.",
        "a" * 50_000,
        "I am " * 5_000,
        "My dog's 's is called ' '.",
    ):
        extract(said)


PIECES = (
    "I my our we she he his her Anna Biscuit Leeds dog sister boss car name code wifi favourite colour is are am was "
    "has have called named live lives in at on to the a of for from not no longer but it actually sorry meant moved "
    "changed work as nurse and who that , . ? ! 's ' - : ; ( ) \" every Tuesday don't I'm she's what where when if "
    "all so forget please 42"
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES.split()), max_size=14))
def test_no_jumble_of_words_is_an_error(pieces):
    known = [Known(key="dog/name", question="What is my dog's name?", answer="Biscuit")]
    for item in extract(" ".join(pieces), known=known).items:
        assert item.key
        assert 0 <= item.span[0] < item.span[1]
        assert (item.question is None) == (item.answer is None)


def measure(split: Split, n: int) -> tuple[float, float, float, float]:
    """Shares of bank statements: value found, value and canonical question found, values right among those
    answered, and statements whose key is the usual one of their fact."""
    generator, rng = PersonaGenerator(split), random.Random(0)
    answered = right = asked = 0
    keys: dict[str, list[str]] = {}
    for _ in range(n):
        fact = generator.fact(rng.choice(generator.keys()), rng)
        told = [i for i in extract(fact.statement).items if i.answer]
        hits = [i for i in told if bare(i.answer or "") == bare(fact.value)]
        answered += bool(told)
        right += bool(hits)
        asked += any(i.question == fact.canonical for i in hits)
        keys.setdefault(fact.key, []).extend(i.key for i in hits[:1])
    usual = sum(max(found.count(k) for k in found) for found in keys.values() if found)
    return right / n, asked / n, right / max(1, answered), usual / max(1, right)


def test_statements_in_words_of_their_own():
    """Hand-written statements in wordings that the bank does not have: value and canonical question."""
    lines = (Path(__file__).parent / "statements.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    answered = right = 0
    for case in cases:
        told = [i for i in extract(case["message"]).items if i.answer]
        answered += bool(told)
        right += any(
            i.question == case["question"] and bare(i.answer or "") == bare(case["value"]) for i in told
        )
    assert right / len(cases) > 0.93
    assert right / answered > 0.95


def bare(text: str) -> str:
    return re.sub(r"^(?:the|an?|some) ", "", text.casefold().strip(" ."))


def test_the_bank_of_phrasings():
    """Recorded on 2026-11-21: train 0.88 / 0.87 / 0.98 / 0.96, test (other phrasings, many of them roundabout,
    and other values) 0.72 / 0.67 / 0.94 / 0.95. What no rule reads is left to a model."""
    found, asked, right, usual = measure("train", 600)
    assert found > 0.85
    assert asked > 0.82
    assert right > 0.95
    assert usual > 0.9
    found, asked, right, usual = measure("test", 600)
    assert found > 0.68
    assert asked > 0.62
    assert right > 0.91
    assert usual > 0.9
