# ruff: noqa: E501  (a pattern is read whole, on one line)
"""Which words call which relation to mind: "payroll" an employer, "rash" an allergy. Data for `evoke`, no logic.

A frame says: in a sentence with this cue, a value of this shape tells this attribute. `before` are the words that
stand right before such a value. The frames are tried in order, the most particular first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from nestmem.agent.vocabulary import FOODS, PREFERENCE


class Frame(NamedTuple):
    """`who`: s the speaker, p a person, a an animal, t a thing of theirs. `noun`: the attribute is one of that noun
    ("dentist" -> who my dentist is). `also`: a second cue that must be there. `denies`: negation belongs to it."""

    attribute: str
    who: str
    shape: str
    cue: re.Pattern[str]
    before: re.Pattern[str] | None
    also: re.Pattern[str] | None
    veto: re.Pattern[str] | None
    noun: str | None
    denies: bool
    weight: float


def _f(
    attribute: str,
    who: str,
    shape: str,
    cue: str,
    before: str = "",
    *,
    also: str = "",
    veto: str = "",
    noun: str = "",
    denies: bool = False,
    weight: float = 0.0,
) -> Frame:
    def made(pattern: str, end: str = r"(?!\w)") -> re.Pattern[str] | None:
        return re.compile(rf"(?<![\w-])(?:{pattern}){end}", re.IGNORECASE) if pattern else None

    found = made(cue)
    if found is None:
        raise ValueError(f"the frame of {attribute!r} has no cue, expected a pattern")
    return Frame(
        attribute,
        who,
        shape,
        found,
        made(before, r"(?:s|es|d|ed|ing)?\s*$"),
        made(also),
        made(veto),
        noun or None,
        denies,
        weight,
    )


# attribute, shape, the nouns of the kind, further words that call it to mind.
_FAVOURITE_OF: Sequence[tuple[str, str, str, str]] = (
    ("favourite_programming_language", "code lang", r"(?:programming |coding )?languages?", r"programming|program|cod(?:e|ing)|scripts?|developer at heart|compiler"),
    ("favourite_dessert", "food", r"desserts?|sweets?|puddings?|afters", r"sweet tooth|last course|something sweet|sweet|after dinner|bribe me"),
    ("favourite_drink", "food", r"drinks?|beverages?", r"drinking|thirst|thirsty|glass of|round|sip|at the bar|pub|bottle|pint"),
    ("favourite_season", "season", r"seasons?|times? of (?:the )?year|part of the year|months?", r"year|feel best|happiest|mood|wait for|weather"),
    ("favourite_restaurant", "title", r"restaurants?|(?:places?|spots?) (?:to eat|for dinner|for lunch)|bistro|diner|eatery|trattoria", r"eat(?:ing|s)? out|eat at|eating at|ate at|cook best|dinner|dine|dining|table|regular at|special occasions|meal out|chef|waiters?"),
    ("favourite_food", "food", r"foods?|meals?|dish(?:es)?|cuisine|snack|comfort food|treat", r"to eat|eat|ate|eating|on the table|plate|serves?|served|cook(?:s|ed|ing)?|recipe|hungry|menu|appetite|feed|fed|spoil|bowl|{foods}"),
    ("favourite_colour", "colour", r"colou?rs?|shades?|hues?|tones?", r"paint(?:ed|s|ing)?|wardrobe|clothes|wear(?:s|ing)?|everything|knit"),
    ("favourite_book", "title", r"books?|novels?|reads?|story|stories|page-turner|paperback", r"reading|author|bookshelf|shelf|read"),
    ("favourite_film", "title", r"films?|movies?|flick|picture|blockbuster", r"cinema|screen|watch(?:ed|ing)?|seen|dvd|tv|popcorn"),
    ("favourite_song", "title", r"songs?|tunes?|tracks?|anthem|melody|hit", r"lyrics|sing(?:s|ing)?(?: along)?|on repeat|on the radio|karaoke|chorus|humming"),
    ("favourite_sport", "sport", r"sports?|games?|discipline", r"sport-wise|olympics|watch(?:ing)?|event in|athletic\w*|exciting"),
    ("favourite_team", "title", r"teams?|(?:football )?clubs?|side", r"home games?|season ticket|support(?:er|s|ed)?|stadium|jersey|league|i back|heart beats|scar(?:f|ves)"),
    ("favourite_band", "title", r"bands?|groups?|musicians|act", r"concerts?|gigs?|records?|albums?|listening to|listen to|on tour|their music|music"),
    ("favourite_animal", "noun", r"animals?|creatures?|beasts?|species", r"zoo|wildlife"),
    ("favourite_city", "place", r"cit(?:y|ies)|towns?|places? (?:to visit|in the world|on earth)|metropolis|destination of all", r"city trip|city break|live anywhere|in the world|on earth|visited"),
)  # fmt: skip
_PRAISE = r"(?:favou?rite|fave|best|number one|number-one|no\.? ?1|greatest|loveliest|finest|all-time|beloved|beautiful|tastiest|coolest|top|dearest|ultimate|nicest|prettiest|most \w+)"
_LOVED = r"(?:loves?|likes?|treasures?|adores?|prefers?|enjoys?|listens? to|watch(?:es)?|values?|always|can not live without|swears? by|would (?:pick|choose|take))"
_NUMBER_ONE = rf"{PREFERENCE}|as (?:much|often) as i (?:can|like)|always (?:play|watch|read|want|listen|comes? back)|again and again|(?:\w+ ){{1,2}}times|over and over|all the time"
_BEFORE_FAVOURITE = r"is|are|beats?|tops?|than|likes?|loves?|adores?|prefers?|chooses?|picks?|be|of|to|at|with|in|for|best|watch(?:ed|ing)?|eat|reading|seen|read|as|goes|want|wants|order|drink|serve|on|about|without|enough|wants|bring|me"
_NO_FAVOURITE = r"least favou?rite|together with|helps?|share the work|airlines?|hotel|gym|shop|store|breakfast|toy|shopping|newspaper"


def _named_favourites() -> list[Frame]:
    """Where the kind is named as the best of its kind: "my all-time favourite film", "the city I love most"."""
    return [
        _f(attribute, "spa", shape,
           rf"(?<!least ){_PRAISE} (?:[a-z-]+ )?(?:{noun})|(?:{noun}) (?:that |which |to \w+ )?(?:i|we|he|she|my [\w-]+) (?:\w+ )?{_LOVED}|no (?:other |single )?(?:{noun})|that (?:{noun})|of all (?:the )?(?:{noun})|"
           rf"(?:{noun}) of all time|(?:{noun}) (?:ever|comes? close|of choice)|(?:is|that is) (?:my|his|her) (?:kind of )?(?:{noun})|(?:any|every|all) other (?:{noun})|any (?:{noun})|(?:the|a) (?:{noun}) (?:i|we) back|(?:as for|when it comes to|among|choose an?|for an?) (?:{noun})",
           _BEFORE_FAVOURITE, also=rf"{_NUMBER_ONE}|{_PRAISE}|no {noun}", veto=_NO_FAVOURITE + ("|coffee order" if attribute == "favourite_drink" else "|at work|work|office|colleagues|called|named|meets?" if attribute == "favourite_team" else ""), weight=1.5)
        for attribute, shape, noun, _ in _FAVOURITE_OF
    ]  # fmt: skip


def _favourites() -> list[Frame]:
    """Where the kind is only hinted at: "I could watch it all day", "nothing on my plate beats it"."""
    foods = "|".join(sorted(FOODS))
    return [
        _f(attribute, "spa", shape, f"{noun}|{more}".replace("{foods}", foods), _BEFORE_FAVOURITE, also=_NUMBER_ONE,
           veto=_NO_FAVOURITE + ("|coffee|barista|diet|all my meals|out of my" if attribute != "favourite_restaurant" else ""))
        for attribute, shape, noun, more in _FAVOURITE_OF
    ]  # fmt: skip


_MEDICAL = r"doctor|gp|physician|medical|sick|ill|unwell|under the weather|appointment|prescriptions?|prescribed|check-?up|blood pressure|surgery|stethoscope|my health|symptoms?"
_TEETH = r"dentist|teeth|tooth|toothache|dental|fillings?|cavit(?:y|ies)|braces|molars?|gums?|root canal|wisdom tooth"
_RENTING = r"landlord|landlady|rent|rents|rental|renting|lease|tenan(?:t|cy)|owns? (?:the|my|our) (?:flat|house|place|apartment|building)|owner of (?:the|my|our) (?:flat|house|place|apartment)|(?:flat|house|apartment|place)[\w ]{0,15} belongs to"

FRAMES: tuple[Frame, ...] = (
    *_named_favourites(),
    _f("gift_idea", "p", "thing", r"presents?|gifts?|wish ?list|wants? for (?:his|her)|hint\w*|unwrap\w*|wrapped|shopping for|wish for|wishes for|(?:get|buy) for", r"wants|want|is|are|for|give|buy|like|get|of|with|a|getting|be|love|about|list|thought of|wish|wishes", veto=r"coffee|caf[eé]|barista|to eat|eating|tastes?"),
    # Codes, dates, times: the shape tells nearly all.
    _f("locker_code", "s", "code", r"lockers?"),
    _f("door_code", "s", "code", r"doors?|entrance|keypad|building|gate|front door|hallway|stairwell|get in(?:to)?", veto="locker|safe|phone|card"),
    _f("arrival_time", "p", "clock", r"arriv\w+|gets? in|getting in|expect\w*|pick(?:ing|ed)?|station|airport|(?:rings?|ringing) (?:the|my|our) (?:bell|doorbell)|lands?|landing|com(?:es?|ing)|be here|will be|shows? up|showing up|turns? up|due|train|flight|bus|on my doorstep|at my (?:door|place)|knock\w*|meet(?:ing)?|reach(?:es)?|pulls in|collect\w*|fetch\w*"),
    _f("gym_time", "sp", "clock", r"gym|work(?:ing)? ?out|workouts?|training|train|treadmill|weights|exercise|barbells?|fitness|spin class|pump(?:ing)? iron|sweat\w*"),
    _f("wake_time", "sp", "clock", r"(?:get|gets|getting|got|be|am|is|wakes?|waking) up|wake|wakes|alarm|out of bed|rise|rises|rising|day (?:starts|begins)|start my day|up and about|on my feet|awake|breakfast|rooster|first coffee|open my eyes|leave my bed"),
    _f("bedtime", "sp", "clock", r"bed|bedtime|asleep|sleeps?|sleeping|lights|lies? down|lie down|day ends|turn in|tucked|good ?night|pillow|hit the (?:hay|sack)|call it a (?:day|night)|call after|eyes (?:close|shut)|pyjamas|pajamas|night|brush my teeth|blanket|doze off|close my (?:book|eyes)"),
    _f("wedding_date", "sp", "date", r"weddings?|married|marry|marrying|altar|tie the knot|tying the knot|say yes|say(?:ing)? \"?i do|bride|groom|church|the big day|vows|husband and wife|get hitched|registry office|honeymoon"),
    _f("birthday", "spa", "date", r"birthdays?|born|candles|turns?|turning|cake|years? older|present|party|a year older|came into (?:the|this) world|celebrates?|age"),
    _f("training_day", "sp", "weekday", r"run|runs|running|jog|jogs|jogging|running shoes|laps", veto="train|bus"),
    _f("music_lesson_day", "sp", "weekday", r"music(?:al)? (?:lessons?|teacher|class(?:es)?|school)|lessons? with the music|(?:piano|guitar|violin|cello|singing|flute|drum) (?:lessons?|teacher|class)|instrument|my (?:weekly )?music"),
    _f("meeting_day", "s", "weekday", r"meetings?|sync|stand-?up|team (?:always )?(?:meets|gets together|sits)|(?:weekly|team) (?:call|catch-up|round)|jour fixe|meets|the (?:whole )?team"),
    _f("start_year", "t", "year", r"since|started|start|got|began|begin|goes back|year|in|back|from|with me"),
    _f("shoe_size", "sp", "size", r"shoes?|feet|foot|boots|trainers|sneakers|sandals|heels|footwear|soles|slippers|size"),
    _f("room_number", "s", "room", r"office|work|desk|sit|room|parcel|post|find me|colleagues|door", also=r"room|office|number"),
    _f("blood_type", "sp", "blood", r"blood|donor|hospital|lab|type|transfusion|have|am|is|group|card"),
    _f("units", "s", "units", r"units?|metric|imperial|convert|measurements?|measure|numbers|think in|understand|use|give|recipe|distances?|temperatures?|prefer|used to|grew up|weights?|miles|pounds|kilomet\w+|celsius|fahrenheit|ounces|inches"),
    _f("age", "pa", "age", r"years? old|age|aged|turn(?:s|ed|ing)?|candles|years?|birthday|celebrates|born", veto="size|room|floor|code|phone|car", weight=1.0),
    _f("age", "pa", "age", r"at|is|already|now", "is|at|turned|already", veto="size|room|floor|code|phone|car"),
    _f("favourite_team", "sp", "title", r"season ticket|home games?|cheer(?:s|ing|ed)?(?: on)?|supporter|supported|supports?|scar(?:f|ves)|jersey|root(?:s|ing)? for|the team i|stadium|die-hard|loyal (?:fan|to)|loyal supporter|my club|his club|her club|i back|every match|kick-?off|terraces|heart beats for",
       r"for|of|on|is|to|see|support|back|watch|with|at|called", veto="support guy|tech support|called|work in|at work|office|band|concert|singer|airline|shop|bank", weight=0.5),
    _f("commute", "sp", "transport", r"work|office|commut\w*|job|come in|get in", r"by|on|with|take|takes|my|the|in|ride|rides|drive|is|his|her|of", veto="as an?|driver|instructor|gym|at work|from work|meeting|live"),
    _f("age", "s", "age", r"years old|age|aged|turn(?:s|ed|ing)?|candles|years young|birthday", veto="size|room|floor|code"),
    # Codenames and names of things.
    _f("operating_system", "sp", "os", r"computers?|laptop|machines?|pc|run|runs|running|on|install(?:ed)?|boot|user|os|operating|system|use|using|desktop|switched|distro"),
    _f("wifi_name", "s", "network", r"wi-?fi|ssid|router|network|internet|online|hotspot|wireless|connect(?:ed)?", veto=r"password|laptop|computer|machine|hostname"),
    _f("name", "s", "name", r"laptop|computer|hostname|notebook|macbook|work machine|my machine", r"called|named|as|is|name|laptop|computer|machine|to|by|hostname|on|christened", noun="laptop", veto="runs?|running|installed|boots?|linux|windows|system"),
    _f("codename", "s", "name", r"projects?|code-?named?|codename", r"called|named|project|is|codename|name|as|code-named|on|presented|by|for|call(?:s|ed)? it", noun="project", veto="helps|manager of"),
    _f("name", "s", "team", r"team|squad|crew|my department", r"called|named|team|is|itself|are|am|in|to|ourselves|the|joined|of|on|with|squad|by|as", also=r"work|office|colleagues|belong|joined|join|on|in|our|my|part|we", noun="team at work", veto=r"football|support|fan|match|meets|meeting"),
    _f("name", "s", "name", r"plant|houseplant|house plant|pot plant|cactus|ficus|fern|flowerpot|leaf|leaves", r"called|named|plant|name|is|it|water|that says|christened|to|of", noun="house plant"),
    # Names of people and oneself.
    _f("name", "a", "person", r"vet|veterinarian|animal doctor|vaccinat\w+|patient|operated|treat(?:s|ed)?|unwell|ill|sick|clinic|limp\w*|shots|check-?up|surgery|looks? after|see|paws?|doctor|stitches|examin\w+", noun="vet"),
    _f("name", "s", "person", _TEETH, noun="dentist", veto="film|movie"),
    _f("name", "s", "full name", _RENTING, r"is|to|from|by|with|call|landlord|landlady|of|tell|ask|name|called", noun="landlord"),
    _f("name", "s", "doctor", _MEDICAL + r"|been with|trust|see|patient", noun="doctor", veto=_TEETH + "|films?|movies?|watch(?:ed)?|tv|screen"),
    _f("middle_name", "sp", "name", r"middle name|second (?:first |given |fore)?name|middle initial stands|between (?:his|her|my) first and last name"),
    _f("partner_name", "p", "name", r"(?:his|her) (?:partner|better half|other half|girlfriend|boyfriend|wife|husband|significant other|sweetheart|lover)|partner|together with|dating|in a relationship|going out with|in love with|couple|seeing|lives with", r"is|with|partner|called|named|half|and|to|for|love|girlfriend|boyfriend"),
    _f("helper", "t", "name", r"helps?|helping|help|rely|without|share|takes? care|thanks?|hand|call|support\w*|assist\w*|grateful|alone|work(?:s|ing)?|together|with me|lends?|lean on|ask|count on|team up|runs?|side by side|fix\w*|maintain\w*", r"with|by|without|on|to|from|call|calls|is|ask|thank|thanks to|and|of|me|us"),
    _f("name", "pat", "name", r"called|call|calls|named|name|names|say|says|refer to|known as|answers? to|goes by|go by|christened|baptised|title|titled|reads?|labell?ed|label|wrote|listens? to|meet|introduce|dubbed|nicknamed", r"called|named|name|as|is|by|to|say|reads|of|says|him|her|it|wrote|meet|label", veto="times|in the middle|middle name|surname|last name|breed|home|salary|badge|breed|passport|coffee|food"),
    _f("surname", "s", "name", r"surname|last name|family(?:'s)? (?:name|is called)|doorbell|letterbox|sign with|reservation|signs? (?:as|with)|maiden name|after (?:my|the) first name|family tree|name plate"),
    _f("nickname", "s", "name", r"nick ?names?|nicknamed|call(?:s|ed)? me|(?:among|to|with) (?:all )?(?:my )?(?:friends|mates|buddies|pals)|go by|known as|known to|for short|real name|answer to|shouts?|yells?", r"call(?:s|ed)? me|nickname|nicknamed|by|as|is|just|to|me|name|am|called|shout"),
    _f("name", "s", "name", r"passport|parents|first name|name|nice to meet you|this is|speaking|christened|introduce|baptised|named me|call myself|pleased to meet", r"named me|says|is|am|name|this is|called me|myself|as|called|read|christened me"),
    # Owned and used.
    _f("favourite_programming_language", "sp", "code lang", r"programming|program|cod(?:e|ing)|scripts?|developer|software|snippets?|tool|compiler|examples|write|functions?", also=rf"{_NUMBER_ONE}|use|all my|everything|write|think|wrote|examples"),
    _f("phone", "sp", "phone", r"phones?|mobile|screen|battery|pocket|typing|typed|calls?|app|charge[rs]?|bought|own|has|have|got|use|uses|lost|dropped|carry|carries|texts?|photos?|with|handset|ring(?:s|ing)?|upgrad\w+|my|his|her|case"),
    _f("car", "sp", "car", r"cars?|drives?|driving|garage|tyres|tires|parked|parking|outside|washing|wash|polish\w*|travel|behind the wheel|wheels?|fuel|petrol|mechanic|brakes|road|vehicle|engine|borrow\w*|belongs|owns?|has|have|got|bought|insurance|license plate|my|his|her|needs|keys|motor|ride", r"an?|my|our|his|her|old|new|the|drive|drives|trusty|little|is|in|own|behind the wheel of", veto=r"salary|employ\w*|hired|work(?:s|ed)? (?:at|for)|office|payroll"),
    _f("airline", "s", "airline", r"airlines?|fl(?:y|ies|ew|ying)|flights?|miles|plane|gold card|frequent flyer|frequent-flyer|boarding|lounge|air travel|carrier|board", r"with|by|from|is|on|book|pick|choose|take|fly|prefer|of|at|for|flight|book|on|me", veto=r"next|holiday|trip to|flight to|flying to|hotel"),
    _f("hotel", "s", "institution", r"hotel|stay(?:ing)?|reservation|a room|my room|check(?:ed|ing)? in(?:to)?|sleep|overnight|suite|lobby|night(?:s)? at|pension|accommodation", r"at|in|is|near|to|with|into|of|from", veto="my favou?rite restaurant|tables?|my office|office|poster|favou?rite (?!hotel)|work|gym|desk"),
    _f("gym_name", "sp", "title", r"gym|membership|weights|work(?:s|ing)? out|training|sign(?:ed)? up|fitness|treadmill|exercise|lift|towel|sweat|barbells?|member", r"at|in|of|is|called|with|to|for|from|joined|gym|member of|go to", veto="they have a gym|where my|train to|trip|holiday|office|school|university|work at|visit"),
    _f("bank", "sp", "title", r"banks?|banking|accounts?|savings?|salary goes|credit card|debit card|card|money|mortgage|loan|overdraft|cash", r"at|with|from|is|to|by|of|in|bank|for|through|bank", veto="blood|gift card|business card|title|promoted|birthday card|thank-you|shopping|gold card|score"),
    _f("newspaper", "sp", "institution", r"newspapers?|paper|papers|subscription|subscribe[sd]?(?: to)?|news|articles?|doormat|headlines|press|read(?:s|ing)?|crossword|front page|journalis\w+|letterbox", r"read|reading|to|from|in|is|of|trust|with|reads|get|for|open|by|through", veto=r"title|books?|novels?|blog|(?:two|three|four|five|six|several|many|ten|twenty|\d+) times|stor(?:y|ies)|author"),
    _f("volunteer_place", "sp", "venue", r"volunteers?|volunteering|volunteered|help(?:ing|s)? out|without pay|unpaid|free time to|charity work|for free|lend a hand|give(?:s)? (?:my|some) time|good cause|pitch in|work for nothing|need people|community service|honorary|help", r"at|for|in|to|with|is"),
    _f("street", "sp", "street", r"live|lives|living|house|flat|home|address|door|find me|moved|my street|apartment|our|street|doorstep|neighbours|window|resident|post|deliver\w*|number|traffic|road", veto=r"office|shop|works?"),
    _f("favourite_shop", "s", "institution", r"shop|shops|shopping|store|groceries|basket|customer|supermarket|buy|bought|get (?:almost |nearly )?everything|errands|purchases|trolley|checkout|market|loyalty card", r"at|in|from|to|of|is|like|on|around", veto="coffee shop|volunteer|charity"),
    # Places.
    _f("birthplace", "sp", "place", r"born|birth|birth certificate|birthplace|came into (?:the|this) world|first (?:saw|breath|cry)|delivery room|maternity", r"in|at|from|of|is|to"),
    _f("favourite_city", "sp", "place", _FAVOURITE_OF[-1][2], r"is|in|to|of|like|love|with|from|by|be|pick|choose|than|for|beats|visited", also=_NUMBER_ONE),
    _f("next_trip", "s", "place", r"trips?|holidays?|vacation|travel(?:ling|s)?|destination|flights?|pack(?:ing|ed)?|going (?:there|to)|visit(?:ing)?|suitcase|journey|tickets?|getaway|off to|heading|next month|booked|itinerary|sightseeing|guidebook", r"to|in|for|is|visit|see|visiting|at|about|of", veto=r"studied|college|university|reunion|school|favou?rite|born|every|from|always|lives?|season ticket|concert|gig"),
    _f("home_city", "sp", "place", r"home|lives?|living|reside[sd]?|house|flat|apartment|based|settled|unpack\w*|moved|address|townhouse|rent|neighbourhood|neighborhood|my place|put down roots|roots|resident|move|dwell|here in|where i am|household|feel at home|writing from|citizen of", r"in|near|to|from|around|at|of|is|outside|call|for|into|here in", veto=r"home games?|season ticket|copy|called|named|favou?rite|grew up|originally|born|birth|used to|holiday|landlord|street|road|works?|gym|hotel"),
    # Work and studies.
    _f("job_title", "sp", "role", r"title|business card|signature|org chart|officially|official|on paper|position|promoted|sign my (?:emails|letters)|name ?(?:tag|badge|plate)|badge|linkedin|role|card|contract|level|rank|rose to|at work|desk|company"),
    _f("school", "sp", "school", r"schools?|pupil|as a (?:child|kid|boy|girl)|kid|childhood|uniforms?|classroom|final exams|sent me|attended|teachers?|schooldays|went|class|young|grew up|playground", veto=r"student years|degree|university|campus|diploma|studied|graduat\w+|my studies"),
    _f("university", "s", "university", r"student|studie[ds]|study|degree|diploma|alma mater|graduat\w+|campus|university|uni|college|academic|lectures?|studying|bachelor\w*|master\w*|years|professors?|dorms?|thesis", r"at|from|in|to|of|is|attended|through"),
    _f("employer", "sp", "company", r"work(?:s|ing|ed)? (?:there|at|for|with|in)|where (?:i|he|she|my [\w-]+) works?|employ(?:s|ed|er|ee|ees|ment)|hire[ds]?|salary|payroll|payslip|pay ?che(?:ck|que)s?|wages?|colleagues|company|firm|contract|first day|boss|joined|office|job|badge|staff|paid|pays|about work|day at|started|workplace|been with|desk", r"at|for|by|from|with|is|joined|to|over at|in", veto=r"bank with|banking|volunteer\w*|landlord|rented|nickname|pupil|degree|room|gym membership|teaches|team at"),
    _f("study_field", "sp", "subject", r"university|college|uni|degree|diploma|campus|major(?:ed|ing|s)?|studies|students?|studied|study|studying|exams?|subject|semester|year of|graduat\w+|bachelor\w*|master's|thesis|lectures?|faculty|department|academic|enrolled|background|field|phd|dissertation|seminars?|degree course|textbook", r"in|of|study|studied|studying|took|takes|is|was|read|chose|chosen|department|about|on|takes", veto=r"lessons?|languages?|instrument|of course|shopping|colou?r"),
    _f("job", "sp", "occupation", r"as an?|as my|be|am an?|is an?|been an?|professions?|jobs?|work|works|working|career|living|trade|anniversary|what (?:i|he|she|my [\w' -]+?) (?:am|is|does|do)|cv|occupation|earn\w*|bills|paid|pays|shift|days? (?:are|is) spent|money|bread|employed|qualified|trained|life as|being an?|became an?|hired", r"as|is|am|being|been|be|become|became|of|by|for"),
    # Languages and nationality.
    _f("mother_tongue", "sp", "language", r"first language|mother tongue|mother language|native(?:ly)?|grew up|at home|taught me|dream in|raised|as a (?:child|kid|baby)|family|first words|first|cradle|parents|lullab\w+|count in|swear in|childhood|born"),
    _f("learning_language", "s", "language", r"lessons?|courses?|class(?:es)?|learn\w*|pick(?:ing)? up|beginner|study|studying|teacher|app|teaching (?:myself|himself|herself)|practi[sc]\w+|flashcards?|duolingo|vocabulary|grammar|tutor|signed up|terrible|getting better|verbs|evening class|homework|textbook|conversation|improve"),
    _f("nationality", "sp", "nationality", r"nationality|citizen(?:ship)?|passports?|papers|visa|national|am|is|by birth|embassy|roots|as|consulate|voted?|flag|country|nation"),
    # Health and eating.
    _f("allergy", "spa", "thing", r"allerg(?:y|ies|ic)|rash|hives|swollen|swells?(?: up)?|swelling|reaction|tolerate|intoleran\w+|sneez\w+|epi-?pen|itch\w*|anaphyla\w+|antihistamines?|immune system|throat (?:closes|swells)|break out", r"to|of|from|with|have|no|against|because of|by|is|eat|away|touch|contains?|tolerate|without|near|around|keep|for|are", denies=True),
    _f("fear", "sp", "thing", r"fear(?:s|ed)?|afraid|scare[sd]?|scared|frighten(?:s|ed)?|panics?|panicking|phobia|terrif\w+|nightmares?|spooks?|shiver\w*|deal with|creeps?|dread|horror|tremble|goosebumps|run away from|paralys\w+|freak\w*", r"of|by|with|is|are|to|about|from|for|like|as|as much as|see|fear|frightened|dread|than|at", denies=True),
    _f("diet", "sp", "diet", r"eats?|eating|diet|meals?|food|cook(?:s|ing)?|recipes?|kitchen|go|went|plan|menu|restaurants?|dinner|health|lifestyle|keep|fridge|dishes|nutrition|plate|meat"),
    _f("coffee_order", "sp", "coffee", r"coffee|caf[eé]|barista|orders?|usual|mornings?|needs?|takes?|gets?|got|drinks?|wants?|starbucks|cup|caffeine|starts?|bring|have|has|having|fetch|likes?|without|before|fuel\w*|mug"),
    _f("disliked_food", "spa", "food", r"hate[sd]?|dislike[sd]?|disgust\w*|can not (?:stand|eat|bear|stomach)|will not (?:eat|touch)|would not (?:eat|touch)|never (?:eats?|serve|liked?|touch(?:es)?|suggest|order)|awful|yuck\w*|gross|worse|(?:makes?|pulls?) a face|pushes away|push|pick (?:the|out)|leave the kitchen|no|anything but|detests?|loathes?|gag|stomach|inedible|refuse[sd]?|spits?|horrible|revolting|nasty|avoids?|taste|turn(?:s)? up (?:my|his|her) nose|not a fan of|spare me|without", r"eat|touch|with|no|of|is|than|but|hated|hate|hates|find|liked|like|give|serve|by|from|stand|around|without|the|dislike", also=r"food|eat\w*|taste\w*|recipes?|plates?|kitchen|lunch|dinner|please|touch|face|smell|serve[sd]?|hates? it|like[sd]?|hate[sd]?|dislike[sd]?|disgust\w*|stand|cook\w*|meal|menu|mouth|stomach|dish|fork|bite|detests?|loathes?|away|nose|give|put|gave", denies=True, veto=r"allerg\w+|rash|hives|enough|songs?|books?|films?|movies?|cit(?:y|ies)|bands?|novels?|seasons?|sports?|animals?|creature|beats|happy|wait|comes close|miss(?:es)?|favou?rite|love[sd]?"),
    _f("breakfast", "sp", "breakfast", r"breakfasts?|in the mornings?|every morning|normal morning|first thing|mornings?|start (?:my|the) day|before work", r"have|eat|make|is|without|had|having|with|of|always|get|for|eating|on|prepare|eats|has", veto="coffee|read|newspaper|run|gym|drink", denies=True),
    # Pastimes.
    _f("instrument", "sp", "instrument", r"play(?:s|ed|ing)?|practi[sc]\w+|lessons?|perform\w*|learn\w*|orchestra|band|own|instruments?|fingers|musician|strum\w*|quartet|ensemble|concert|choir|jam|rehears\w*|neighbours|neighbors|evenings|hear|heard|talent|conservatory|stage"),
    _f("music_genre", "sp", "genre", r"listen\w*|play(?:ing)?|music(?:ally)?|concerts?|playlists?|headphones|put on|radio|into|genre|records|festival|speakers|tunes|songs|albums?|dance|ears|in the car|vinyl|love|my thing|sound"),
    _f("hobby", "sp", "doing", r"hobb(?:y|ies)|pastimes?|free time|spare time|relax(?:ation|ing|es|ed)?|for fun|unwind\w*|leisure|after work|off work|not working|evenings|weekends?|most evenings|passions?|days off|switch off|time off|when i have time|de-stress|recharge|downtime|talk about \w+", r"is|to|do|doing|with|into|about|for|of|at|on|enjoy|hobby|love|in|try|loves|like", veto=r"swim team|works? as"),
    # Animals, things, presents.
    _f("toy", "a", "thing", r"toys?|plays? with|playing with|bored|tripped over|carries|chew\w*|fetch|play|squeak\w*|playtime|throw|obsessed|drags", r"with|is|over|than|except|for|a|carries|loves|his|her|by|of|chew\w*|fetch"),
    _f("sleep_place", "a", "spot", r"sleeps?|sleeping|asleep|naps?|lies down|curls? up|snooz\w*|doz\w*|nights?|bed|rests?|slept|dreams|snores?"),
    _f("breed", "a", "breed", r"breed|pedigree|looks like|purebred|pure-?bred|papers|kind of (?:dog|cat|horse|rabbit)|is an?|type|shelter|family of|thoroughbred|being an?"),
    _f("colour", "at", "colour", r"colou?rs?|coloured|colored|all over|is|painted|fur|coat|looks|shade|feathers|lacquer|frame"),
    _f("gift_idea", "p", "thing", r"presents?|gifts?|wish ?list|wants?|birthday|christmas|give|buy|bought|get for|love to get|would (?:like|love)|hint\w*|unwrap\w*|wrapped|shopping for|wish\w*|surprise|getting|ideal for|make (?:him|her) happy|longs for|dreams of|asked for|get", r"wants|want|is|for|give|buy|like|get|of|with|a|getting|be|love|about|list", veto=r"coffee|caf[eé]|barista|to eat|food|drink|colou?r|serve|plate|cake"),
    _f("place", "t", "spot", r"park(?:ed|s)?|keep|kept|stands?|lies|is|find|stored?|left|sits?|stays?|moored|leaning|waits|locked|put"),
    # What one likes best.
    *_favourites(),
)  # fmt: skip
