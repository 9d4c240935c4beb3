"""The named endpoints, for programs; types come from the signatures, documentation from the docstrings.

from gradio_client import Client
client = Client("http://127.0.0.1:7860")
picture, recipe = client.predict(prompt="a windmill at sunset", api_name="/generate")
"""

import dataclasses
from typing import Any

import gradio as gr
from gradio_client.utils import is_file_obj_with_meta

from impressionism import paint
from impressionism.pipeline import PainterError
from space.studio import Picture, Studio, open_photograph, pictures_of, plain_words, real, sampling_of
from space.words import words_for

STRENGTHS = [0.0, 0.5, 1.0]
GUIDANCE = 3.5
CHANGE = 0.6


def file_of(picture: Picture) -> Any:
    """gr.FileData as gr.api passes it on: as it is in JSON."""
    return gr.FileData(path=picture.path, mime_type="image/png").model_dump()


def uploaded(image: Any) -> str:
    """The path of an uploaded file; of these, and only these, Gradio has checked that they are uploads."""
    if not is_file_obj_with_meta(image):
        raise PainterError("Upload the picture first, with gradio_client: handle_file('photograph.jpg').")
    return image["path"]


def add_endpoints(studio: Studio, painting: dict[str, Any]) -> None:
    """Adds the endpoints to the Blocks being built; painting is what all painting events have in common."""
    words = words_for(studio.painter)
    default_width, default_height = words.sizes["Square"]
    default_steps = paint.defaults(studio.painter, "").steps

    def generate(
        prompt: str,
        strength: float = 1.0,
        seed: int = 0,
        steps: int = default_steps,
        guidance: float = GUIDANCE,
        width: int = default_width,
        height: int = default_height,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Paint one picture. Returns a PNG (lossless, its recipe inside as text) and the recipe.

        Args:
            prompt: What to paint, in English.
            strength: Weight of the Impressionist adapter, 0 (the base model exactly) to 1.5. Default 1.
            seed: Seed of the initial noise; the same settings give the same picture. Default 0.
            steps: Denoising steps.
            guidance: The distilled guidance of FLUX.1 [dev]. Default 3.5.
            width: Pixels, a multiple of 16.
            height: Pixels, a multiple of 16.
        """
        sampling = sampling_of(prompt, seed, steps, guidance, width, height)
        [picture] = pictures_of(studio.sweep(sampling, [real(strength)]))
        return file_of(picture), picture.recipe

    def compare(
        prompt: str,
        strength: float = 1.0,
        seed: int = 0,
        steps: int = default_steps,
        guidance: float = GUIDANCE,
        width: int = default_width,
        height: int = default_height,
    ) -> tuple[gr.FileData, gr.FileData, dict[str, Any]]:
        """Paint twice from the same noise. Returns the base model's PNG, the adapted PNG and its recipe.

        Args:
            prompt: What to paint, in English.
            strength: Weight of the Impressionist adapter in the second picture, 0 to 1.5. Default 1.
            seed: Seed of the initial noise that both pictures start from. Default 0.
            steps: Denoising steps.
            guidance: The distilled guidance of FLUX.1 [dev]. Default 3.5.
            width: Pixels, a multiple of 16.
            height: Pixels, a multiple of 16.
        """
        sampling = sampling_of(prompt, seed, steps, guidance, width, height)
        base, adapted = pictures_of(studio.compare(sampling, real(strength)))
        return file_of(base), file_of(adapted), adapted.recipe

    def sweep(
        prompt: str,
        strengths: list[float] = STRENGTHS,
        seed: int = 0,
        steps: int = default_steps,
        guidance: float = GUIDANCE,
        width: int = default_width,
        height: int = default_height,
    ) -> tuple[list[gr.FileData], list[dict[str, Any]]]:
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
        pictures = pictures_of(studio.sweep(sampling, strengths))
        return [file_of(picture) for picture in pictures], [picture.recipe for picture in pictures]

    def repaint(
        image: gr.FileData,
        prompt: str,
        strength: float = 1.0,
        seed: int = 0,
        steps: int = default_steps,
        guidance: float = GUIDANCE,
        width: int = default_width,
        height: int = default_height,
        change: float = CHANGE,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Paint over a photograph. Returns a PNG (lossless, its recipe inside as text) and the recipe.

        Args:
            image: The photograph, at most 10 MB; it is cropped to width x height.
            prompt: What the photograph shows, in English.
            strength: Weight of the Impressionist adapter, 0 (the base model exactly) to 1.5. Default 1.
            seed: Seed of the noise that is mixed in. Default 0.
            steps: Denoising steps of a whole picture; a repaint runs the share that change asks for.
            guidance: The distilled guidance of FLUX.1 [dev]. Default 3.5.
            width: Pixels, a multiple of 16.
            height: Pixels, a multiple of 16.
            change: How far the photograph may change, 0 (hardly) to 1 (entirely). Default 0.6.
        """
        with plain_words():
            source = open_photograph(uploaded(image))
        sampling = sampling_of(prompt, seed, steps, guidance, width, height)
        [picture] = pictures_of(studio.repaint(sampling, [real(strength)], source, change))
        return file_of(picture), picture.recipe

    def status() -> dict[str, Any]:
        """Which model is painting, what it knows, its limits and the defaults."""
        return {
            "about": studio.painter.about,
            "provenance": dataclasses.asdict(studio.painter.provenance),
            "knows": words.knows.strip(),
            "limits": studio.limits(),
            "defaults": {
                "strength": 1.0,
                "strengths": STRENGTHS,
                "seed": 0,
                "steps": default_steps,
                "guidance": GUIDANCE,
                "width": default_width,
                "height": default_height,
                "change": CHANGE,
            },
            "sizes": words.sizes,
        }

    for endpoint in (generate, compare, sweep, repaint):
        gr.api(endpoint, api_name=endpoint.__name__, **painting)
    gr.api(status, api_name="status", queue=False)
