"""Personas: generated people who tell an assistant facts about themselves, and questions asked later."""

from nestmem.personas.generator import (
    NEVER_TOLD_ANSWER,
    Fact,
    Life,
    Message,
    PersonaGenerator,
    Question,
    Session,
    belongs_to_test,
    split_list,
)

__all__ = [
    "NEVER_TOLD_ANSWER",
    "Fact",
    "Life",
    "Message",
    "PersonaGenerator",
    "Question",
    "Session",
    "belongs_to_test",
    "split_list",
]
