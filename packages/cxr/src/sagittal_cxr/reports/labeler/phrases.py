"""What names an observation: phrases and statements, as regular expressions over one sentence.

A sentence is in lower case with single blanks. A *phrase* names an observation by itself ("pleural
effusion"); whether it is there is said by cues around it. A phrase without an observation takes up
words that look like one but are not ("pericardial effusion"). A *statement* needs a subject and
what is said of it ("heart size is normal") and may share words with others.

The phrases follow what CheXpert's paper (arXiv 1901.07031) and its labels' names take each
observation to be; they are written for this project. No pattern has a group of its own, and none of
a phrase asks for what follows it.
"""

from __future__ import annotations

from typing import NamedTuple

from sagittal_cxr.records import NEGATIVE, POSITIVE, UNCERTAIN

# Up to four words that do not turn the meaning round.
_GAP = r"(?: (?!no\b|not\b|without\b|normal\b|but\b|cannot\b|difficult\b)[\w/'-]+,?){0,4}?"
_NORMAL = (
    r"(?:normal|unremarkable|within (?:the )?normal (?:limits?|range)"
    r"|not (?:\w+ly )?(?:enlarged|widened|increased))"
)


class Phrase(NamedTuple):
    """Phrases of an observation.

    Attributes:
        observation: One of the 14 or None: these words mean nothing here.
        patterns: Regular expressions.
    """

    observation: str | None
    patterns: tuple[str, ...]


# Earlier patterns win where two begin at the same place.
PHRASES: tuple[Phrase, ...] = (
    Phrase(
        None,
        (
            r"(?:pericardial|joint|knee|subdural) effusions?",
            (
                r"(?:subcutaneous|soft[ -]tissue|body wall|chest wall|peripheral|pedal|facial|"
                r"laryngeal) (?:o?edema|air|gas)"
            ),
            r"mass effect",
            r"body mass",
            r"breast mass(?:es)?",
            r"mediastinal mass(?:es)?",
            r"masses? in the breast",
            r"(?:calcified|nipple) nodul\w+",
            r"nipple shadows?",
            (
                r"(?:bon[ey]|osseous|rib|lytic|sclerotic|hepatic|liver|vertebral|thyroid|"
                r"skin) (?:lesions?|mass(?:es)?|nodules?|metasta\w+)"
            ),
            r"(?:vertebral|spinal)(?: body)? collapse",
            r"stomach collapse",
            r"collapsed stomach",
            r"(?:bone|bony|breast|mineral|soft tissue|lung) density(?! in| at| projecting)",
            r"density of (?:the )?(?:bones?|breasts?)",
            r"(?:nasal|sinus) congestion",
            (
                r"(?:to detect|detection of|sensitivity for) (?:[\w-]+ ){0,2}(?:pneumothora\w+|"
                r"effusions?|nodules?|fractures?)"
            ),
        ),
    ),
    Phrase(
        "Support Devices",
        (r"fractured (?:median )?(?:sternotomy|sternal|cerclage) wires?",),
    ),
    Phrase(
        None,
        (
            r"mid[ -]?line",
            r"in line with",
            r"in[ -]line",
            r"catheterization",
            r"intubat\w+",
            r"extubat\w+",
        ),
    ),
    Phrase(
        "Pleural Other",
        (
            (
                r"(?:bi-?)?apical(?: pleural| pleuro-?parenchymal)? (?:thickening|scarring|"
                r"capping|caps?)"
            ),
            (
                r"pleural(?: and| or| based)?(?: [\w/-]+){0,1}? (?:thickening|scar(?:ring)?|"
                r"plaques?|calcifications?|fibrosis|disease|abnormalit(?:y|ies)|lesions?|"
                r"mass(?:es)?|tags?)"
            ),
            r"pleuro-?parenchymal (?:scarring|thickening)",
            r"fibrothorax",
            r"thickened pleura",
            r"calcified pleura\w*",
        ),
    ),
    Phrase(
        "Pleural Effusion",
        (
            r"(?:pleural )?effusions?",
            r"effusive",
            r"h(?:a?em|ydr)othora(?:x|ces|xes)",
            r"empyemas?",
            r"pleural (?:[\w-]+ )?(?:fluid|collections?)",
            r"(?:loculated|layering|fissural) (?:pleural )?fluid",
            r"fluid (?:with)?in the (?:[\w-]+ ){0,2}(?:pleura\w*|fissures?)",
        ),
    ),
    Phrase(
        "Pneumothorax",
        (
            r"(?:hydro|hemo|haemo)?-?pneumothor\w*",
            r"ptx",
            r"pneumothoraces",
            r"(?:loculated )?pleural (?:air|gas)",
        ),
    ),
    Phrase(
        "Cardiomegaly",
        (
            r"cardiomegaly",
            r"(?:cardiac|heart|cardiac silhouette) enlargement",
            r"enlarged (?:heart|cardiac (?:silhouette|shadow|contours?|size))",
            r"(?:bi)?ventricular (?:enlargement|dilatation)",
            r"enlargement of (?:the )?(?:heart|cardiac (?:silhouette|shadow|contours?))",
        ),
    ),
    Phrase(
        "Enlarged Cardiomediastinum",
        (
            r"(?:cardio)?mediastinal (?:[\w-]+ )?(?:widening|enlargement|fullness)",
            (
                r"(?:widen(?:ed|ing)|enlarge(?:d|ment)|distended|prominen(?:t|"
                r"ce))(?: of)?(?: the)?(?: superior| upper)? (?:cardio-?)?mediastin(?:um|"
                r"al (?:silhouettes?|contours?)|al)"
            ),
        ),
    ),
    Phrase(
        "Edema",
        (
            r"o?edema(?:tous)?",
            (
                r"(?:vascular|venous|pulmonary|interstitial|central|hilar|"
                r"vessel)(?: [\w-]+)? congestion"
            ),
            r"congestion",
            r"congested",
            r"decongestion",
            (
                r"(?:pulmonary )?(?:vascular|vessel) (?:prominence|plethora|engorgement|"
                r"indistinctness|fullness)"
            ),
            r"cephali[sz]ation",
            r"(?:vascular|upper (?:zone|lobe)) redistribution",
            r"kerley(?:[ -]b)? lines?",
            r"(?:fluid|volume) overload",
            (
                r"(?:engorge(?:d|ment)|indistinct(?:ness)?|prominen(?:t|"
                r"ce))(?: of)?(?: the)?(?: central| hilar| pulmonary){0,2} (?:vascul\w+|vessels)"
            ),
        ),
    ),
    Phrase(
        "Atelectasis",
        (
            r"atelecta\w+",
            r"collapsed?",
            r"collapses",
        ),
    ),
    Phrase(
        "Consolidation",
        (r"consolidat(?:ions?|ed|ive|ing)",),
    ),
    Phrase(
        "Pneumonia",
        (
            r"(?:broncho-?)?pneumonias?",
            r"pneumonic",
            r"infect(?:ions?|ious|ive)",
        ),
    ),
    Phrase(
        "Lung Lesion",
        (
            r"nodul(?:es?|ar(?:ity)?)",
            r"mass(?:es|like)?",
            r"(?:[a-z]+ )?lesions?",
            r"neoplas\w+",
            r"malignanc(?:y|ies)",
            r"carcinoma\w*",
            r"cancers?",
            r"tumou?rs?",
            r"metasta(?:sis|ses|tic)",
            r"cavitary (?:mass|nodules?)",
            r"cavitations?",
        ),
    ),
    Phrase(
        "Lung Opacity",
        (
            r"opaci\w+",
            r"infiltrat(?:es?|ions?|ive)",
            r"densit(?:y|ies)",
            r"ground[ -]?glass",
            (
                r"(?:air ?-?space|alveolar|parenchymal|interstitial|reticular|"
                r"infiltrative)(?: [\w-]+)? (?:disease|process|abnormalit(?:y|ies)|filling|"
                r"changes?|markings?|pattern|thickening)"
            ),
            r"haz(?:e|iness)",
            r"reticulations?",
            r"white-?out",
        ),
    ),
    Phrase(
        "Fracture",
        (
            r"fractur\w+",
            r"fx",
        ),
    ),
    Phrase(
        "Support Devices",
        (
            (
                r"(?:(?:chest|pleural|pigtail|et|endotracheal|tracheostomy|ng|nasogastric|og|"
                r"orogastric|enteric|feeding|esophageal|drainage|gastrostomy|"
                r"dobbhoff) )?(?:tubes?|catheters?)"
            ),
            r"piccs?",
            r"pic lines?",
            r"port-?a-?cath\w*",
            r"mediport",
            r"chemo ?port",
            r"ett",
            r"ngt",
            r"ogt",
            r"tracheostomy",
            r"trach",
            r"dob+hoff",
            r"pig ?tails?",
            r"drains?",
            r"drainage catheters?",
            (
                r"(?:central|venous|jugular|ij|subclavian|femoral|dialysis|pheresis|arterial|"
                r"access|hickman|cvl?)(?: [\w-]+){0,2}? lines?"
            ),
            r"lines (?:and|are|end\w*|tubes|terminat\w*)",
            (
                r"(?:support|monitoring)(?: and (?:support|monitoring))? (?:lines|devices?|"
                r"apparatus|hardware)"
            ),
            r"devices?",
            r"pace-?makers?",
            r"pacers?",
            r"pacing",
            r"defibrillators?",
            r"a?icd",
            (
                r"leads? (?:is|are|in|at|end\w*|terminat\w*|project\w*|over\w*|extend\w*|"
                r"unchanged|intact|position\w*)"
            ),
            r"swan[ -]?ganz",
            r"stents?",
            r"endografts?",
            r"hardware",
            r"prosthe\w+",
            r"(?:sternotomy|sternal|cerclage|median sternotomy) (?:wires?|sutures?|cerclage)",
            r"wires",
            r"balloon pump",
            r"iabp",
            r"impella",
            r"[lr]?vad",
            r"assist device",
            r"loop recorder",
            r"\w*stimulators?",
            r"cannulas?",
            r"cannulae",
            r"introducer(?: sheath)?",
            r"sheath",
            r"ivc filter",
            r"valve replacements?",
            (r"(?:prosthetic|replaced|artificial|mechanical|bioprosthetic|bronchial) valves?"),
            r"(?:temperature|esophageal) probes?",
            r"(?:spinal|fixation|fusion) (?:rods?|plates?|screws?)",
            r"rods",
            r"screws",
        ),
    ),
)


class Statement(NamedTuple):
    """A sentence's part that says something of an observation as a whole.

    Attributes:
        observation: One of the 14.
        pattern: Regular expression.
        status: What it says.
        final: Whether no cue changes that. An uncertain statement that is not final is a hint: a
            negation takes it away, and nothing makes it positive.
    """

    observation: str
    pattern: str
    status: int = POSITIVE
    final: bool = False


_HEART = (
    r"\b(?:heart|cardiac)(?: and [\w-]+)?(?: size| silhouettes?| shadow| contours?| borders?)?"
    r"(?: size)?"
)
_MEDIASTINUM = r"\b(?:cardio-?)?mediastin(?:um|al)"
_FAILURE = r"\b(?:heart failure|chf|cardiac decompensation|cardiac failure)\b"

STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "Cardiomegaly",
        rf"{_HEART}{_GAP} (?:enlarged|increased in size|prominent|large|enlargement)\b",
    ),
    Statement(
        "Cardiomegaly",
        r"\bborderline (?:\w+ )?(?:cardi\w+|heart|enlarged)"
        rf"|{_HEART} (?:size )?(?:is |are |appears )?(?:at )?borderline",
        UNCERTAIN,
        final=True,
    ),
    Statement(
        "Cardiomegaly",
        rf"\b(?:heart|cardiac)\b(?:,? (?!enlarge|increase)[\w/-]+){{0,8}}? {_NORMAL}(?! caliber)",
        NEGATIVE,
        final=True,
    ),
    Statement(
        "Cardiomegaly",
        r"\bnormal(?: in)? (?:heart|cardiac)(?: and [\w-]+)? (?:size|silhouette|shadow|contours?)",
        NEGATIVE,
        final=True,
    ),
    Statement("Cardiomegaly", _FAILURE, UNCERTAIN),
    Statement("Edema", _FAILURE),
    Statement(
        "Edema",
        rf"\b(?:vascul\w+|vessels){_GAP} (?:congested|engorged|indistinct|prominent|distended)\b",
    ),
    Statement(
        "Edema",
        rf"\bpulmonary (?:vascul\w+|vessels) (?:is |are |appears? )?{_NORMAL}",
        NEGATIVE,
        final=True,
    ),
    Statement(
        "Enlarged Cardiomediastinum",
        rf"{_MEDIASTINUM}{_GAP} (?:widened|enlarged|prominent|widening)\b",
    ),
    Statement(
        "Enlarged Cardiomediastinum",
        rf"{_MEDIASTINUM}\b(?:,? (?!enlarge|widen)[\w/-]+){{0,6}}? {_NORMAL}",
        NEGATIVE,
        final=True,
    ),
    Statement(
        "Enlarged Cardiomediastinum",
        r"\bnormal (?:[\w,-]+ ){0,3}?(?:cardio-?)?mediastin(?:um|al)",
        NEGATIVE,
        final=True,
    ),
    # "The right lung is clear" says nothing of the other; "otherwise clear" says the opposite.
    Statement(
        "Lung Opacity",
        r"(?:^|[^\w ] |\b(?:the|both|and|bilateral) )lungs(?: fields)? (?:are |appear |remain )?"
        r"(?:both |grossly |essentially |well[ -]\w+ and |\w+ and )?clear\b"
        r"(?! (?:aside|apart|except|other))|\bclear lungs\b",
        NEGATIVE,
        final=True,
    ),
    Statement("Lung Opacity", r"\bnodular opaci\w+"),
    Statement("Pleural Effusion", r"\b(?:hydro|hemo|haemo)-?pneumothor\w*"),
    Statement(
        "Pleural Other",
        r"\bpleural (?:fluid|effusions?)(?: [\w-]+)? ?(?:/|and/or|or|and) (?:[\w-]+ )?thickening",
    ),
)

# Every statement has one of these words; most sentences have none.
MAY_STATE = r"heart|cardi|mediastin|lungs|chf|vascul|vessel|pneumothor|thicken|nodular"
