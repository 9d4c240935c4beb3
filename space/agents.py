"""The endpoints as MCP tools, for agents, at /gradio_api/mcp/: pictures come as image blocks, and a photograph may be
sent as a data URL.

Gradio's own MCP server describes a picture as "a http or https url", which this page refuses, answers an agent that
asks for no progress with a path on the server, and calls the page from the server's own address, so that all agents
would be one visitor.
"""

import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from PIL import Image
from starlette.responses import JSONResponse

from impressionism.errors import UserError
from space.api import ENDPOINTS, STATUS, defaults_of, fields_of, note_on, painted, status_of
from space.gate import LIMITS, address_of, sized
from space.jobs import Step, Visitor, in_thread
from space.studio import Picture, Studio, read_photograph

PHOTOGRAPH = {
    "type": "string",
    "description": f"The photograph as a data URL, data:image/jpeg;base64,…, of at most {sized(LIMITS['data_url'])}; "
    "pictures are not fetched from the web. It is cropped to width x height.",
}


class Agents:
    """An ASGI application; `running` keeps it going while the page is served."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        server: Server = Server("impressionism")
        server.list_tools()(self.list_tools)
        server.call_tool(validate_input=False)(self.call)  # our own check names the field and its limits
        self.server = server
        self.manager: StreamableHTTPSessionManager | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.manager = StreamableHTTPSessionManager(self.server, stateless=True)
        async with self.manager.run():
            yield

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/schema"):
            schema = [
                tool.model_dump(include={"name", "description", "inputSchema"}) for tool in await self.list_tools()
            ]
            await JSONResponse(schema)(scope, receive, send)
        elif self.manager:
            await self.manager.handle_request(scope, receive, send)

    async def list_tools(self) -> list[types.Tool]:
        defaults, tools = defaults_of(self.studio), []
        for name, endpoint in ENDPOINTS.items():
            takes = [field for field in endpoint.takes if field != "image"]
            fields = {"image": PHOTOGRAPH} if "image" in endpoint.takes else {}
            schema = {
                "type": "object",
                "properties": fields | fields_of(takes, defaults),
                "required": [field for field in endpoint.takes if field not in defaults],
            }
            about = endpoint.about.replace("Returns ", "Returns, as images and text, ")
            tools.append(types.Tool(name=name, description=about, inputSchema=schema))
        schema = {"type": "object", "properties": fields_of(["prompt"], {"prompt": ""})}
        return [*tools, types.Tool(name="status", description=STATUS, inputSchema=schema)]

    async def call(self, name: str, given: dict[str, Any]) -> list[types.ImageContent | types.TextContent]:
        """A tool's answer; what is raised here reaches the agent as an error with its sentence."""
        if name == "status":
            return [text(status_of(self.studio, given.get("prompt", "")))]
        if name not in ENDPOINTS:
            raise UserError(f"There is no tool {name[:40]}; there are {', '.join(ENDPOINTS)} and status.")
        takes, defaults = ENDPOINTS[name].takes, defaults_of(self.studio)
        if unknown := sorted(set(given) - set(takes)):
            raise UserError(f"There is no field {unknown[0][:40]!r}; {name} takes {', '.join(takes)}.")
        if missing := [field for field in takes if field not in given and field not in defaults]:
            raise UserError(f"The field {missing[0]} is missing.")
        values = defaults | given
        photograph = await in_thread(decoded, values.pop("image")) if "image" in takes else None
        context = self.server.request_context
        request, token = context.request, context.meta and context.meta.progressToken
        visitor = Visitor(address_of(request.scope) if request else "local")
        pictures: list[Picture] = []
        try:
            async with aclosing(painted(self.studio, name, values, visitor, photograph)) as events:  # pyright: ignore[reportArgumentType]
                async for done, event in events:
                    pictures = done
                    if token is not None and isinstance(event, Step):
                        await context.session.send_progress_notification(
                            token, event.done, event.steps, related_request_id=str(context.request_id)
                        )
        except gr.Error as problem:
            raise UserError(problem.message) from None
        blocks: list[Any] = []
        for picture in pictures:
            data = base64.b64encode(Path(picture.path).read_bytes()).decode()
            blocks += [types.ImageContent(type="image", data=data, mimeType="image/png"), text(picture.recipe)]
        note = note_on(self.studio, values["prompt"])
        return [*blocks, text(note)] if note else blocks


def text(values: Any) -> types.TextContent:
    return types.TextContent(type="text", text=json.dumps(values, ensure_ascii=False))


def decoded(image: Any) -> Image.Image:
    """A data URL's picture."""
    match = re.match(r"data:image/[\w.+-]+;base64,", image) if isinstance(image, str) else None
    if not match:
        raise UserError(
            "Send the photograph as a data URL, data:image/jpeg;base64,…; pictures are not fetched from the web."
        )
    try:
        data = base64.b64decode(image[match.end() :], validate=True)
    except ValueError:
        raise UserError("The photograph's base64 text is damaged; send it again.") from None
    return read_photograph(data)
