"""What the Hub of hub.py answers about Spaces: their hardware, secrets, variables and how far they have come."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hub_protocol
from hub_protocol import Refusal, route

if TYPE_CHECKING:
    from hub import Call

SPACE = r"/api/(?P<kind>spaces)/(?P<id>[^/]+/[^/]+)"
STAGES = ["NO_APP_FILE", "BUILDING", "APP_STARTING", "RUNNING"]


class State:
    """Of one Space; a test sets what comes after BUILDING, and where it answers."""

    def __init__(self, hardware: str = "cpu-basic") -> None:
        self.hardware = hardware
        self.variables: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.stages = ["BUILDING", "APP_STARTING", "RUNNING"]
        self.host = ""


SPACES: dict[str, State] = {}
QUOTA: dict[str, float] = {}
"""Seconds of ZeroGPU that a user has left."""


def first(method: str, path: str) -> Callable:
    """A route that goes before hub_protocol's own."""

    def keep(function: Callable) -> Callable:
        route(method, path)(function)
        hub_protocol.ROUTES.insert(0, hub_protocol.ROUTES.pop())
        return function

    return keep


@first("POST", "/api/repos/create")
def create(call: "Call") -> dict:
    made, asked = hub_protocol.create(call), call.json()
    if asked.get("type") == "space":
        if asked.get("sdk") != "gradio":
            raise Refusal(400, "a Space needs an sdk")
        owner = asked.get("organization") or call.user
        SPACES[f"{owner}/{asked['name']}"] = State(asked.get("hardware", "cpu-basic"))
    return made


@first("GET", SPACE)
def info(call: "Call") -> dict:
    return {**hub_protocol.info(call), "host": state(call).host, "sdk": "gradio"}


@first("GET", SPACE + "/runtime")
def runtime(call: "Call") -> dict:
    here = state(call)
    stage = here.stages[0] if len(here.stages) == 1 else here.stages.pop(0)
    return {"stage": stage, "hardware": {"current": None, "requested": here.hardware}, "errorMessage": "it broke"}


@first("POST", SPACE + "/hardware")
def hardware(call: "Call") -> dict:
    state(call, write=True).hardware = call.json()["flavor"]
    return runtime(call)


@first("GET", SPACE + "/variables")
def variables(call: "Call") -> dict:
    return {name: {"value": value} for name, value in state(call).variables.items()}


@first("POST", SPACE + "/(?P<what>variables|secrets)")
def put(call: "Call") -> dict[str, Any]:
    asked = call.json()
    if not re.fullmatch(r"[A-Za-z_]\w*", asked["key"]):
        raise Refusal(400, "a name of letters, digits and underscores")
    kept = getattr(state(call, write=True), call.groups["what"])
    kept[asked["key"]] = asked["value"]
    hidden = call.groups["what"] == "secrets"
    return {name: {} if hidden else {"value": value} for name, value in kept.items()}


def state(call: "Call", *, write: bool = False) -> State:
    return SPACES[call.repo(write=write).id]


@first("GET", "/api/spaces/zero-gpu/quota")
def quota(call: "Call") -> dict:
    if not call.user:
        raise Refusal(401, "Invalid username or password.")
    return {"base": 300, "current": QUOTA[call.user], "resetsAt": None, "overquotaUsed": None}
