"""Who answers from what was recalled: nobody, a model behind a URL, a model on this machine, or a scripted one.

A reading that fails is kept with its reason and counts as wrong: "empty", "refused: ...", "error: ...".
Prompts are `prompts/answer.v1.txt`, and `bare.v1.txt` where there is no context.
Tokens are counted at 4 characters each (`nestmem.agent.recall.count_tokens`), whatever the model's own are, so that
those of all readers and systems compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from nestmem.agent import prompts
from nestmem.agent.llm import ChatEndpoint, endpoint
from nestmem.agent.recall import count_tokens
from nestmem.agent.types import Chat, State
from nestmem.errors import InputError, LLMError, MissingExtra, ModelError, ModelNotFound
from nestmem.evals.datasets.base import Stream
from nestmem.evals.systems import scripted as fakes
from nestmem.evals.systems.base import Reader, Reading
from nestmem.evals.systems.pages import failure, prompt

ANSWER_TOKENS = 256
FIXED: dict[str, Callable[[], Reader]] = {
    "useless": fakes.useless,
    "silent": fakes.silent,
    "refusing": fakes.refusing,
}


def load(spec: str, *, api_key: str | None = None, device: str = "cpu", seed: int = 0) -> Reader:
    """The reader that `spec` names.

    "none"; the URL of an OpenAI-compatible server (http://host/v1#model); "mini" (the embedded model); a folder or
    Hugging Face name of a causal language model; or a scripted one: "perfect", "useless", "silent", "refusing".
    seed: of a model on this machine, which decodes greedily. InputError, MissingExtra, ModelNotFound.
    """
    if spec == "none":
        return NoReader()
    if spec.startswith(("http://", "https://")):
        return EndpointReader(endpoint(without_password(spec), api_key=api_key))
    if spec == "perfect":
        return PerStream(spec)
    if spec in FIXED:
        return FIXED[spec]()
    if spec == "mini":
        from nestmem.assemble import load_learner

        return LearnerReader(load_learner(spec, rule="nested", device=device, dtype="float32"))
    return ModelReader(spec, device=device, seed=seed)


def scripted(name: str, stream: Stream) -> Reader | None:
    """A scripted reader for one stream, new; None when `name` is not one."""
    if name == "perfect":
        return fakes.Perfect(stream)
    return FIXED[name]() if name in FIXED else None


def answer_chat(question: str, context: str, at: datetime | None) -> Chat:
    """The chat in which a general model answers.

    >>> answer_chat("Who?", "", datetime(2026, 3, 2))[1]["content"]
    'Who?\\n(Asked on 2026-03-02.)'
    """
    asked = question if at is None else f"{question}\n(Asked on {at:%Y-%m-%d}.)"
    system = f"{prompt('answer.v1')}\n\n{context}" if context else prompt("bare.v1")
    return [{"role": "system", "content": system}, {"role": "user", "content": asked}]


class NoReader:
    """Reads nothing: only what was recalled is scored."""

    name = "none"

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        """No reply, which is no failure."""
        return Reading(text=None)

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        """None: there is no model."""
        return None


class PerStream:
    """Stands for a scripted reader that is made anew for each stream (`scripted`)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        """InputError: it has no key."""
        raise InputError(
            f"the {self.name} reader needs the key of a stream: readers.scripted({self.name!r}, stream)"
        )

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        """None: there is no model."""
        return None


class EndpointReader:
    """A model behind an OpenAI-compatible URL, at temperature 0."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint
        self.name = endpoint.name

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        """What it says. An endpoint that does not answer after its retries is a failed reading."""
        chat = answer_chat(question, context, at)
        try:
            text = self._endpoint.chat(chat, max_tokens=ANSWER_TOKENS)
        except LLMError as error:
            return _counted(chat, "", failure(str(error)))
        return _counted(chat, text)

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        """What it writes. LLMError when it does not: a system that lost its summary is not judged as if it had
        none."""
        chat = [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
        return self._endpoint.chat(chat, max_tokens=max_tokens)


def without_password(url: str) -> str:
    """The URL. InputError when it is none, or when something secret may stand in it: URLs are written to logs."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(
            "the URL of an endpoint begins with http:// or https://, as http://localhost:8000/v1"
        )
    if "@" in parts.netloc or parts.query:
        raise InputError(
            "the URL has a user, a password or a query, and URLs are logged; leave them out and set the key "
            "in the environment (OPENAI_API_KEY)"
        )
    return url


class Answers(Protocol):
    """The part of a learner (`nestmem.assemble.LocalLearner`) that reads."""

    @property
    def name(self) -> str: ...
    @property
    def reading_tokens(self) -> int: ...
    def generate(
        self, chats: list[Chat], states: Sequence[State | None], *, max_new_tokens: int = 32
    ) -> list[str]: ...
    def count_tokens(self, text: str) -> int: ...


class LearnerReader:
    """A model of nestmem's own (the embedded one), as the agent asks it: with the agent's prompt, and of a context
    longer than it reads well only the end. It answers greedily, with nothing in its weights."""

    def __init__(self, learner: Answers) -> None:
        self._learner = learner
        self.name = learner.name

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        """What it says. A model that breaks off (out of memory) is a failed reading."""
        kept = tail(context, self._learner.reading_tokens, self._learner.count_tokens)
        chat = prompts.question_chat(question, [kept] if kept else [])
        try:
            [text] = self._learner.generate([chat], [None], max_new_tokens=64)
        except RuntimeError as error:
            return _counted(chat, "", broken(error))
        return _counted(chat, text)

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        """None: it answers questions and writes nothing else."""
        return None


class ModelReader:
    """A causal language model of Hugging Face on this machine, decoding greedily. Of a context that is longer than
    its positions only the end is read, and the logged prompt is the one that was read."""

    def __init__(self, spec: str, *, device: str, seed: int) -> None:
        self._torch, self._tokenizer, self._model = _load_model(spec, device)
        self._torch.manual_seed(seed)
        # A folder's place on this machine is nobody's business.
        self.name = Path(spec).name if Path(spec).is_dir() else spec
        self._device = device

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        """What it says. A model that breaks off (out of memory) is a failed reading."""
        spare = sum(self._count(m["content"]) for m in answer_chat(question, "-", at)) + ANSWER_TOKENS + 64
        kept = tail(context, max(1, self._positions - spare), self._count)
        chat = answer_chat(question, kept, at)
        try:
            return _counted(chat, self._generate(chat, ANSWER_TOKENS))
        except RuntimeError as error:
            return _counted(chat, "", broken(error))

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        """What it writes about the text, of which the end is read when it is too long. LLMError when it breaks off or
        writes nothing."""
        spare = self._count(instruction) + max_tokens + 64
        kept = tail(text, max(1, self._positions - spare), self._count)
        chat = [{"role": "system", "content": instruction}, {"role": "user", "content": kept}]
        try:
            written = self._generate(chat, max_tokens)
        except RuntimeError as error:
            raise LLMError(f"{self.name}: {_first_line(error)}") from error
        if not written:
            raise LLMError(f"{self.name} answered an empty message")
        return written

    @property
    def _positions(self) -> int:
        return int(getattr(self._model.config, "max_position_embeddings", None) or 1 << 20)

    def _count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _generate(self, chat: Chat, max_tokens: int) -> str:
        if self._tokenizer.chat_template:
            ids = self._tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        else:
            lines = [f"{message['role'].capitalize()}: {message['content']}" for message in chat]
            ids = self._tokenizer("\n".join([*lines, "Assistant:"]), verbose=False)["input_ids"]
        ids = ids[-max(1, self._positions - max_tokens) :]
        ids_BT = self._torch.tensor([ids], device=self._device)
        pad = self._tokenizer.pad_token_id
        with self._torch.no_grad():
            made_BT = self._model.generate(
                input_ids=ids_BT,
                attention_mask=self._torch.ones_like(ids_BT),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=self._tokenizer.eos_token_id if pad is None else pad,
            )
        return self._tokenizer.decode(made_BT[0, len(ids) :], skip_special_tokens=True).strip()


def tail(text: str, most_tokens: int, count: Callable[[str], int]) -> str:
    """The last lines of a text that have at most `most_tokens` together; of a last line that is longer, its end.

    >>> tail("one two\\nthree four", 2, lambda text: len(text.split()))
    'three four'
    """
    if count(text) <= most_tokens:
        return text
    lines = text.split("\n")
    # The least number of lines left out after which the rest fits: fewer lines never have more tokens.
    low, high = 1, len(lines)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count("\n".join(lines[middle:])) <= most_tokens else (middle + 1, high)
    kept = "\n".join(lines[low:])
    if kept:
        return kept
    last = lines[-1]
    while count(last) > most_tokens:
        last = last[len(last) // 10 + 1 :]
    return last


def broken(error: RuntimeError) -> str:
    """Why a model on this machine gave no answer.

    >>> broken(RuntimeError("CUDA out of memory."))
    'error: RuntimeError: CUDA out of memory.'
    """
    return f"error: {_first_line(error)}"


def _first_line(error: RuntimeError) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:300]


def _counted(chat: Chat, text: str, failed: str | None = None) -> Reading:
    return Reading(
        text=text,
        prompt=chat,
        tokens_in=sum(count_tokens(message["content"]) for message in chat),
        tokens_out=count_tokens(text),
        failed=failed or (None if text else "empty"),
    )


def _load_model(spec: str, device: str) -> tuple[Any, Any, Any]:
    """torch, the tokenizer and the model. ModelNotFound when there is none, ModelError when it is damaged."""
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingExtra("model", error.name or "torch") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec)
        model: Any = AutoModelForCausalLM.from_pretrained(spec)
        model = model.to(device).eval()
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"no reader {spec!r}: {error}. Expected none, mini, a URL such as http://localhost:8000/v1#model, a "
            f"Hugging Face folder or name, or perfect, {', '.join(FIXED)}"
        ) from error
    except SafetensorError as error:
        raise ModelError(f"the weights in {spec} are damaged: {error}. Copy the model again.") from error
    return torch, tokenizer, model
