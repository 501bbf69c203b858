"""Memory in the weights of a Hugging Face model by name: README's ten lines, then a life of four sessions.

    python examples/remember.py --model Qwen/Qwen3-0.6B
    python examples/remember.py --model FOLDER [--db FILE] [--rule nested]

Any causal language model with known feed-forward layers will do (`nestmem.adapters.sites.LAYOUTS`). One that was never
meta-trained gets calibrated settings: it learns what it is told by heart, and generalises to other words as far as it
does by itself. So beside its answers the example prints, for each thing remembered, how likely the answer has become:
the mean log-probability of its tokens with the person's weights and without them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import nestmem
from nestmem.agent.types import State, StoredUpdate, Update

LIFE = (
    ("2026-03-02T09:00:00Z", ("My dog is called Biscuit.", "I live in Ghent.")),
    ("2026-03-09T18:30:00Z", ("My favourite colour is green.", "I'm allergic to walnuts.")),
    ("2026-04-01T08:15:00Z", ("I moved to Porto last week.", "What a rainy spring!")),
    ("2026-04-20T20:00:00Z", ("My sister's name is Ines.",)),
)
"""When each session took place, and what was said."""
QUESTIONS = ("What is the name of my dog?", "Where do I live?", "What's my sister called?")


@dataclass(frozen=True, kw_only=True)
class Held:
    """A thing remembered: `exact`, the weights alone say it word for word; log-probabilities in nats per token."""

    question: str
    answer: str
    exact: bool
    before: float
    after: float


def ten_lines(memory: nestmem.Memory) -> None:
    """README.md's example, with any model."""
    memory.observe("My dog is called Biscuit. I live in Ghent.", "maya")
    memory.learn("maya")
    answer = memory.answer("What's my dog called?", "maya")
    print(answer.text, "| from:", answer.spoke, "| sources:", answer.sources)
    receipt = memory.forget(answer.sources, "maya")
    print("removed:", receipt.removed)
    print(memory.answer("What's my dog called?", "maya").text)


def weights_of(memory: nestmem.Memory, user: str) -> State:
    """The weights of a user, made again from the updates in the ledger: they are nothing else."""
    assert memory.learner is not None
    scope = nestmem.Scope(user=user)
    head = memory.ledger.head(scope)
    updates = [] if head is None else memory.ledger.updates(scope, ids=head.update_ids)
    return memory.learner.rebuild(
        [
            StoredUpdate(u.level, Update(memory_id=u.memory_id, payload=u.payload, digest=u.digest))
            for u in updates
        ]
    )


def held(memory: nestmem.Memory, user: str) -> list[Held]:
    """What the weights of a user hold of each memory that has a question."""
    assert memory.learner is not None
    pairs = [(m.question, m.answer) for m in memory.ledger.memories(nestmem.Scope(user=user))]
    pairs = [(question, answer) for question, answer in pairs if question and answer]
    told = memory.learner.exact(pairs, [weights_of(memory, user)] * len(pairs))
    base = memory.learner.exact(pairs, [None] * len(pairs))
    return [
        Held(question=question, answer=answer, exact=exact, before=before, after=after)
        for (question, answer), (exact, after), (_, before) in zip(pairs, told, base, strict=True)
    ]


def live(memory: nestmem.Memory, user: str) -> list[Held]:
    """Tell the life, session by session, and print what the weights hold at its end."""
    for at, said in LIFE:
        memory.observe([{"role": "user", "content": text} for text in said], user, occurred_at=at)
        report = memory.learn(user)
        print(f"{at[:10]}  learned: {', '.join(report.learned) or 'nothing'}")
    found = held(memory, user)
    print("\nin the weights, nothing in the prompt:")
    for one in found:
        mark = "by heart" if one.exact else "        "
        print(f"  {one.after:7.2f} ({one.before:7.2f} before)  {mark}  {one.question} {one.answer}")
    print("\nasked in plain words:")
    for question in QUESTIONS:
        weights = memory.answer(question, user, arm="weights").text
        answer = memory.answer(question, user)
        print(f"  {question}  weights: {weights!r}  with the text: {answer.text!r} ({answer.spoke})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", help="a Hugging Face name, a folder, or mini")
    parser.add_argument("--db", default=":memory:", help="the file of the memory; by default it is not kept")
    parser.add_argument(
        "--rule", default="nested", help="how weights are written: nested, additive, rls, tmem"
    )
    options = parser.parse_args()
    with nestmem.open(options.db, model=options.model, rule=options.rule, embedder="none") as memory:
        ten_lines(memory)
        print()
        live(memory, "noor")


if __name__ == "__main__":
    main()
