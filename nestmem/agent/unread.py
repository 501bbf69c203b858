# ruff: noqa: E501  (a pattern is read whole, on one line)
"""Which sentences that no rule reads are still worth a model's look: whatever the speaker tells of themselves."""

from __future__ import annotations

import re

from nestmem.agent import clauses as talk
from nestmem.agent.vocabulary import PREFERENCE

_FIRST = re.compile(r"\b(?:I|[Mm]e|[Mm]y|[Mm]ine|[Mm]yself|[Ww]e|us|[Oo]ur|[Oo]urs)\b")
# Said without "I" of one's own: "Born in Leeds", "Place of birth: Leeds", "Nozawa here", "The name's Bond".
_ELLIPTIC = re.compile(
    r"^(?:born|raised|based|living|working|studying|been|just (?:got|moved|started)|got|moved|married|allergic|originally|usually|always|never|still|currently|mostly)\b.+|"
    r"^(?:\w+ )?(?:favou?rite|best|fave|home|current|full|first|last|middle|place of|date of|year of|blood|shoe|job|email|phone|wifi|door|locker|code|password|diet|hobby|hobbies|allergy|allergies|"
    r"birthday|name|nickname|address|city|employer|occupation|nationality|native|mother|bedtime|lights|landlord|dentist|doctor|vet|car|laptop|bank|hotel|gym|airline)\b[^.?!]{0,40}?(?::|\?| is | - | = )\s*\S.*|"
    r"^(?:the|this|that|every month|size|home|lights|blood|wake|bedtime|best)\b.*\b(?:flat|house|home|rent|wedding|barista|team|meeting|sync|locker|wifi|router|door|landlord|bed|type|alarm|project|gym|boss|one ever|ever)\b.*|"
    r"^[A-Z][\w'-]+(?: [A-Z][\w'-]+)? (?:here|speaking|calling)$|^(?:this|it) is [A-Z][\w'-]+(?: speaking| here)?$|"
    r"^(?:(?:he|she|it|they|that|this) (?:is|was|would|wants?|loves?|likes?|has|drinks?|plays?|never|always|hates?)|(?:his|her|its|their) \w+)\b.+|"
    r"^my\b|^(?:nothing|no [\w-]+|there is (?:no|nothing))\b.+\b(?:beats?|tops|compares?|like|as|better)\b.*", re.IGNORECASE
)  # fmt: skip
_CHAT = re.compile(
    r"^(?:so |well |okay |oh )*(?:I|we) (?:am|are) (?:(?:so|very|really|a bit|just|feeling|doing|quite|all|pretty|not|here|back|still|too|only|also|rather|a little|in a \w+ mood|sort of|kind of|having a \w+ day) ?)*"
    r"(?:fine|good|great|well|tired|ok|okay|back|sorry|bored|here|happy|glad|sure|ready|done|curious|confused|lost|stuck|excited|hungry|sleepy|sad|better|wondering|thinking|kidding|joking|serious|grateful|thankful|impressed|listening|right|off|in love|today|again|now)?"
    r"(?: (?:today|now|again|right now|this morning|tonight|with that|about (?:it|that|this)|to (?:hear|see|know) \w+))*(?:,? (?:so )?(?:say|tell|give|help|let|entertain|cheer|what|can|any|talk|please)\b.*)?$|"
    r"^(?:I|we) (?:do not (?:know|think so|understand|get it|mind|care|remember)|see|agree|understand|hope (?:so|not|that helps|you)|think so|guess so|wonder (?:what|why|how|if|whether)|mean it|"
    r"(?:just )?(?:need|want|have got|have|could use) (?:you\b|(?:some |your )?(?:help|advice|ideas?|inspiration|support)\b|(?:a|one|another|some|five|two|a few) (?:more )?(?:moment|minutes?|second|break|hand|quick|question|questions|request|favou?r|rest|laugh|nap|change|problem|idea|joke|tip|coffee)\b|to (?:think|go|ask|know|understand|run|leave|sleep|say))|"
    r"(?:really |totally |quite )?(?:appreciate|love|like|hate|enjoyed?|loved|liked|get|got|see) (?:it|that|this|you|your \w+)|will (?:try|do|see|think|let you|be right back|come back|get back|check|look|keep)|"
    r"can (?:not )?(?:see|try|hear|wait|believe (?:it|that)|imagine|relate)|could not|should (?:go|probably|try)|must (?:go|say|admit)|forgot (?:what|to say)|was (?:just )?(?:wondering|curious)|feel (?:like|great|good|bad|sick|better|tired|lazy)|thank|trust you|bet|have to (?:go|run|leave|write|think)|am (?:going|off) (?:now|to (?:bed now|try|lunch|sleep now)))\b[^:]{0,60}$|"
    r"^(?:thank|thanks|cheers|let me (?:think|see|know|check|try|ask)|let us\b|never mind|my (?:bad|pleasure|question|point|goodness|god|apologies|mistake|fault|head (?:hurts|is spinning))|you (?:are|were|can|have|made|did|really|always)(?! .*\bmy\b)|what an?\b|that (?:is|was) (?:\w+ ){0,3}\w+$|"
    r"it is (?:\w+ing|\w+ (?:outside|today|here|again))\b.*$|see you|talk to you|good (?:night|luck)|have a|welcome)\b", re.IGNORECASE
)  # fmt: skip
_ORDER = re.compile(
    r"^(?:please |kindly |now |just |could you |can you )*(?:help|tell|give|show|remind|write|explain|describe|make|translate|draft|suggest|recommend|list|find|check|fix|summari[sz]e|create|compose|add|calculate|compare|convert|play|search|look|"
    r"read|rewrite|rephrase|correct|say|sing|continue|stop|wait|try|sort|count|define|name|pick|choose|plan|answer|set|send|turn|put|remove|edit|format|shorten|go|come|imagine|pretend|let us|quiz|guess|proofread)\b", re.IGNORECASE
)  # fmt: skip
_TOLD_IN_ORDER = re.compile(
    r"\b(?:my|our) \w+.*(?:[,:] |\bis\b|(?-i: [A-Z]|\d))|\b(?:for me|I am|I prefer|I only|we always)\b",
    re.IGNORECASE,
)
# Not chat, however chatty it begins, and corrections of something else.
_TELLING = re.compile(
    r".\b(?:my|our|favou?rite|best|called|named)\b|[a-z,;] (?!I\b)[A-Z]|\d|\b(?:most|happiest)\b"
)
_CORRECTION = re.compile(
    r"^(?:I|we) (?:meant|mean)\b|^(?:it|that) (?:is|was) [^,]+,? (?:and )?not .+|^(?:not|no)\b[^.]* but\b",
    re.IGNORECASE,
)
# Sources that say what is so: "the lab says my blood type is ...", "it says Carmen in my passport".
_SOURCE = re.compile(
    r"\b(?:my|our) (?:doctor|dentist|vet|landlord|landlady|gp)\b|\b(?:passport|certificate|cards?|signature|chart|lab|doctor|vet|hospital|invitations?|contract|it|badge|label|letter|tag|records?|test|scale|form|papers?|barista|profile|calendar|mechanic|boss|support guy|teacher|shelter|they|dentist|nurse|surgery|we|I) (?:\w+ ){0,2}?(?:says?|asks?|asked|told me|said|wrote|writes?|reads?|shows?)\b|"
    r"^according to (?:my|the|our|his|her)\b|\b(?:my|our) [\w' -]+? (?:has |have )?(?:said|says|told me|tells me|wrote)(?: that)? (?:he|she|they) (?:would|will|is|are|wants?|can|arrives?|lands?|gets?)\b|"
    r"\bsaying (?:no|yes)\b|\bsay (?:no|yes|hi)\b|\bheard (?:my|our)\b|\b(?:my|our) [\w-]+ asks? (?:me )?for\b|I asked\b|asking for\b", re.IGNORECASE
)  # fmt: skip
_UNREAL = re.compile(
    r"\b(?:wish (?:I|we|my)|dream(?:ed|t)? (?:that|I)|pretend|imagine|suppose|hypothetical|I might (?!join)|we might|maybe|perhaps|doubt|in (?:a|my) dream|as if|were I|deny|let us say|assuming)\b|"
    r"\bif (?:I|we) (?:lived|were|was|had|worked|owned|won)\b(?!.*\b(?:favou?rite|choose|pick|up to me)\b)|in (?:the|this|that) (?:novel|story|game|film|movie|play|series)\b", re.IGNORECASE
)  # fmt: skip
_CONDITION = re.compile(
    r"\bif\b|\b(?:would|could|will) (?:\w+ ){0,2}?(?:like|love|pick|choose|paint|take|go for|be|eat|never|always|rather|prefer|appreciate|arrive|drink|watch|marry|swap|do|buy|give|get|say|die|need|spend|listen|not)\b|\bthinking (?:of|about)\b|\bwish it were\b|\bmight join\b|\bcan hardly imagine\b|\bif (?:you|it|there|that|someone|anyone)\b", re.IGNORECASE
)  # fmt: skip


def tells(sentence: talk.Sentence) -> bool:
    """Whether the sentence, if no rule reads it, tells something of the speaker or of theirs."""
    text = sentence.text
    if sentence.talk == "question" or len(text.split()) < 2:
        return False
    own = _FIRST.search(text) is not None
    if (
        (_CHAT.match(text) and not _TELLING.search(text))
        or _CORRECTION.match(text)
        or (_ORDER.match(text) and not (own and _TOLD_IN_ORDER.search(text)))
    ):
        return False
    return (own or _ELLIPTIC.match(text) is not None) and credible(sentence)


def credible(sentence: talk.Sentence) -> bool:
    """Whether what is said is meant to be so: no quotation, hearsay, fiction or mere possibility. Preferences
    may be told as conditions ("if I had to pick one, it would be ..."), facts by a source of one's own."""
    text = sentence.text
    if sentence.talk == "statement":
        return True
    if sentence.talk == "reported":
        return _SOURCE.search(text) is not None and not text.startswith('"')
    if sentence.talk == "hypothetical":
        return not _UNREAL.search(text) and bool(
            _CONDITION.search(text) or re.search(rf"\b(?:{PREFERENCE})\b", text, re.IGNORECASE)
        )
    return False
