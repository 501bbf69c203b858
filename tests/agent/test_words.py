"""Prompts, the endpoint's client, the words without a model, and choosing between the halves."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from nestmem.agent import prompts, speech
from nestmem.agent.answering import Reader
from nestmem.agent.controller import Memory
from nestmem.agent.fakes import EchoLearner
from nestmem.agent.llm import ChatEndpoint
from nestmem.errors import InputError, LLMError
from nestmem.store import Ledger, Scope


def test_the_chats_are_those_that_the_embedded_model_is_trained_on():
    assert prompts.question_chat("Why?") == [{"role": "user", "content": "Why?"}]
    line = prompts.memory_line("My dog is\ncalled Biscuit.", "2026-03-02T10:00:00Z", "user")
    assert prompts.question_chat("Why?", [line])[0] == {
        "role": "system",
        "content": "Memory:\n- (2026-03-02) user: My dog is called Biscuit.",
    }
    assert prompts.writer_chat("I ran.") == [
        {"role": "system", "content": "Write questions and answers."},
        {"role": "user", "content": "I ran."},
    ]


def test_what_writers_say_is_read_or_refused():
    assert prompts.parse_pairs("Q: What is it? A: blue\nQ: Who? A: Bo Li\njunk") == [
        ("What is it?", "blue"),
        ("Who?", "Bo Li"),
    ]
    assert prompts.parse_pairs("no pairs here") == []
    fenced = 'Sure!\n```json\n{"pairs": [{"question": "Who? ", "answer": "Bo"}, {"question": "", "answer": "x"}]}\n```'
    assert prompts.parse_llm_pairs(fenced) == [("Who?", "Bo")]
    for junk in ("hello", "[]", '{"pairs": [1]}', '{"pears": []}'):
        with pytest.raises(LLMError):
            prompts.parse_llm_pairs(junk)
    pairs = [("Q?", "Biscuit"), ("Q?", "Paris"), ("Q?", "is called"), ("Q?", "bis")]
    assert prompts.grounded(pairs, "My dog is called Biscuit!") == [pairs[0]]


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("What is my dog's name?", "Biscuit", "your dog's name is Biscuit"),
        ("Where do I live?", "York", "where you live: York"),
        ("Where does my sister live?", "York", "where your sister lives: York"),
        ("What am I allergic to?", "nuts", "what you are allergic to: nuts"),
        ("Where was I born?", "Graz", "where you were born: Graz"),
        ("Who is my doctor?", "Dr No", "your doctor is Dr No"),
        ("What is my laptop called?", "Zed", "your laptop is called Zed"),
        ("How do I like your answers?", "short", "how you like my answers: short"),
    ],
)
def test_what_was_learned_is_acknowledged(question, answer, said):
    assert speech.acknowledge(question, answer) == said


@pytest.mark.parametrize(
    ("question", "key"),
    [
        ("Where do I live?", "self/home_city"),
        ("Where does my sister live?", "sister/home_city"),
        ("What is my sister's dog's name?", "sister.dog/name"),
        ("What is my wifi password?", "self/wifi_password"),
        ("Who won the cup?", None),
    ],
)
def test_canonical_questions_have_the_key_of_the_rule(question, key):
    assert speech.key_of_question(question) == key


class Halves(EchoLearner):
    """Says what it is told to say in each half."""

    def __init__(self, text: str, weights: str, sure: tuple[float, float] = (0.5, 0.5)) -> None:
        super().__init__()
        self.said = {"text": text, "weights": weights}
        self.sure = sure

    def generate(self, chats, states, *, max_new_tokens=32):
        return [self._half(len(chat) > 1, state) for chat, state in zip(chats, states, strict=True)]

    def _half(self, recalled, state):
        if recalled and state is not None:
            return "neither"
        return self.said["text" if recalled else "weights"]

    def applies(self, chats, state):
        return [1.0] * len(chats)

    def confidence(self, chats, states):
        return list(self.sure)


@pytest.mark.parametrize(
    ("text", "weights", "sure", "spoke", "answer"),
    [
        ("Biscuit", "biscuit.", (0.5, 0.5), "both", "Biscuit"),
        ("I don't know.", "Biscuit", (0.9, 0.1), "weights", "Biscuit"),
        ("Biscuit", "I don't know.", (0.1, 0.9), "text", "Biscuit"),
        ("I don't know.", "I don't know.", (0.5, 0.5), "none", "I don't know."),
        ("Rex", "Bruno", (0.9, 0.2), "text", "Rex"),
        ("Rex", "Bruno", (0.2, 0.9), "weights", "Bruno"),
    ],
)
def test_who_spoke(text, weights, sure, spoke, answer):
    reader = Reader(learner=Halves(text, weights, sure), llm=None, max_new_tokens=8)
    found = reader.answer("What is my dog's name?", "both", lines=["- x"], state=(), memories=[])
    assert (found.spoke, found.text) == (spoke, answer)


@pytest.fixture
def server():
    """An endpoint that answers what is put into `replies`: (status, body) each."""

    class Handler(BaseHTTPRequestHandler):
        replies: ClassVar[list] = []
        asked: ClassVar[list] = []

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.asked.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            status, text = self.replies.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    Handler.replies, Handler.asked = [], []
    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", Handler
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def reply(text: str) -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]})


def test_the_endpoint_answers_after_a_retry(server):
    url, handler = server
    handler.replies += [(503, "busy"), reply(" Biscuit \n")]
    waits = []
    endpoint = ChatEndpoint(url, model="m", api_key="k", sleep=waits.append)
    assert endpoint.chat([{"role": "user", "content": "hi"}]) == "Biscuit"
    assert waits == [0.5]
    path, key, body = handler.asked[-1]
    assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer k", "m", 0)
    assert "k" not in endpoint.name.split()


@pytest.mark.parametrize(
    ("replies", "says"),
    [
        ([(401, "no")], "refused"),
        ([(500, "")] * 3, "3 attempts"),
        ([(200, "<html>")], "no chat completion"),
        ([(200, '{"choices": []}')], "no chat completion"),
        ([reply("  ")], "empty"),
    ],
)
def test_what_an_endpoint_can_do_wrong_is_an_llm_error(server, replies, says):
    url, handler = server
    handler.replies += replies
    with pytest.raises(LLMError, match=says):
        ChatEndpoint(url, sleep=lambda s: None).chat([{"role": "user", "content": "hi"}])


def test_a_broken_reply_is_tried_again_and_then_an_llm_error(broken_server):
    url, seen = broken_server
    endpoint = ChatEndpoint(url, sleep=lambda s: None, timeout_s=5)
    with pytest.raises(LLMError, match="3 attempts"):
        endpoint.chat([{"role": "user", "content": "hi"}])
    assert len(seen) == 3
    memory = Memory(Ledger(), learner=EchoLearner(), llm=endpoint)
    memory.observe("My dog is called Biscuit. Yesterday I ran my first marathon.")
    report = memory.learn()
    assert (report.failed, memory.status()["failed"]) == (1, 1)
    assert [m.answer for m in memory.ledger.memories(Scope())] == ["Biscuit"]


def test_nobody_there_and_no_url():
    with pytest.raises(LLMError, match="is the server running"):
        ChatEndpoint("http://127.0.0.1:9", retries=0, timeout_s=1).chat([])
    for bad in ("localhost:8000", "ftp://x", ""):
        with pytest.raises(InputError):
            ChatEndpoint(bad)


def test_a_living_is_a_job_and_not_a_home() -> None:
    assert speech.content("What do I do for a living?") == speech.content("What is my job?")
    assert speech.content("What does my sister do for a living?") == speech.content(
        "What is my sister's job?"
    )
