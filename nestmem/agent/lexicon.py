"""The words that the rules of `extract` know: people, animals, fillers, spellings. Data, no logic."""

# ruff: noqa: E501  (a pattern is read whole, on one line)
from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(sorted((" ".join(p.split()) for p in text.split(",")), key=len, reverse=True))


# Said differently, meant the same. Left: as people say it; right: the one word used in keys and questions.
SAME_NOUN = {
    "pup": "dog", "puppy": "dog", "doggo": "dog", "doggy": "dog", "hound": "dog", "labrador": "dog",
    "retriever": "dog", "poodle": "dog", "terrier": "dog", "spaniel": "dog", "collie": "dog", "beagle": "dog",
    "husky": "dog", "corgi": "dog", "dachshund": "dog", "greyhound": "dog", "whippet": "dog", "mutt": "dog",
    "kitten": "cat", "kitty": "cat", "tabby": "cat", "tomcat": "cat", "moggy": "cat", "bunny": "rabbit", "plant": "house plant", "houseplant": "house plant", "pot plant": "house plant", "house plant": "house plant", "work machine": "laptop", "work laptop": "laptop", "monstera": "house plant", "ficus": "house plant", "cactus": "house plant", "startup": "start-up", "start up": "start-up",
    "mum": "mother", "mom": "mother", "mommy": "mother", "mummy": "mother", "mama": "mother", "ma": "mother",
    "dad": "father", "daddy": "father", "papa": "father", "pa": "father",
    "grandma": "grandmother", "granny": "grandmother", "nan": "grandmother", "nana": "grandmother",
    "gran": "grandmother", "grandpa": "grandfather", "granddad": "grandfather", "grandad": "grandfather",
    "hubby": "husband", "bf": "boyfriend", "gf": "girlfriend", "sis": "sister", "bro": "brother",
    "kid": "child", "auntie": "aunt", "manager": "boss", "supervisor": "boss", "bestie": "best friend",
    "best mate": "best friend", "best pal": "best friend", "roommate": "flatmate", "housemate": "flatmate", "computer": "laptop", "notebook": "laptop", "coworker": "colleague", "workmate": "colleague",
    "co-worker": "colleague", "automobile": "car", "mobile": "phone", "cellphone": "phone",
    "cell": "phone", "bicycle": "bike", "physician": "doctor", "gp": "doctor", "daughter-in law": "daughter-in-law",
}  # fmt: skip

# Attribute nouns, after spelling is made British and small.
SAME_ATTRIBUTE = {
    "occupation": "job", "profession": "job", "line of work": "job", "day job": "job", "trade": "job", "career": "job",
    "position": "job title", "title at work": "job title", "role at work": "job title", "official title": "job title",
    "job": "job", "work": "job", "home": "home city", "city": "home city", "town": "home city", "home town": "home city",
    "hometown": "home city", "place": "home city", "house": "home city", "flat": "home city", "apartment": "home city",
    "city of residence": "home city", "residence": "home city", "current city": "home city",
    "place of birth": "birthplace", "birth place": "birthplace", "town of birth": "birthplace",
    "city of birth": "birthplace", "road": "street", "street address": "street", "street name": "street",
    "address": "street", "postal address": "home city",
    "wi-fi": "wifi name", "wifi": "wifi name", "wifi network": "wifi name", "home wifi": "wifi name", "home network": "wifi name",
    "wi-fi network": "wifi name", "network": "wifi name", "wireless network": "wifi name", "ssid": "wifi name",
    "wi-fi name": "wifi name", "network name": "wifi name", "wifi's name": "wifi name",
    "wifi network password": "wifi password", "wi-fi password": "wifi password",
    "wi fi password": "wifi password", "internet password": "wifi password", "network password": "wifi password",
    "wireless password": "wifi password", "wifi key": "wifi password", "wifi code": "wifi password",
    "pass code": "passcode", "pin code": "pin", "pin number": "pin",
    "code name": "codename", "code-name": "codename", "working title": "codename", "internal name": "codename",
    "cellphone number": "phone number", "mobile number": "phone number", "mobile phone number": "phone number",
    "cell number": "phone number", "cell phone number": "phone number", "telephone number": "phone number",
    "email": "email address", "e-mail": "email address", "e-mail address": "email address",
    "birth day": "birthday", "date of birth": "birthday", "birthdate": "birthday", "birth date": "birthday", "bday": "birthday",
    "native language": "mother tongue", "native tongue": "mother tongue", "first language": "mother tongue",
    "citizenship": "nationality", "passport": "nationality",
    "papers": "nationality", "academic background": "study field", "position at work": "job title", "position at company": "job title", "position at the company": "job title", "meal plan": "diet", "feet": "shoe size", "sneakers": "shoe size", "shoes": "shoe size", "travel destination": "next trip", "next travel destination": "next trip", "ssid of router": "wifi name", "wedding date": "wedding date", "locker number combination": "locker code", "blood": "blood type", "old school": "school", "company": "employer", "workplace": "employer", "firm": "employer", "current employer": "employer",
    "alma mater": "university", "uni": "university", "college": "university", "field of study": "study field",
    "degree": "study field", "major": "study field", "subject at university": "study field",
    "days at school": "school", "primary school": "school", "elementary school": "school", "childhood school": "school",
    "locker combination": "locker code", "locker combo": "locker code", "locker number": "locker code", "locker pin": "locker code",
    "door code": "door code", "front door code": "door code", "code of my front door": "door code", "entry code": "door code",
    "first name": "name", "given name": "name", "last name": "surname", "family name": "surname", "full name": "full name",
    "blood group": "blood type", "shoe size": "shoe size", "usual coffee": "coffee order", "usual": "coffee order", "usual coffee order": "coffee order", "better half": "partner name", "other half": "partner name", "second name": "middle name", "second first name": "middle name", "entrance code": "door code", "building code": "door code", "role": "job title", "arrival": "arrival time", "arrival time": "arrival time", "coffee": "coffee order",
    "coffee of choice": "coffee order", "regular coffee": "coffee order", "mobile": "phone", "cell": "phone", "smartphone": "phone",
    "phone model": "phone", "car model": "car", "model of phone": "phone", "make of car": "car", "mobile phone": "phone", "cellphone": "phone", "cell phone": "phone", "handset": "phone",
    "os": "operating system", "daily paper": "newspaper", "paper": "newspaper", "morning paper": "newspaper",
    "team": "favourite team", "football team": "favourite team", "sports team": "favourite team", "club": "favourite team",
    "office room": "room number", "office number": "room number", "office": "room number", "room": "room number",
    "office room number": "room number", "room number at work": "room number", "preferred airline": "airline",
    "airline of choice": "airline", "gym": "gym name", "wake-up time": "wake time", "bed time": "bedtime",
    "next trip": "next trip", "next holiday": "next trip", "next vacation": "next trip", "next destination": "next trip",
    "wedding": "wedding date", "wedding day": "wedding date", "team meeting": "meeting day", "weekly team meeting": "meeting day",
    "music lesson": "music lesson day", "pastime": "hobby", "main hobby": "hobby", "favourite hobby": "hobby", "favourite pastime": "hobby",
    "biggest fear": "fear", "greatest fear": "fear", "worst fear": "fear", "phobia": "fear", "instrument": "instrument",
    "usual breakfast": "breakfast", "standard breakfast": "breakfast", "car": "car", "vehicle": "car", "ride": "car",
    "allergy": "allergy", "food allergy": "allergy", "partner": "partner name", "middle name": "middle name",
    "eating habits": "diet", "preferred units": "units", "hotel": "hotel",
}  # fmt: skip

SAME_FAVOURITE = {
    "carrier": "airline", "comfort food": "food", "thing to eat": "food", "movie": "film", "meal": "food", "dish": "food", "cuisine": "food", "beverage": "drink", "novel": "book", "read": "book",
    "tune": "song", "track": "song", "group": "band", "musician": "artist", "holiday": "holiday", "pudding": "dessert",
    "sweet": "dessert", "football club": "team", "football team": "team", "club": "team", "sports team": "team", "store": "shop",
    "time of year": "season", "time of the year": "season", "place to eat": "restaurant", "coding language": "programming language",
    "language to code in": "programming language", "music": "music", "kind of music": "music", "plaything": "toy",
}  # fmt: skip

BRITISH = {"favorite": "favourite", "color": "colour", "neighbor": "neighbour", "flavor": "flavour",
           "theater": "theatre", "center": "centre", "fave": "favourite", "fav": "favourite"}  # fmt: skip

SHE = words(
    "sister mother wife daughter girlfriend aunt niece grandmother fiancee fiancée landlady stepmother stepsister "
    "mother-in-law sister-in-law daughter-in-law granddaughter goddaughter godmother ex-wife"
)
HE = words(
    "brother father husband son boyfriend uncle nephew grandfather fiance fiancé landlord stepfather stepbrother "
    "father-in-law brother-in-law son-in-law grandson godson godfather ex-husband"
)
PEOPLE = SHE | HE | words(
    "partner spouse child friend flatmate boss colleague neighbour doctor dentist therapist teacher coach trainer "
    "tutor mentor cousin twin baby student professor advisor adviser lawyer accountant vet barber hairdresser "
    "mechanic plumber gardener nanny babysitter psychologist psychiatrist teammate classmate intern assistant "
    "secretary director lead client customer landlord agent physio physiotherapist optician nurse carer parent "
    "grandchild stepchild in-law crush ex date pal mate buddy penpal idol hero supplier contractor driver guide "
    "instructor conductor bandmate drummer singer guitarist pianist principal head captain pediatrician midwife"
)  # fmt: skip
ANIMALS = words(
    "dog cat rabbit hamster parrot horse pony fish goldfish turtle tortoise snake lizard gecko ferret bird budgie "
    "canary chicken hen goat sheep cow pig rat mouse pet donkey duck goose iguana hedgehog chinchilla "
    "axolotl llama alpaca tarantula spider cockatiel"
)
# Things that people give names to: "my boat is called ...", "we named the project ...".
NAMED_THINGS = words(
    "project boat car bike van truck band company startup business team house farm blog podcast channel newsletter "
    "book novel game app robot server laptop computer plant shop cafe café restaurant bakery club group school "
    "street village town yacht motorbike guitar violin ship plane drone film song album start-up café store brand "
    "product library cottage garden vacuum nonprofit charity village-hall choir orchestra league"
)
# "the X is V" without my or our, told by a user, is about their own thing only for these heads.
CODE_NOUNS = words(
    "password passcode passphrase pin code codename combination combo username login wifi key address deadline number"
)

OCCUPATION_ENDINGS = (
    "er", "or", "ist", "ian", "eer", "man", "woman", "person", "smith", "wright", "nurse", "chef", "cook", "vet",
    "pilot", "student", "clerk", "lawyer", "judge", "guard", "agent", "assistant", "consultant", "accountant",
    "analyst", "guide", "coach", "intern", "nanny", "scientist", "architect", "mechanic", "host", "hostess", "monk",
    "priest", "nun", "attendant", "monger", "keeper", "herd", "hand", "grapher", "surgeon", "therapist", "barista",
    "rep", "representative", "executive", "secretary", "actress", "waitress", "midwife", "sailor", "soldier", "cop",
    "detective", "diplomat", "apprentice", "freelancer", "warden", "aide", "technician", "model", "medic", "bard",
)  # fmt: skip
# They end like occupations and are none.
NO_OCCUPATION = words(
    "volunteer partner father mother brother sister daughter member supporter fan believer lover beginner sufferer owner character "
    "winner loser survivor stickler number bother matter vegetarian person morning-person listener sleeper "
    "eater liar foodie mess wreck dreamer kid child adult parent human woman man gamer reader eater newcomer "
    "stranger outsider loner introvert extrovert user customer traveller traveler mover walker talker learner"
)

# Adjectives and participles that follow "is" and are never a name.
STATES = words(
    "sick ill well fine good great ok okay bad sad happy tired angry late early busy free ready sure glad sorry lovely "
    "nice kind funny cute sweet adorable amazing awesome wonderful terrible awful weird strange old young new big small "
    "tall short huge tiny fat thin hungry thirsty sleepy asleep awake alive dead pregnant single married divorced "
    "engaged retired unemployed broken fixed gone back home here there away out in on off up down over done finished "
    "excited worried afraid scared nervous upset mad crazy lazy smart clever stupid brilliant beautiful pretty ugly "
    "handsome healthy strong weak rich poor cold hot warm cool dirty clean wet dry empty full open closed broke loud "
    "quiet slow fast hard easy difficult different same important special similar expensive cheap worth right wrong "
    "true false real fake safe dangerous always never not very really so too quite pretty rather almost still just "
    "also only much more most less the best worst better worse everything everyone nothing something someone "
    "complete silent loyal probably maybe perhaps coming going doing getting being having making visiting staying driving killing allergic "
    "from at about like as into obsessed addicted interested responsible famous due located based called named born "
    "my your our his her their its this that these those what who how why where when which it he she they we you "
    "stressful exhausting boring fun hilarious perfect ideal delicious gorgeous messy noisy friendly shy grumpy "
    "vegan vegetarian deaf blind left-handed bilingual outstanding annoying acting supportive proud together apart available visible visiting unwell"
)
COLOURS = words(
    "red blue green yellow orange purple violet pink brown black white grey gray silver gold golden teal turquoise "
    "crimson scarlet navy maroon beige cream indigo magenta cyan olive lavender lilac burgundy khaki coral amber charcoal mustard peach copper emerald ivory mint rose bronze aqua apricot plum rust sand sky"
    " ochre"
)
LANGUAGES = words(
    "english french german spanish italian portuguese dutch danish swedish norwegian finnish icelandic polish czech "
    "russian ukrainian greek turkish arabic hebrew persian farsi hindi urdu bengali tamil japanese chinese mandarin "
    "cantonese korean vietnamese thai indonesian swahili welsh irish gaelic basque catalan esperanto latin romanian "
    "hungarian bulgarian serbian croatian estonian latvian lithuanian maltese yoruba zulu amharic tagalog"
)
NATIONALITIES = words(
    "afghan albanian algerian american angolan argentine argentinian armenian australian austrian azerbaijani bangladeshi "
    "belarusian belgian bolivian bosnian brazilian british bulgarian cambodian cameroonian canadian chilean chinese "
    "colombian congolese croatian cuban cypriot czech danish dutch ecuadorian egyptian english estonian ethiopian filipino "
    "finnish french georgian german ghanaian greek guatemalan haitian honduran hungarian icelandic indian indonesian "
    "iranian iraqi irish israeli italian ivorian jamaican japanese jordanian kazakh kenyan korean kosovan kurdish kuwaiti "
    "latvian lebanese liberian libyan lithuanian luxembourgish macedonian malagasy malaysian maltese mexican moldovan "
    "mongolian montenegrin moroccan namibian nepalese nepali nicaraguan nigerian norwegian omani pakistani palestinian "
    "panamanian paraguayan persian peruvian polish portuguese qatari romanian russian rwandan salvadoran samoan saudi "
    "scottish senegalese serbian singaporean slovak slovakian slovene slovenian somali spanish sudanese swedish swiss "
    "syrian taiwanese tanzanian thai tunisian turkish ugandan ukrainian uruguayan venezuelan vietnamese welsh yemeni "
    "zambian zimbabwean"
)
SPORTS = words(
    "football soccer tennis basketball baseball hockey rugby cricket golf volleyball badminton squash chess poker bridge "
    "handball lacrosse softball netball darts snooker pool billiards go padel pickleball futsal ping-pong scrabble"
)

# Said before a statement without changing it.
OPENERS = _phrases(
    "oh, ah, well, so, hey, hi, hello, hi there, hey there, yes, yeah, yep, ok, okay, right, sure, thanks, thank you, actually, "
    "also, anyway, anyhow, btw, by the way, fyi, for the record, for your information, just so you know, "
    "just to let you know, just a note, quick note, note, note that, please note, please note that, remember, "
    "remember that, please remember, please remember that, keep in mind, keep in mind that, you should know, "
    "you should know that, you may want to know, you might want to know that, you might want to note that, "
    "i should mention, i should mention that, i should tell you, i should tell you that, i should say that, "
    "i wanted to tell you, i wanted to tell you that, i want you to know, i want you to know that, "
    "i want you to remember that, i need you to remember that, let me tell you, let me add that, let me mention, "
    "i have to say, i must say, i must admit, i admit, i'd say, i think, i believe, i guess, i suppose, "
    "i mentioned that, i mentioned, as i said, as i mentioned, as you know, like i said, did i tell you, "
    "did i tell you that, did i mention, did i mention that, did i ever tell you, did i ever tell you that, "
    "did you know, did you know that, can you believe, can you believe that, would you believe, would you believe that, have i told you, have i told you that, have i mentioned that, guess what, "
    "you know, you know what, honestly, to be honest, frankly, in fact, as a matter of fact, funnily enough, "
    "funny thing, fun fact, little fact, random fact, small update, quick update, update, news, big news, good news, "
    "great news, exciting news, sad news, correction, one more thing, another thing, one thing, another fact, first, "
    "second, finally, lastly, plus, and, but, then, because, since you ask, if you must know, in case you forgot, "
    "in case you need it, in case you wonder, in case it helps, in case i forget, for context, for reference, "
    "for future reference, some context, about me, a bit about me, speaking of which, oh and, before i forget, "
    "it turns out, it turns out that, turns out, happily, luckily, sadly, unfortunately, nowadays, these days, "
    "at the moment, currently, today, yesterday, recently, lately, last week, last month, last year, this week, "
    "this month, this year, this morning, tonight, last night, now, as of today, as of now, as of last week, "
    "as of this week, from now on, as usual, of course, basically, personally, in general, generally, overall, "
    "all in all, lol, haha, hmm, um, uh, wow, great, cool, nice, perfect, alright, listen, look, see, the thing is, "
    "the truth is, truth be told, believe it or not, surprisingly, apparently, it so happens that, for what it's worth, "
    "the other day, a while ago, a while back, some time ago, a few days ago, a few weeks ago, a few months ago, "
    "earlier today, earlier this week, over the weekend, at last, at long last, after much thought, in my case, "
    "on a different note, on another note, change of subject, changing the subject, new topic, out of the blue, "
    "good morning, good evening, good afternoon, morning, evening, my bad, oops, sorry, sorry for the confusion, wait, "
    "no wait, no, hold on, scratch that, whoops, apologies, i told you that, i told you, i meant to say, "
    "i meant to say that, i forgot to say, i forgot to mention, i forgot to mention that, i forgot to tell you, "
    "write this down, jot this down, make a note, make a note that, take a note, please note this, save this, "
    "remember this, for later, to your knowledge, just, and also, but now, and now, so now, now that you ask"
)
# Said after a value without belonging to it.
CLOSERS = _phrases(
    "now, these days, nowadays, at the moment, currently, actually, by the way, btw, you know, too, as well, again, "
    "already, lol, haha, though, anyway, anyhow, for now, instead, right now, at present, today, recently, lately, "
    "yesterday, please, thanks, thank you, thanks for asking, if you must know, just so you know, fyi, remember, okay, ok, i think, i guess, "
    "i believe, of all time, by far, for the record, for a change, after all, to be honest, honestly, of course, "
    "so you know, for your information, in case you need it, in case you forget, in case i forget, in case it matters, "
    "in case you wondered, in case you were wondering, and that's that, that's all, anymore, any more, any longer, since then, "
    "full time, full-time, part time, part-time, for a living, by trade, more than anything, the most, the best, "
    "above all, above all else, everyone, everybody, from now on, going forward, believe it or not, as you know, for short, "
    "as it happens, most of all, if that helps, if you wondered, if you are curious, would you believe, right, yay, "
    "the other day, this week, this month, this year, last week, last month, last year, a while ago, a while back, "
    "for what it's worth, as of today, as of now, as of this week, if you remember, in fact, it turns out, "
    "or so, so far, this time, once more, until further notice, at home, sorry, no wait, wait, oops, hold on, years ago, ages ago, long ago, and i love it, and it is great"
)
