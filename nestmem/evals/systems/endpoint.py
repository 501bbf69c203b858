"""Any OpenAI-compatible URL that is itself a memory, as a system.

Every turn of the user is sent as a chat completion: the messages of its session so far (the assistant's too, as they
stand in the data) and this one last. Turns of others that end a session are sent when it is over, or before a
question. What is replied to a turn is dropped. A question is a chat completion with nothing but the question, so only
what the server kept can answer it. Who speaks goes with each request: the field "user" of the body and the header
X-User-Id; the session in X-Session-Id, where each question has one of its own. A key goes with each request as well
(`Setup.api_key`); it is no option, so that no log holds it.

A request that told of turns and failed is counted, in the notes of each reply. A question that could not be sent, was
answered with nothing, or was refused, is a failed reading. What a server keeps is not known here: `bytes` is 0, and
what it writes on a question (it may remember that too) is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from nestmem.agent.llm import ChatEndpoint
from nestmem.agent.recall import count_tokens
from nestmem.agent.types import Chat
from nestmem.errors import InputError, LLMError
from nestmem.evals.datasets.base import Turn
from nestmem.evals.readers import failure, without_password
from nestmem.evals.systems.base import Kind, NotSupported, Reading, Reply, Setup, System

ANSWER_TOKENS = 256
DROPPED_TOKENS = 16
"""How long a reply to a turn may be: it is not looked at."""
CHARS_PER_TOKEN = 4


@dataclass(kw_only=True)
class _Said:
    """The session that a scope is in, whether its end is not sent yet, what could not be sent, and how many questions
    were asked."""

    session: str = ""
    chat: Chat = field(default_factory=list)
    unsent: bool = False
    asked: int = 0
    failed: int = 0
    why: str = ""


class Endpoint:
    """A server at a URL. window_tokens: of the session so far that is sent along, its end."""

    def __init__(self, endpoint: ChatEndpoint, *, window_tokens: int) -> None:
        self._endpoint = endpoint
        self._window_chars = CHARS_PER_TOKEN * window_tokens
        self._said: dict[str, _Said] = {}

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Sends a turn of the user; keeps one of another role until the user's next."""
        said = self._said.setdefault(scope, _Said())
        if said.session != message.session:
            self._flush(said, scope)
            said.session, said.chat = message.session, []
        if not message.text.strip():
            return
        said.chat.append({"role": message.role, "content": _content(message, time)})
        said.unsent = True
        if message.role == "user":
            self._flush(said, scope)

    def settle(self, scope: str) -> None:
        """Sends the turns that no turn of the user followed. What a server does in idle time is its own."""
        self._flush(self._said.setdefault(scope, _Said()), scope)

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the server replies to the question alone."""
        asked = question if time is None else f"{question}\n(Asked on {time:%Y-%m-%d}.)"
        chat = [{"role": "user", "content": asked}]
        text, failed = "", None
        said = self._said.setdefault(scope, _Said())
        said.asked += 1
        try:
            text = self._send(chat, scope, f"question-{said.asked}", ANSWER_TOKENS)
        except LLMError as error:
            failed = failure(str(error))
        lost = f"{said.failed} requests that told of turns failed; the last: {said.why}"
        return Reply(
            reading=Reading(
                text=text,
                prompt=chat,
                tokens_in=count_tokens(asked),
                tokens_out=count_tokens(text),
                failed=failed,
            ),
            notes=(lost,) if said.failed else (),
        )

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Chat completions have no way to take a message back."""
        raise NotSupported("a chat endpoint cannot be asked to forget a message")

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """None: its probabilities are not shown."""
        return None

    def bytes(self, scope: str) -> int:
        """0: what the server keeps is not known."""
        return 0

    def close(self) -> None:
        """Forgets the open sessions."""
        self._said.clear()

    def _flush(self, said: _Said, scope: str) -> None:
        """Sends the session so far, if it has turns that were not sent."""
        if not said.unsent:
            return
        said.unsent = False
        try:
            self._send(_tail(said.chat, self._window_chars), scope, said.session, DROPPED_TOKENS)
        except LLMError as error:
            said.failed, said.why = said.failed + 1, str(error)

    def _send(self, chat: Chat, scope: str, session: str, max_tokens: int) -> str:
        headers = {"X-User-Id": _header(scope), "X-Session-Id": _header(session)}
        return self._endpoint.chat(chat, max_tokens=max_tokens, extra={"user": scope}, headers=headers)


def _content(message: Turn, time: datetime | None) -> str:
    """The text, with who speaks where several people do, and when it was said."""
    spoken = f"{message.speaker}: " if message.speaker and message.group else ""
    said = f"(said on {time:%Y-%m-%d}) " if time else ""
    return f"{said}{spoken}{message.text}".encode("utf-8", "replace").decode()


def _tail(chat: Chat, most_chars: int) -> Chat:
    """The last messages that have at most so many characters together; the last one in any case."""
    kept, used = 0, 0
    for message in reversed(chat):
        used += len(message["content"])
        if kept and used > most_chars:
            break
        kept += 1
    return chat[-kept:]


def _header(text: str) -> str:
    """What may stand in a header: visible ASCII, the rest written as %XX."""
    kept = (chr(byte) if 32 < byte < 127 and byte != ord("%") else f"%{byte:02X}" for byte in text.encode())
    return "".join(kept)


def make(setup: Setup, *, url: str = "", model: str = "default") -> System:
    """The memory behind `url`, with the run's key. InputError when there is none, or it has a password in it."""
    if not url:
        raise InputError("the system endpoint needs a URL: endpoint:url=http://localhost:8000/v1")
    client = ChatEndpoint(without_password(url), model=model, api_key=setup.api_key)
    return Endpoint(client, window_tokens=setup.window_tokens)


KINDS: tuple[Kind, ...] = (
    Kind(
        name="endpoint",
        about="an OpenAI-compatible server that keeps a memory of its own",
        make=make,
        options={"url": "", "model": "default"},
        remote=True,
    ),
)
