"""What the page says the miniature understands is what it was taught."""

import re

from space.texts import MINIATURE
from tools.miniature.captions import vocabulary


def test_the_examples_and_the_chips_are_in_the_taught_vocabulary():
    chips = [text for group in MINIATURE.vocabulary.values() for text in group]
    said = " ".join([*(text for text, *_ in MINIATURE.examples), *chips]).lower()
    taught = {word for entry in vocabulary() for word in re.findall("[a-z]+", entry)}
    assert not set(re.findall("[a-z]+", said)) - taught
    assert len(MINIATURE.vocabulary) == 2
