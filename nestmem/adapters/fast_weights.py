"""A language model whose memory is written into banks: load, write, answer, take back.

`FastWeights` is the whole of weight memory behind plain values: chats in, text out, states in, states out. It
satisfies the agent's `Learner` protocol once `nestmem.assemble` has turned the agent's types into these.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from nestmem.adapters import unrelated
from nestmem.adapters.banks import BankedModel
from nestmem.adapters.copying import Spans, reading_constraint, spans_of, writing_constraint
from nestmem.adapters.nested import NestedRule, key_moments
from nestmem.adapters.rows import LENGTHS, ROWS, Row, fixed_groups, fixed_length
from nestmem.adapters.rules import TMEM, AdditiveRule, BankSettings, RecursiveLeastSquares, Rule, hash_tensors
from nestmem.adapters.sites import find_sites, scaled_singular_basis
from nestmem.errors import InputError, ModelError, ModelNotFound

Chat = list[dict[str, str]]
Allowed = Callable[[int, Any], list[int]]

RULES = ("nested", "additive", "rls", "tmem")
WRITER_PROMPT = "Write questions and answers."
UNKNOWN = "I don't know."
CALIBRATION = (
    ("What is the capital of the small island?", "Port Almira"),
    ("What is my neighbour's name?", "Torvald Breck"),
    ("Where did we leave the bicycle?", "behind the old mill"),
    ("What do I drink in the morning?", "black coffee"),
    ("When does the train leave?", "at 6:40"),
    ("Who wrote the letter?", "Ines Quill"),
    ("What colour is the door?", "dark green"),
    ("What is the name of the boat?", "Sea Thistle"),
)
"""Question-answer pairs by which rates and ridges are set for a model that was not meta-trained."""


READ = 32
"""Rows read together."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """kl: mean KL(base || with banks) in nats per token on unrelated text; norm: of the banks, over that of the
    weights they stand beside (Frobenius); finite: whether all numbers are."""

    kl: float
    norm: float
    finite: bool


class FastWeights:
    """A base model, its sites and bases, and one write rule.

    Args: `model` and `tokenizer` of Hugging Face; `rule` one of "nested", "additive", "rls", "tmem"; `rank` R and
    `last` blocks of the banks; `settings` and `bases` when they were meta-learned, otherwise they are set from the
    base model (bases from singular vectors, ridge a fiftieth of a key's mean square, rate a quarter of a Polyak step
    shared by the sites). From the model's config: `extractive` (answers from text are spans of it) and
    `reading_tokens` (how much recalled text the model reads well; 500 where it does not say). All calls are serialised
    by a lock. Dropout is off; parameters are frozen.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        rule: str = "nested",
        rank: int = 32,
        last: int = 4,
        settings: BankSettings | None = None,
        bases: list[Tensor] | None = None,
        context_tokens: int = 1024,
    ):
        if rule not in RULES:
            raise InputError(f"rule={rule!r}: expected one of {', '.join(RULES)}")
        self.model = aligned(model.eval().requires_grad_(False))
        self.tokenizer = tokenizer
        self.context_tokens = context_tokens
        own = model.config.to_dict()
        self.extractive: bool = own.get("extractive", False)
        self.reading_tokens: int = own.get("reading_tokens", 500)
        if rule == "tmem":
            rank, last = min(rank, 6), 4
            bases = [scaled_singular_basis(site.weight(), rank) for site in find_sites(model, last=last)]
        self.banked = BankedModel(model, rank=rank, last=last, bases=bases)
        self._lock = threading.RLock()
        self._cache: OrderedDict[str, list[Tensor]] = OrderedDict()
        self.settings = settings or self._calibrated()
        self.unrelated = [
            *(self.encode_pair(*pair) for pair in unrelated.CHATS),
            *(self._encode_text(text) for text in unrelated.PROSE),
        ]
        self._held_out = [
            *(self.encode_pair(*pair) for pair in unrelated.HELD_OUT_CHATS),
            *(self._encode_text(text) for text in unrelated.HELD_OUT_PROSE),
        ]
        self.rule_object: Rule = {
            "nested": lambda: NestedRule(self.banked, self.settings, protect=self._protection()),
            "additive": lambda: AdditiveRule(self.banked, self.settings),
            "rls": lambda: RecursiveLeastSquares(self.banked, self.settings),
            "tmem": lambda: TMEM(self.banked),
        }[rule]()
        self.rule = rule
        self.additive = self.rule_object.additive
        self.ordered = self.rule_object.ordered
        self.fingerprint = self._fingerprint()

    # -- writing ---------------------------------------------------------------------------------------------

    def write(
        self, states: list[Any], users: list[list[list[tuple[str, str]]]], level: str = "fast"
    ) -> list[tuple[Any, list[bytes]]]:
        """Learn (question, answer) pairs: users -> memories -> pairs. One new state a user, one payload a memory."""
        rows = [[[self.encode_pair(*pair) for pair in pairs] for pairs in memories] for memories in users]
        with self._lock:
            return self.rule_object.write(states, rows, level)

    def erase(self, state: Any, removed: list[tuple[str, bytes]], remaining: list[tuple[str, bytes]]) -> Any:
        """`Rule.erase`. The banks of older states are forgotten with what was in them."""
        with self._lock:
            self._cache.clear()
            return self.rule_object.erase(state, removed, remaining)

    def rebuild(self, updates: list[tuple[str, bytes]]) -> Any:
        """`Rule.rebuild`."""
        with self._lock:
            return self.rule_object.rebuild(updates)

    def promote(self, state: Any, moved: list[tuple[str, bytes]], level: str) -> Any:
        """`Rule.promote`."""
        with self._lock:
            return self.rule_object.promote(state, moved, level)

    def snapshot(self, state: Any) -> bytes:
        """`Rule.snapshot`."""
        with self._lock:
            return self.rule_object.snapshot(state)

    def adopt(self, data: bytes) -> None:
        """`Rule.adopt`."""
        with self._lock:
            self.rule_object.adopt(data)

    def discard(self) -> None:
        """`Rule.discard`."""
        with self._lock:
            self.rule_object.discard()

    def encode_pair(self, question: str, answer: str) -> Row:
        """Tokens of a question and its answer as a chat; only the answer and the end of the turn are predicted.

        A pair longer than the model or the longest row (1,024 tokens) loses the end of its answer, at half of that
        length, and the start of its question.
        """
        prompt = self._whole_prompt([{"role": "user", "content": question}])
        completion = self._completion_ids(question, answer, prompt)
        completion = completion[: self._longest // 2]
        prompt = prompt[-(self._longest - len(completion)) :]
        return Row(ids=prompt + completion, weights=[0.0] * len(prompt) + [1.0] * len(completion))

    def _completion_ids(self, question: str, answer: str, prompt: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        if self.tokenizer.chat_template:
            chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            whole = self.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
            if whole[: len(prompt)] == prompt:
                rest = whole[len(prompt) :]
                return rest[: rest.index(end) + 1] if end in rest else rest
        ids = self.tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
        return ids if end is None else [*ids, end]

    def exact(self, pairs: list[tuple[str, str]], states: list[Any]) -> list[tuple[bool, float]]:
        """Of each (question, answer) under its state (None: no banks): is the greedy answer exactly this one, and the
        mean log-probability (nats per token, at most 0) of its tokens, the end of the turn among them."""
        found: list[tuple[bool, float]] = [(False, 0.0)] * len(pairs)
        rows = [self.encode_pair(*pair) for pair in pairs]
        alike: dict[tuple[int, int], list[int]] = {}
        for index, (row, state) in enumerate(zip(rows, states, strict=True)):
            alike.setdefault((id(state), fixed_length(len(row.ids))), []).append(index)
        for chosen in alike.values():
            for first in range(0, len(chosen), READ):
                part = chosen[first : first + READ]
                scored = self._score([rows[index] for index in part], states[part[0]])
                for index, value in zip(part, scored, strict=True):
                    found[index] = value
        return found

    @torch.no_grad()
    def _score(self, rows: list[Row], state: Any) -> list[tuple[bool, float]]:
        """`exact` for rows of like length under one state."""
        ids_BT, weights_BT = self._padded(rows)
        with self._lock, self.banked.using(self._banks([state])):
            logits = self.model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
        chances_BTV, targets_BT = logits.log_softmax(-1), ids_BT[:, 1:]
        asked_BT = weights_BT[:, 1:] > 0
        right_B = ((logits.argmax(-1) == targets_BT) | ~asked_BT).all(1)
        log_BT = chances_BTV.gather(-1, targets_BT[..., None])[..., 0] * asked_BT
        mean_B = log_BT.sum(1) / asked_BT.sum(1)
        return list(zip(right_B.tolist(), mean_B.tolist(), strict=True))

    @torch.no_grad()
    def drift(self, state: Any) -> Drift:
        """How far a state moves the model from its base: on text of `unrelated` that no write is
        protected by, and in its weights."""
        banks = self.banks_of(state)
        finite = all(bool(torch.isfinite(bank).all()) for bank in banks)
        squares = sum(float(bank.double().square().sum()) for bank in banks)
        base = sum(float(site.weight().double().square().sum()) for site in self.banked.sites)
        norm = math.sqrt(squares / base)
        if not finite:
            return Drift(kl=math.inf, norm=norm, finite=False)
        divergence, tokens = 0.0, 0
        for first in range(0, len(self._held_out), READ):
            ids_BT, weights_BT = self._padded(self._held_out[first : first + READ])
            asked_BT = weights_BT[:, 1:] > 0
            with self._lock:
                own = self.banked(None, input_ids=ids_BT, use_cache=False).logits[:, :-1][asked_BT]
                new = self.banked([b[None] for b in banks], input_ids=ids_BT, use_cache=False).logits
            new = new[:, :-1][asked_BT].float().log_softmax(-1)
            own = own.float().log_softmax(-1)
            divergence += float((own.exp() * (own - new)).sum())
            tokens += own.shape[0]
        return Drift(kl=divergence / tokens, norm=norm, finite=math.isfinite(divergence))

    @torch.no_grad()
    def applies(self, chats: list[Chat], state: Any) -> list[float]:
        """How much a state's banks answer to each chat: |B k| at the last token of the prompt, over its mean where
        answers were written, averaged over the sites. 0 when nothing was written, about 1 for what is like it.

        The activation margin of WISE (arXiv 2405.14768, section 2.3), for banks. Only the rule "nested" keeps the
        mean; under the others it is taken to be that of `CALIBRATION`.
        """
        banks = self.banks_of(state)
        if not any(bool(bank.any()) for bank in banks):
            return [0.0] * len(chats)
        top = getattr(state, "top", None)
        scale = (
            top.scale
            if top is not None
            else self._reach([[{"role": "user", "content": q}] for q, _ in CALIBRATION], banks)
            .mean(0)
            .tolist()
        )
        reach_BS = self._reach(chats, banks)
        return (reach_BS / torch.tensor(scale, device=reach_BS.device).clamp(min=1e-12)).mean(1).tolist()

    def _reach(self, chats: list[Chat], banks: list[Tensor]) -> Tensor:
        """|B k| per chat and site at the last token of each prompt."""
        rows = []
        for chat in chats:
            ids = torch.tensor([self.prompt_ids(chat)], device=self._device)
            with self._lock, self.banked.using([b[None] for b in banks], perturb=True) as call:
                self.model(input_ids=ids, use_cache=False)
                sites = range(len(banks))
                rows.append(torch.stack([(call.keys[s][0, -1] @ banks[s].T).norm() for s in sites]))
        return torch.stack(rows)

    # -- reading ---------------------------------------------------------------------------------------------

    def generate(self, chats: list[Chat], states: list[Any], *, max_new_tokens: int = 32) -> list[str]:
        """Greedy answers, one a chat, each under its own state (None: no banks)."""
        return [text for text, _ in self.decode(chats, states, max_new_tokens=max_new_tokens)]

    def confidence(self, chats: list[Chat], states: list[Any]) -> list[float]:
        """The probability (0..1) the model gives its own greedy answer."""
        return [probability for _, probability in self.decode(chats, states, max_new_tokens=32)]

    def decode(self, chats: list[Chat], states: list[Any], *, max_new_tokens: int) -> list[tuple[str, float]]:
        """Greedy answers of a batch with their probabilities. Contexts above `context_tokens` lose their start.

        An extractive model answers from a system message by a span of it, or says that it does not know.
        """
        limit = None
        if self.extractive and any(chat[0]["role"] == "system" for chat in chats):
            sources = [self._spans(chat) if chat[0]["role"] == "system" else None for chat in chats]

            def limit(width: int) -> Allowed:
                return reading_constraint(sources, width, self._vocabulary)

        return self._decode(chats, states, max_new_tokens, limit)

    def _spans(self, chat: Chat) -> Spans:
        text = chat[0]["content"].partition("\n")[2] or chat[0]["content"]
        return spans_of(self.tokenizer, text, phrases=(UNKNOWN,), stop=(self.tokenizer.eos_token_id,))

    @torch.no_grad()
    def _decode(
        self,
        chats: list[Chat],
        states: list[Any],
        max_new_tokens: int,
        limit: Callable[[int], Allowed] | None,
        *,
        width: int | None = None,
    ) -> list[tuple[str, float]]:
        """Prompts are padded to the left, to `width` tokens or to the longest of them; `limit` makes of that width
        the function that says which tokens may follow."""
        if not chats:
            return []
        prompts = [self.prompt_ids(chat) for chat in chats]
        longest = width or max(map(len, prompts))
        pad = self._pad_id()
        ids_BT = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=self._device)
        mask_BT = torch.tensor(
            [[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self._device
        )
        with self._lock, self.banked.using(self._banks(states)):
            made = self.model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
                output_logits=True,
                return_dict_in_generate=True,
                prefix_allowed_tokens_fn=limit(longest) if limit else None,
            )
        chances = torch.stack(made.logits, 1).float().log_softmax(-1)
        chances = chances.gather(-1, made.sequences[:, longest:, None])[..., 0]
        answers = []
        for row, chance in zip(made.sequences[:, longest:].tolist(), chances, strict=True):
            end = (
                row.index(self.tokenizer.eos_token_id) + 1 if self.tokenizer.eos_token_id in row else len(row)
            )
            text = self.tokenizer.decode(row[:end], skip_special_tokens=True).strip()
            answers.append((text, math.exp(float(chance[:end].sum()))))
        return answers

    @torch.no_grad()
    def stream(self, chat: Chat, state: Any, *, max_new_tokens: int = 64) -> Iterator[str]:
        """Pieces of the greedy answer as they come; an extractive reader's answer comes whole."""
        if self.extractive and chat[0]["role"] == "system":
            yield self.generate([chat], [state], max_new_tokens=max_new_tokens)[0]
            return
        ids = torch.tensor([self.prompt_ids(chat)], device=self._device)
        made: list[int] = []
        cache, shown = None, ""
        for _ in range(max_new_tokens):
            with self._lock, self.banked.using(self._banks([state])):
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            token = int(out.logits[0, -1].argmax())
            if token == self.tokenizer.eos_token_id:
                return
            made.append(token)
            text = self.tokenizer.decode(made, skip_special_tokens=True).lstrip()
            if not text.endswith("�"):
                yield text[len(shown) :]
                shown = text
            ids = torch.tensor([[token]], device=self._device)

    def questions(self, statements: list[str]) -> list[list[tuple[str, str]]]:
        """The model as its own writer: question-answer pairs it makes of each statement; an empty list for none.

        What an extractive model writes as an answer is a span of the statement. What it writes of a statement does
        not depend on the others: all are computed in batches of fixed shape (see `rows`).
        """
        chats = [
            [{"role": "system", "content": WRITER_PROMPT}, {"role": "user", "content": text}]
            for text in statements
        ]
        written: list[list[tuple[str, str]]] = [[] for _ in statements]
        for length, chosen in fixed_groups([len(self.prompt_ids(chat)) for chat in chats]):
            rows = [*chosen, *[chosen[0]] * (ROWS - len(chosen))]
            limit = self._writing([statements[row] for row in rows]) if self.extractive else None
            texts = self._decode([chats[row] for row in rows], [None] * ROWS, 64, limit, width=length)
            for row, (text, _) in zip(chosen, texts, strict=False):
                written[row] = parse_pairs(text)
        return written

    def _writing(self, statements: list[str]) -> Callable[[int], Allowed]:
        """The constraint under which answers are spans of the statements."""
        marker, newline = (self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (" A:", "\n"))
        stop = (self.tokenizer.eos_token_id, *newline)
        sources = [spans_of(self.tokenizer, text, stop=stop) for text in statements]

        def limit(width: int) -> Allowed:
            return writing_constraint(sources, width, marker, newline[0], self._vocabulary)

        return limit

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    # -- inside ----------------------------------------------------------------------------------------------

    @property
    def _longest(self) -> int:
        """The longest row, in tokens, that this model can be written with."""
        limit = self.model.config.max_position_embeddings
        return max(length for length in LENGTHS if length <= limit)

    @property
    def _vocabulary(self) -> list[int]:
        return list(range(len(self.tokenizer)))

    @property
    def _device(self) -> torch.device:
        return self.banked.bases[0].device

    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else (self.tokenizer.eos_token_id or 0)

    def prompt_ids(self, chat: Chat) -> list[int]:
        """The tokens of a chat up to where the assistant speaks: the last `context_tokens` of them."""
        return self._whole_prompt(chat)[-self.context_tokens :]

    def _whole_prompt(self, chat: Chat) -> list[int]:
        if self.tokenizer.chat_template:
            return self.tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        lines = [f"{message['role'].capitalize()}: {message['content']}" for message in chat]
        return self.tokenizer("\n".join([*lines, "Assistant:"]))["input_ids"]

    def banks_of(self, state: Any) -> list[Tensor]:
        """The banks (O, R) of a state, kept for the 64 states read last."""
        digest = self.rule_object.digest(state)
        with self._lock:
            if digest not in self._cache:
                self._cache[digest] = self.rule_object.banks(state)
            self._cache.move_to_end(digest)
            while len(self._cache) > 64:
                self._cache.popitem(last=False)
            return self._cache[digest]

    def _banks(self, states: list[Any]) -> list[Tensor] | None:
        """Banks (U, O, R) a site for a batch of one sample a user; None when nobody has any."""
        if all(state is None for state in states):
            return None
        empty = self.rule_object.empty()
        each = [self.banks_of(empty if state is None else state) for state in states]
        if all(banks is each[0] for banks in each):
            return [bank[None] for bank in each[0]]
        return [torch.stack(site) for site in zip(*each, strict=True)]

    def _padded(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Ids and weights (B, T) of rows, filled to the right."""
        longest = max(len(row.ids) for row in rows)
        ids_BT = [row.ids + [0] * (longest - len(row.ids)) for row in rows]
        weights_BT = [row.weights + [0.0] * (longest - len(row.ids)) for row in rows]
        return torch.tensor(ids_BT, device=self._device), torch.tensor(weights_BT, device=self._device)

    def _calibrated(self) -> BankSettings:
        return calibrated_settings(self.banked, *self._padded([self.encode_pair(*p) for p in CALIBRATION]))

    def _encode_text(self, text: str) -> Row:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"][: self._longest]
        return Row(ids=ids, weights=[0.0] + [1.0] * (len(ids) - 1))

    def _protection(self) -> list[Tensor] | None:
        if not self.settings.protect:
            return None
        return [self.settings.protect * moment for moment in key_moments(self.banked, self.unrelated)]

    def _fingerprint(self) -> str:
        """sha256 over all that decides what a write adds: base, bases, rule, settings, tokenizer and row shapes."""
        template, shapes = str(self.tokenizer.chat_template), json.dumps([ROWS, LENGTHS])
        words = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        parts = [self.rule, self.rule_object.options, template, words, shapes]
        parts += [self.settings.digest(), hash_tensors(self.banked.bases)]
        parts += [hash_tensors([tensor]) for _, tensor in sorted(self.model.state_dict().items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def aligned(model: torch.nn.Module) -> torch.nn.Module:
    """Copy every parameter to memory of PyTorch's own allocator, and return the model.

    Weights read from a safetensors file lie where the file has them, and matrix kernels round differently on
    unaligned memory: the same model would write other bits after a restart.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return model


def calibrated_settings(
    banked: BankedModel,
    ids_BT: Tensor,
    weights_BT: Tensor,
    *,
    ridge: tuple[float, ...] | None = None,
    rate: tuple[float, ...] | None = None,
    token: tuple[Tensor, ...] | None = None,
) -> BankSettings:
    """Settings from the keys and errors of example rows at the base; given values are kept.

    ridge = mean |k|^2 / 50. rate: a quarter of a Polyak step, with which the sites together would lower the loss by a
    quarter of its size to first order: mean loss / (4 sites x mean |e|^2). The fixed-point limits are the power of two
    above 8 times the largest entry seen.
    """
    keys, errors, loss_B = banked.keys_errors(ids_BT, weights_BT)
    chosen = weights_BT[:, 1:] > 0
    nats = float(loss_B.detach().sum() / weights_BT[:, 1:].sum())
    if not math.isfinite(nats):
        raise ModelError(f"the base model's loss on plain questions is {nats}; its weights are damaged")

    def limit(tensor: Tensor) -> float:
        return 2.0 ** math.ceil(math.log2(8 * float(tensor.detach().abs().max()) + 1e-12))

    k = [key[chosen] for key in keys]
    e = [error[chosen] for error in errors]
    return BankSettings(
        ridge=ridge or tuple(float(x.detach().square().sum(-1).mean()) / 50 for x in k),
        rate=rate or tuple(nats / (4 * len(k)) / float(x.detach().square().sum(-1).mean()) for x in e),
        token=token or tuple(torch.zeros(basis.shape[0]) for basis in banked.bases),
        key_limit=tuple(limit(x) for x in k),
        error_limit=tuple(limit(x) for x in e),
    )


def parse_pairs(text: str) -> list[tuple[str, str]]:
    """Read lines `Q: ... A: ...` that a writer made; anything else is left out."""
    return [(q.strip(), a.strip()) for q, a in re.findall(r"Q:\s*(.+?)\s+A:\s*([^\n]+)", text) if a.strip()]


def mini_folder() -> Path:
    """Where the embedded model lies in the package. Raises `ModelNotFound` when this build has none."""
    folder = Path(str(importlib.resources.files("nestmem"))) / "mini"
    if not (folder / "model.safetensors").exists():
        raise ModelNotFound(
            f"the embedded model is missing from {folder}; reinstall nestmem, or train it: nestmem train mini"
        )
    return folder


def load_fast_weights(
    name: str | Path,
    *,
    rule: str = "nested",
    rank: int = 32,
    last: int = 4,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> FastWeights:
    """Load a causal LM by Hugging Face name or folder ("mini": the embedded model) with the banks' settings beside it.

    Raises `ModelNotFound` when there is no such model, `ModelError` when its files are damaged.
    """
    folder = mini_folder() if str(name) == "mini" else name
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={str(device)!r} cannot be used here: {str(error).splitlines()[0]} Give 'cpu', or 'cuda' where "
            "there is a GPU."
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"no causal language model could be loaded from {str(name)!r}: {error}. "
            "Expected 'mini', a folder with config.json and safetensors, or a Hugging Face name."
        ) from error
    except SafetensorError as error:
        raise ModelError(
            f"the weights in {name} are damaged: {error}. Fetch or copy the model again."
        ) from error
    own = Path(folder) / "banks.safetensors"
    if not own.exists():
        return FastWeights(model, tokenizer, rule=rule, rank=rank, last=last)
    settings, bases = load_settings(own, find_sites(model, last=model.config.num_hidden_layers))
    bases = [basis.to(device=device, dtype=dtype) for basis in bases]
    blocks = len(bases) // (len(find_sites(model, last=1)))
    return FastWeights(
        model, tokenizer, rule=rule, rank=bases[0].shape[0], last=blocks, settings=settings, bases=bases
    )


def load_settings(path: Path, sites: list[Any]) -> tuple[BankSettings, list[Tensor]]:
    """Meta-learned settings and bases of the sites named in `banks.safetensors`."""
    tensors = load_file(path)
    names = [site.name for site in sites if f"{site.name}.basis" in tensors]
    values = {key: tuple(tensors[key].tolist()) for key in ("ridge", "rate", "key_limit", "error_limit")}
    token = tuple(tensors[f"{name}.token"] for name in names)
    protect = float(tensors["protect"]) if "protect" in tensors else BankSettings.protect
    return BankSettings(token=token, protect=protect, **values), [tensors[f"{name}.basis"] for name in names]
