"""What the page says the miniature understands is what it was taught."""

import re

from space.texts import MINIATURE
from tools.miniature.captions import vocabulary


def test_the_examples_and_the_list_are_in_the_taught_vocabulary():
    listed = re.findall(r"— (.+?)(?=\n\n|\n\*\*|$)", MINIATURE.knows, re.DOTALL)
    said = " ".join([*(text for text, *_ in MINIATURE.examples), *listed]).lower()
    unknown = set(re.findall(r"[a-z]+", said)) - {
        word for entry in vocabulary() for word in re.findall("[a-z]+", entry)
    }
    assert not unknown
    assert len(listed) == 2
