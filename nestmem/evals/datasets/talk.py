"""Texts of the judge's generators, written for this project: ordinary talk that holds nothing about the user, and
things told in a way of their own. `{x}` and `{v}` are filled in."""

from __future__ import annotations

# Topic: things it is about, questions of the user, sentences of the assistant.
TALK: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "a lentil stew",
            "a potato gratin",
            "a vegetable curry",
            "a mushroom risotto",
            "an onion soup",
            "a fish pie",
        ),
        ("How do I make {x} for many guests?", "What goes well with {x}?", "Why does {x} turn out too thin?"),
        (
            "For {x}, cut everything to one size so that it cooks evenly.",
            "Salt at the end, since the liquid gets stronger while it boils down.",
            "With {x} I would put a green salad and bread on the table.",
            "Let it stand for ten minutes before you serve it.",
            "A spoonful of vinegar wakes the taste up.",
            "If it is too thin, leave the lid off and give it more time.",
        ),
    ),
    (
        (
            "tomato plants",
            "rose bushes",
            "a lemon tree in a pot",
            "a strawberry bed",
            "a hedge",
            "a lavender border",
        ),
        (
            "When should I prune {x}?",
            "How much water is right for {x}?",
            "What eats the leaves of {x}?",
        ),
        (
            "Look at the soil two fingers deep; water when it is dry there.",
            "Cut {x} on a dry day and with clean shears.",
            "Small round holes mostly come from beetles, long ones from slugs.",
            "A layer of straw or bark keeps the ground moist.",
            "Do not feed {x} after midsummer, or the new shoots freeze.",
            "Morning is the best time, as the leaves dry during the day.",
        ),
    ),
    (
        (
            "a dripping tap",
            "a squeaking door",
            "a stuck window",
            "a loose tile",
            "a blocked drain",
            "a cold radiator",
        ),
        ("How can I fix {x} myself?", "Which tools do I need for {x}?", "Is {x} a case for a tradesman?"),
        (
            "Most often {x} has one simple cause, so check the obvious one first.",
            "Take a photo before you take anything apart.",
            "Turn the supply off before you begin.",
            "A drop of oil and a soft cloth go a long way.",
            "Call somebody when you see damp spots on the wall.",
            "The parts cost little; what you pay for is the hour of work.",
        ),
    ),
    (
        (
            "a spreadsheet",
            "a slide deck",
            "a mailing list",
            "a shared calendar",
            "a photo archive",
            "a backup",
        ),
        (
            "What is a good way to organise {x}?",
            "How do I share {x} with others?",
            "Why is {x} so slow to open?",
        ),
        (
            "Start with names that sort by themselves, the date first.",
            "Give reading rights to all and writing rights to few.",
            "Large pictures are the usual reason that {x} gets slow.",
            "Keep one copy of {x} outside the house.",
            "Write a short note at the top that says what belongs where.",
            "Clear it out twice a year; half of it is never looked at again.",
        ),
    ),
    (
        ("the tides", "rainbows", "thunder", "the northern lights", "fog in valleys", "hail in summer"),
        (
            "Can you explain {x} to a child?",
            "What is the cause of {x}?",
            "Is there an experiment that shows {x}?",
        ),
        (
            "In one sentence, {x} can be traced to energy that has to go somewhere.",
            "Draw it first; a picture settles most of the confusion.",
            "A bowl of water and a torch are enough to show the idea.",
            "People long told stories about {x} before anyone measured it.",
            "The details depend on temperature and on how moist the air is.",
            "There is still an open question or two about it.",
        ),
    ),
    (
        (
            "a cover letter",
            "a complaint",
            "a thank-you note",
            "a speech for a jubilee",
            "an invitation",
            "a short report",
        ),
        ("How should I begin {x}?", "How long may {x} be?", "Can you check the tone of {x} with me?"),
        (
            "Say in the first line of {x} what you want.",
            "One page is plenty; nobody was ever cross about a short text.",
            "Read it aloud once, and cut whatever makes you stumble.",
            "Replace every word you would not say to a friend.",
            "End {x} with the next step and a date.",
            "Leave it overnight, and look at it again with fresh eyes.",
        ),
    ),
    (
        (
            "chess openings",
            "card games for two",
            "crossword puzzles",
            "board games",
            "riddles",
            "pub quizzes",
        ),
        (
            "How do I get better at {x}?",
            "What makes {x} fun for beginners?",
            "How long does a round of {x} take?",
        ),
        (
            "With {x} it helps to play slowly and to talk about each move.",
            "Pick one idea and repeat it until it bores you.",
            "Half an hour is a good length for a first evening.",
            "Losing early and often is the cheapest lesson.",
            "Mixed groups like {x} best when nobody keeps the score.",
            "Write down what surprised you; that is where you learn.",
        ),
    ),
    (
        (
            "stretching",
            "swimming laps",
            "climbing stairs",
            "jogging in winter",
            "balance exercises",
            "rowing machines",
        ),
        (
            "How often would {x} be sensible?",
            "What should I watch out for with {x}?",
            "Would {x} help against back pain?",
        ),
        (
            "Begin with ten minutes, and add two each week.",
            "For {x}, breathing evenly matters more than speed.",
            "Stop when it hurts in a joint; a tired muscle is fine.",
            "Two days of rest a week are part of the plan.",
            "Many people find {x} easier together with someone.",
            "Drink a glass of water before, not only after.",
        ),
    ),
    (
        (
            "a compass",
            "a telescope",
            "a sewing pattern",
            "a bus timetable",
            "a weather map",
            "a knitting chart",
        ),
        ("How do I read {x}?", "What do the symbols on {x} mean?", "Where can I learn to use {x}?"),
        (
            "Find the legend first; {x} makes sense from there.",
            "Turn it so that its top points the way you face.",
            "Practise with {x} at home before you depend on it.",
            "A thin line and a thick one mean different things here.",
            "Libraries often hold a free evening on just that.",
            "Mark the place where you are with a pencil.",
        ),
    ),
    (
        ("bees", "swallows", "earthworms", "hedgehogs", "fireflies", "salmon"),
        ("What do {x} do in winter?", "How do {x} find their way?", "How can a town make room for {x}?"),
        (
            "Most {x} save energy when it is cold and food is scarce.",
            "They use light, smell and memory, each for another distance.",
            "Leaving a corner untidy does more for {x} than any box you buy.",
            "Counts by volunteers show a slow decline over decades.",
            "The young learn the route from the older ones, or are born with it.",
            "Fewer lamps at night would already help.",
        ),
    ),
    (
        (
            "a train journey with children",
            "a camping weekend",
            "a city break",
            "a ferry crossing",
            "a bike tour",
            "a hike",
        ),
        ("How do I plan {x}?", "What is easily forgotten for {x}?", "What does {x} cost, roughly?"),
        (
            "Book the way back first; everything else follows from it.",
            "Pack for {x} by the day, not by the kind of thing.",
            "A third of the money goes on food, so plan one cheap meal a day.",
            "Tape, string and a torch solve most small troubles.",
            "For {x}, leave one afternoon without any plan.",
            "Put the tickets where you can reach them with one hand.",
        ),
    ),
    (
        ("inflation", "compound interest", "insurance", "pension funds", "exchange rates", "rent prices"),
        (
            "Can you explain {x} without jargon?",
            "Why do people get {x} wrong?",
            "What would you read about {x}?",
        ),
        (
            "Think of {x} as a promise about later, with a price today.",
            "The mistake is to look at one year instead of twenty.",
            "Ask who gains when the figure goes up, and who loses.",
            "A small table with round numbers shows {x} best.",
            "I would begin with an old textbook; they explain more slowly.",
            "Fees look small and decide a great deal.",
        ),
    ),
)
LEADS = ("", "", "", "One more thing. ", "Another question: ", "Something else. ", "I was wondering. ")
ACKNOWLEDGED = (
    "Thank you, I have that.",
    "Understood.",
    "Good to know, I keep it in mind.",
    "All right, noted.",
)
# What the user asks, what the assistant recommends, the later question, and what {v} may be.
RECOMMENDED: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "I need something to read on a rainy weekend.",
        "Then try the novel {v}; it is slow at first and then hard to put down.",
        "Which novel did you recommend to me for a rainy weekend?",
        ("The Salt Orchard", "Harbour of Glass", "A Winter Ledger", "The Quiet Ferryman"),
    ),
    (
        "Which colour should I paint the hall? It gets little light.",
        "A hall without light gains most from {v} on the long wall.",
        "What shade did you suggest for the dark hall?",
        ("pale apricot", "butter cream", "washed coral", "linen white"),
    ),
    (
        "What could I call my sourdough starter?",
        "How about {v}? It sounds like someone who rises late.",
        "Which name did you come up with for my sourdough starter?",
        ("Doughlores", "Clint Yeastwood", "Sir Bubbles", "Crumbelina"),
    ),
    (
        "I have a sore throat. Is there a tea for that?",
        "People swear by {v} for a sore throat, with a little honey.",
        "Which tea did you name when my throat was sore?",
        ("marshmallow root", "mullein", "ribwort", "slippery elm"),
    ),
    (
        "Where could we go for a day trip by train?",
        "Take the train to {v}; the walk from the station along the river is easy.",
        "Where did you say we could go by train for a day?",
        ("Oberwessling", "Castle Dunmorrow", "Lake Tresvik", "Port Allenby"),
    ),
    (
        "How long should I let the concrete step dry before I walk on it?",
        "Give the step {v} before you put weight on it, more if it freezes.",
        "How long did you tell me to wait before I walk on the concrete step?",
        ("nine days", "eleven days", "thirteen days", "sixteen days"),
    ),
    (
        "I want to learn juggling. What should I start with?",
        "Begin with {v}: they fall slowly and do not roll away.",
        "What did you want me to start juggling with?",
        ("chiffon scarves", "rolled socks", "plastic bags", "bean sacks"),
    ),
    (
        "Which podcast would you pick for someone who likes old ships?",
        "There is one called {v}; each episode follows a single wreck.",
        "What was the podcast on old ships that you told me of?",
        ("Below the Keel", "Forty Fathoms Down", "Barnacle Hour", "The Last Logbook"),
    ),
    (
        "My violin bow needs something. The sound is scratchy.",
        "Ask in the shop for {v}; it is what I would put on a scratchy bow.",
        "What did you advise me to buy for the scratchy bow?",
        ("amber rosin", "gold flake rosin", "beeswax rosin", "larch rosin"),
    ),
)
# What the user tells, a question that it decides, and what {v} may be.
IMPLICIT: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "I get hives from {v}, so there is always a pen with epinephrine in my bag.",
        "A colleague bakes a cake for the office party. Which ingredient must she leave out if I am to eat of it?",
        ("cashews", "poppy seeds", "lupin flour", "pistachios"),
    ),
    (
        "I sprained my {v} on the stairs, and the doctor wants six weeks of rest for it.",
        "Friends invite me to a dance class tonight. Which part of me says no?",
        ("left ankle", "right knee", "left hip", "right heel"),
    ),
    (
        "Since May I have been writing my thesis on {v}.",
        "There is a sale at the bookshop. Which shelf would save me a trip to the library?",
        ("medieval bridges", "peat bogs", "Bronze Age pottery", "early vaccines"),
    ),
    (
        "We sold everything else, so the only thing left in our garage is a {v}.",
        "I bought a wardrobe. With what could I carry it home today, if with anything of mine?",
        ("moped with a sidecar", "handcart", "tandem", "unicycle"),
    ),
    (
        "The flight to {v} leaves on the ninth; I have never been that far from home.",
        "For which country's sockets should I get an adapter?",
        ("Uruguay", "Namibia", "Mongolia", "Fiji"),
    ),
    (
        "Our toddler only falls asleep with the night light that looks like {v}.",
        "We pack for a weekend with the child at the seaside. What must not stay at home?",
        ("a toadstool", "a walrus", "a crescent moon", "a snail"),
    ),
    (
        "I faint whenever I see {v}.",
        "Someone offers me cinema tickets. What on the screen would be a reason to decline?",
        ("syringes", "scorpions", "open wounds", "clowns"),
    ),
    (
        "I promised granddad to finish restoring his {v} before autumn.",
        "I have a free Saturday and all my tools. Which job is still waiting for me?",
        ("gramophone", "rowing skiff", "cuckoo clock", "barrel organ"),
    ),
    (
        "Our landlady allows no {v} in the building; the last people had to leave over it.",
        "My brother wants to give us something for the flat. Which gift would get us into trouble?",
        ("aquariums", "drum kits", "pizza ovens", "trampolines"),
    ),
)
