"""Text that has nothing to do with any user: what the base does here must not change when it remembers something.

Written for this project. `CHATS` are questions of general knowledge and small talk with plain answers, `PROSE` is
running text. The keys of these protect the base (C0 of `nested`); on the HELD_OUT ones the guard measures KL to it.
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

HELD_OUT_CHATS: tuple[tuple[str, str], ...] = (
    ("What is the largest ocean?", "The Pacific"),
    ("How many legs does a spider have?", "Eight"),
    ("Who discovered penicillin?", "Alexander Fleming"),
    ("What is twelve minus five?", "7"),
    ("Which metal is liquid at room temperature?", "Mercury"),
    (
        "Can you tell me why leaves turn red in autumn?",
        "The green fades and other colours in the leaf are seen.",
    ),
    ("How do you say 'thank you' in French?", "Merci"),
    ("What is a synonym of quick?", "Fast"),
    ("Give me a tip for sleeping well.", "Go to bed at the same time every evening."),
    ("Who wrote the play Macbeth?", "William Shakespeare"),
    ("What do cows eat?", "Grass"),
    ("Good evening!", "Good evening! How can I help you?"),
)

HELD_OUT_PROSE: tuple[str, ...] = (
    "The lighthouse keeper climbed the stairs every evening with a can of oil. From the gallery he could see three "
    "islands, and on clear nights the lamps of the town across the strait.",
    "Bread needs flour, water, salt and yeast. The dough is kneaded until it is smooth, left to rise in a warm place, "
    "and baked in a hot oven until the crust is brown.",
    "A committee of engineers looked at the dam after the flood. It found two cracks near the top, none of them deep, "
    "and advised to lower the water by a metre before the winter.",
    "Owls hunt at night. Their eyes are large, their ears stand at different heights, and the edges of their feathers "
    "are so soft that a mouse does not hear them come.",
    "The train stopped in the middle of the fields. Nobody knew why. After a quarter of an hour a man in a blue coat "
    "walked along the track with a lantern, looked under the third carriage, and waved.",
    "Glass is made of sand, soda and lime. It is melted, shaped while it is soft, and cooled slowly, since glass that "
    "cools too fast breaks.",
)
