"""Text that has nothing to do with any user: what the base does here must not change when it remembers something.

Written for this project. `CHATS` are questions of general knowledge and small talk with plain answers, `PROSE` is
running text. Their keys protect the base (C0 of `nested`), and the guard measures KL to the base on them.
"""

from __future__ import annotations

CHATS: tuple[tuple[str, str], ...] = (
    ("What is the capital of France?", "Paris"),
    ("How many days are there in a leap year?", "366"),
    ("Who painted the ceiling of the Sistine Chapel?", "Michelangelo"),
    ("What do bees make?", "Honey"),
    ("Which planet is closest to the sun?", "Mercury"),
    ("What is seven times eight?", "56"),
    ("Can you explain how rain forms?", "Water vapour rises, cools and condenses into drops that fall."),
    ("What is the opposite of cold?", "Hot"),
    (
        "Write a short poem about the sea.",
        "The grey sea turns, the white foam sings, a gull goes by on quiet wings.",
    ),
    ("Translate 'good morning' into German.", "Guten Morgen"),
    ("Why is the sky blue?", "Air scatters blue light more than red light."),
    ("How do I boil an egg?", "Put it in boiling water for eight minutes."),
    ("What is a prime number?", "A number above one with no divisors but one and itself."),
    ("Which language is spoken in Brazil?", "Portuguese"),
    ("Name three primary colours.", "Red, yellow and blue."),
    ("Hello, how are you?", "I am well, thank you."),
)

PROSE: tuple[str, ...] = (
    "The river left its bed in the spring of that year and ran for three days through the lower streets. When it went "
    "back, the mill stood on a small island, and nobody could say where the old bridge had been.",
    "A bicycle has two wheels, a frame, a pair of pedals and a chain. The rider turns the pedals, the chain turns the "
    "rear wheel, and the front wheel is steered with the handlebars.",
    "In the market the women sold onions, cheese and small blue plums. By noon the stalls were empty, and the pigeons "
    "walked about between the crates as if they had paid for the place.",
    "Iron rusts when it meets water and air. Paint keeps both away; so does a thin coat of zinc, which gives itself up "
    "first and leaves the iron beneath it whole.",
    "The committee met on Tuesday to discuss the budget for the coming season. After two hours it agreed to repair the "
    "roof, to postpone the new heating, and to meet again in a month.",
    "Long ago a fox found a well and leaned over to drink. The water showed him another fox, thin and tired, and he "
    "went away ashamed, thinking that somebody lived there already.",
    "Most birds have hollow bones, which makes them light. Their feathers keep them warm, shed the rain, and give the "
    "wing its shape in the air.",
    "She closed the book, put out the lamp and listened. The house was quiet except for the clock and the slow drip of "
    "the tap in the kitchen, which he had promised to mend.",
)
