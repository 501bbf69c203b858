"""A server that is itself a memory: what it is sent, and what happens when it fails."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from nestmem.agent.llm import ChatEndpoint
from nestmem.errors import InputError
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems import endpoint
from nestmem.evals.systems.base import NotSupported, Setup

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
SAID = (
    Turn(id="a", session="s0", role="user", text="My dog is called Biscuit.", at=AT),
    Turn(id="b", session="s0", role="assistant", text="A fine name."),
    Turn(id="c", session="s0", role="user", text="I live in Leeds.", speaker="Ada", group=True),
    Turn(id="d", session="s1", role="user", text="It rains."),
)


class Remembering(HTTPServer):
    """Keeps what each user said and answers a question with what holds its last word. `broken`: (status, body)."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict, dict]] = []
        self.said: dict[str, list[str]] = {}
        self.broken: tuple[int, bytes] | None = None
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Remembering

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((body, dict(self.headers)))
        text = body["messages"][-1]["content"]
        kept = self.server.said.setdefault(body["user"], [])
        found = [line for line in kept if "dog" in text and "dog" in line]
        if "?" not in text:
            kept.append(text)
        said = {"choices": [{"message": {"role": "assistant", "content": (found or ["I don't know."])[0]}}]}
        status, reply = self.server.broken or (200, json.dumps(said).encode())
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server():
    found = Remembering()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join(5)


def system(server: Remembering, *, window_tokens: int = 1000) -> endpoint.Endpoint:
    return endpoint.Endpoint(ChatEndpoint(server.url, retries=0, timeout_s=5), window_tokens=window_tokens)


def tell(memory: endpoint.Endpoint, scope: str = "ada") -> None:
    for turn in SAID:
        memory.observe(turn, turn.at, scope)
    memory.settle(scope)


def test_turns_are_sent_with_their_session_and_a_question_with_nothing(server):
    memory = system(server)
    tell(memory)
    reply = memory.answer("What is my dog called?", AT, "ada")
    assert reply.reading.text == "(said on 2026-03-02) My dog is called Biscuit."
    assert reply.reading.failed is None
    assert (reply.context, reply.shown, reply.ranked, reply.notes) == ("", (), (), ())
    bodies = [body for body, _ in server.requests]
    assert [[m["role"] for m in body["messages"]] for body in bodies] == [
        ["user"],
        ["user", "assistant", "user"],
        ["user"],
        ["user"],
    ]
    assert bodies[1]["messages"][-1]["content"] == "Ada: I live in Leeds."
    assert bodies[-1]["messages"] == reply.reading.prompt
    assert bodies[-1]["messages"][0]["content"] == "What is my dog called?\n(Asked on 2026-03-02.)"
    assert {body["user"] for body in bodies} == {"ada"}
    assert [headers["X-Session-Id"] for _, headers in server.requests] == ["s0", "s0", "s1", "question-1"]
    assert {headers["X-User-Id"] for _, headers in server.requests} == {"ada"}
    assert memory.probe("Who?", ("x",), "ada") is None
    assert memory.bytes("ada") == 0
    with pytest.raises(NotSupported):
        memory.forget(["a"], "ada")
    memory.close()


def test_turns_that_end_a_session_are_sent(server):
    said = (
        SAID[0],
        SAID[1],
        Turn(id="d", session="s1", role="assistant", text="Rain today."),
        Turn(id="e", session="s1", role="user", text="Thank you."),
        Turn(id="f", session="s1", role="assistant", text="You are welcome."),
    )
    memory = system(server)
    for turn in said:
        memory.observe(turn, None, "ada")
    memory.settle("ada")
    memory.settle("ada")
    sent = [
        (headers["X-Session-Id"], [m["content"] for m in body["messages"]])
        for body, headers in server.requests
    ]
    s1 = [turn.text for turn in said[2:]]
    s0 = [turn.text for turn in said[:2]]
    assert sent == [("s0", s0[:1]), ("s0", s0), ("s1", s1[:2]), ("s1", s1)]
    server.broken = (500, b"down")
    memory.observe(Turn(id="g", session="s2", role="assistant", text="Hello."), None, "ada")
    memory.settle("ada")
    server.broken = None
    assert memory.answer("Who?", None, "ada").notes[0].startswith("1 requests that told of turns failed")


def test_each_question_has_a_session_of_its_own(server):
    memory = system(server)
    tell(memory)
    tell(memory, "bob")
    for scope in ("ada", "ada", "bob"):
        memory.answer("What is my dog called?", None, scope)
    asked = [(h["X-User-Id"], h["X-Session-Id"]) for _, h in server.requests[-3:]]
    assert asked == [("ada", "question-1"), ("ada", "question-2"), ("bob", "question-1")]


def test_the_key_of_the_run_is_sent_and_a_password_in_the_url_is_refused(server, tmp_path: Path):
    setup = Setup(folder=tmp_path, key=None, donor=None, reader=None, embedder=None, api_key="secret")
    [kind] = endpoint.KINDS
    assert "secret" not in str(kind.options) and kind.remote
    memory = kind.make(setup, url=server.url)
    memory.answer("Who?", None, "ada")
    assert server.requests[-1][1]["Authorization"] == "Bearer secret"
    for url in (server.url.replace("//", "//ada:pass@"), server.url.replace("//", "//pass@")):
        with pytest.raises(InputError, match="OPENAI_API_KEY") as refused:
            kind.make(setup, url=url)
        assert "pass@" not in str(refused.value)


def test_scopes_are_told_apart_by_the_user(server):
    memory = system(server)
    tell(memory)
    assert memory.answer("What is my dog called?", None, "josé maria").reading.text == "I don't know."
    body, headers = server.requests[-1]
    assert body["user"] == "josé maria"
    assert headers["X-User-Id"] == "jos%C3%A9%20maria"


@pytest.mark.parametrize(
    ("status", "body", "failed"),
    [
        (200, b'{"choices": [{"message": {"content": "  "}}]}', "empty"),
        (200, b'{"choices": []}', "error: "),
        (403, b"no", "error: "),
        (500, b"down", "error: "),
    ],
)
def test_a_question_without_an_answer_is_a_failed_reading(server, status, body, failed):
    memory = system(server)
    server.broken = (status, body)
    tell(memory)
    reply = memory.answer("What is my dog called?", None, "ada")
    assert reply.reading.failed is not None
    assert reply.reading.failed.startswith(failed)
    assert reply.reading.text == ""
    assert reply.notes[0].startswith("3 requests that told of turns failed")
    server.broken = None
    assert memory.answer("What is my dog called?", None, "ada").reading.failed is None


def test_a_session_longer_than_the_window_is_sent_by_its_end(server):
    memory = system(server, window_tokens=10)
    tell(memory)
    assert [len(body["messages"]) for body, _ in server.requests] == [1, 2, 1]
    memory.observe(Turn(id="e", session="s1", role="user", text=" "), None, "ada")
    assert len(server.requests) == 3


def test_it_needs_a_url(tmp_path: Path):
    setup = Setup(
        folder=tmp_path,
        key=None,
        donor=None,
        reader=None,
        embedder=None,
    )
    [kind] = endpoint.KINDS
    with pytest.raises(InputError, match="endpoint:url="):
        kind.make(setup, **kind.options)
    with pytest.raises(InputError, match="http"):
        kind.make(setup, url="ftp://nowhere")


def test_extra_fields_do_not_replace_what_is_sent(server):
    client = ChatEndpoint(server.url, model="m", retries=0)
    client.chat(
        [{"role": "user", "content": "Hello"}],
        extra={"user": "ada", "model": "other"},
        headers={"X-User-Id": "ada", "Content-Type": "text/plain"},
    )
    body, headers = server.requests[-1]
    assert (body["user"], body["model"], body["temperature"]) == ("ada", "m", 0)
    assert (headers["X-User-Id"], headers["Content-Type"]) == ("ada", "application/json")
