"""Facts that hang on other facts, written for this project: what `nestmem.evals.datasets.cascade` tells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """told: the ground, {v} one of `grounds`. changed: it changes. elsewhere: someone else's does. dependent: what
    hangs on it, {v} one of `values`; again: its new value is told."""

    name: str
    grounds: tuple[str, ...]
    told: str
    changed: str
    elsewhere: str
    ground_question: str
    values: tuple[str, ...]
    dependent: str
    question: str
    again: str


DEPENDENCIES = (
    Dependency(
        name="home and way to work",
        grounds=("Brellin", "Marnau", "Tolvik", "Westerby"),
        told="We live in {v}, on the third floor.",
        changed="On Saturday we moved house; from now on we live in {v}.",
        elsewhere="On Saturday my cousin moved house; from now on he lives in {v}.",
        ground_question="In which town do I live?",
        values=("26 minutes", "41 minutes", "18 minutes", "53 minutes"),
        dependent="My way to work takes {v}, door to door.",
        question="How long is my way to work?",
        again="I have timed the new way to work: it takes {v}.",
    ),
    Dependency(
        name="employer and badge",
        grounds=("Halden Optics", "Rook and Daughters", "Nimbus Freight", "Perrin Foundry"),
        told="I work at {v}.",
        changed="Monday was my first day at {v}; the old job is history.",
        elsewhere="Monday was my sister's first day at {v}; her old job is history.",
        ground_question="Which firm do I work for?",
        values=("70418", "55293", "81360", "62907"),
        dependent="My badge at work has the number {v}.",
        question="What is the number of my badge at work?",
        again="They printed me a new badge at work, number {v}.",
    ),
    Dependency(
        name="car and tyres",
        grounds=("Skoda Fabia", "Dacia Logan", "Volvo V60", "Fiat Panda"),
        told="I drive a {v}.",
        changed="The old car went to the scrapyard; since today I drive a {v}.",
        elsewhere="My neighbour's old car went to the scrapyard; since today she drives a {v}.",
        ground_question="What car do I drive?",
        values=("165/70 R14", "185/60 R15", "205/55 R16", "225/45 R17"),
        dependent="My car takes tyres of the size {v}.",
        question="Which size of tyres does my car take?",
        again="I looked it up: the new car takes tyres of the size {v}.",
    ),
    Dependency(
        name="phone and battery",
        grounds=("Nokia G42", "Motorola Edge", "Pixel 6a", "Xperia 10"),
        told="My phone is a {v}.",
        changed="My phone fell into the lake, so I bought a {v} instead.",
        elsewhere="My brother's phone fell into the lake, so he bought a {v} instead.",
        ground_question="Which phone do I have?",
        values=("nineteen hours", "thirty hours", "fourteen hours", "twenty-six hours"),
        dependent="The battery of my phone lasts {v}.",
        question="How long does the battery of my phone last?",
        again="I tried it out: the battery of the new phone lasts {v}.",
    ),
    Dependency(
        name="gym and locker",
        grounds=("Iron Lantern", "Studio Vault", "The Rowing Shed", "Club Meridian"),
        told="I train at {v} twice a week.",
        changed="I left that gym and signed up at {v}.",
        elsewhere="My flatmate left his gym and signed up at {v}.",
        ground_question="At which gym do I train?",
        values=("312", "508", "647", "229"),
        dependent="My locker at the gym is number {v}.",
        question="Which locker do I have at the gym?",
        again="At the new gym they gave me locker {v}.",
    ),
    Dependency(
        name="school and class teacher",
        grounds=("Lindenhof School", "Elm Bank Primary", "Saint Brigid's", "Hillcrest Academy"),
        told="Our son goes to {v}.",
        changed="Our son changed schools; he goes to {v} now.",
        elsewhere="My colleague's son changed schools; he goes to {v} now.",
        ground_question="Which school does our son go to?",
        values=("Mrs Abendroth", "Mr Castellan", "Ms Okonjo", "Mr Lindqvist"),
        dependent="Our son's class teacher is {v}.",
        question="Who is our son's class teacher?",
        again="Our son's new class teacher is {v}.",
    ),
    Dependency(
        name="partner and allergy",
        grounds=("Joris", "Mirela", "Anselm", "Tamsin"),
        told="I live with my partner, {v}.",
        changed="We split up in spring. My partner now is {v}.",
        elsewhere="My best friend split up in spring. Her partner now is {v}.",
        ground_question="Who is my partner?",
        values=("celery", "shellfish", "mugwort", "penicillin"),
        dependent="My partner is allergic to {v}.",
        question="What is my partner allergic to?",
        again="Before the first dinner I asked: my partner is allergic to {v}.",
    ),
    Dependency(
        name="dentist and practice",
        grounds=("Dr Vasquez-Holm", "Dr Tinker", "Dr Abernathy", "Dr Kolbe"),
        told="My dentist is {v}.",
        changed="I fell out with my dentist and went over to {v}.",
        elsewhere="My mother fell out with her dentist and went over to {v}.",
        ground_question="Who is my dentist?",
        values=("Canal Street", "Pepper Lane", "Tannery Square", "Bishop Road"),
        dependent="My dentist's practice is in {v}.",
        question="Where is my dentist's practice?",
        again="My new dentist's practice is in {v}.",
    ),
    Dependency(
        name="dog and weight",
        grounds=("wolfhound", "dachshund", "whippet", "schnauzer"),
        told="We have a dog, a {v}.",
        changed="Our dog died in the night. Next week we take in another, a {v}.",
        elsewhere="The dog of the people next door died in the night. Next week they take in another, a {v}.",
        ground_question="What breed is our dog?",
        values=("11 kilos", "27 kilos", "38 kilos", "46 kilos"),
        dependent="Our dog weighs {v}.",
        question="How much does our dog weigh?",
        again="The vet put our new dog on the scales: {v}.",
    ),
    Dependency(
        name="hotel and room",
        grounds=("the Grand Solace", "the Amberley", "Pension Ilse", "the Harbour Inn"),
        told="For the congress I booked {v}.",
        changed="I cancelled my booking for the congress and took {v} instead.",
        elsewhere="My colleague cancelled her booking for the congress and took {v} instead.",
        ground_question="Where do I stay during the congress?",
        values=("room 1107", "room 284", "room 916", "room 433"),
        dependent="They wrote that I have {v} during the congress.",
        question="Which room do I have during the congress?",
        again="The new place wrote as well: I have {v} during the congress.",
    ),
    Dependency(
        name="flight and seat",
        grounds=("Condor", "Iberia", "Finnair", "Aer Lingus"),
        told="I fly to my aunt with {v}.",
        changed="My flight to my aunt was cancelled; I am booked on one with {v} instead.",
        elsewhere="My father's flight to my aunt was cancelled; he is booked on one with {v} instead.",
        ground_question="With which airline do I fly to my aunt?",
        values=("17C", "31F", "22A", "9D"),
        dependent="On the flight to my aunt I have seat {v}.",
        question="Which seat do I have on the flight to my aunt?",
        again="I checked in for the new flight to my aunt: seat {v}.",
    ),
    Dependency(
        name="choir and rehearsals",
        grounds=("the Larks", "Vox Nova", "the Tuesday Voices", "Cantabile"),
        told="I sing in a choir, {v}.",
        changed="I left my choir and sing with {v} now.",
        elsewhere="My sister left her choir and sings with {v} now.",
        ground_question="In which choir do I sing?",
        values=("the fire station", "the old dairy", "the parish hall", "the tram depot"),
        dependent="My choir rehearses at {v}.",
        question="Where does my choir rehearse?",
        again="The new choir rehearses at {v}.",
    ),
    Dependency(
        name="bank and fee",
        grounds=("Meerbank", "Trustees Union", "Corvin Savings", "Banca Alta"),
        told="I have my account at {v}.",
        changed="I closed my account and took all of it to {v}.",
        elsewhere="My uncle closed his account and took all of it to {v}.",
        ground_question="At which bank do I have my account?",
        values=("4.90 euros", "7.20 euros", "3.60 euros", "8.50 euros"),
        dependent="My account costs me {v} a month.",
        question="What does my account cost a month?",
        again="I read the small print: the new account costs {v} a month.",
    ),
    Dependency(
        name="project and lead",
        grounds=("Basalt", "Wren", "Tidewater", "Saffron"),
        told="In the office I am on project {v}.",
        changed="My project was stopped, and I was put on {v}.",
        elsewhere="The project of the man at the next desk was stopped, and he was put on {v}.",
        ground_question="On which project am I in the office?",
        values=("Ottilie Brandt", "Ramesh Iyer", "Quentin Moss", "Dolores Haze"),
        dependent="The lead of my project is {v}.",
        question="Who leads my project?",
        again="The lead of my new project is {v}.",
    ),
)
