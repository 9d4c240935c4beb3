"""Which painter the Space opens with, and what happens when its adapter cannot be had.

The owner switches to another adapter with IMPRESSIONISM_ADAPTER and IMPRESSIONISM_ADAPTER_REVISION, or names several
with IMPRESSIONISM_ADAPTERS (owner/name@commit,owner/other@commit). Where one of them cannot be had,
IMPRESSIONISM_ADAPTER_PINNED, the last that worked (owner/name@commit), paints on, and the page and /status say so.
Visitors choose among these and cannot name another.
"""

import dataclasses
import os
import re

from impressionism import names
from impressionism.errors import UserError
from impressionism.pipeline import Painter, choose_adapter, choose_base, choose_device, load_pipeline


def open_painter(model: str = "auto", adapter: str = "auto", quantize: str = "auto", device: str = "auto") -> Painter:
    """As load_pipeline; a bad adapter among the variables leaves the pinned one painting, and `about` says so."""
    several, one = names.from_environment("adapters"), names.from_environment("adapter")
    wanted = (several or one) if model == adapter == "auto" else None
    if not wanted:
        return load_pipeline(model, adapter, quantize, device)
    try:
        for source in (
            (several or "").split(",") if several else [f"{one}@{names.from_environment('adapter_revision')}"]
        ):
            check_pin(source.strip())
        return load_pipeline(model, adapter, quantize, device)
    except UserError as problem:
        reason = str(problem)
    # Not in there: the exception holds the model that was loaded, and a second one beside it might not fit.
    source, _, revision = pinned(device).partition("@")
    painter = load_pipeline(model, source, quantize, device, adapter_revision=revision or None)
    instead = f"{painter.provenance.adapter or 'no adapter'} {painter.provenance.adapter_revision or ''}".strip()
    note = f"The adapter that was asked for cannot be used, so {instead} paints on: {reason}"
    return dataclasses.replace(painter, about=f"{painter.about} {note}")


def check_pin(source: str) -> None:
    """On the Hub, a public Space loads only what is named by a commit: a branch can change under it."""
    name, _, revision = source.partition("@")
    if os.environ.get("SPACE_ID") and "/" in name and not re.fullmatch(r"[0-9a-f]{40}", revision):
        variables = f"{names.ENVIRONMENT['adapter_revision']}, or name@commit in {names.ENVIRONMENT['adapters']},"
        raise UserError(f"{name} is not pinned: set {variables} to the commit, 40 hex digits.")


def pinned(device: str) -> str:
    """The adapter that is known to work: the pinned one, or what belongs to the base."""
    if source := names.from_environment("adapter_pinned"):
        return source
    base, _, _ = choose_base("auto", None, choose_device(device))
    return choose_adapter("auto", None, base, base_asked=True)[0] or "none"
