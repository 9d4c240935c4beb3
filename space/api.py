"""The named endpoints, for programs and, as MCP tools (agents.py), for agents. What they take and give is version 1 of
the API, held by a snapshot in the tests; a parameter may be added if it has a default.

from gradio_client import Client
client = Client("http://127.0.0.1:7860")
picture, recipe = client.predict(prompt="a cottage at sunset", api_name="/generate")
"""

import inspect
import re
import reprlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import gradio as gr
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from gradio.route_utils import FnIndexInferError
from gradio_client.utils import is_file_obj_with_meta

from impressionism import paint
from impressionism.errors import UserError
from impressionism.records import BlockStrengths, GenerationParams
from space import gate
from space.errors import plain_words
from space.jobs import Step, Visitor, Waiting, in_thread, visitor_here
from space.studio import MOST_STRENGTHS, Picture, Request, Studio, blocks_of, real, sampling_of, weakest_first, whole
from space.texts import words_for

VERSION = "1"  # a change that would break a program makes it 2, with a snapshot of its own
STRENGTHS = [0.0, 0.5, 1.0]
GUIDANCE = GenerationParams.guidance

One = tuple[gr.FileData, dict[str, Any]]
Pair = tuple[gr.FileData, gr.FileData, dict[str, Any]]
Row = tuple[list[gr.FileData], list[dict[str, Any]]]


class Parameter(NamedTuple):
    """What an endpoint takes; its default is in defaults_of, where it has one."""

    type: Any
    meaning: str


LOW, HIGH = paint.LIMITS["strength"]
UPLOAD = gate.sized(gate.LIMITS["upload"])
BLOCKS = "Multiplies the strength, {} to {}, in".format(*paint.LIMITS["blocks"])
PARAMETERS = {
    "image": Parameter(gr.FileData, f"The photograph, at most {UPLOAD}; it is cropped to width x height."),
    "prompt": Parameter(str, "What to paint, in English; for repaint, what the photograph shows."),
    "strength": Parameter(float, f"Weight of the Impressionist adapter, {LOW} to {HIGH}: 0 is the base model exactly."),
    "strengths": Parameter(
        list[float], f"Weights of the Impressionist adapter, at most {MOST_STRENGTHS}. Default {STRENGTHS}."
    ),
    "seed": Parameter(int, "Seed of the initial noise; the same settings give the same picture. Default 0."),
    "steps": Parameter(int, "Denoising steps; repaint runs the share that change asks for."),
    "guidance": Parameter(float, f"The distilled guidance of FLUX.1 [dev]. Default {GUIDANCE}."),
    "width": Parameter(int, "Pixels, a multiple of 16."),
    "height": Parameter(int, "Pixels, a multiple of 16."),
    "change": Parameter(float, f"How much to change the photo, 0 (hardly) to 1 (entirely). Default {paint.CHANGE}."),
    "count": Parameter(
        int,
        f"Pictures or pairs, 1 to {paint.MOST_SEEDS}, from seed, seed + 1 … Above 1 each value that is returned is a "
        "list. Default 1.",
    ),
    "fast": Parameter(bool, "Few steps with an accelerator under both pictures; set steps lower, too. Default False."),
    "adapter": Parameter(str, "One of the adapters that /status lists; empty is the first. Default empty."),
    "two_stream": Parameter(float, f"{BLOCKS} the two-stream blocks. Default 1.0."),
    "early_single": Parameter(float, f"{BLOCKS} the early single-stream blocks (10 of FLUX.1's 38). Default 1.0."),
    "late_single": Parameter(float, f"{BLOCKS} the late single-stream blocks (the other 28). Default 1.0."),
}
COMMON = ("seed", "steps", "guidance", "width", "height")
EXTRA = ("count", "fast", "adapter", *BlockStrengths().to_dict())
"""Added since version 1 was published."""


class Endpoint(NamedTuple):
    """One way to paint."""

    about: str
    takes: tuple[str, ...]
    gives: Any
    named: tuple[str, ...]
    """What the returned values are."""
    answer: Callable[[list[Picture], int], tuple[Any, ...]]
    """The returned values of the pictures that are finished, for so many seeds."""


def one(pictures: list[Picture], count: int) -> tuple[Any, ...]:
    if count > 1:
        return row(pictures, count)
    return (file_of(pictures[0]), pictures[0].recipe) if pictures else (None, None)


def pair(pictures: list[Picture], count: int) -> tuple[Any, ...]:
    if count > 1:
        adapted = pictures[1::2]
        return [*map(file_of, pictures[::2])], [*map(file_of, adapted)], [picture.recipe for picture in adapted]
    first, second = [*pictures, None, None][:2]
    return first and file_of(first), second and file_of(second), (second or first) and pictures[-1].recipe


def row(pictures: list[Picture], count: int) -> tuple[Any, ...]:
    return [file_of(picture) for picture in pictures], [picture.recipe for picture in pictures]


def file_of(picture: Picture) -> Any:
    """gr.FileData as gr.api passes it on: as it is in JSON."""
    return gr.FileData(path=picture.path, mime_type="image/png").model_dump()


ENDPOINTS = {
    "generate": Endpoint(
        "Paint one picture. Returns a PNG (lossless, its recipe inside as text) and the recipe.",
        ("prompt", "strength", *COMMON, *EXTRA), One, ("picture", "recipe"), one,
    ),
    "compare": Endpoint(
        "Paint twice from the same noise. Returns the base model's PNG, the adapted PNG and its recipe.",
        ("prompt", "strength", *COMMON, *EXTRA), Pair, ("base", "adapted", "recipe"), pair,
    ),
    "sweep": Endpoint(
        "Paint the same noise at several strengths, weakest first. Returns the PNGs and their recipes.",
        ("prompt", "strengths", *COMMON, *EXTRA), Row, ("pictures", "recipes"), row,
    ),
    "repaint": Endpoint(
        "Paint over a photograph. Returns a PNG (lossless, its recipe inside as text) and the recipe.",
        ("image", "prompt", "strength", *COMMON, "change", *EXTRA), One, ("picture", "recipe"), one,
    ),
}  # fmt: skip
STATUS = "Which model is painting, what it knows, its limits and defaults; and what of a prompt it cannot follow."


def request_for(studio: Studio, name: str, values: dict[str, Any], photograph: str | None = None) -> Request:
    """An endpoint's values, checked."""
    count = whole(values.get("count", 1))
    if not paint.within(count, 1, paint.MOST_SEEDS, int):
        raise UserError(f"Count must be a whole number from 1 to {paint.MOST_SEEDS}, not {reprlib.repr(count)}.")
    every = paint.next_seeds(sampling_of(values), count)
    strengths = weakest_first(values["strengths"]) if name == "sweep" else [real(values["strength"])]
    if name == "compare":
        strengths = [0.0, *strengths]
    more = {"photograph": photograph, "change": real(values["change"])} if name == "repaint" else {}
    how = {"fast": values["fast"] is True, "adapter": values["adapter"] or None, "blocks": blocks_of(values)}
    return studio.request(every, strengths, **how, **more)


async def painted(
    studio: Studio, name: str, values: dict[str, Any], visitor: Visitor, photograph: str | None = None
) -> AsyncIterator[tuple[list[Picture], Waiting | Step | Picture]]:
    """After each event the pictures that are finished, and the event."""
    with plain_words():
        request = await in_thread(request_for, studio, name, values, photograph)
    pictures: list[Picture] = []
    async with aclosing(studio.jobs.run(request, visitor)) as events:
        async for event in events:
            pictures += [event] if isinstance(event, Picture) else []
            yield pictures, event


def uploaded(image: Any) -> str:
    """The path of an uploaded file; of these, and only these, Gradio has checked that they are uploads."""
    if not is_file_obj_with_meta(image):
        raise UserError("Upload the picture first, with gradio_client: handle_file('photograph.jpg').")
    return image["path"]


def progress_of(event: Waiting | Step | Picture) -> dict[str, Any]:
    """What a program hears of a painting that goes on."""
    if isinstance(event, Waiting):
        return {"progress": {"waiting": event.before}}
    if isinstance(event, Step):
        return {"progress": {name: getattr(event, name) for name in ("done", "steps", "picture", "pictures")}}
    return {}


def note_on(studio: Studio, prompt: Any) -> dict[str, str]:
    """What of the prompt the model cannot follow; beside the progress, because a recipe has its own fields only."""
    return {"note": unread} if (unread := studio.unread(prompt)) else {}


def status_of(studio: Studio, prompt: str = "") -> dict[str, Any]:
    words = words_for(studio.painter)
    return note_on(studio, prompt) | {
        "api": VERSION,
        "about": studio.painter.about,
        "filter": studio.guard.about(),
        "adapters": {
            name: {"title": info.title, "trigger": info.trigger, "strength": info.recommended_strength}
            for name, info in studio.painter.adapters.items()
        },
        "accelerator": studio.painter.accelerator and studio.painter.accelerator.name,
        "provenance": studio.painter.provenance.to_dict(),
        "knows": words.knows.strip(),
        "limits": studio.limits() | {"count": [1, paint.MOST_SEEDS]},
        "server": gate.LIMITS,
        "defaults": defaults_of(studio),
        "sizes": words.sizes,
    }


def defaults_of(studio: Studio) -> dict[str, Any]:
    width, height = words_for(studio.painter).sizes["Square"]
    return {
        "strength": studio.painter.adapter.recommended_strength if studio.painter.adapter else 1.0,
        "strengths": STRENGTHS,
        "seed": 0,
        "steps": paint.defaults(studio.painter, "").steps,
        "guidance": GUIDANCE,
        "width": width,
        "height": height,
        "change": paint.CHANGE,
        "count": 1,
        "fast": False,
        "adapter": "",
        **BlockStrengths().to_dict(),
    }


# ---- From there to Gradio


def add_endpoints(studio: Studio) -> None:
    """Adds the endpoints to the Blocks being built."""

    def status(prompt: str = "") -> dict[str, Any]:
        return status_of(studio, prompt)

    status.__doc__ = STATUS
    page = gr.context.Context.root_block
    assert page is not None, "endpoints are added inside `with gr.Blocks()`"
    for name, endpoint in ENDPOINTS.items():
        event = gr.api(handler(studio, name, endpoint), api_name=name, concurrency_limit=None)
        for output, label in zip(page.fns[event["id"]].outputs, endpoint.named, strict=True):
            output.label = label
    gr.api(status, api_name="status", queue=False)


def handler(studio: Studio, name: str, endpoint: Endpoint) -> Callable[..., Any]:
    """An endpoint as Gradio takes one: an async generator with a signature and a documentation. It yields what is
    finished, with the progress in place of a recipe that is not there yet; its last answer is the whole."""
    defaults = defaults_of(studio)

    async def handle(*values: Any) -> AsyncIterator[Any]:
        named = dict(zip(endpoint.takes, values, strict=False))
        with plain_words():
            photograph = uploaded(named.pop("image")) if name == "repaint" else None
        count = whole(named["count"]) if named["count"] else 1
        note = note_on(studio, named["prompt"])
        answer: tuple[Any, ...] = ()
        async with aclosing(painted(studio, name, named, visitor_here(), photograph)) as events:  # pyright: ignore[reportArgumentType]
            async for pictures, event in events:
                answer = endpoint.answer(pictures, count)
                progress = progress_of(event)
                if progress and not isinstance(answer[-1], list):
                    yield *answer[:-1], (answer[-1] or {}) | progress | note
                else:
                    yield answer
        yield answer

    handle.__name__ = name
    handle.__doc__ = (
        endpoint.about
        + "\n\nArgs:\n"
        + "".join(f"    {field}: {PARAMETERS[field].meaning}\n" for field in endpoint.takes)
    )
    handle.__annotations__ = {field: PARAMETERS[field].type for field in endpoint.takes} | {"return": endpoint.gives}
    handle.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                field,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=defaults.get(field, inspect.Parameter.empty),
                annotation=PARAMETERS[field].type,
            )
            for field in endpoint.takes
        ],
        return_annotation=endpoint.gives,
    )
    return handle


# ---- What FastAPI makes an Internal Server Error of, or a list of its own words


async def refuse(request: HttpRequest, error: Exception) -> JSONResponse:
    """A call of an endpoint that does not exist, or with wrong fields."""
    before, _, endpoint = request.url.path.rstrip("/").rpartition("/")
    if not before.endswith(("/call", "/call/v2")):
        raise error
    fields = {name: [*each.takes] for name, each in ENDPOINTS.items()} | {"status": ["prompt"]}
    unknown = re.match(r"Parameter `(.+)` is not", str(error), re.DOTALL)
    missing = re.match(r"No value provided for required argument: (\w+)", str(error))
    if endpoint not in fields:
        return JSONResponse({"detail": f"There is no endpoint {endpoint}; there are {', '.join(fields)}."}, 404)
    if unknown:
        takes = ", ".join(fields[endpoint])
        return JSONResponse({"detail": f"There is no field {reprlib.repr(unknown[1])}; {endpoint} takes {takes}."}, 422)
    if missing:
        return JSONResponse({"detail": f"The field {missing[1]} is missing."}, 422)
    raise error


async def refuse_body(request: HttpRequest, error: Exception) -> JSONResponse:
    """A body that is no JSON, or of another form; its content is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0] if error.errors() else {}
    what = first.get("msg", "it cannot be read").lower()
    return JSONResponse({"detail": f"The body is not what this address takes: {what}."}, 422)


REFUSALS: dict[Any, Any] = {
    KeyError: refuse, TypeError: refuse, FnIndexInferError: refuse, RequestValidationError: refuse_body,
}  # fmt: skip
"""The handlers for FastAPI, which serves Gradio's page."""


def fields_of(names: Sequence[str], defaults: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of these parameters, for agents."""
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean"}
    fields = {}
    for name in names:
        kind, meaning = PARAMETERS[name]
        schema: dict[str, Any] = {"description": meaning}
        schema |= {"type": kinds[kind]} if kind in kinds else {"type": "array", "items": {"type": "number"}}
        fields[name] = schema | ({"default": defaults[name]} if name in defaults else {})
    return fields
