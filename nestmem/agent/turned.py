# ruff: noqa: E501  (a pattern is read whole, on one line)
"""Statements whose words stand in another order: "teal is the colour I like best" -> "my favourite colour is teal"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from nestmem.agent import values


def straight(text: str) -> Iterator[str]:
    """The plain forms of a statement, most likely first; nothing for one that is plain already."""
    for pattern, make in _TURNED:
        found = pattern.match(text)
        if found and (plain := make(found)) and plain != text:
            yield plain


def _whose(who: str) -> str:
    return "my" if who in ("I", "we", "me") else f"{who}'s"


def _favourite(noun: str, value: str, owner: str = "my") -> str:
    noun = re.sub(r"ie$", "y", noun.strip())
    return f"{owner} favourite {noun} is {value}"


def _turn_one(found: re.Match[str]) -> str:
    """ "the instrument I play is the cello" -> "I play the cello"."""
    noun, rest, value, who = found["n"] or "", found["rest"].strip(), found["v"], found["s"]
    best = re.match(
        r"(?:really |always )?(?:like|love|prefer|enjoy)s?(?: to \w+)?(?: the)? ?(?:best|most|above all|more than any(?: other)?|more than all others|to)?(?: of all)?$",
        rest,
    )
    owner = "my" if who in ("I", "we") else who + "'s"
    if best and noun:
        return _favourite(noun, value, owner)
    rest = re.sub(r" (?:the )?(?:most|best|least)(?: of all)?$", "", rest)
    if re.search(r" ?\b(?:in|on|at|for|to|from|with|by)$", rest):
        return f"{who} {rest} {value}"
    if noun in ("place", "city", "town", "country", "village", "street") and re.match(
        r"(?:live|grew up|was born|work|reside|call home)", rest
    ):
        return f"{who} {rest} {'on' if noun == 'street' else 'in'} {value}"
    return f"{who} {rest} {value}" if noun != "reason" else ""


def _cleft(found: re.Match[str]) -> str:
    """ "it is by tram that I travel to work" -> "I travel to work by tram"; "it is Nokia that pays me" -> "Nokia pays me"."""
    value, subject, rest = found["v"], found["s"], found["rest"]
    if not subject:
        return f"{value} {rest}"
    home = re.match(r"(calls?) home$", rest)
    return f"{subject} {home[1]} {value} home" if home else f"{subject} {rest} {value}"


_TURNED: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(r"as an? (?P<v>[\w -]+?), (?P<n>my [\w-]+) .+$", re.I), lambda m: f"{m['n']} is a {m['v']}" if values.is_occupation(m["v"]) else ""),
    (re.compile(r"it is (?P<v>(?!not\b|the\b|so\b|true\b|nice\b|clear\b)[^,]+?) (?:that|who|which) (?:(?P<s>I|we|my [\w-]+(?: [\w-]+)??) )?(?P<rest>(?:is|are|was|has|pays|employs|triggers|causes|makes|helps|treats|owns|runs|keeps|calls?|wants?|lives?|works?|loves?|likes?|prefers?|drives?|plays?|studies|study|have|go|come|use|speak|support|travel|take|follow|eat|drink|read|listen|fly|shop|stay|volunteer|bank|wear|dislikes?|hates?|fears?|was|am|do|does|did|get|need)\b.*)$", re.I), _cleft),
    (re.compile(r"(?:working|being|employed|life) (?:as )?(?P<v>an? .+?) is how (?P<s>I|my [\w-]+(?: [\w-]+)??) (?:pays?|earns?|makes?|gets?|spends?)\b.*$", re.I), lambda m: f"{m['s']} {'work' if m['s'] == 'I' else 'works'} as {m['v']}"),
    (re.compile(r"(?:my|our) (?P<n>[\w' -]+?)\? (?:(?:it|he|she|that) (?:is|would be|has to be) |definitely |always |clearly |for sure |of course |without a doubt |i am )*(?P<v>[^,]+).*$", re.I), lambda m: f"my {m['n']} is {m['v']}"),
    (re.compile(r"on (?P<v>.+?),? I (?:turn (?:a year older|\d+)|celebrate my birthday|have my birthday)$", re.I), lambda m: f"my birthday is {m['v']}"),
    (
        re.compile(r"on (?P<v>.+?),? (?P<n>my [\w' -]+?) (?:turns a year older|has (?:his|her|its) birthday|celebrates (?:his|her) birthday)$", re.I),
        lambda m: f"{m['n']}'s birthday is {m['v']}",
    ),
    (re.compile(r"(?:every year,? )?on (?P<v>.+?) it is my birthday$", re.I), lambda m: f"my birthday is {m['v']}"),
    (re.compile(r"on (?P<v>.+?) it is (?P<n>my .+?)'s birthday$", re.I), lambda m: f"{m['n']}'s birthday is {m['v']}"),
    (
        re.compile(r"(?:at night|every night|as a rule|by nature|since birth|at work|nowadays|as always|in fact|over the years),? (?P<rest>(?:my|I|we)\b.+)$", re.I),
        lambda m: m["rest"],
    ),
    (
        re.compile(r"for (?P<n>my [\w-]+|me),? (?P<v>[\w -]+?) is the (?:best|most beautiful|nicest|prettiest) colou?r$", re.I),
        lambda m: f"{_whose(m['n'])} favourite colour is {m['v']}",
    ),
    (
        re.compile(r"in (?:my|her|his|their) (?:free|spare) time,? (?P<n>I|my [\w-]+) (?:am |is )?(?:busy with |into )?(?:do |does |does some )?(?P<v>[\w -]+)$", re.I),
        lambda m: f"{_whose(m['n'])} hobby is {m['v']}",
    ),
    (re.compile(r"what (?P<n>I|we|my [\w-]+) do(?:es)? (?:for fun|in (?:my|his|her) (?:free|spare) time|to relax) is (?P<v>.+)$", re.I), lambda m: f"{_whose(m['n'])} hobby is {m['v']}"),
    (re.compile(r"(?:in |at |to )?(?P<v>(?:(?! I | my )[^,])+?) is where (?P<s>I|we|my [\w -]+?) (?P<rest>(?:currently |now )?(?:live|lives|grew up|was born|work|works|am from|volunteer|reside|resides|shop|bank|study|studied|went to school))(?: now| these days)?$"),
     lambda m: f"{m['s']} {m['rest']} in {m['v']}"),
    (re.compile(r"(?:the (?:city|town|place|village) )?where (?P<s>I|we|my [\w -]+?) (?P<rest>(?:currently |now )?(?:live|lives|grew up|was born|work|works|reside|volunteer)) is (?P<v>.+)$", re.I),
     lambda m: f"{m['s']} {m['rest']} in {m['v']}"),
    (re.compile(r"what (?P<s>I|we) do (?:for a living|for work|as a job) is (?P<v>.+)$", re.I), lambda m: f"my job is {m['v']}"),
    (re.compile(r"what (?P<s>I|we|my [\w-]+) (?:do|does) (?:for fun|in my (?:free|spare) time|to relax) is (?P<v>.+)$", re.I), lambda m: f"{'my' if m['s'] in ('I', 'we') else m['s'] + chr(39) + 's'} hobby is {m['v']}"),
    (re.compile(r"what (?P<s>I|we) (?P<rest>[\w ]+?) is (?P<v>.+)$", re.I), lambda m: f"{m['s']} {re.sub(r' (?:most|best|the most)$', '', m['rest'])} {m['v']}"),
    (re.compile(r"(?P<v>.+?) is what (?P<s>I|we) (?P<rest>[\w ]+?)(?: most| best)?$"), lambda m: f"{m['s']} {m['rest']} {m['v']}"),
    (re.compile(r"(?:the|one) (?P<n>[\w -]{2,40}?) (?:that |which |where |who )?(?P<s>I|we|my [\w-]+) (?P<rest>[\w ]+?) (?:is|are) (?:called |named |now |still |an? )*(?P<v>.+)$", re.I), _turn_one),
    (re.compile(r"(?P<v>[^,]+?) (?:is|are) (?:the|a|one) (?P<n>[\w -]{2,30}?) (?:that |which |where )?(?P<s>I|we|my [\w-]+) (?P<rest>[\w ]+)$"), _turn_one),
    (re.compile(r"(?:when it comes to|of all|among(?: all)?) (?:the )?(?P<n>[\w -]+?)s?,? (?:I|we) (?:like|love|prefer|choose|enjoy)(?: to \w+)? (?P<v>.+?)(?: (?:best|most|the most|above all|the best))?$", re.I), lambda m: _favourite(m["n"], m["v"])),
    (re.compile(r"(?:no|there is no) (?P<n>[\w -]+?) (?:beats|comes close to|is better than|is (?:as good|as nice) as|can beat|tops|better than) (?P<v>.+?)(?: for me)?$", re.I), lambda m: _favourite(m["n"], m["v"])),
    (re.compile(r"(?:I|we) (?:like|love|prefer) (?P<v>.+?) (?:best|most|more) (?:of|than|among) (?:all|any)(?: the| other)? (?P<n>[\w -]+?)s?$", re.I), lambda m: _favourite(m["n"], m["v"])),
    (re.compile(r"(?:for|as an?) (?P<n>[\w -]+?),? I (?:would )?(?:always )?(?:choose|pick|go for|take|prefer) (?P<v>.+?)(?: every time| any day)?$", re.I), lambda m: _favourite(re.sub(r"^an? ", "", m["n"]), m["v"])),
    (re.compile(r"(?:for|at) (?P<n>breakfast|lunch|dinner),? (?P<s>I|we) (?:usually |always |normally )?(?:have|eat|take|go for) (?P<v>.+)$", re.I), lambda m: f"{m['s']} have {m['v']} for {m['n'].lower()}"),
    (re.compile(r"(?P<pre>(?:every|each|on) (?:other |single )?(?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?|morning|evening|night|day|week|weekend|summer|winter|month|year)(?: (?:morning|evening|afternoon|night))?),? (?P<s>I|we) (?P<rest>.+)$", re.I), lambda m: f"{m['s']} {re.sub(r'^(?:always|usually) ', '', m['rest'])} {m['pre'].lower() if m['pre'].lower().startswith(('every', 'each')) and m['pre'].islower() else m['pre'][0].lower() + m['pre'][1:]}"),
    (re.compile(r"(?:for work|professionally|professionally speaking|as for work|job-wise),? (?P<s>I) (?P<rest>.+)$", re.I), lambda m: f"I {m['rest']}"),
    (re.compile(r"as an? (?P<v>[\w -]+?), I (?!would|will|can).+$", re.I), lambda m: f"I am a {m['v']}" if values.is_occupation(m["v"]) else ""),
    (re.compile(r"(?:as for|regarding|about|speaking of|concerning) (?:my|our) (?P<n>[\w' -]+?)[,:] (?:(?:it|he|she|they) (?:is|are)|that is|that would be) (?P<v>.+)$", re.I), lambda m: f"my {m['n']} is {m['v']}"),
    (re.compile(r"(?:my|our) (?P<n>[\w' -]+?)\?,? (?:(?:it|he|she|that) is |I am |definitely |always )?(?P<v>.+)$", re.I), lambda m: f"my {m['n']} is {m['v']}"),
    (re.compile(r"(?:my|our) (?P<n>[\w -]+?) of choice is (?P<v>.+)$", re.I), lambda m: _favourite(m["n"], m["v"])),
    (re.compile(r"(?:my|our) (?P<n>[\w -]+?) has (?:a|the) (?P<a>[\w ]+?) (?:of|called) (?P<v>.+)$", re.I), lambda m: f"my {m['n']}'s {m['a']} is {m['v']}"),
    (re.compile(r"I have (?:a|an) (?:new )?favou?rite (?P<n>[\w ]+?)[:,] (?P<v>.+)$", re.I), lambda m: _favourite(m["n"], m["v"])),
    (re.compile(r"I have (?:a|an) (?:new )?(?P<n>[\w ]+?): (?P<v>.+)$", re.I), lambda m: f"my {m['n']} is {m['v']}"),
    (re.compile(r"(?:born|raised|based|living|working) (?:in|as|at|on) .+$", re.I), lambda m: f"I {'am' if m.group().lower().startswith('based') else 'was' if m.group()[:4].lower() in ('born', 'rais') else 'am'} {m.group()[0].lower()}{m.group()[1:]}"),
]  # fmt: skip
