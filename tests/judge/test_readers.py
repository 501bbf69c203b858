"""Readers: what is asked of whom, and what becomes of a reading that fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from nestmem.agent import prompts
from nestmem.agent.llm import ChatEndpoint
from nestmem.errors import InputError, LLMError, ModelNotFound
from nestmem.evals import personas, readers
from nestmem.evals.datasets.base import Question, Stream, Turn
from nestmem.evals.systems import scripted
from nestmem.evals.systems.pages import prompt

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
LATER = datetime(2026, 4, 2, 9, tzinfo=UTC)
CONTEXT = "[2026-03-02]\nuser: My dog is called Biscuit."
ASKED = "What is my dog called?"


class Server:
    """An OpenAI-compatible server that answers with what stands in `replies`, the last one from then on. A reply is
    (HTTP status, message, finish_reason)."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, Any, str]] = [(200, {"content": " Biscuit. "}, "stop")]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(json.loads(body))
                outer.keys.append(self.headers["Authorization"])
                status, message, reason = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                raw = json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self.http = HTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def reader(self) -> readers.EndpointReader:
        """Without waiting between attempts."""
        return readers.EndpointReader(ChatEndpoint(self.url, sleep=lambda seconds: None))


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()
    made.thread.join(5)


# Nobody.


def test_no_reader_says_nothing_and_does_not_fail() -> None:
    reader = readers.load("none")
    reading = reader.read(ASKED, CONTEXT, at=AT)
    assert (reader.name, reading.text, reading.failed, reading.prompt) == ("none", None, None, [])
    assert reader.write("Summarise.", CONTEXT, max_tokens=10) is None


# Prompts.


def test_the_prompt_holds_question_date_and_context_word_for_word() -> None:
    system, user = readers.answer_chat(ASKED, CONTEXT + " {question}", AT)
    assert system["role"] == "system" and system["content"].endswith("\n\n" + CONTEXT + " {question}")
    assert system["content"].startswith(prompt("answer.v1")) and "I don't know" in prompt("answer.v1")
    assert user == {"role": "user", "content": f"{ASKED}\n(Asked on 2026-03-02.)"}
    bare, asked = readers.answer_chat(ASKED, "", None)
    assert bare["content"] == prompt("bare.v1") and asked["content"] == ASKED
    assert personas.abstains(prompt("bare.v1").rpartition("say: ")[2])


def test_every_prompt_file_is_used_and_holds_its_places_only() -> None:
    found = {path.name: path.read_text() for path in (files("nestmem.evals") / "prompts").iterdir()}
    assert {"answer.v1.txt", "bare.v1.txt", "summary.v1.txt"} <= set(found)
    assert found["summary.v1.txt"].count("{words}") == 1
    assert "{" not in found["answer.v1.txt"] + found["bare.v1.txt"]


# A URL.


def test_an_endpoint_answers(server: Server) -> None:
    reader = readers.load(f"{server.url}#small", api_key="secret")
    reading = reader.read(ASKED, CONTEXT, at=AT)
    assert (reading.text, reading.failed, reading.tokens_out) == ("Biscuit.", None, 2)
    assert reading.prompt == readers.answer_chat(ASKED, CONTEXT, AT) == server.requests[0]["messages"]
    assert reading.tokens_in == sum(-(-len(message["content"]) // 4) for message in reading.prompt)
    assert (server.requests[0]["model"], server.requests[0]["temperature"]) == ("small", 0)
    assert server.keys == ["Bearer secret"] and "secret" not in reader.name and "small" in reader.name
    assert reader.read(ASKED, CONTEXT, at=AT) == reading


@pytest.mark.parametrize("content", ["", "  \n", None])
def test_an_empty_reply_is_a_failed_reading(server: Server, content: str | None) -> None:
    server.replies = [(200, {"content": content}, "stop")]
    reading = server.reader().read(ASKED, CONTEXT, at=AT)
    assert (reading.text, reading.failed) == ("", "empty")
    assert reading.tokens_in > 0 and reading.prompt


def test_an_error_is_a_failed_reading_after_its_retries(server: Server) -> None:
    server.replies = [(500, {}, "")]
    reading = server.reader().read(ASKED, CONTEXT, at=AT)
    assert reading.text == "" and reading.failed is not None
    assert reading.failed.startswith("error: ") and "HTTP 500" in reading.failed
    assert len(server.requests) == 3
    server.replies = [(401, {}, "")]
    failed = server.reader().read(ASKED, CONTEXT, at=AT).failed
    assert failed is not None and failed.startswith("error: ") and "HTTP 401" in failed
    assert len(server.requests) == 4


def test_a_busy_endpoint_is_asked_again(server: Server) -> None:
    server.replies = [(503, {}, ""), (200, {"content": "Biscuit"}, "stop")]
    assert server.reader().read(ASKED, CONTEXT, at=AT).text == "Biscuit"


def test_what_broke_off_is_an_error_and_no_empty_reply(broken_server: tuple[str, list[int]]) -> None:
    url, seen = broken_server
    reader = readers.EndpointReader(ChatEndpoint(url, sleep=lambda seconds: None))
    failed = reader.read(ASKED, CONTEXT, at=AT).failed
    assert failed is not None and failed.startswith("error: ") and len(seen) == 3


def test_a_refusal_is_named_as_one() -> None:
    message = "http://host/v1/chat/completions refused to answer: content_filter"
    assert readers.failure(message) == "refused: content_filter"


def test_a_refusal_of_the_server_is_named_as_one(server: Server) -> None:
    server.replies = [
        (200, {"content": None}, "content_filter"),
        (200, {"content": None, "refusal": "I can't help with that."}, "stop"),
        (200, {"content": "Biscuit", "refusal": None}, "stop"),
    ]
    reader = server.reader()
    said = [reader.read(ASKED, CONTEXT, at=AT).failed for _ in range(3)]
    assert said == ["refused: content_filter", "refused: I can't help with that.", None]


def test_a_summary_that_fails_is_an_error_of_the_run(server: Server) -> None:
    assert server.reader().write("Summarise.", CONTEXT, max_tokens=9) == "Biscuit."
    assert server.requests[0]["max_tokens"] == 9
    server.replies = [(200, {"content": ""}, "stop")]
    with pytest.raises(LLMError, match="empty"):
        server.reader().write("Summarise.", CONTEXT, max_tokens=9)


# Scripted.


def stream(*questions: Question) -> Stream:
    turns = tuple(Turn(id=f"t{n}", session="s", role="user", text="said") for n in range(4))
    return Stream(id="ada", turns=turns, questions=questions)


def question(id_: str, text: str = ASKED, **more: Any) -> Question:
    return Question(id=id_, text=text, kind="fact", **{"after": 4, **more})


def test_a_perfect_reader_answers_rightly() -> None:
    reader = readers.scripted(
        "perfect",
        stream(
            question("a", "a?", answers=("Biscuit", "a dog")),
            question("b", "b?", answerable=False),
            question("c", "c?", rubric=("first rain", "then snow.")),
            question("d", "d?", answers=("It cost 300.",), rubric=("300",)),
            question("e", "e?", answers=("Oslo",), rubric=("Rome", "Oslo")),
        ),
    )
    assert reader is not None
    said = {text: reader.read(text, CONTEXT, at=None).text for text in ("a?", "b?", "c?", "d?", "e?")}
    assert said == {
        "a?": "Biscuit",
        "b?": prompts.UNKNOWN,
        "c?": "first rain\nthen snow.",
        "d?": "It cost 300.",
        "e?": "Rome\nOslo\nOslo",
    }
    reading = reader.read("a?", CONTEXT, at=None)
    assert reading.prompt[0]["content"] == CONTEXT and reading.tokens_in > 0 and reading.failed is None
    with pytest.raises(InputError, match="'ada' was asked 'what"):
        reader.read("what?", CONTEXT, at=None)


def test_a_perfect_reader_tells_questions_of_one_text_apart() -> None:
    key = stream(
        question("late", answers=("Rex",), after=4),
        question("early", answers=("Biscuit",), after=1),
        question("dated", answers=("Nimbus",), at=AT),
        question("redated", answers=("Pip",), at=LATER),
    )
    reader = scripted.Perfect(key)
    assert [reader.read(ASKED, "", at=None).text for _ in range(3)] == ["Biscuit", "Rex", "Rex"]
    assert [reader.read(ASKED, "", at=at).text for at in (LATER, AT, AT)] == ["Pip", "Nimbus", "Nimbus"]
    # A stream has a reader of its own.
    other = scripted.Perfect(stream(question("q", answers=("Bella",))))
    assert other.read(ASKED, "", at=None).text == "Bella"


def test_a_perfect_reader_without_a_stream_says_what_it_needs() -> None:
    reader = readers.load("perfect")
    assert reader.name == "perfect"
    with pytest.raises(InputError, match="stream"):
        reader.read(ASKED, CONTEXT, at=None)


def test_a_useless_reply_is_no_answer_and_no_admission() -> None:
    said = readers.load("useless").read(ASKED, CONTEXT, at=AT)
    assert said.failed is None and said.text == scripted.USELESS
    assert not personas.abstains(scripted.USELESS)
    words = personas.normalise(scripted.USELESS).split()
    assert words and min(map(len, words)) > 1
    assert not set(words) & set(personas.normalise(f"{CONTEXT} {prompts.UNKNOWN}").split())


@pytest.mark.parametrize(("name", "failed"), [("silent", "empty"), ("refusing", "refused: ")])
def test_a_reader_that_says_nothing_fails(name: str, failed: str) -> None:
    reader = readers.load(name)
    reading = reader.read(ASKED, CONTEXT, at=AT)
    assert reading.failed is not None and reading.failed.startswith(failed) and reading.text == ""
    assert reader.name == name and reading.tokens_in > 0
    again = readers.scripted(name, stream())
    assert again is not None and again.read(ASKED, CONTEXT, at=AT) == reading


def test_other_names_are_not_scripted() -> None:
    assert readers.scripted("none", stream()) is None
    assert readers.scripted("http://localhost/v1", stream()) is None


# Models on this machine.


def test_the_end_of_a_text_is_kept_by_lines() -> None:
    def count(text: str) -> int:
        return len(text.split())

    text = "one two\nthree four\nfive"
    assert [readers.tail(text, most, count) for most in (5, 4, 3, 2, 1)] == [
        text,
        "three four\nfive",
        "three four\nfive",
        "five",
        "five",
    ]
    assert readers.tail("a b c d e f g h i j k l m n o p q r s t", 5, count).split()[-1] == "t"


class Learner:
    """The part of a learner that a reader uses; says what it is told to."""

    name = "learner"
    reading_tokens = 10

    def __init__(self, reply: str) -> None:
        self.reply = reply

    def generate(
        self, chats: list[Any], states: Sequence[Any | None], *, max_new_tokens: int = 32
    ) -> list[str]:
        assert states == [None]
        return [self.reply]

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def test_a_learner_is_asked_as_the_agent_asks_it() -> None:
    reader = readers.LearnerReader(Learner("Biscuit"))
    reading = reader.read(ASKED, f"user: {'x ' * 20}\n{CONTEXT}", at=AT)
    assert reading.prompt == prompts.question_chat(ASKED, CONTEXT.split("\n"))
    assert (reading.text, reading.tokens_out, reading.failed) == ("Biscuit", 2, None)
    assert reading.tokens_in == sum(-(-len(message["content"]) // 4) for message in reading.prompt)
    assert reader.read(ASKED, "", at=AT).prompt == [{"role": "user", "content": ASKED}]
    assert readers.LearnerReader(Learner("")).read(ASKED, CONTEXT, at=AT).failed == "empty"


class Breaking(Learner):
    """Has no memory left."""

    def generate(
        self, chats: list[Any], states: Sequence[Any | None], *, max_new_tokens: int = 32
    ) -> list[str]:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 20 GiB")


def test_a_model_that_breaks_off_is_a_failed_reading() -> None:
    reading = readers.LearnerReader(Breaking("")).read(ASKED, CONTEXT, at=AT)
    assert (reading.text, reading.failed) == ("", "error: RuntimeError: CUDA out of memory.")
    assert reading.prompt == prompts.question_chat(ASKED, CONTEXT.split("\n")) and reading.tokens_in > 0


def test_a_url_with_a_password_is_refused() -> None:
    with pytest.raises(InputError, match="OPENAI_API_KEY") as refused:
        readers.load("http://ada:hunter2@localhost:1/v1#small")
    assert "hunter2" not in str(refused.value)


def test_the_embedded_model_reads() -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    reader = readers.load("mini")
    reading = reader.read(ASKED, "user: My dog is called Biscuit.", at=None)
    assert reader.name == "mini" and reading.text == "Biscuit" and reading.failed is None
    assert reader.read(ASKED, "user: My dog is called Biscuit.", at=None) == reading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Hugging Face model of random weights, with 900 positions."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from nestmem.train.tokenizer import train_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("readers") / "tiny-reader"
    tokenizer = train_tokenizer([prompt("answer.v1"), CONTEXT, ASKED] * 20, vocabulary=300)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=900,
        eos_token_id=1,
        bos_token_id=1,
        pad_token_id=0,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_model_folder_reads_the_end_of_a_long_context(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ANSWER_TOKENS", 8)
    reader = readers.load(str(folder))
    assert reader.name == "tiny-reader"
    reading = reader.read(ASKED, CONTEXT, at=AT)
    assert reading.prompt == readers.answer_chat(ASKED, CONTEXT, AT)
    assert reading.failed == (None if reading.text else "empty") and reading.tokens_in > 50
    assert (
        reader.read(ASKED, CONTEXT, at=AT) == reading == readers.load(str(folder)).read(ASKED, CONTEXT, at=AT)
    )
    long = reader.read(ASKED, "\n".join([f"user: line {n}" for n in range(900)]), at=AT)
    system = long.prompt[0]["content"]
    assert system.startswith(prompt("answer.v1")) and system.endswith("user: line 899")
    assert "line 100\n" not in system and long.tokens_in < 900
    assert isinstance(reader.write("Summarise.", CONTEXT * 200, max_tokens=4), str)


def test_a_model_folder_that_breaks_off_fails_the_reading_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = readers.load(str(folder))

    def generate(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(reader._model, "generate", generate)
    reading = reader.read(ASKED, CONTEXT, at=AT)
    assert (reading.text, reading.failed) == ("", "error: RuntimeError: out of memory")
    assert reading.tokens_in == sum(-(-len(message["content"]) // 4) for message in reading.prompt) > 0
    with pytest.raises(LLMError, match="out of memory"):
        reader.write("Summarise.", CONTEXT, max_tokens=4)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelNotFound, match="Expected none, mini"):
        readers.load(str(tmp_path))
    with pytest.raises(ModelNotFound, match="no reader 'nobody/has-this'"):
        readers.load("nobody/has-this")
