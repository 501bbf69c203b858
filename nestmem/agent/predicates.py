"""What a predicate says of its subject: patterns over "live in Leeds", "be allergic to cats".

The verb at the front is in its base form (`base_form`), so that one pattern serves "I live", "my sister
lives" and "we have been living". `v` is the value. Who the pattern is for: self, person, animal, thing.
"""

# ruff: noqa: E501  (a pattern is read whole, on one line)
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

ADVERBS = (
    r"(?:(?:also|now|just|currently|actually|still|really|recently|finally|absolutely|truly|simply|mostly|mainly|originally|already|"
    r"proudly|happily|presently|nowadays|lately|officially|both|totally|completely|definitely|certainly|quite|very much|then|today|soon|"
    r"since|long|always|usually|normally|generally|typically|often|regularly|secretly|kind of|sort of|personally|only|sadly|luckily|almost|nearly|"
    r"probably|even|first|once|too|never really) )*"
)
_ING = {
    "living": "live", "working": "work", "studying": "study", "learning": "learn", "playing": "play", "driving": "drive",
    "volunteering": "volunteer", "collecting": "collect", "reading": "read", "using": "use", "speaking": "speak",
    "riding": "ride", "coding": "code", "renting": "rent", "teaching": "teach", "wearing": "wear", "banking": "bank",
    "residing": "reside", "supporting": "support", "commuting": "commute", "practising": "practise", "following": "follow",
    "training": "train", "listening": "listen", "owning": "own", "running": "run", "dating": "date",
}  # fmt: skip
_BASE = {
    "am": "be", "is": "be", "are": "be", "has": "have", "does": "do", "goes": "go", "studied": "study", "studies": "study",
    "plays": "play", "teaches": "teach", "worked": "worked", "flies": "fly", "can": "can",
}  # fmt: skip


def base_form(predicate: str) -> str:
    """ "lives in Leeds" -> "live in Leeds", "have been living in" -> "live in", "is a nurse" -> "be a nurse"."""
    words = re.sub("^" + ADVERBS, "", predicate, flags=re.IGNORECASE)
    words = re.sub(
        r"^(?:have|has) (?:now |just |also |recently |always |long |already |only |finally |since |even )*(?=been )",
        "",
        words,
    )
    continuing = re.match(rf"(?:am|is|are|be|been) {ADVERBS}(\w+ing)\b", words)
    if continuing and continuing.group(1).lower() in _ING:
        return _ING[continuing.group(1).lower()] + words[continuing.end() :]
    words = re.sub(r"^been\b", "be", words)
    perfect = re.match(
        rf"(?:have|has) {ADVERBS}(?=(?:\w+ed|got|gone|taken|become|begun|grown|bought|found|made|left|given|chosen|switched|quit|sold|had|come)\b)",
        words,
    )
    if perfect:
        words = words[perfect.end() :]
    first, _, rest = words.partition(" ")
    rest = re.sub("^" + ADVERBS, "", rest + " ", flags=re.IGNORECASE).rstrip() if rest else rest
    return f"{_lemma(first.lower())} {rest}".strip()


def _lemma(verb: str) -> str:
    if verb in _BASE:
        return _BASE[verb]
    if verb.endswith("ies") and len(verb) > 4:
        return verb[:-3] + "y"
    if verb.endswith(("sses", "shes", "ches", "xes", "oes")):
        return verb[:-2]
    if verb.endswith("s") and not verb.endswith(("ss", "us", "is")) and len(verb) > 3:
        return verb[:-1]
    return verb


class Pattern(NamedTuple):
    """`who`: letters of those it applies to (s self, p person, a animal, t thing)."""

    regex: re.Pattern[str]
    attribute: str
    shape: str
    who: str


class Hit(NamedTuple):
    """A value as it stands in the predicate, before it is cleaned according to `shape`."""

    attribute: str
    value: str
    shape: str
    ends: bool = False


def _p(attribute: str, shape: str, who: str, *patterns: str) -> list[Pattern]:
    return [Pattern(re.compile(rf"^(?:{p})$", re.IGNORECASE), attribute, shape, who) for p in patterns]


V = r"(?P<v>.+?)"
_A = r"(?:(?:an?|the|my|our|his|her|their|some|one|this|own|new|little|small|big|lovely|nice|old) )*"
_DAY = r"(?P<v>(?:mon|tues|wednes|thurs|fri|satur|sun)days?(?:(?:,| and| or) (?:mon|tues|wednes|thurs|fri|satur|sun)days?)*)"
_CLOCK = r"(?P<v>(?:about |around )?(?:\d{1,2}(?:[:.]\d\d)?(?: ?[ap]\.?m\.?)?(?: o'clock)?|noon|midnight|(?:half|quarter) (?:past|to) \w+|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)(?:[ -]\w+)?(?: o'clock)?))"
_MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
_DATE = rf"(?P<v>(?:the )?(?:\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}|{_MONTH} (?:the )?\d{{1,2}}(?:st|nd|rd|th)?)(?:,? \d{{4}})?|\d{{1,2}}[./-]\d{{1,2}}(?:[./-]\d{{2,4}})?|\d{{4}}-\d\d-\d\d)"
_HOME = r"(?:home|house|flat|apartment|place|cottage|studio|room|bungalow|villa)"
_UNI = r"(?P<v>.*(?:university|college|institute|polytechnic|academy|school of|\buni\b|\bMIT\b|\bETH\b|oxford|cambridge|harvard|stanford|yale|sorbonne).*)"

PATTERNS: list[Pattern] = [
    # Where one lives.
    *_p("home_city", "place", "sp",
        rf"(?:live|reside|dwell|settled?|be based|be living|be located|be at home|be settled) (?:down |right |over |up |out |back |here |alone |together |there )*(?:in|near|outside|around) {V}",
        rf"(?:moved|relocated|emigrated|transferred|move) (?:house |home |back |over |away |out |here |up |down |everything |my life |the family |again )*(?:from (?P<old>.+?) )?to {V}",
        rf"(?:moved|move) into {_A}(?:[\w-]+ )?{_HOME} (?:in|near) {V}",
        rf"call {V} (?:my |our |her |his |their )?home(?: town| city)?",
        rf"have {_A}{_HOME} in {V}", rf"(?:own|rent|bought|rented|found|got) {_A}{_HOME} in {V}",
        rf"make (?:my|our|his|her|their) home in {V}", r"be an? (?P<v>(?-i:[A-Z])[\w-]+(?: (?-i:[A-Z])[\w-]+)*) resident", rf"be a resident of {V}",
        rf"have settled (?:down )?in {V}", rf"packed (?:up )?everything and (?:moved|relocated) to {V}"),
    *_p("street", "street", "sp",
        r"(?:live|be|reside) (?:on|at|along)(?: number)? (?P<v>(?:\d+\w? )?(?:[\w'-]+ ){1,4}?(?:street|road|lane|avenue|way|drive|close|court|crescent|grove|square|parade|boulevard|place|terrace|hill|row|st|rd|ave))\b.*",
        rf"(?:moved|move) (?:in)?to (?:{_A}(?:[\w-]+ )?{_HOME} (?:on|at) )?(?P<v>(?:\d+\w? )?(?:[\w'-]+ ){{1,4}}?(?:street|road|lane|avenue|drive|crescent|boulevard))\b.*",
        rf"live (?:on|at) {V}"),
    *_p("home_type", "thing", "sp", rf"live in (?P<v>an? (?:[\w-]+ ){{0,3}}{_HOME}|an? (?:[\w-]+ ){{0,2}}(?:boat|houseboat|van|caravan|castle|farm|farmhouse|village|loft|yurt))"),
    *_p("childhood_home", "place", "sp", rf"(?:grew|grow) up in {V}", rf"(?:was|were) raised in {V}", rf"(?:be )?raised in {V}", rf"spent (?:my|his|her|our|their) childhood in {V}"),
    *_p("birthday", "date", "spa", rf"(?:was|were|be) born on {V}", rf"celebrates? (?:my|his|her|their|its) birthday on {V}", rf"turn (?:\d+|a year older|another year older) on {V}", rf"(?:was|were) born (?:in )?{_DATE}"),
    *_p("birth_year", "thing", "spa", r"(?:was|were|be) born in (?:the year )?(?P<v>\d{4})"),
    *_p("birthplace", "place", "spa", rf"(?:was|were|be) born (?:and raised )?(?:in|at|near) {V}", rf"came into the world in {V}", rf"first saw the light of day in {V}"),
    *_p("hometown", "place", "sp", rf"(?:be|come|hail) (?:all the way )?from {V}"),
    *_p("nationality", "name", "sp", r"hold (?:an? )?(?P<v>(?-i:[A-Z])[\w-]+(?: (?-i:[A-Z])[\w-]+)?) (?:passport|citizenship|nationality)",
        r"be (?P<v>(?-i:[A-Z])\w+(?: (?-i:[A-Z])\w+)?)", r"be an? (?P<v>(?-i:[A-Z])[\w-]+(?: (?-i:[A-Z])[\w-]+)?) (?:citizen|national|native)", r"have an? (?P<v>(?-i:[A-Z])[\w-]+(?: (?-i:[A-Z])[\w-]+)?) (?:passport|citizenship|nationality)",
        r"(?:became|become|got|travel on|travel with|hold) an? (?P<v>(?-i:[A-Z])[\w-]+(?: (?-i:[A-Z])[\w-]+)?) (?:citizen|passport|citizenship)(?: .*)?", r"(?:have|took|got) (?P<v>(?-i:[A-Z])[\w-]+(?: (?-i:[A-Z])[\w-]+)?) (?:citizenship|nationality)"),
    *_p("age", "age", "spa", r"be (?:now )?(?P<v>\d{1,3}|[a-z]+(?:-[a-z]+)?)(?: years?[ -]old| years? of age| yrs old)", r"be (?P<v>\d{1,3})", r"(?:just )?turned (?P<v>\d{1,3}|[a-z]+(?:-[a-z]+)?)(?: years?(?: old)?)?(?: (?:last|this|on|in|yesterday|today).*)?"),
    # Work.
    *_p("job", "job", "sp",
        rf"(?:work|be working|be employed|be hired|serve|be trained|got hired|got a job|have (?:a )?(?:[\w-]+ )?(?:job|work)|earn (?:my|his|her|our|a|their) (?:living|money|bread)|make (?:my|his|her|our|a|their) (?:living|money)|found (?:a )?(?:job|work)|"
        rf"(?:start|started|begin|began) (?:a )?(?:new )?(?:job|career|work|working)|started|retrained|requalified|be self-employed|be paid) as {_A}{V}",
        r"(?:became|become) an? (?P<v>(?!fan|member|father|mother|parent|citizen)[\w -]+?)", rf"do {V} for a living", r"be an? (?P<v>[\w -]+?) by (?:profession|trade|training|occupation)", rf"be working as {_A}{V}"),
    *_p("employer", "company", "sp",
        rf"(?:work|be working|be employed|be hired|got hired|have (?:a|my|his|her) (?:[\w-]+ )?(?:job|position)|got a (?:new )?job|started (?:a )?(?:new )?(?:job|work|working)|be on the payroll|sign my contracts) (?:now )?(?:at|for|by|with|of) {V}",
        rf"(?:joined|join) {V}", rf"started at {V}", rf"be employed by {V}", rf"earn (?:my|his|her|our) (?:money|living) (?:at|with) {V}", rf"have (?:been )?on the payroll of {V}", r"be on (?P<v>.+?)'s payroll", rf"be an? employee (?:at|of) {V}", r"be an? (?P<v>(?-i:[A-Z])[\w&.-]*(?: (?:and )?(?-i:[A-Z])[\w&.-]*)*) employee", rf"be with {V} (?:now|these days)"),
    *_p("job_title", "thing", "sp", rf"(?:be|got|get|been) (?:just )?promoted (?:to|as) {_A}{V}", rf"(?:hold|have) the (?:title|position|role) of {V}", rf"have the job title {V}"),
    *_p("field", "thing", "sp", r"work in (?P<v>(?!my |our |the |a |an )[a-z][\w -]+)", r"work in (?P<v>the [\w -]+ (?:industry|sector|business|department|field))"),
    *_p("work_city", "place", "sp", r"work in (?P<v>(?-i:[A-Z]).*)"),
    *_p("bank", "name", "sp", rf"bank with {V}", rf"(?:have|keep|opened|open) (?:my|our|an|a|his|her|all my) (?:bank |current |savings )?(?:accounts?|money|savings|banking) (?:at|with) {V}", rf"do (?:my|our) banking (?:at|with) {V}", rf"be a customer of {V} for .*banking.*"),
    # Studies.
    *_p("study_field", "study", "sp", rf"(?:go|went) to (?:university|college|uni) for {V}"),
    *_p("university", "name", "sp", rf"(?:went|go|be|studied|study|was|were|transferred|enrolled|enroll|graduated) (?:to|at|from|in) {_UNI}", rf"(?:graduated from|attended|attend|be a student at|be an alum(?:na|nus)? of|got my degree (?:from|at)|went to university (?:at|in)|did my degree at) {V}",
        rf"(?:have|got|hold) (?:a|my) degree from {V}"),
    *_p("school", "name", "p", r"(?:go|went) to (?P<v>.*(?:school|kindergarten|nursery|academy)\b.*)"),
    *_p("study_field", "study", "sp", rf"be a student of {V}", rf"(?:chose|choose|took) {V} as (?:my|his|her|their) subject",
        rf"study {V}", rf"(?:major|majored|did a degree|have a degree|hold a degree|got (?:my|a) degree|have a master's|took a degree|graduated|did my degree|be doing a degree|did a (?:bachelor|master)(?:'s)?|have a phd|do a degree|specialised|specialized) in {V}", r"be an? (?P<v>[a-z ]+?) (?:student|graduate|major)", rf"read {V} at (?:university|college|uni)"),
    *_p("school", "name", "s", r"(?:went|go) to (?P<v>.*(?:school|academy)\b.*?)(?: as a (?:child|kid).*| when i was .*)?"),
    # Languages and skills.
    *_p("mother_tongue", "name", "sp", r"be a native (?P<v>(?-i:[A-Z])\w+)(?: speaker)?", r"(?:grew up|grow up|was raised) (?:speaking|with) (?P<v>(?-i:[A-Z])\w+(?: (?-i:[A-Z])\w+)?)(?: at home)?", r"be a native speaker of (?P<v>.+)"),
    *_p("learning_language", "language", "sp", rf"(?:learn|be learning|practise|practice|started learning|started|be teaching (?:myself|himself|herself)|take (?:a |an |lessons in |classes in )?|have (?:lessons|classes) in|signed up for|be trying to learn|try to learn|want to learn|be brushing up (?:my|on)|began|study) {V}(?: (?:course|class|classes|lessons))?"),
    *_p("language", "language", "sp", rf"(?:speak|be fluent in|speak fluent) {V}"),
    *_p("instrument", "instrument", "sp", r"(?:take|have|started) (?P<v>(?!music|dance|driving|cooking|swimming|language|french|german|english|spanish|italian)[\w-]+) lessons", rf"be (?:really |very |quite )?good at the {V}",
        rf"(?:play|be learning|learn|practise|practice|took up|take up|have taken up|be learning to play|learn to play|started (?:playing|learning)|took up playing) (?:on )?the {V}", rf"(?:switched|changed) to the {V}",
        r"(?:play|learn|practise|practice) (?P<v>(?:bass |electric |classical |acoustic |lead |jazz |first |second )?(?:guitar|piano|violin|drums|bass|cello|flute|saxophone|trumpet|ukulele|keyboards?|harp|clarinet|viola|banjo|accordion|organ|oboe|mandolin|percussion))", r"be an? (?P<v>[\w ]+) player"),
    *_p("learning", "thing", "s", rf"(?:learn|be teaching myself|started learning|be trying to learn|took up learning) (?:how )?(?:to )?{V}"),
    *_p("sport", "sport", "sp", rf"play {V}"),
    # Likes.
    *_p("allergy", "thing", "spa", rf"react (?:badly|strongly) to {V}", rf"(?:have to|must) avoid {V} because of (?:an allergy|my allergy)",
        rf"be (?:\w+ )?allergic (?:only )?to {V}", rf"have an? (?:[\w-]+ )?allergy (?:to|against) {V}", rf"have an? {V} allergy", rf"(?:get|got) (?:a rash|hives|an allergic reaction) from {V}", rf"(?:suffer|be suffering) from an? {V} allergy", rf"(?:break out|come out) in (?:hives|a rash) (?:from|when i (?:eat|touch)) {V}"),
    *_p("diet", "diet", "sp", r"be (?:an? )?(?P<v>vegan|vegetarian|pescatarian|flexitarian|pescetarian|gluten[- ]free|lactose[- ]free|keto|paleo|halal|kosher|carnivore|raw food|low[- ]carb|macrobiotic|fruitarian|mediterranean)", r"(?:follow|be on|keep to|eat|went|go|stick to|switched to|became|become|turned|live on) (?:an? )?(?:strict |strictly |strictly a )?(?P<v>[\w -]+?) (?:diet|food|meals)(?: only)?", r"(?:eat|went|became|turned|eat strictly) (?:an? )?(?P<v>vegan|vegetarian|pescatarian|flexitarian|keto|paleo|halal|kosher|gluten[- ]free)"),
    *_p("fear", "thing", "spa", rf"be (?:\w+ )?(?:afraid|scared|terrified|frightened) of {V}", rf"have (?:an? )?(?:[\w-]+ )?(?:fear|phobia) of {V}", rf"fear {V}", rf"panic when I see {V}"),
    *_p("hobby", "thing", "sp", rf"be (?:\w+ )?(?:into|passionate about) {V}", r"(?:have |has )?(?:taken up|took up|take up|started) (?!the |work|job|a )(?P<v>[\w -]+?)(?: as a hobby| as a pastime)?", rf"spend (?:most of |all of |all )?(?:my|his|her|their) (?:weekends?|free time|spare time|evenings|time off) (?:on|with|doing) {V}", rf"unwind with {V}", rf"do {V} (?:as a (?:hobby|pastime)|for fun|in (?:my|his|her) (?:free|spare) time)(?: for .*)?", rf"relax (?:with|by doing) {V}", rf"(?:be )?busy with {V}"),
    *_p("favourite_shop", "name", "s", rf"be a regular customer (?:of|at) {V}"),
    *_p("teaches", "study", "sp", rf"teach {V}"),
    *_p("shoe_size", "thing", "s", r"(?:wear|take) (?:a )?(?:shoe )?size (?P<v>[\d.,½]+)(?: shoes)?"),
    *_p("middle_name", "name", "sp", rf"(?:have|got) the (?:middle|second) name {V}", rf"(?:hate|love|like|dislike) (?:my|his|her) middle name,? {V}"),
    *_p("toy", "thing", "a", rf"(?:love|like|enjoy) (?:to play|playing) with {V}", rf"play (?:all day )?with {V}", rf"never go anywhere without {V}"),
    *_p("start_year", "thing", "t", r"be mine since (?P<v>\d{4})"),
    *_p("place", "thing", "t", r"be (?P<v>(?:in|on|under|behind|at|next to|near|by|outside|beside|opposite) .+)", r"stand (?P<v>(?:in|on|under|behind|at|next to|near|by|outside|beside) .+)"),
    *_p("disliked_food", "food", "spa", rf"(?:hate|detest|can not stand|can not bear|dislike|do not like|can not eat|never eat|will not eat|refuse to eat|do not eat|loathe|can not stomach|avoid|never touch) (?:the taste of |eating |to eat )?{V}(?: at all| in my food)?"),
    *_p("favourite_team", "name", "sp", rf"(?:support|root for|cheer for|cheer on|follow) {V}", rf"be an? (?:[\w-]+ )?supporter of {V}", r"be an? (?:big |huge |lifelong |die-hard |passionate |real )?(?P<v>(?-i:[A-Z])[\w'.-]*(?: (?:of )?(?-i:[A-Z])[\w'.-]*)*) (?:fan|supporter)"),
    *_p("music_genre", "thing", "sp", rf"(?:like|love|enjoy)? ?(?:listening|listen) (?:mostly |mainly |a lot |almost only )*to {V}(?: music)?"),
    # Things one has and uses.
    *_p("phone", "thing", "sp", r"(?:carry|be happy with|dropped|take (?:all )?(?:my|his|her) photos with|make (?:all )?(?:my|his|her) calls (?:on|with)) (?:an? |my |his |her )(?P<v>(?-i:[A-Z]|iP)[\w .+-]*?)(?: around)?",
        r"(?:use|carry|have) (?:an? |my )(?P<v>.+?) as (?:my|a|his|her|their) (?:phone|mobile)", r"(?:bought|got|switched to|have|own|use|carry) (?:an? |my )?(?:new )?(?P<v>(?:i?phone|(?:samsung )?galaxy|samsung|pixel|nokia|xperia|oneplus|fairphone|xiaomi|motorola|huawei|redmi|oppo|honor|sony xperia|moto|blackberry|zte|lg|htc|nothing phone)\b[\w .+-]*?)(?: (?:now|as (?:my|his|her) (?:phone|mobile)).*)?"),
    *_p("car", "thing", "sp", r"have (?:an? )(?P<v>(?:audi|bmw|citroën|citroen|dacia|fiat|ford|honda|hyundai|jaguar|jeep|kia|lada|land rover|lexus|mazda|mercedes|mini|nissan|opel|peugeot|porsche|renault|saab|seat|skoda|škoda|smart|subaru|suzuki|tesla|toyota|volkswagen|volvo|vw|chevrolet|cadillac|dodge|chrysler|alfa romeo|ferrari|vauxhall|mitsubishi|polestar|rivian|byd)\b(?: [\w-]+){0,3}?)(?: in (?:my|his|her) garage)?", r"pick(?:ed)? me up in (?:my|his|her|their) (?P<v>.+)", r"(?:drive|get around in|drive around in|own|bought|switched to) (?:an? |my |the |our )(?:(?:old|new|used|second-hand|little|red|blue|white|black|green|grey|silver) )*(?P<v>(?:(?-i:[A-Z])[\w-]*|\d+)(?: (?:(?-i:[A-Z0-9])[\w.-]*|\d+))*)", r"drive (?:an? |my |the )?(?P<v>.+?)(?: to work| every day| around)?"),
    *_p("rides", "thing", "sp", r"ride (?:an? |my |the )?(?P<v>.+)"),
    *_p("operating_system", "name", "sp", r"(?:use|run|work on|switched to|installed) (?P<v>(?:\w+ )?(?:linux|windows|macos|mac os|ubuntu|debian|fedora|arch|freebsd|openbsd|chromeos|mint|android|ios|nixos|gentoo|opensuse)\b[\w .]*)(?: on (?:my|all).*)?"),
    *_p("favourite_programming_language", "name", "s", rf"(?:mostly |mainly )?(?:code|program|write (?:my |all my |most of my )?code|program everything|do (?:all )?my coding|write everything) in {V}"),
    *_p("newspaper", "name", "sp", rf"(?:subscribe to|be subscribed to|have a subscription to) {V}", r"read (?P<v>(?:the |le |la |el |die |der |de |il |corriere )(?-i:[A-Z]).+?)(?: every (?:day|morning)| over breakfast| daily)?"),
    *_p("collects", "thing", "sp", rf"collect {V}"),
    *_p("airline", "name", "s", rf"(?:prefer to |always |usually |like to )?fly (?:with )?{V}", rf"(?:prefer|like|love) (?:to fly|flying)(?: with)? {V}", rf"collect (?:air )?miles with {V}", rf"be a frequent flyer with {V}"),
    *_p("hotel", "name", "sp", rf"(?:be )?stay(?:ing)? at {_A}{V}", rf"(?:booked|have booked|have) a room (?:at|in) {V}", rf"checked in(?:to)?(?: at)? {V}"),
    *_p("gym_name", "name", "sp", rf"(?:work out|train|exercise|be a member|have a membership|do my workouts) (?:at|of|in) {V}", rf"go to {V} (?:for (?:my|his|her) workouts?|to work out|to train|to exercise)", rf"go to the gym (?:called |at ){V}"),
    *_p("volunteer_place", "name", "sp", rf"(?:volunteer|do volunteer work|be a volunteer|do unpaid work|lend a hand|help out)(?: \w+ \w+)? (?:at|for|with|in) {V}"),
    *_p("favourite_shop", "name", "sp", rf"(?:shop|do (?:all |most of )?(?:my|our) shopping|buy (?:all |most of )?my (?:clothes|groceries|food|things)|get (?:my|our) groceries|like to shop|like shopping|love to shop) (?:at|in|from) {V}"),
    # Rhythm of the day.
    *_p("wake_time", "time", "sp", rf"(?:get|wake|be) up (?:every (?:day|morning) )?(?:at|by) {V}(?: (?:every|in the) (?:day|morning))?", rf"rise at {V}", rf"set my alarm (?:for|to) {V}", rf"get out of bed at {V}"),
    *_p("bedtime", "time", "sp", rf"(?:go to (?:bed|sleep)|be in bed|be asleep|fall asleep|turn in|hit the sack|turn off the lights?|sleep) (?:at|by|from) {V}(?: (?:every|each|at) (?:night|evening))?"),
    *_p("gym_time", "time", "sp", rf"(?:go to the gym|hit the gym|work out|do my workout|train|exercise) (?:at|from) {V}"),
    *_p("training_day", "day", "sp", rf"(?:go (?:running|jogging|for a (?:run|jog))|run|jog) (?:once a week,? )?(?:every|on|each)? ?{_DAY}(?: (?:morning|evening|afternoon)s?)?"),
    *_p("music_lesson_day", "day", "sp", rf"(?:have|take|go to) (?:my|a|the) (?:music|piano|guitar|violin|cello|singing) (?:lesson|class) (?:every|on|each) {_DAY}"),
    *_p("meeting_day", "day", "s", rf"have (?:our|my|a|the) (?:weekly )?team meetings? (?:every|on|each) {_DAY}"),
    *_p("commute", "transport", "sp", rf"(?:go|get|travel|commute|ride|come) to (?:work|the office) (?:by|on|with|in) {V}", rf"commute (?:to work )?(?:by|on|with) {V}", r"take (?P<v>.+?) to (?:work|the office)", r"(?P<v>walk|cycle|bike|drive|row|swim|kayak) to (?:work|the office)"),
    *_p("breakfast", "thing", "sp", rf"(?:have|eat) {V} for breakfast", rf"(?:breakfast on|start (?:my|the) day with) {V}"),
    *_p("lunch", "thing", "sp", rf"(?:have|eat) {V} for lunch"),
    *_p("dinner", "thing", "sp", rf"(?:have|eat) {V} for (?:dinner|supper)"),
    *_p("coffee_order", "thing", "sp", rf"(?:like|take|drink|have|get|prefer) (?:my|his|her|their) coffee (?:as )?{V}", rf"never (?:start|starts) the day without {V}",
        rf"(?:order|drink|take|get) {_A}{V} (?:at the caf[eé]|at the coffee (?:shop|bar))", rf"(?:take|like|drink) (?:my|his|her) coffee {V}"),
    # People around.
    *_p("spouse", "name", "sp", rf"be married to {V}", rf"got married to {V}", r"married (?P<v>(?-i:[A-Z]).+)"),
    *_p("partner_name", "name", "sp", rf"be (?:happily |now )?together with {V}", rf"fell in love with {V} and .+", rf"live with {V}, (?:my|his|her) partner",
        rf"(?:date|be seeing|be dating|be with someone called|be going out with|be engaged to|be in a relationship with) {V}"),
    *_p("doctor/name", "name", "s", r"(?:see|be a patient of|go to|be treated by|be registered with) (?P<v>(?:dr|doctor)\.? .+?)(?: as my (?:doctor|gp)| when I am (?:ill|sick))?"),
    *_p("landlord/name", "name", "s", rf"(?:rent|be renting) (?:my|our|the|this|a) (?:flat|house|apartment|room|place) from {V}", rf"rent from {V}", rf"pay (?:my|our|the) rent to {V}"),
    # Plans and parcels of the moment.
    *_p("next_trip", "place", "s", rf"(?:be )?(?:going|travelling|traveling|flying|off|heading) (?:on (?:holiday|vacation) )?to {V} (?:next|in|soon|for (?:my|our) (?:holidays?|vacation)|on).*", rf"(?:booked|bought|have booked) (?:an? |my |our )?(?:flights?|trip|tickets?|holiday|train)(?: tickets?)? to {V}(?: for .*)?"),
    *_p("arrival_time", "time", "p", rf"(?:arrive|be arriving|be coming|be landing|land|get here|will be here|will arrive|be due) (?:at|around) {V}"),
    *_p("gift_idea", "thing", "p", rf"wish for {V}", rf"keep hinting that (?:he|she|they) wants? {V}",
        rf"(?:want|wish for|would like|would love) {V} (?:for (?:his|her|their) (?:birthday|christmas)|as a (?:present|gift)|for christmas)"),
    *_p("sleep_place", "thing", "a", rf"sleep {V}"),
    *_p("units", "thing", "s", r"(?:prefer|use|measure everything in|think in|be used to|only understand) (?P<v>(?:degrees )?(?:metric|imperial|celsius|fahrenheit|kilometres|kilometers|miles|kilograms?|kilos|pounds|litres|gallons|si|us)\b.*)"),
    # Looks of animals and things.
    *_p("colour", "colour", "at", r"be (?:all |mostly )?(?P<v>[\w-]+(?: and [\w-]+)?)(?: in colou?r| all over)?", r"be (?:\w+ly |all )?(?P<v>[\w-]+ (?:blue|green|yellow|red|pink|brown|grey|white|black))(?: in colou?r| all over)?"),
    *_p("breed", "thing", "a", r"be an? (?P<v>[\w -]+?)"),
]  # fmt: skip

_HABIT = re.compile(
    rf"^(?P<do>.+?) (?:every|each|on|at) (?:{_DAY[:-1].replace('?P<v>', '?:')}).*)$", re.IGNORECASE
)
LIKES = re.compile(
    r"^(?:(?P<best>(?:like|love|prefer|enjoy) )|(?P<like>(?:like|love|adore|enjoy|be (?:really |very |totally |so |a bit |big |all )*(?:into|fond of|crazy about|mad about|passionate about|"
    r"keen on|obsessed with|hooked on|addicted to)|fell in love with|have a soft spot for|have a weakness for|be an? (?:[\w-]+ )?(?:fan|lover) of) )|"
    r"(?P<hate>(?:hate|dislike|detest|loathe|despise|can not stand|can not bear|do not like|do not enjoy|do not care for|be not a fan of|be tired of|be sick of|never liked) )|"
    r"(?P<prefer>prefer ))(?P<v>.+)$", re.IGNORECASE
)  # fmt: skip


def read(predicate: str, who: str) -> Iterator[Hit]:
    """What `predicate`, said of a subject of kind `who`, tells, most telling pattern first."""
    for pattern in PATTERNS:
        if who in pattern.who and (found := pattern.regex.match(predicate)):
            yield Hit(pattern.attribute, found["v"], pattern.shape)
