"""What goes wrong on the way to a picture, as sentences that say what to do about it."""

import html
import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from impressionism.errors import UserError

logger = logging.getLogger(__name__)
TITLE = "Not painted"
QUOTA = "The gallery and whatever was painted in the last hour cost nothing."

# ZeroGPU's errors, as spaces.zero words them, the first that is found in "title: message": what a visitor can do.
# A field in braces is a group of the pattern.
ZEROGPU = [
    (
        r"illegal duration.*?\((?P<asked>\d+)s\)",
        "This needs a GPU for {asked} s, longer than ZeroGPU lends one at a time. Waiting does not help: "
        "take fewer steps, a smaller picture or fewer strengths.",
    ),
    (
        r"reached its GPU limit|after 60s\. Try re-running",
        "ZeroGPU could not tell who is asking, so it lent no GPU. Reload the page, sign in to Hugging Face, try again.",
    ),
    (
        r"runs limit",
        f"Your ZeroGPU runs for today are used up. They come back within 24 hours. {QUOTA}",
    ),
    (
        r"quota.*?\((?P<asked>\d+)s requested vs\. (?P<left>-?\d+)s left\)\. Try again in (?P<wait>[\w ,:]+)",
        "This needs {asked} s of your ZeroGPU quota and {left} s are left; more comes in {wait}. Fewer steps, a "
        f"smaller picture or fewer strengths may fit now. {QUOTA} Duplicating the Space does not help: the quota is "
        "yours, not the Space's. If you are signed in and this surprises you, reload the page.",
    ),
    (
        r"pending credits",
        "Other paintings of yours are still running and hold all your ZeroGPU credits. Try again when they are done.",
    ),
    (
        r"queue timeout|No GPU was available",
        "All GPUs are lent out just now. Your settings are kept, and nothing was charged: try again in a minute.",
    ),
    (
        r"Expired ZeroGPU proxy token",
        "The page was open for so long that ZeroGPU no longer knows who you are. Reload it and try again.",
    ),
    (
        r"GPU task aborted",
        "The GPU's time ran out, or its process died, before this was painted. Pictures shown are finished. Try again; "
        "if it happens twice, with fewer steps, a smaller picture or fewer strengths.",
    ),
    (
        r"worker error: (?P<kind>\w+)",
        "Painting stopped unexpectedly on the GPU ({kind}). Your settings are kept: try again, and if it happens "
        "twice, with a smaller picture or fewer steps.",
    ),
    (r"ZeroGPU", "ZeroGPU could not lend a GPU. Your settings are kept: reload the page and try again."),
]


def advice(problem: gr.Error) -> gr.Error:
    """An error of ZeroGPU's with its advice; any other one as it is."""
    said = f"{problem.title}: {problem.message}"
    for pattern, sentence in ZEROGPU if "ZeroGPU" in said else []:
        if match := re.search(pattern, said):
            return sorry(sentence.format(**match.groupdict()))
    return problem


def sorry(message: str) -> gr.Error:
    """The page shows an error's message as HTML, and it may quote what a visitor wrote."""
    return gr.Error(html.escape(message, quote=False), title=TITLE, print_exception=False)


@contextmanager
def plain_words() -> Iterator[None]:
    """Whatever goes wrong inside reaches the visitor as a sentence; what the visitor wrote is not logged."""
    try:
        yield
    except gr.Error as problem:
        raise advice(problem) from None
    except UserError as problem:
        raise sorry(str(problem)) from None
    except MemoryError:
        raise sorry("There is not enough memory for this: take a smaller picture.") from None
    except Exception as problem:
        where = "".join(traceback.format_tb(problem.__traceback__))  # not its message, which may quote a prompt
        logger.error("A picture could not be painted: %s\n%s", type(problem).__name__, where)
        raise sorry(unexpected(problem)) from None


def unexpected(problem: Exception) -> str:
    if type(problem).__name__ == "OutOfMemoryError":  # torch.cuda's
        return "The GPU's memory does not hold this: take a smaller picture."
    if "by visitor" in str(problem):  # spaces: the page was closed while it waited for a GPU
        return "The page was closed while it waited for a GPU; nothing was painted."
    return (
        f"Painting stopped unexpectedly ({type(problem).__name__}). Your settings are kept: try again, "
        "and if it happens twice, with a smaller picture or fewer steps."
    )
