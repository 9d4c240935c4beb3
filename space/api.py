"""The named endpoints, for programs and, as MCP tools, for agents: types come from the signatures, documentation from
the docstrings. What they take and give is version 1 of the API, held by a snapshot in the tests.

from gradio_client import Client
client = Client("http://127.0.0.1:7860")
picture, recipe = client.predict(prompt="a windmill at sunset", api_name="/generate")
"""

import dataclasses
import functools
import inspect
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import gradio as gr
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from gradio import caching, processing_utils, route_utils, routes
from gradio.route_utils import FnIndexInferError
from gradio_client.utils import is_file_obj_with_meta
from PIL import Image

from impressionism import paint
from impressionism.errors import UserError
from impressionism.records import GenerationParams
from space.errors import plain_words, sorry
from space.studio import Picture, Studio, delete_old, open_photograph, paced, real, sampling_of, weakest_first
from space.texts import words_for

VERSION = "1"  # a change that would break a program makes it 2, with a snapshot of its own
STRENGTHS = [0.0, 0.5, 1.0]
GUIDANCE = GenerationParams.guidance
SAVE = processing_utils.save_base64_to_cache
SUITED: Any = object()  # in a signature: the default that suits the painter, from defaults_of

One = tuple[gr.FileData, dict[str, Any]]
Pair = tuple[gr.FileData, gr.FileData, dict[str, Any]]
Row = tuple[list[gr.FileData], list[dict[str, Any]]]
Asked = tuple[GenerationParams, list[float], Image.Image | None, float | None]
"""What an endpoint asks of Studio.paint: what, at which strengths, over which photograph, and how far from it."""


def one(pictures: list[Picture]) -> tuple[Any, ...]:
    return (file_of(pictures[0]), pictures[0].recipe) if pictures else (None, None)


def pair(pictures: list[Picture]) -> tuple[Any, ...]:
    base, adapted = [*pictures, None, None][:2]
    return base and file_of(base), adapted and file_of(adapted), (adapted or base) and pictures[-1].recipe


def row(pictures: list[Picture]) -> tuple[Any, ...]:
    return [file_of(picture) for picture in pictures], [picture.recipe for picture in pictures]


def file_of(picture: Picture) -> Any:
    """gr.FileData as gr.api passes it on: as it is in JSON."""
    return gr.FileData(path=picture.path, mime_type="image/png").model_dump()


def uploaded(image: Any) -> str:
    """The path of an uploaded file; of these, and only these, Gradio has checked that they are uploads."""
    if not is_file_obj_with_meta(image):
        raise UserError("Upload the picture first, with gradio_client: handle_file('photograph.jpg').")
    return image["path"]


NOT_FETCHED = "Pictures are not fetched from the web. Download the picture, then upload it."


async def serve_nothing(url: str, *_: Any) -> None:
    """Gradio would also hand on what lies at any public address that is named in /file=…"""
    raise HTTPException(403, NOT_FETCHED)


async def fetch_nothing(url: str, *_: Any, **__: Any) -> str:
    """Gradio would fetch a picture from any public address that a visitor names."""
    raise in_turn(NOT_FETCHED)


def in_turn(sentence: str) -> Exception:
    """The refusal, when the call has its turn; before that, where Gradio asks for repeats, only that it is none."""
    return caching.CacheMissError() if caching._probe_mode_active.get() else sorry(sentence)


def save_sent(studio: Studio, encoded: str, *more: Any) -> str:
    """A picture that an agent sent as text, of the 4 MB that MCP lets through, is deleted like an upload."""
    path = SAVE(encoded, *more)
    studio.files.add(path)
    return path


def check_number(function: Any, values: Sequence[Any]) -> None:
    """Refuses a call with too few values; Gradio would print those that came, and prompts are not recorded."""
    has, needs = len(values), len(function.inputs)
    if has < needs:
        raise in_turn(f"The call has {has} values, and needs {needs}: /gradio_api/info names them.")


# ---- The endpoints: of each what it asks of the studio, with the signature and the documentation that a program sees


def generate(
    prompt: str,
    strength: float = 1.0,
    seed: int = 0,
    steps: int = SUITED,
    guidance: float = GUIDANCE,
    width: int = SUITED,
    height: int = SUITED,
) -> Asked:
    """Paint one picture. Returns a PNG (lossless, its recipe inside as text) and the recipe.

    Args:
        prompt: What to paint, in English.
        strength: Weight of the Impressionist adapter, -1 to 2: 0 is the base model exactly. Default 1.
        seed: Seed of the initial noise; the same settings give the same picture. Default 0.
        steps: Denoising steps.
        guidance: The distilled guidance of FLUX.1 [dev]. Default 3.5.
        width: Pixels, a multiple of 16.
        height: Pixels, a multiple of 16.
    """
    sampling = sampling_of(prompt, seed, steps, guidance, width, height)
    return sampling, [real(strength)], None, None


def compare(
    prompt: str,
    strength: float = 1.0,
    seed: int = 0,
    steps: int = SUITED,
    guidance: float = GUIDANCE,
    width: int = SUITED,
    height: int = SUITED,
) -> Asked:
    """Paint twice from the same noise. Returns the base model's PNG, the adapted PNG and its recipe.

    Args:
        prompt: What to paint, in English.
        strength: Weight of the Impressionist adapter in the second picture, -1 to 2. Default 1.
        seed: Seed of the initial noise that both pictures start from. Default 0.
        steps: Denoising steps.
        guidance: The distilled guidance of FLUX.1 [dev]. Default 3.5.
        width: Pixels, a multiple of 16.
        height: Pixels, a multiple of 16.
    """
    sampling = sampling_of(prompt, seed, steps, guidance, width, height)
    return sampling, [0.0, real(strength)], None, None


def sweep(
    prompt: str,
    strengths: list[float] = STRENGTHS,
    seed: int = 0,
    steps: int = SUITED,
    guidance: float = GUIDANCE,
    width: int = SUITED,
    height: int = SUITED,
) -> Asked:
    """Paint the same noise at several strengths, weakest first. Returns the PNGs and their recipes.

    Args:
        prompt: What to paint, in English.
        strengths: Weights of the Impressionist adapter, at most seven. Default [0, 0.5, 1].
        seed: Seed of the initial noise that every picture starts from. Default 0.
        steps: Denoising steps.
        guidance: The distilled guidance of FLUX.1 [dev]. Default 3.5.
        width: Pixels, a multiple of 16.
        height: Pixels, a multiple of 16.
    """
    sampling = sampling_of(prompt, seed, steps, guidance, width, height)
    return sampling, weakest_first(strengths), None, None


def repaint(
    image: gr.FileData,
    prompt: str,
    strength: float = 1.0,
    seed: int = 0,
    steps: int = SUITED,
    guidance: float = GUIDANCE,
    width: int = SUITED,
    height: int = SUITED,
    change: float = paint.CHANGE,
) -> Asked:
    """Paint over a photograph. Returns a PNG (lossless, its recipe inside as text) and the recipe.

    Args:
        image: The photograph, at most 10 MB; it is cropped to width x height.
        prompt: What the photograph shows, in English.
        strength: Weight of the Impressionist adapter, -1 to 2: 0 is the base model exactly. Default 1.
        seed: Seed of the noise that is mixed in. Default 0.
        steps: Denoising steps of a whole picture; a repaint runs the share that change asks for.
        guidance: The distilled guidance of FLUX.1 [dev]. Default 3.5.
        width: Pixels, a multiple of 16.
        height: Pixels, a multiple of 16.
        change: How far the photograph may change, 0 (hardly) to 1 (entirely). Default 0.6.
    """
    sampling = sampling_of(prompt, seed, steps, guidance, width, height)
    return sampling, [real(strength)], open_photograph(uploaded(image), sampling), real(change)


ENDPOINTS = ((generate, one, One), (compare, pair, Pair), (sweep, row, Row), (repaint, one, One))
"""What is asked, how the pictures are handed out, and the type of that."""


def status_of(studio: Studio) -> dict[str, Any]:
    words = words_for(studio.painter)
    return {
        "api": VERSION,
        "about": studio.painter.about,
        "filter": studio.guard.about(),
        "provenance": dataclasses.asdict(studio.painter.provenance),
        "knows": words.knows.strip(),
        "limits": studio.limits(),
        "defaults": defaults_of(studio),
        "sizes": words.sizes,
    }


def defaults_of(studio: Studio) -> dict[str, Any]:
    width, height = words_for(studio.painter).sizes["Square"]
    return {
        "strength": 1.0,
        "strengths": STRENGTHS,
        "seed": 0,
        "steps": paint.defaults(studio.painter, "").steps,
        "guidance": GUIDANCE,
        "width": width,
        "height": height,
        "change": paint.CHANGE,
    }


# ---- From there to Gradio


def add_endpoints(studio: Studio, painting: dict[str, Any]) -> None:
    """Adds the endpoints to the Blocks being built; painting is what all painting events have in common."""
    processing_utils.async_ssrf_protected_download = fetch_nothing
    processing_utils.save_base64_to_cache = functools.partial(save_sent, studio)
    routes.secure_url_stream_response = serve_nothing
    route_utils.delete_files_created_by_app = delete_old
    page = gr.context.Context.root_block
    assert page is not None, "endpoints are added inside `with gr.Blocks()`"
    page.temp_file_sets.append(studio.files)
    page.validate_inputs = check_number

    def status() -> dict[str, Any]:
        """Which model is painting, what it knows, its limits and the defaults."""
        return status_of(studio)

    for ask, answer, returns in ENDPOINTS:
        gr.api(streamed(studio, ask, answer, returns), api_name=ask.__name__, **painting)
    gr.api(status, api_name="status", queue=False)


def streamed(studio: Studio, ask: Callable[..., Asked], answer: Callable[[list[Picture]], Any], returns: Any) -> Any:
    """An endpoint with the signature and documentation of ask. At every step it sends the pictures that are finished,
    so that it can be cancelled and a failure leaves what there is. Repeats are answered without the queue."""

    @functools.wraps(ask)
    def endpoint(*values: Any, **named: Any) -> Iterator[Any]:
        if caching._probe_mode_active.get():  # Gradio asks, before it puts the call into the queue
            yield answer(repeated(studio, lambda: ask(*values, **named)))
            return
        with plain_words():
            asked = ask(*values, **named)
        pictures: list[Picture] = []
        with closing(studio.paint(*asked)) as progress:
            for event in paced(progress):
                pictures += [event] if isinstance(event, Picture) else []
                yield answer(pictures)

    suited, parameters = defaults_of(studio), inspect.signature(ask).parameters
    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(default=suited[name]) if each.default is SUITED else each for name, each in parameters.items()],
        return_annotation=returns,
    )
    if "image" not in parameters:  # photographs are decoded one at a time, in the queue
        endpoint.cache = True  # type: ignore[attr-defined]  # have Gradio ask
    return endpoint


def repeated(studio: Studio, ask: Callable[[], Asked]) -> list[Picture]:
    """What was painted before; anything else, mistakes too, waits for its turn."""
    try:
        pictures = studio.remembered(*ask())
    except (UserError, gr.Error):
        pictures = None
    if not pictures:
        raise caching.CacheMissError
    return pictures


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """A call of an endpoint that does not exist, or with wrong fields: Gradio makes it an Internal Server Error."""
    before, _, endpoint = request.url.path.rstrip("/").rpartition("/")
    if not before.endswith(("/call", "/call/v2")):
        raise error
    fields = {ask.__name__: [*inspect.signature(ask).parameters] for ask, *_ in ENDPOINTS} | {"status": []}
    unknown = re.match(r"Parameter `(.+)` is not", str(error), re.DOTALL)
    missing = re.match(r"No value provided for required argument: (\w+)", str(error))
    if endpoint not in fields:
        return JSONResponse({"detail": f"There is no endpoint {endpoint}; there are {', '.join(fields)}."}, 404)
    if unknown:
        takes = ", ".join(fields[endpoint]) or "none"
        return JSONResponse({"detail": f"There is no field {reprlib.repr(unknown[1])}; {endpoint} takes {takes}."}, 422)
    if missing:
        return JSONResponse({"detail": f"The field {missing[1]} is missing."}, 422)
    raise error


REFUSALS = {KeyError: refuse, TypeError: refuse, FnIndexInferError: refuse}
"""The handlers for FastAPI, which serves Gradio's page."""
