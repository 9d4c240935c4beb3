"""About: what the model knows, its licence and limits, which weights paint, and what happens to what people write."""

from typing import Any

import gradio as gr

from space.api import ENDPOINTS
from space.studio import Studio
from space.texts import NOTICE, PRIVACY, PageTexts

PROGRAMS = f"""
A Python program paints with three lines, in which ADDRESS is what your browser shows above:

```python
from gradio_client import Client

picture, recipe = Client("ADDRESS").predict(prompt="a cottage at sunset", api_name="/generate")
```

For an agent, add `ADDRESS/gradio_api/mcp/` as an MCP server (streamable HTTP). Its tools {", ".join(ENDPOINTS)} return
pictures with their recipes; `status` tells the limits and the defaults. Programs and agents wait in the same line as
everybody else.
"""


def add_about(studio: Studio, texts: PageTexts) -> None:
    with gr.Column(elem_id="about"):
        gr.Markdown("## What this model knows\n" + texts.knows)
        gr.Markdown("## What paints here\n" + weights(studio))
        gr.Markdown(f"## Licence and limits\n{texts.licence}\n\n{NOTICE} {studio.guard.about()}\n\n{PRIVACY}")
        gr.Markdown("## For programs and agents\n" + PROGRAMS)


def weights(studio: Studio) -> str:
    """The live weights, as a table."""
    painter, was = studio.painter, studio.painter.provenance
    rows: dict[str, Any] = {
        "Base model": named(was.base, was.base_revision),
        "Adapter": named(was.adapter, was.adapter_revision),
        "Precision": f"{was.dtype}, transformer {was.quantize}" if was.quantize != "none" else was.dtype,
        "Device": was.device,
        "Libraries": ", ".join(f"{name} {version}" for name, version in was.versions.items()),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([painter.about, "", "| | |", "|---|---|", *lines])


def named(name: str | None, revision: str | None) -> str:
    return f"{name}, revision `{revision}`" if revision else name or "none"
