"""The content of a caption, without any word about how it is painted.

Where every caption names the style, the style is bound to those words. `content_of` removes the clauses about style
from a caption, so that the trigger alone can stand for the style.
"""

import re

STYLE = re.compile(
    r"\b(?:(?:post-?|neo-?)?impression(?:is[mt]\w*)?|brush\w*|strokes?|paint(?:s|ed|er\w*|ings?)?|canvas\w*"
    r"|art(?:s|ist\w*|works?)?|palettes?|oils?(?! (?:lamps?|lanterns?|jars?|cans?)\b)|water-?colou?rs?|pastels?(?!-)"
    r"|impasto|pigments?|gouache|charcoal|pencils?|drawings?(?! room)|sketch\w*|linework|portraits?|portray\w*"
    r"|depict\w*|render(?:s|ed|ings?)?|styl(?:e[sd]?|is\w*|iz\w*)|techniques?|compositions?|monochrom\w*|masterpieces?"
    r"|monet|renoir|pissarro|sisley|degas|manet|morisot|cassatt|c[eé]zanne|van gogh)\b",
    re.IGNORECASE,
)
"""Words on style, medium or art, which no caption of the content may hold."""

_LEAD = re.compile(  # "This is an impressionist style painting depicting "
    r"^(?:(?:this|the|it) (?:is )?)?(?:an? )?(?:[\w-]+,? ){0,4}?(?:painting|picture|image|artwork|drawing|sketch) "
    r"(?:of|depict(?:s|ing)|featur(?:es|ing)|show(?:s|ing)|portray(?:s|ing)|captur(?:es|ing)) ",
    re.IGNORECASE,
)
_MANNERS = (
    "loose|visible|textured|short|broken|thick|soft|blended|fluid|delicate|choppy|expressive|gestural|dynamic|rough|bold"
    "|swirling|feathery|rapid|quick|long|small|heavy|dense|gentle|subtle|energetic|free|smooth"
)
_PLAINER = (
    (re.compile(r"\b(?:an? )?(?:[\w-]+ )?portrait (?:of|featuring)\b ?", re.IGNORECASE), ""),  # "a somber portrait of"
    (re.compile(r"'s portrait\b", re.IGNORECASE), ""),  # "a woman's portrait"
    (re.compile(r"\bcomposition\b", re.IGNORECASE), "scene"),  # "trees dominating the composition"
    (re.compile(r"\bcharacteri[sz]ed by\b", re.IGNORECASE), "with"),
    (re.compile(rf"\b(?:(?:{_MANNERS})(?:,| and|, and)? )+brush ?(?:strokes?|work)\b", re.IGNORECASE), "brushwork"),
    (re.compile(r",? and brushwork\b"), ""),  # "soft light and brushwork": the light is content
    (re.compile(r"\bwith brushwork,? and (?=[^,.;]*\blight)"), "with "),
)
_DONE = "created|applied|rendered|depicted|painted|executed|captured"
_EFFECT = "creating|conveying|evoking|giving|lending|adding|capturing|emphasi[sz]ing|enhancing|suggesting|contributing"
_OPENERS = (
    "an?|the|its|his|her|their|with|in|on|near|under|beneath|beside|behind|against|where|as|featuring|using|leading"
    "|wearing|holding|seated|standing|set|seen|lit|bathed|illuminated|surrounded|framed|arranged|brushwork|dominant"
)
_BOUNDARY = re.compile(  # between two clauses; a list of adjectives or colours stays whole
    rf"(?<=[.!?])\s+"
    rf"|[,;]\s+(?=(?:and |all |while )?(?:{_OPENERS}|{_DONE}|{_EFFECT})\b)"
    rf"|(?<!\band)(?<!\ball)(?<!\bwhile)(?<!ly)\s+"
    rf"(?=(?:and |all |while )?(?:{_DONE}|{_EFFECT}|with|under|against|beneath|featuring|using)\b)",
    re.IGNORECASE,
)
_MOOD = re.compile(  # "creating a serene atmosphere", in nine captions of ten: as good as a word on style
    rf"(?:and |while )?(?:(?:{_EFFECT})\b.*\b(?:atmosphere|mood|feeling|sense|effect|depth|texture|scene)\b"
    r"|(?:an?|the|with)\b.*\b(?:atmosphere|mood)\.?$)",
    re.IGNORECASE,
)
_MADE = re.compile(rf"(?:and |all )*(?:{_DONE})\b", re.IGNORECASE)
_OF_STROKES = re.compile(rf"(?:and |while )?(?:{_EFFECT})\b", re.IGNORECASE)
_SEEN = re.compile(  # "rendered in soft light" is content once the verb is gone
    rf"^(?:and |all )*(?:{_DONE}) (?=(?:in|with) [^.;]*\blight|against|under|on|wearing|standing|seated|holding)",
    re.IGNORECASE,
)


def content_of(caption: str) -> str:
    """The caption without its clauses about style and mood; empty where it describes the subject in such words."""
    text = _LEAD.sub("", " ".join(caption.split()), count=1)
    for pattern, plainer in _PLAINER:
        text = pattern.sub(plainer, text)
    kept, left_out = "", ""
    for separator, clause in _clauses(text):
        seen = _SEEN.sub("", clause)
        effect = _MOOD.match(seen) or (left_out and _OF_STROKES.match(seen))
        if effect or _MADE.match(seen) or STYLE.search(seen):
            if not kept:
                return ""
            left_out = clause
            continue
        kept, left_out = kept + (_glue(kept, left_out) if left_out else separator) + seen, ""
    return kept.strip(" ,;.")


def style_words(text: str) -> list[str]:
    """Each word on style, once."""
    return sorted({word.lower() for word in STYLE.findall(text)})


def _glue(kept: str, left_out: str) -> str:
    """What joins what is kept with what comes after a clause left out."""
    ended = (".", "!", "?")
    return " " if kept.endswith(ended) else ". " if left_out.endswith(ended) else ", "


def _clauses(text: str) -> list[tuple[str, str]]:
    """(what stands before it, clause), which together are the text."""
    ends = [(match.start(), match.end()) for match in _BOUNDARY.finditer(text)]
    starts = [(0, 0), *ends]
    stops = [*(start for start, _ in ends), len(text)]
    return [(text[before:start], text[start:stop]) for (before, start), stop in zip(starts, stops, strict=True)]
