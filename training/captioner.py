"""What writes the captions: a vision-language model in this process, or one behind an endpoint."""

import os
from typing import Any, Protocol
from urllib.parse import urlparse

from huggingface_hub import get_token
from PIL import Image

from impressionism.errors import UserError
from impressionism.files import data_url
from training.recipe import Caption, Model

HUB = "https://router.huggingface.co/v1"  # of the Hub's inference providers
TIMEOUT = 300.0  # seconds for an answer: a server on a CPU takes long
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
    """An OpenAI-compatible server, or the Hub's inference providers; several threads may call it. The client tries
    again after lost connections and where the server is busy, after the time that it names."""

    def __init__(self, wanted: Caption):
        import openai

        self.wanted = wanted
        self.takes_format = True  # response_format, until it says otherwise
        url, token = HUB if wanted.endpoint == "hf" else str(wanted.endpoint), get_token()
        self.on_the_hub = f".{urlparse(url).hostname}".endswith((".huggingface.co", ".huggingface.cloud", ".hf.space"))
        if wanted.endpoint == "hf" and not token:
            raise UserError("The Hub's inference providers need a login: run `hf auth login`.")
        key = token if self.on_the_hub else os.environ.get("OPENAI_API_KEY")  # nobody else is shown the Hub's token
        self.client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=TIMEOUT, max_retries=wanted.retries)

    def __call__(self, picture: Image.Image, prompt: str, *, as_json: bool) -> str:
        from openai import APIConnectionError, APIStatusError

        address = data_url(picture, "jpeg", quality=92)
        parts = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": prompt}]
        try:
            return self._answer([{"role": "user", "content": parts}], as_json=as_json)
        except APIStatusError as error:
            raise self._refusal(error.status_code) from None
        except APIConnectionError as error:
            raise NoCaption(str(error).rstrip(".").lower()) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise NoCaption("an answer that is no chat completion") from None

    def _answer(self, messages: list[Any], *, as_json: bool) -> str:
        from openai import BadRequestError, UnprocessableEntityError

        options: dict[str, Any] = {"model": self.wanted.model, "temperature": 0.0, "max_tokens": TOKENS}
        if as_json and self.takes_format:
            try:
                answer = self.client.chat.completions.create(
                    messages=messages, response_format={"type": "json_object"}, **options
                )
                return answer.choices[0].message.content or ""
            except (BadRequestError, UnprocessableEntityError):
                self.takes_format = False
        return self.client.chat.completions.create(messages=messages, **options).choices[0].message.content or ""

    def _refusal(self, status: int) -> Exception:
        """A UserError where no other picture would fare better."""
        login = "log in with `hf auth login`" if self.on_the_hub else "set OPENAI_API_KEY to a key that it takes"
        remedy = {
            401: login,
            402: "the account's credit is used up",
            403: f"the key may not use {self.wanted.model}; {login}",
            404: "it does not know the model or the address; set caption.model and caption.endpoint",
        }.get(status)
        if remedy:
            return UserError(f"{self.wanted.endpoint} refused (HTTP {status}): {remedy}.")
        return NoCaption(f"HTTP {status}")
