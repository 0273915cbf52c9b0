"""What turns a named observation into an absent or an uncertain one: cues with a side and a scope.

Rules in the manner of NegEx (Chapman et al., J Biomed Inform 2001), written for this project. A cue
acts on what follows it or on what precedes it, up to the next stop. The strongest cue in reach of a
mention decides, in the order of :class:`Kind`: an exclusion in doubt ("cannot exclude") beats a
negation, which beats a hedge.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, NamedTuple


class Kind(IntEnum):
    """What a cue says; lower is stronger."""

    NOTHING = 0  # takes up words that would otherwise be a cue: "no change in"
    DOUBT = 1  # an exclusion that is denied: uncertain
    NEGATION = 2
    HEDGE = 3  # uncertain
    LIKELY = 4  # uncertain, or positive where asked for


Side = Literal["before", "after", "both"]


class Cue(NamedTuple):
    """Words that change a mention.

    Attributes:
        kind: What they say.
        pattern: Regular expression over a sentence in lower case with single blanks, "can't" and
            "can not" written "cannot" and "n't" written " not".
        side: Whether the cue stands before what it acts on, after it, or either.
        reach: At most so many words lie between cue and mention.
        far: Whether a cue that follows acts over commas and verbs: "small, on the left, if any".
    """

    kind: Kind
    pattern: str
    side: Side = "before"
    reach: int = 20
    far: bool = False


_CHANGE = (
    r"(?:changed?|changes|increased?|decreased?|progress\w*|improve\w*|worsen\w*|worse|differen\w+|"
    r"growth|larger|smaller|migrat\w+)"
)
_SEEN = (
    r"(?:seen|present|identified|visuali[sz]ed|evident|appreciated|noted|demonstrated|detected|"
    r"apparent|visible|observed|found|suspected)"
)
_BE = r"(?:(?:is|are|was|were|has|have|had|be|been) )"
_ENDS = r"(?= ?(?:[,.)]|$|given|in |at |on |as |but|though|although|and |with|particularly|even))"
_DEGREE = (
    r"(?: (?:any|interval|\w+ly|significant|substantial|relevant|appreciable|definite|major|great|"
    r"obvious|important|marked|clear|new|other|short|real)){0,3}"
)

# Earlier entries win where two begin at the same place.
CUES: tuple[Cue, ...] = (
    # Not about the observation itself but about change, view or completeness.
    Cue(Kind.NOTHING, rf"(?:no|without|nor){_DEGREE} {_CHANGE}(?: in| of| from)?"),
    Cue(
        Kind.NOTHING,
        r"(?:not|never)(?: \w+ly| been| yet){0,2} "
        rf"(?:{_CHANGE}|cleared|resolved|large|dense|displaced)",
    ),
    Cue(
        Kind.NOTHING,
        r"no (?:less|more|further|greater) than|not only|not necessarily"
        r"|no (?:prior|previous|comparison|recent)\w*",
    ),
    Cue(
        Kind.NOTHING,
        r"not (?:as )?(?:well|fully|completely|clearly|entirely|optimally|adequately) "
        r"(?:seen|visuali[sz]ed|\w*included|imaged|assessed|evaluated|delineated|defined|cleared)"
        r"|not (?:included|imaged|assessed|evaluated|delineated|quantified)",
    ),
    Cue(
        Kind.NOTHING,
        r"(?:probably|likely|possibly|perhaps|(?:may|might|could) (?:have|be)|suggest\w*|appears?)"
        rf"(?: be)?(?: \w+ly){{0,2}} (?:unchanged|stable|{_CHANGE})",
    ),
    Cue(
        Kind.NOTHING,
        r"(?:nearly|almost|partly|partially|mostly|largely|incompletely)(?: completely)?"
        r" (?:resolved|cleared)|(?:near|almost|partial|incomplete)[ -](?:complete )?"
        r"(?:resolution|clearing)(?: of)?",
    ),
    # An exclusion that is denied, or asked for.
    Cue(
        Kind.DOUBT,
        rf"{_BE}?(?:cannot|could not|not)(?: \w+ly)? be(?: \w+ly)? (?:excluded?|ruled out)"
        rf"|{_BE}?not(?: \w+ly)? (?:excluded|ruled out)"
        rf"|{_BE}?(?:hard|difficult|impossible) to (?:\w+ly )?(?:exclude|rule out)(?= ?(?:[,.)]|$))"
        rf"|{_BE}?(?:less|not) likely{_ENDS}|{_BE}?unlikely{_ENDS}",
        "after",
    ),
    Cue(
        Kind.DOUBT,
        r"(?:cannot|could not|unable to|difficult to|hard to|impossible to|do not|does not|did not)"
        r"(?: \w+ly)? (?:exclude|rule out)|(?:to|and|or) (?:exclude|rule out)|r/o|less likely"
        r"|not likely|unlikely|evaluat\w+ for|assess\w* for|question(?:able|ed)?(?: of)?",
    ),
    Cue(Kind.DOUBT, r"if any|if present|impossible to say", "after", far=True),
    # Negation.
    Cue(
        Kind.NEGATION,
        rf"{_BE}?(?:\w+ly )?(?:not|no longer)(?: been| be)?(?: \w+ly)? {_SEEN}",
        "after",
        8,
    ),
    Cue(Kind.NEGATION, rf"{_BE}(?:absent|gone)|absent|{_BE}?no longer(?= ?[,.]|$)", "after", 8),
    Cue(
        Kind.NEGATION,
        rf"{_BE}{{0,2}}(?:now |since |completely |entirely |interval ){{0,2}}{_BE}?"
        r"(?:resolved|cleared|disappeared|ruled out|removed|discontinued"
        r"|withdrawn(?! (?:to|from|so|by)))",
        "both",
        8,
    ),
    Cue(Kind.NEGATION, r"(?:removal|resolution)(?! of)", "after", 1),
    Cue(
        Kind.NEGATION,
        r"no longer|none of|no|without|w/o|nor|neither|never|absence of|lack of|negative for"
        r"|free of|clear of|free from|rather than|instead of",
    ),
    Cue(
        Kind.NEGATION,
        r"resolution of|clearance of|removal of|excludes?|rul(?:es|ing) out"
        r"|fails? to (?:show|demonstrate)",
    ),
    Cue(Kind.NEGATION, r"not", reach=5),
    # Hedges.
    Cue(
        Kind.HEDGE,
        rf"{_BE}?(?:also )?(?:possible|suspected|questioned|questionable|equivocal){_ENDS}"
        r"|(?:may|might|could)(?: also| still| well)? be (?:also )?(?:present|developing)"
        r"|(?:should|would|could|can)(?: also)? be (?:an? (?:\w+ )?)?"
        rf"(?:considered|consideration){_ENDS}"
        rf"|{_BE}(?:an? )?(?:other )?(?:possibilit\w+|considerations?|concerns?)",
        "after",
        8,
    ),
    Cue(Kind.LIKELY, rf"{_BE}(?:also )?(?:likely|probable|presumed|favou?red){_ENDS}", "after", 8),
    Cue(Kind.HEDGE, r"versus|vs", "both", 3),
    Cue(
        Kind.HEDGE,
        r"may|might|could|possibl[ey]|possibility|perhaps|potential(?:ly)?|suspicio\w+ (?:for|of)"
        r"|suspect\w*|concern\w*|worrisome|equivocal|whether|either|differential"
        r"|consider(?:ed|ations?)?|indeterminate|indistinguishable|rais\w+(?: the)? question"
        r"|borderline",
    ),
    Cue(
        Kind.LIKELY,
        r"likely|probabl[ey]|presum\w+|suggest\w*|favou?r\w*|appears? to (?:be|represent)",
    ),
)
# Cues that begin with a mark instead of a word.
MARKS: tuple[Cue, ...] = (
    Cue(Kind.DOUBT, r"\?", "both", 4),
    Cue(Kind.NEGATION, r": (?:none|absent|negative)\b", "after", 1),
)

# Where the reach of every cue ends.
STOP = (
    r"[;:]|\b(?:but|however|although|though|except|aside from|apart from|which|while|whereas"
    r"|there (?:is|are|has|have|was|were)|in addition to|alongside|superimposed on|status post|s/p"
    r"|following|after|since)\b"
)
# Where the reach of a cue that follows ends besides: at a comma or at the clause's own verb.
AFTER_STOP = r",|\b(?:is|are|was|were|has|have)\b"
# Where the reach of a negation before ends besides: a new statement after a comma or "and", unless
# a later "or" shows that the list goes on; "with"; a verb, which ends the clause of "no".
_STARTS = (
    r"(?:the|there|a|an|small|mild\w*|moderate\w*|large|severe\w*|minimal\w*|tiny|trace|stable"
    r"|unchanged|persistent|increas\w+|decreas\w+|improv\w+|worsen\w+|new|bilateral|residual|left"
    r"|right|low|subtle|patchy|linear|streaky|likely|probable|possible)"
)
NEGATION_STOP = (
    rf"(?:,(?: and)?| and) (?={_STARTS}\b)(?![^;]*\b(?:or|nor)\b)"
    r"|\b(?:with|is|are|was|were|has|have|due to|because of)\b"
)
# Where the reach of a hedge before ends besides.
HEDGE_STOP = (
    rf"(?:,(?: and)?| and) (?={_STARTS}\b)|,? with\b|\brather than\b"
    r"|\b(?:in the (?:setting|presence) of|related to the presence of|associated with"
    r"|accompanied by)\b"
)
