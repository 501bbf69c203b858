"""The relations of CounterFact, each with wordings of this project: told, asked, and named within another question.

CounterFact says one relation in many ways; `prompts` lists its prompts that say the relation. Prompts that do not
("{}, in", "{} plays") belong to none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Relation:
    """How a relation is told ({s} the subject, {o} the object), asked, and named within another question.
    prompts: CounterFact's prompts that say this relation."""

    told: str
    asked: str
    named: str
    prompts: tuple[str, ...]


def _relation(told: str, asked: str, named: str, *prompts: str) -> Relation:
    return Relation(told=told, asked=asked, named=named, prompts=prompts)


# fmt: off
RELATIONS: Mapping[str, Relation] = {
    "mother tongue": _relation(
        "The native language of {s} is {o}.", "Which language did {s} speak first?", "the first language of {s}",
        "The mother tongue of {} is", "{} is a native speaker of", "The native language of {} is",
        "{}, a native"),
    "languages": _relation(
        "{s} uses the language {o}.", "In which language does {s} express things?", "the language that {s} uses",
        "{} speaks", "{} speaks the language", "{} writes in", "{} spoke the language", "{}, speaker of",
        "The language used by {} is"),
    "official language": _relation(
        "The official language of {s} is {o}.", "Which language is official in {s}?", "the official language of {s}",
        "The official language of {} is", "In {}, an official language is", "The law in {} declares the language",
        "In {}, the language spoken is", "In {}, they understand"),
    "work language": _relation(
        "The work {s} is in the language {o}.", "What is the language of the work {s}?", "the language of the work {s}",
        "The language of {} was", "The language of {} is", "The original language of {} is",
        "The original language of {} was", "{} is written in"),
    "religion": _relation(
        "The religion of {s} is {o}.", "Which faith does {s} follow?", "the religion of {s}",
        "The official religion of {} is", "{} is affiliated with the religion", "{} follows the religion of",
        "{} is follower of"),
    "twin city": _relation(
        "The twin city of {s} is {o}.", "With which city is {s} twinned?", "the twin city of {s}",
        "What is the twin city of {}? It is", "{} is a twin city of", "The twin city of {} is"),
    "place": _relation(
        "{s} is located in {o}.", "Where does one find {s}?", "the place where {s} is located",
        "{} can be found in", "{} is located in", "Where is {}? It is located in", "{}, located in",
        "{}, which is located in", "{} is within", "The location of {} is"),
    "country": _relation(
        "The country of {s} is {o}.", "In which country is {s}?", "the country of {s}",
        "{} is located in the country of"),
    "continent": _relation(
        "The continent of {s} is {o}.", "On which continent is {s}?", "the continent of {s}",
        "{} is a part of the continent of", "{} is located in the continent", "{} belongs to the continent of"),
    "capital": _relation(
        "The capital of {s} is {o}.", "Which city is the seat of government of {s}?", "the capital of {s}",
        "The capital of {} is", "The capital city of {} is", "{}'s capital city is", "{}'s capital is", "{}'s capital,",
        "{}'s capital city,", "{}, which has the capital city", "{}, which has the capital"),
    "headquarters": _relation(
        "The headquarters of {s} is in {o}.", "Where is {s} based?", "the place of the headquarters of {s}",
        "{}'s headquarters are in", "The headquarters of {} is in", "{}, whose headquarters are in",
        "The headquarter of {} is in", "{} is headquartered in", "The headquarter of {} is located in",
        "{} is based in"),
    "founding": _relation(
        "{s} was started in {o}.", "Where did {s} begin?", "the place where {s} was started",
        "{}, that was created in", "{} was started in", "{}, formulated in", "{} originated in", "{} was formed in",
        "{}, that was started in", "{}, that was formulated in", "{} started in", "{} formed in",
        "{} was formulated in", "{}, created in", "{}, founded in", "{} was created in", "{} originates from",
        "{} originated from", "{}, that originated in", "{}, that was formed in", "{} that was founded in",
        "{} was founded in", "{} was created in the country of", "{}, that was developed in", "{} was developed in",
        "{}, developed in"),
    "death": _relation(
        "{s} died in {o}.", "Where did the life of {s} end?", "the place where {s} died",
        "{} passed away at", "{}'s life ended in", "{} died at", "{} expired at", "{} passed away in", "{} died in",
        "{} died in the city of", "{} lost their life at", "{} succumbed at"),
    "birth": _relation(
        "{s} comes from {o}.", "What is the place of origin of {s}?", "the place that {s} comes from",
        "{} was born in", "{} was native to", "{} is native to", "{} was originally from", "{} is originally from"),
    "citizenship": _relation(
        "{s} is a citizen of {o}.", "Which country's passport does {s} hold?", "the country that {s} is a citizen of",
        "{}, who holds a citizenship from", "{}, who has a citizenship from", "{} is a citizen of",
        "{}, who is a citizen of", "{}, a citizen of", "{} holds a citizenship from", "{} has a citizenship from"),
    "workplace": _relation(
        "{s} found work in {o}.", "In which city did {s} have a job?", "the city where {s} found work",
        "{} was employed in", "{} found employment in", "{} worked in", "{} used to work in", "{} took up work in",
        "{} worked in the city of"),
    "employer": _relation(
        "{s} works for {o}.", "Who is the employer of {s}?", "the employer of {s}",
        "{}, who works for", "{} is employed by", "{}, who is employed by", "{} works for"),
    "maker": _relation(
        "{s} is made by {o}.", "Who is behind the product {s}?", "the maker of {s}",
        "{} was created by", "{}, developed by", "{} is created by", "{} is a product of", "{} is produced by",
        "{}, created by", "{} was developed by", "{} is developed by", "{}, a product manufactured by",
        "{} was a product of", "{}, produced by", "{}, a product of", "{}, a product developed by",
        "{}, a product created by"),
    "owner": _relation(
        "The owner of {s} is {o}.", "To whom does {s} belong?", "the owner of {s}",
        "{} owner", "{}'s owner", "{} is owned by"),
    "network": _relation(
        "{s} was first shown on {o}.", "Which channel brought {s} first?", "the channel that first showed {s}",
        "{} was released on", "{} premieres on", "{} is to debut on", "{} was originally aired on", "{} debuted on",
        "{} premiered on"),
    "sport": _relation(
        "The sport of {s} is {o}.", "What kind of sport does {s} do?", "the sport of {s}",
        "{} professionally plays the sport", "What sport does {} play? They play"),
    "position": _relation(
        "The position of {s} on the field is {o}.", "Where on the field does {s} stand?",
        "the position of {s} on the field",
        "{} plays in the position of", "Which position does {} play? They play as", "{} plays as",
        "{}, who plays the position"),
    "instrument": _relation(
        "The instrument of {s} is the {o}.", "What does {s} make music on?", "the instrument of {s}",
        "{}, playing the", "{} plays the", "{} performs on the", "{}, performing on the", "{} plays the instrument"),
    "field": _relation(
        "The field of work of {s} is {o}.", "What does {s} study?", "the field of work of {s}",
        "{}'s domain of activity is", "The expertise of {} is", "{}'s expertise is", "{}'s area of work is",
        "The domain of activity of {} is", "{} works in the area of", "{} works in the field of",
        "The domain of work of {} is", "{}'s domain of work is", "{} specializes in"),
    "occupation": _relation(
        "The occupation of {s} is {o}.", "What does {s} do for a living?", "the occupation of {s}",
        "The profession of {} is", "The occupation of {} is", "{}, who works as", "{}'s profession is an",
        "{} works as", "{}'s profession is a", "{}'s occupation is"),
    "office": _relation(
        "The office of {s} is {o}.", "Which office does {s} hold?", "the office of {s}",
        "{} holds the title of", "{}, who has the position of", "{}, who holds the position of",
        "{} holds the position of", "{}'s position is", "{}, whose position is that of", "{} has the position of"),
    "namesake": _relation(
        "{s} is named after {o}.", "What gave {s} its name?", "the one that {s} is named after",
        "{} is named for", "{}, named after", "{}, named for", "{} is called after", "{} was called after",
        "{} was named after", "{}, which is named after", "{}, which was named for", "{}, which was named after",
        "{}, which was called after", "{} was named for", "{} is named after", "{}, which is called after",
        "{}, which is named for", "{}, called after"),
    "genre": _relation(
        "The genre of {s} is {o}.", "What style of music is {s} known for?", "the genre of {s}",
        "The genre played by {} is", "{} is known for performing"),
}
# fmt: on
# Relations whose object is a place, so that a fact about the place can follow.
BRIDGES = frozenset(
    {
        "birth",
        "capital",
        "citizenship",
        "country",
        "death",
        "founding",
        "headquarters",
        "place",
        "twin city",
        "workplace",
    }
)
# Prompt -> the name of its relation.
BY_PROMPT = {prompt: name for name, relation in RELATIONS.items() for prompt in relation.prompts}
