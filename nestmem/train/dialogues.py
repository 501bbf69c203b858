"""Generated dialogues: what nestmem-mini learns to do before it learns to remember in its weights.

A dialogue is a list of messages in which some assistant turns are supervised. Four kinds: answer from memory
lines in the context, answer from earlier turns, write question-answer pairs about a statement, and say
"I don't know." where nothing was told.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from nestmem.personas import Fact, PersonaGenerator

UNKNOWN = "I don't know."
WRITER_PROMPT = "Write questions and answers."


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Messages, and the indices of the assistant turns whose words are learned."""

    messages: tuple[tuple[str, str], ...]
    learned: tuple[int, ...]


def date(rng: random.Random) -> str:
    """An ISO date between 2019 and 2028."""
    return f"{rng.randint(2019, 2028)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def question(generator: PersonaGenerator, fact: Fact, rng: random.Random) -> str:
    """A paraphrased question, sometimes the canonical one, sometimes without its question mark or capital."""
    text = fact.canonical if rng.random() < 0.15 else generator.question(fact.key, rng)
    if rng.random() < 0.08:
        text = text.rstrip("?")
    if rng.random() < 0.06:
        text = text[0].lower() + text[1:]
    return text


def memory_lines(told: list[str], generator: PersonaGenerator, rng: random.Random) -> str:
    """The system message with recalled lines in order of time, as the agent renders them, with distractors."""
    lines = list(told)
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        other = rng.choice([generator.smalltalk, generator.third_party])(rng)
        lines.insert(rng.randint(0, len(lines)), other)
    dated = rng.random() < 0.5
    dates = sorted(f"({date(rng)}) " if dated else "" for _ in lines)
    speaker = rng.choice(["user", "user", "user", "user", "Me", "Anna"])
    rendered = []
    for day, line in zip(dates, lines, strict=True):
        rendered.append(f"- {day}{speaker}: {line}")
        if rng.random() < 0.1:
            rendered.append(f"- {day}assistant: {generator.acknowledge(rng)}")
    return "Memory:\n" + "\n".join(rendered)


def ask(
    facts: list[Fact], absent: list[Fact], generator: PersonaGenerator, rng: random.Random, turns: int
) -> list[tuple[str, str]]:
    """`turns` pairs (question, answer) about told facts and, one time in seven, about one never told."""
    pairs = []
    for _ in range(turns):
        if (absent and rng.random() < 1 / 7) or not facts:
            pairs.append((question(generator, rng.choice(absent), rng), UNKNOWN))
        else:
            fact = rng.choice(facts)
            pairs.append((question(generator, fact, rng), fact.value))
    return pairs


def reading(generator: PersonaGenerator, rng: random.Random, *, in_system: bool) -> Dialogue:
    """Questions about facts that stand in the context, as memory lines or as earlier turns."""
    count = rng.choice([1, 1, 1, 2, 2, 3, 5])
    facts = generator.facts(count + 3, rng)
    facts, absent = facts[:count], facts[count:]
    told = [generator.told(fact, rng) for fact in facts]
    if rng.random() < 0.25:
        index = rng.randrange(count)
        newer = generator.fact(facts[index].key, rng, old=facts[index].value)
        facts[index] = newer
        told.append(generator.told(newer, rng))
    pairs = ask(facts, absent, generator, rng, turns=rng.randint(3, 5))
    messages: list[tuple[str, str]] = []
    if in_system:
        messages.append(("system", memory_lines(told, generator, rng)))
    else:
        for line in told:
            messages += [("user", line), ("assistant", generator.acknowledge(rng))]
    learned = []
    for asked, answer in pairs:
        messages += [("user", asked), ("assistant", answer)]
        learned.append(len(messages) - 1)
    return Dialogue(messages=tuple(messages), learned=tuple(learned))


def writing(generator: PersonaGenerator, rng: random.Random) -> Dialogue:
    """One or two statements in a message, and the question-answer pairs a memory should keep of them."""
    facts = generator.facts(rng.choice([1, 1, 1, 1, 2]), rng)
    if rng.random() < 0.2:
        facts = [generator.fact(fact.key, rng, old=generator.value(fact.key, rng)) for fact in facts]
    if rng.random() < 0.1:
        message = rng.choice([generator.smalltalk, generator.third_party])(rng)
        answer = "none"
    else:
        message = " ".join(generator.told(fact, rng) for fact in facts)
        answer = "\n".join(f"Q: {fact.canonical} A: {fact.value}" for fact in facts)
    messages = (("system", WRITER_PROMPT), ("user", message), ("assistant", answer))
    return Dialogue(messages=messages, learned=(2,))


def unknown(generator: PersonaGenerator, rng: random.Random) -> Dialogue:
    """Personal questions with nothing told, and small talk."""
    messages: list[tuple[str, str]] = []
    learned = []
    for fact in generator.facts(rng.randint(1, 3), rng):
        if rng.random() < 0.25:
            messages += [("user", generator.smalltalk(rng)), ("assistant", generator.reply(rng))]
        else:
            messages += [("user", question(generator, fact, rng)), ("assistant", UNKNOWN)]
            learned.append(len(messages) - 1)
    return Dialogue(messages=tuple(messages), learned=tuple(learned))


def telling(generator: PersonaGenerator, rng: random.Random) -> Dialogue:
    """Statements and their acknowledgements: what users sound like."""
    messages: list[tuple[str, str]] = []
    for fact in generator.facts(rng.randint(1, 3), rng):
        messages += [("user", generator.told(fact, rng)), ("assistant", generator.acknowledge(rng))]
    return Dialogue(messages=tuple(messages), learned=tuple(range(1, len(messages), 2)))


def dialogue(generator: PersonaGenerator, rng: random.Random) -> Dialogue:
    """One dialogue of a random kind."""
    draw = rng.random()
    if draw < 0.38:
        return reading(generator, rng, in_system=True)
    if draw < 0.48:
        return reading(generator, rng, in_system=False)
    if draw < 0.86:
        return writing(generator, rng)
    if draw < 0.94:
        return unknown(generator, rng)
    return telling(generator, rng)
