"""The page as a hostile visitor meets it, over real HTTP: each kind of attack that once succeeded."""

import asyncio
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client.exceptions import AppError
from space_served import from_address, served, visitor, wait_for

from impressionism.errors import UserError
from impressionism.pipeline import Painter
from impressionism.records import GenerationParams
from space import app, gate, gradio_security
from space.jobs import Jobs, Visitor
from space.studio import Studio

SMALL = {"steps": 2, "width": 64, "height": 64}
LONG = {"steps": 100, "width": 512, "height": 512}  # about ten seconds of the tiny FLUX


@pytest.fixture(scope="module")
def here(tiny_painter: Painter) -> Iterator[tuple[str, Studio]]:
    """The whole page, with its internal functions."""
    page = app.build(tiny_painter)
    address = app.launch(page, prevent_thread_lock=True, quiet=True).rstrip("/")
    yield address, page.studio
    page.close(verbose=False)


def sentence(answer: httpx.Response) -> str:
    said = answer.json()["detail"]
    assert isinstance(said, str) and said.endswith(".") and "Traceback" not in said, said
    return said


# ---- Addresses


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/deep_link?session_hash=abc", "/monitoring", "/monitoring/summary", "/gradio_api/dev/reload",
        "/gradio_api/startup-events", "/gradio_api/token", "/gradio_api/queue/status", "/gradio_api/runs",
        "/gradio_api/proxy=https://example.org/a", "/gradio_api/file/etc/hostname", "/gradio_api/run-history/buckets",
        "/gradio_api/stream/a/b/1/playlist.m3u8", "/docs", "/openapi.json", "/static",
        "/gradio_api/custom_component/a/b/c/d",
    ],
)  # fmt: skip
def test_what_the_page_does_not_use_is_closed(here: tuple, path: str):
    answer = httpx.get(here[0] + path)
    assert answer.status_code == 404
    sentence(answer)


@pytest.mark.parametrize("path", ["/gradio_api/process_recording", "/gradio_api/component_server", "/login"])
def test_what_takes_files_for_others_is_closed(here: tuple, path: str):
    assert httpx.post(here[0] + path, json={}).status_code == 404


def test_a_socket_is_closed(here: tuple):
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}
    assert httpx.get(f"{here[0]}/gradio_api/queue/join", headers=upgrade).status_code in (400, 403, 404, 405)


@pytest.mark.parametrize("path", ["/%ff", "/%00", "/a%0d%0aX: y", "/%zz", "/config?a=%ff", "/" + "a" * 20000])
def test_hostile_percent_encodings_are_refused(here: tuple, path: str):
    host, port = here[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode().replace(b"X: y", b"X:y")
        )
        said = connection.makefile("rb").read()
    assert said.split()[1] in (b"400", b"414", b"404", b"431"), said[:200]


def test_a_foreign_host_is_not_repeated(here: tuple):
    for headers in (
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Gradio-Server": "http://evil.example"},
    ):
        for path in ("/", "/config", "/gradio_api/info", "/manifest.json"):
            answer = httpx.get(here[0] + path, headers=headers)
            assert "evil.example" not in answer.text and "evil.example" not in str(answer.headers)
    asked = httpx.post(
        f"{here[0]}/gradio_api/call/v2/generate", json={"prompt": "a host", **SMALL}, headers={"Host": "evil.example"}
    ).json()
    told = httpx.get(f"{here[0]}/gradio_api/call/generate/{asked['event_id']}", timeout=60).text
    assert "evil.example" not in told and '"/gradio_api/file=' in told


def test_no_origin_gets_leave_to_read_with_credentials(here: tuple, monkeypatch: pytest.MonkeyPatch):
    def headers() -> httpx.Headers:
        return httpx.get(f"{here[0]}/config", headers={"Origin": "https://evil.example"}).headers

    assert not [name for name in headers() if name.startswith("access-control")]
    monkeypatch.setenv("SPACE_ID", "monet/impressionism")
    assert headers()["access-control-allow-origin"] == "*" and "access-control-allow-credentials" not in headers()
    monkeypatch.delenv("SPACE_ID")
    posted = httpx.post(f"{here[0]}/gradio_api/upload", headers={"Sec-Fetch-Site": "cross-site"}, files={"files": b"x"})
    assert posted.status_code == 403


def test_behind_a_proxy_addresses_are_paths_on_the_pages_own_origin(here: tuple):
    page = httpx.get(here[0], headers={"Host": "studio.example", "X-Forwarded-Proto": "https"}).text
    assert '"root":"/"' in page.replace(" ", "") and "http://studio.example" not in page


# ---- Sizes and times


def test_bodies_are_limited_before_they_are_read(here: tuple):
    large = b"x" * (gate.LIMITS["body"] + 1)
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel"):
        answer = httpx.post(here[0] + path, content=large)
        assert answer.status_code == 413 and "at most 64 KB" in sentence(answer)
    host, port = here[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = "POST /gradio_api/queue/join HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(
            head.encode() + b"10000\r\n" + b"x" * 0x10000 + b"\r\n" + b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        )
        assert b" 413 " in connection.makefile("rb").readline()
    upload = httpx.post(f"{here[0]}/gradio_api/upload", files={"files": b"x" * (gate.LIMITS["upload"] + 10_000)})
    assert upload.status_code == 413 and "at most 10 MB" in sentence(upload)
    agent = httpx.post(f"{here[0]}/gradio_api/mcp/", content=b"x" * (gate.LIMITS["data_url"] + 1))
    assert agent.status_code == 413 and "at most 4 MB" in sentence(agent)


def test_a_request_that_does_not_arrive_is_given_up(here: tuple, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(gate.LIMITS, "body_seconds", 1)
    monkeypatch.setitem(gate.LIMITS, "header_seconds", 1)
    host, port = here[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
        assert b" 408 " in connection.makefile("rb").readline()
    for beginning in (b"", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(beginning)
            assert connection.recv(100) == b""  # it was closed


def test_uploads_have_a_total_for_one_and_for_all(tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(gate.LIMITS, "uploads_of_one", 300)
    monkeypatch.setitem(gate.LIMITS, "uploads_of_all", 500)
    with served(Studio(tiny_painter)) as (address, _):

        def upload(who: str) -> httpx.Response:
            return httpx.post(
                f"{address}/gradio_api/upload", files={"files": b"x" * 200_000}, headers=from_address(who)
            )

        assert [upload("198.51.100.1").status_code for _ in range(2)] == [200, 429]
        assert [upload(f"198.51.100.{number}").status_code for number in (2, 3)] == [200, 503]


def test_a_cut_or_broken_upload_leaves_nothing_that_is_not_deleted(here: tuple):
    host, port = here[0].removeprefix("http://").split(":")
    before = set(gate.own_folder().rglob("*"))
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"x" * 1000
        connection.sendall(head + b"Content-Length: 99999\r\n\r\n" + part)
    time.sleep(0.5)
    assert set(gate.own_folder().rglob("*")) <= before  # it never reached Gradio
    broken = httpx.post(
        f"{here[0]}/gradio_api/upload", content=part, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert broken.status_code < 600
    gate.delete_old(age=-1)
    assert not [path for path in set(gate.own_folder().rglob("*")) - before if path.is_file()]


def test_too_many_requests_are_told_to_wait(tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch):
    with served(Studio(tiny_painter)) as (address, _):
        monkeypatch.setitem(gate.LIMITS, "requests_of_one", 3)
        answers = [httpx.get(f"{address}/config", headers=from_address("198.51.100.7")) for _ in range(5)]
        assert [answer.status_code for answer in answers][-1] == 429 and "try again" in sentence(answers[-1])
        assert httpx.get(f"{address}/config", headers=from_address("198.51.100.8")).status_code == 200


def test_a_full_disk_is_one_sentence_without_a_path(tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch):
    """The file system is real, and full: Linux's /dev/full takes no byte."""
    with served(Studio(tiny_painter)) as (address, _):
        client = visitor(address)
        monkeypatch.setenv("GRADIO_TEMP_DIR", "/dev/full")
        with pytest.raises(AppError, match="disk is full") as refusal:
            client.predict(prompt="a full disk", **SMALL, api_name="/generate")
    assert "/dev" not in str(refusal.value)


# ---- Forged calls


def forged(functions: int) -> Iterator[tuple[str, str, Any]]:
    draw = random.Random(3)
    path = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    view = {"items": [{"images": [{"file": {"url": "javascript:1"}}]}]}
    junk = [None, 0, -1, 1e308, "x", "half \ud83d", [], {}, [[[]]], path, view, "a secret garden"]
    names = ["generate", "compare", "sweep", "repaint", "status", "finish", "predict", "nothing"]
    while True:
        data = [draw.choice(junk) for _ in range(draw.randint(0, 12))]
        kind = draw.randrange(7)
        if kind == 0:
            yield "POST", f"/gradio_api/call/{draw.choice(names)}", {"data": data}
        elif kind == 1:
            fields = ["prompt", "strength", "image", "seed", "steps", "count", "x"]
            yield "POST", f"/gradio_api/call/v2/{draw.choice(names)}", {draw.choice(fields): one for one in data}
        elif kind in (2, 3):
            where = draw.choice(["queue/join", "run/predict", "api/predict"])
            body = {
                "data": data,
                "fn_index": draw.randint(-2, functions),
                "session_hash": f"forged{draw.randint(0, 50)}",
            }
            yield "POST", f"/gradio_api/{where}", body
        elif kind == 4:
            yield (
                "POST",
                draw.choice(["/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/queue/join"]),
                draw.choice(junk),
            )
        elif kind == 5:
            yield (
                "POST",
                draw.choice(["/gradio_api/mcp/", "/gradio_api/upload"]),
                {"jsonrpc": "2.0", "id": 1, "params": data},
            )
        else:
            paths = ["/", "/config", "/gradio_api/file=/etc/passwd", "/gradio_api/queue/data?session_hash=none", "/x"]
            yield draw.choice(["GET", "PUT", "DELETE", "OPTIONS"]), draw.choice(paths), None


def test_two_thousand_forged_calls_have_each_a_status_and_leave_no_traceback(
    here: tuple, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    calls = forged(60)
    with httpx.Client(base_url=here[0], timeout=60) as client:

        def send(call: tuple[str, str, Any]) -> None:
            method, path, body = call
            content = None if body is None else json.dumps(body).encode()
            with client.stream(method, path, content=content, headers={"Content-Type": "application/json"}) as answer:
                assert answer.status_code < 600
                if answer.status_code >= 400:
                    text = answer.read().decode()
                    assert "Traceback" not in text and "site-packages" not in text, text
                    assert any(len(word) > 3 for word in text.split()), (call, text)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, (next(calls) for _ in range(2000))))
    seen = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in seen and "secret garden" not in seen
    assert len(seen.splitlines()) < 400  # about one a second
    assert visitor(here[0]).predict(prompt="after the storm", **SMALL, api_name="/generate")


def test_a_failed_internal_call_is_a_sentence(here: tuple):
    """With a function that the page itself calls, and too few values, and values of another kind."""
    for body in (
        {"data": [], "fn_index": 3},
        {"data": ["x"] * 20, "fn_index": 10**6},
        {"data": [{"a": 1}] * 30, "fn_index": 0},
    ):
        answer = httpx.post(f"{here[0]}/gradio_api/run/predict", json=body | {"session_hash": "one"})
        said = json.dumps(answer.json())
        assert "Traceback" not in said and ("null" not in said or answer.status_code < 400), said


# ---- The line


def test_one_visitor_has_one_painting_and_two_waiting_and_the_innocent_comes_next(here: tuple):
    hostile = [visitor(here[0], headers=from_address("203.0.113.5")) for _ in range(2)]  # two sessions of one address
    first = hostile[0].submit(prompt="mine", seed=1, **LONG, api_name="/generate")
    wait_for(lambda: first.outputs())
    waiting = []
    for seed in (2, 3):
        waiting.append(hostile[seed % 2].submit(prompt="mine", seed=seed, **LONG, api_name="/generate"))
        wait_for(lambda: len(here[1].jobs.waiting) == len(waiting))
    with pytest.raises(AppError, match="2 paintings of yours are waiting already"):
        hostile[1].predict(prompt="mine", seed=4, **SMALL, api_name="/generate")
    innocent = visitor(here[0], headers=from_address("203.0.113.6"))
    job = innocent.submit(prompt="a quiet pond", **SMALL, api_name="/generate")
    wait_for(lambda: any("waiting" in (recipe or {}).get("progress", {}) for _, recipe in job.outputs()))
    assert next(recipe["progress"]["waiting"] for _, recipe in job.outputs()) == 1  # the one under way
    first.cancel()
    assert job.result(timeout=60)
    assert not waiting[1].done()
    for one in waiting:
        one.cancel()
    wait_for(lambda: not here[1].jobs.waiting and not here[1].jobs.painting)


def test_a_hundred_cancelled_calls_leave_the_painter_free(tiny_painter: Painter):
    """Half of them before they begin."""
    studio = Studio(tiny_painter)
    request = studio.request(GenerationParams(prompt="again and again", **LONG), [1.0])

    async def cancel_all() -> float:
        for number in range(100):
            tasks = [
                asyncio.ensure_future(anext(studio.jobs.run(request, Visitor(f"{number}-{which}"))))
                for which in range(2)
            ]
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        began = time.monotonic()
        short = studio.request(GenerationParams(prompt="now", **SMALL), [1.0])
        async for _ in studio.jobs.run(short, Visitor("somebody")):
            break
        return time.monotonic() - began

    assert asyncio.run(cancel_all()) < 10  # two steps and a small picture; all hundred would take minutes
    assert not studio.jobs.waiting


def test_the_line_is_as_long_as_the_table_says(tiny_painter: Painter):
    line = Jobs(Studio(tiny_painter))

    async def fill() -> None:
        for number in range(gate.LIMITS["waiting"] + 1):  # the first one paints
            line._join(Visitor(f"198.51.100.{number}"))
        with pytest.raises(UserError, match="32 paintings are waiting already"):
            line._join(Visitor("198.51.100.200"))

    asyncio.run(fill())


def test_a_name_stands_for_the_address_and_a_space_reads_its_proxys_note(monkeypatch: pytest.MonkeyPatch):
    assert Visitor("10.0.0.1", "s", "monet").keys == {"monet", "s"}
    noted = [(b"x-forwarded-for", b"6.6.6.6, 203.0.112.9, 10.1.2.3")]
    scope = {"client": ("10.9.9.9", 1), "headers": noted}
    assert gate.address_of(scope) == "10.9.9.9"
    monkeypatch.setenv("SPACE_ID", "monet/impressionism")
    assert gate.address_of(scope) == "203.0.112.9"


def test_when_the_painters_thread_ends_it_is_a_clear_error_and_the_next_call_works(
    here: tuple, monkeypatch: pytest.MonkeyPatch
):
    import ctypes

    client = visitor(here[0])
    job = client.submit(prompt="dies on the way", **LONG, api_name="/generate")
    wait_for(lambda: job.outputs())
    [thread] = [one for one in threading.enumerate() if one.name.startswith("painter")]
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    with pytest.raises(AppError, match="Painting stopped unexpectedly"):
        job.result(timeout=60)
    assert client.predict(prompt="dies on the way", **SMALL, api_name="/generate")


def test_when_the_page_ends_those_who_wait_are_told(tiny_painter: Painter):
    with served(studio := Studio(tiny_painter)) as (address, _):
        clients = [visitor(address, headers=from_address(f"203.0.113.{number}")) for number in range(2)]
        work = [client.submit(prompt="the end", seed=1, **LONG, api_name="/generate") for client in clients]
        wait_for(lambda: len(studio.jobs.waiting) == 1)
        studio.jobs.close()
        for job in work:
            with pytest.raises(AppError, match="restarting"):
                job.result(timeout=60)


# ---- Logs and names


def test_a_flood_of_bad_requests_is_a_line_a_second(here: tuple, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING), httpx.Client() as client:
        for _ in range(50):
            client.get(f"{here[0]}/nothing")
    assert len([record for record in caplog.records if record.name == gate.__name__]) < 15


def test_a_name_that_gradio_no_longer_has_is_noticed():
    with pytest.raises(AssertionError, match="Gradio has no Blocks"):
        gradio_security.replace(gr.Blocks, "no_such_name", None)
