"""How a check tells what it found: a sentence for each fault, with the remedy where it is not plain."""


def when(*cases: tuple[object, str]) -> list[str]:
    """The sentences whose condition holds."""
    return [sentence for condition, sentence in cases if condition]
