"""What writes the captions: a vision-language model in this process, or one behind an endpoint."""

import contextlib
import email.utils
import os
import random
import re
import time
from typing import Any, Protocol
from urllib.parse import urlparse

from huggingface_hub import InferenceClient, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from PIL import Image

from impressionism.errors import UserError
from impressionism.files import data_url
from training.recipe import Caption, Model

TIMEOUT = 300.0  # seconds for an answer: a server on a CPU takes long
BACKOFF = 1.0  # seconds before the second try; doubled for each further one
LONGEST_WAIT = 300.0  # seconds, whatever Retry-After says
TOKENS = 2048  # of an answer: some models think first


class NoCaption(Exception):
    """Why this picture gets none now."""


class Captioner(Protocol):
    def __call__(self, picture: Image.Image, prompt: str, *, as_json: bool) -> str:
        """The model's answer; `as_json` says that the prompt asks for JSON."""
        ...


class Local:
    """The model in this process, through transformers: one picture at a time, always the likeliest word."""

    def __init__(self, wanted: Caption, model: Model):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from training.runtime import resolve_runtime

        runtime = resolve_runtime(model)
        self.device, self.dtype = runtime.device, runtime.dtype
        self.max_new_tokens = 256 + 4 * wanted.max_words  # both captions, and the JSON around them
        try:
            self.processor = AutoProcessor.from_pretrained(wanted.model)
            loaded = AutoModelForImageTextToText.from_pretrained(wanted.model, dtype=self.dtype)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise UserError(
                f"caption.model {wanted.model!r} does not load as a vision-language model of transformers "
                f"({' '.join(str(error).split())}): name another, or set caption.endpoint."
            ) from None
        self.model = loaded.to(self.device).eval()  # type: ignore[arg-type]

    def __call__(self, picture: Image.Image, prompt: str, *, as_json: bool) -> str:
        import torch

        parts = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(self.device, self.dtype)  # fmt: skip
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)
        return self.processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class Endpoint:
    """An OpenAI-compatible server, or the Hub's inference providers; several threads may call it."""

    def __init__(self, wanted: Caption):
        self.wanted = wanted
        self.takes_format = True  # response_format, until it says otherwise
        self.url = None if wanted.endpoint == "hf" else wanted.endpoint
        if self.url is None and not get_token():
            raise UserError("The Hub's inference providers need a login: run `hf auth login`.")
        # else the client would show the Hub's token to whoever serves there
        key = None if self._on_the_hub() else os.environ.get("OPENAI_API_KEY") or "none"
        self.client = InferenceClient(provider="auto", base_url=self.url, api_key=key, timeout=TIMEOUT)

    def __call__(self, picture: Image.Image, prompt: str, *, as_json: bool) -> str:
        parts = [
            {"type": "image_url", "image_url": {"url": data_url(picture, "jpeg", quality=92)}},
            {"type": "text", "text": prompt},
        ]
        messages = [{"role": "user", "content": parts}]
        for attempt in range(self.wanted.retries + 1):
            try:
                return self._answer(messages, as_json=as_json)
            except HfHubHTTPError as error:
                self._raise_if_final(error)
                reason, delay = f"HTTP {error.response.status_code}", _retry_after(error)
            except (HTTPError, OSError) as error:  # no answer, or half of one
                reason, delay = _kind(error), 0.0
            except (ValueError, LookupError, TypeError, AttributeError):  # an answer, but no chat completion
                reason, delay = "an answer that is no chat completion", 0.0
            if attempt < self.wanted.retries:
                time.sleep(min(LONGEST_WAIT, max(delay, BACKOFF * 2**attempt * random.uniform(0.5, 1))))
        raise NoCaption(reason)

    def _answer(self, messages: list[dict], *, as_json: bool) -> str:
        # json_object: the client turns a json_schema for a server of one's own into TGI's dialect
        options: dict[str, Any] = {"model": self.wanted.model, "temperature": 0.0, "max_tokens": TOKENS}
        json_only: dict[str, Any] = (
            {"response_format": {"type": "json_object"}} if as_json and self.takes_format else {}
        )
        try:
            answer = self.client.chat_completion(messages, **options, **json_only)
        except HfHubHTTPError as error:
            if not json_only or error.response.status_code not in (400, 422, 501):
                raise
            answer = self.client.chat_completion(messages, **options)
            self.takes_format = False
        return answer.choices[0].message.content or ""

    def _raise_if_final(self, error: HfHubHTTPError) -> None:
        """Raises unless another try may help."""
        status = error.response.status_code
        login = "log in with `hf auth login`" if self._on_the_hub() else "set OPENAI_API_KEY to a key that it takes"
        remedy = {
            401: login,
            402: "the account's credit is used up",
            403: f"the key may not use {self.wanted.model}; {login}",
            404: "it does not know the model or the address; set caption.model and caption.endpoint",
        }.get(status)
        if remedy:
            raise UserError(f"{self.wanted.endpoint} refused (HTTP {status}): {remedy}.") from None
        if status not in (408, 409, 425, 429) and status < 500:
            raise NoCaption(f"HTTP {status}") from None

    def _on_the_hub(self) -> bool:
        host = urlparse(self.url or "https://huggingface.co").hostname or ""
        return f".{host}".endswith((".huggingface.co", ".huggingface.cloud", ".hf.space"))


def _retry_after(error: HfHubHTTPError) -> float:
    """Seconds to wait, as the server's header has them: a number or a date."""
    value = error.response.headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


def _kind(error: Exception) -> str:
    """ReadTimeout → "read timeout"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
