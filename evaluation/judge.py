"""Whether a picture shows what its prompt says, asked of a vision-language model behind an OpenAI-compatible endpoint.

python -m evaluation score runs/NAME --real FOLDER --judge http://localhost:8000/v1 --judge-model Qwen/Qwen3-VL-8B

As VQAScore (Lin et al., ECCV 2024): the probability of "yes" to the question whether the picture shows the prompt,
which names content only. OPENAI_API_KEY is sent where it is set.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai

from evaluation.evidence import ScoreInputs
from evaluation.rows import FACTS, compared, not_computed, sides_of
from impressionism.errors import UserError
from impressionism.files import data_url, thumbnail
from impressionism.records import Metric

QUESTION = 'Does this picture show "{text}"? Judge what is depicted, not the style. Answer with yes or no only.'
SIDE = 512  # pixels of the picture that is sent
AT_ONCE = 4  # requests
TIMEOUT = 120.0  # seconds for an answer


def judge_rows(evidence: ScoreInputs, endpoint: str | None, model: str | None) -> list[Metric]:
    """The row of prompt fidelity, and the column `shown` of the plain pictures: 0 to 1."""
    if not endpoint or not model:
        return not_computed("judge", "Not computed: no judge was named (--judge, --judge-model).")
    pictures = evidence.pictures
    asked = np.concatenate([evidence.rows(arm) for arm in ("base", "adapter")])
    files = [evidence.run / "gallery" / pictures["file"][place] for place in asked]
    client = openai.OpenAI(base_url=endpoint, api_key=os.environ.get("OPENAI_API_KEY") or "none", timeout=TIMEOUT)
    with client, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda file, text: ask(client, model, file, text), files, pictures["text"][asked])
        pictures["shown"] = np.nan
        pictures.loc[asked, "shown"] = list(answers)
    found = compared(*sides_of(evidence, pictures["shown"]))
    return [Metric(name="judge-yes", weights=model, note="Probability of yes, as VQAScore.", **FACTS["yes"], **found)]


def ask(client: openai.OpenAI, model: str, file: Path, text: str) -> float:
    """Probability that the picture shows the text; 0 or 1 from an endpoint that gives no probabilities."""
    picture = data_url(thumbnail(file, SIDE), "jpeg", quality=90)
    shown = {"type": "image_url", "image_url": {"url": picture}}
    question = [shown, {"type": "text", "text": QUESTION.format(text=text)}]
    try:
        answer = client.chat.completions.create(
            model=model, max_tokens=1, temperature=0, logprobs=True, top_logprobs=10,
            messages=[{"role": "user", "content": question}],  # type: ignore[list-item]
        )  # fmt: skip
        choice = answer.choices[0]
        tokens = choice.logprobs.content[0].top_logprobs if choice.logprobs and choice.logprobs.content else []
        mass = {"yes": 0.0, "no": 0.0}
        for token in tokens:
            word = token.token.strip().lower()
            if word in mass:
                mass[word] += math.exp(token.logprob)
        if sum(mass.values()) > 0:
            return mass["yes"] / sum(mass.values())
        word = (choice.message.content or "").strip().lower().strip(".!")
    except openai.OpenAIError as error:
        raise UserError(f"The judge at {client.base_url} does not answer: {error}") from error
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            f"The judge at {client.base_url} does not answer as OpenAI's chat API does: {error!r}."
        ) from error
    if word not in ("yes", "no"):
        raise UserError(f"The judge at {client.base_url} answered {word!r:.40} to a question for yes or no.")
    return float(word == "yes")
