"""Level stacking: MLPs of a pretrained model that go on learning while it reads, each at its own period.

Nested Learning, arXiv 2512.24695, section 7.3: the levels of a continuum memory start as the MLPs of a pretrained
model, and without learning rate they are that model.

Legend of shapes: B batch, T tokens, n tokens of one call, D width, H heads of keys, K width of a head, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from nestmem.core import State, state, static
from nestmem.core.checks import check_class, check_whole, state_dtype
from nestmem.errors import InputError
from nestmem.layers.fast import FastLevel, merge
from nestmem.models import late
from nestmem.models.late import LateState
from nestmem.ops import endtoend

FORMAT = 1
FILE = "nestmem_levels"
# Decoder layers that are called as here, checked against their model.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@state
class LayerCaches(State):
    """Keys and values [B, H, past, K] of some attention layers, by the layer's number, and the tokens seen."""

    keys: dict[str, Tensor]
    values: dict[str, Tensor]
    position: int = static(default=0)


@state
class StackedState(State):
    """What a stacked model remembers: caches of the layers that only read, and the inner loop of those above."""

    lower: LayerCaches
    late: LateState


class StackedOutput(NamedTuple):
    """loss in nats per token, None without labels; logits [B, T, V]; the state after the tokens."""

    loss: Tensor | None
    logits: Tensor
    state: StackedState


def stack_levels(
    model: PreTrainedModel,
    periods: Mapping[int, int] | Sequence[int | None],
    *,
    rate: float = 0.1,
    clip: float | None = 1.0,
    decay: float = 1.0,
    momentum: float = 0.0,
    optimizer: str = "gradient_descent",
    learn_rate: bool = True,
) -> StackedForCausalLM:
    """Give MLPs of a pretrained causal language model periods at which they learn from what it reads.

    periods     layer -> tokens between two writes of its MLP; or one entry for each of the last layers, from the
                lower to the upper one, None for an MLP that is never written. Each period is a multiple of the
                shortest. The paper does not say which layers get which
    learn_rate  one rate for each period is a parameter; rate=0 needs False, and is the model as it was

    Everything from the first of these layers to the head is computed in chunks of the shortest period, with weights
    for each sequence: choose upper layers. The model is not copied, and its parameters are the initial weights.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=3,
    ...                      num_attention_heads=2, num_key_value_heads=1)
    >>> stacked = stack_levels(LlamaForCausalLM(config), [16, 64])
    >>> stacked.periods
    {1: 16, 2: 64}
    """
    layers = _layers(model)
    if isinstance(periods, Mapping):
        chosen = {int(layer): period for layer, period in periods.items()}
    else:
        first = len(layers) - len(periods)
        chosen = {first + i: period for i, period in enumerate(periods) if period is not None}
    for layer, period in chosen.items():
        if not 0 <= layer < len(layers):
            raise InputError(f"the model has layers 0..{len(layers) - 1}; got a period for layer {layer}")
        check_whole("a period", period, unit=" of tokens")
    if not chosen:
        raise InputError("periods names no layer; give at least one, such as {11: 512} or [512]")
    return StackedForCausalLM(
        model,
        dict(sorted(chosen.items())),
        rate=rate,
        clip=clip,
        decay=decay,
        momentum=momentum,
        optimizer=optimizer,
        learn_rate=learn_rate,
    )


class StackedForCausalLM(nn.Module):
    """A Hugging Face model of which some MLPs learn while it reads, by its own next-token loss. See `stack_levels`.

    MLPs with the same period are one level, whose gradient is clipped as a whole. Weights written by a period's
    tokens are in force from the next token on. All sequences of a batch have the same length, without padding.
    Training differentiates through the writes, into every parameter of the model and the rates.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        periods: dict[int, int],
        *,
        rate: float,
        clip: float | None,
        decay: float,
        momentum: float,
        optimizer: str,
        learn_rate: bool,
    ) -> None:
        super().__init__()
        _check_model(model)
        if not isinstance(optimizer, str):
            raise InputError(
                f"optimizer is a name, which the saved model can say; got {type(optimizer).__name__}"
            )
        self.model: Any = model
        self.periods = periods
        self.settings: dict[str, Any] = {
            "rate": rate,
            "clip": clip,
            "decay": decay,
            "momentum": momentum,
            "optimizer": optimizer,
            "learn_rate": learn_rate,
        }
        self.log_rate = None
        if learn_rate:
            if not rate > 0:
                raise InputError(f"a learned rate is positive; got rate={rate}: use learn_rate=False")
            start = torch.full((len(set(periods.values())),), math.log(rate), dtype=torch.float64)
            kind = state_dtype(torch.empty(0, dtype=model.dtype))
            self.log_rate = nn.Parameter(start.to(device=model.device, dtype=kind))
        endtoend.init(
            {n: torch.empty(0) for level in self._levels() for n in level.names},
            1,
            levels=merge(self._levels()),
        )

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, state: StackedState | None = None
    ) -> StackedOutput:
        """Logits [B, T, V] for input_ids [B, T], the loss of `labels`, and the state after these tokens.

        labels  as input_ids, -100 where no loss is wanted; token t + 1 is predicted at token t
        state   what an earlier call returned, to go on from there; None: a new sequence
        """
        self._check(input_ids, labels, state)
        rows = input_ids.shape[0]
        upper, first = self._upper(), min(self.periods)
        base = self.model.model
        h = base.embed_tokens(input_ids)
        levels = merge(self._levels())
        names = {n for level in levels for n in level.names or ()}
        every = dict(upper.named_parameters())
        if state is None:
            fast = {n: every[n].to(state_dtype(every[n])) for n in sorted(names)}
            learning = endtoend.init(
                fast, rows, levels=levels, carry=self._empty(range(first, len(base.layers)), h)
            )
            state = StackedState(lower=self._empty(range(first), h), late=LateState(learning=learning))
        h, lower = _read(base, range(first), h, state.lower)
        outer = {
            "upper": {n: p for n, p in every.items() if n not in names},
            "head": self.model.lm_head.weight,
        }

        def step(outer: Any, fast: dict[str, Tensor], inputs: Any, carry: Any) -> tuple[Tensor, Tensor, Any]:
            hidden, after = inputs["hidden"], inputs["next"]
            weights = outer["upper"] | {n: w.to(hidden.dtype) for n, w in fast.items()}
            past = carry.map(lambda x: x[None])
            normed, caches = torch.func.functional_call(upper, weights, (hidden[None], past))
            logits = normed[0] @ outer["head"].mT
            losses = F.cross_entropy(logits.to(state_dtype(logits)), after, reduction="none")
            return losses, normed[0], caches.map(lambda x: x[0])

        normed, learning = late.read(
            step, outer, h, input_ids, state.late, levels=levels, checkpoint=self.training
        )
        logits = self.model.lm_head(normed)
        loss = None
        if labels is not None:
            kept = logits[:, :-1].flatten(0, 1)
            loss = F.cross_entropy(kept.to(state_dtype(kept)), labels[:, 1:].flatten(), ignore_index=-100)
        return StackedOutput(loss, logits, StackedState(lower=lower, late=learning))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        state: StackedState | None = None,
    ) -> tuple[Tensor, StackedState]:
        """The tokens with new ones behind them, [B, T + max_new_tokens], and the state before the last of them.

        It learns from what it writes, too. temperature 0 takes the likeliest token; otherwise tokens are drawn.
        """
        check_whole("max_new_tokens", max_new_tokens)
        if not 0 <= temperature < float("inf"):
            raise InputError(f"temperature is at least 0; got {temperature}")
        made, new = [input_ids], input_ids
        for _ in range(max_new_tokens):
            _, logits, state = self(new, state=state)
            last = logits[:, -1]
            if temperature:
                chances = (last / temperature).softmax(-1)
                new = torch.multinomial(chances, 1, generator=generator)
            else:
                new = last.argmax(-1, keepdim=True)
            made.append(new)
        assert state is not None
        return torch.cat(made, 1), state

    def save(self, folder: str | Path) -> None:
        """Write the model as transformers does, and beside it the periods, settings and rates."""
        self.model.save_pretrained(folder)
        about = {"format": FORMAT, "periods": {str(i): p for i, p in self.periods.items()}} | self.settings
        (Path(folder) / f"{FILE}.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if self.log_rate is not None:
            rates = {"log_rate": self.log_rate.detach().contiguous()}
            save_file(rates, str(Path(folder) / f"{FILE}.safetensors"))

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> StackedForCausalLM:
        """What `save` wrote; `options` are those of transformers' from_pretrained.

        Raises FileNotFoundError or InputError where the folder holds no stacked model of this format.
        """
        path = Path(folder) / f"{FILE}.json"
        if not path.is_file():
            raise FileNotFoundError(f"no {path.name} in {folder}; stack_levels makes a stacked model")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is damaged ({error}); save the model again") from error
        if about.pop("format", None) != FORMAT:
            raise InputError(
                f"{path} has another format than {FORMAT}; load it with the nestmem that saved it"
            )
        periods = {int(layer): period for layer, period in about.pop("periods").items()}
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options)
        try:
            stacked = stack_levels(model, periods, **about)
        except TypeError as error:
            raise InputError(f"{path} has settings that this nestmem does not know: {error}") from error
        if stacked.log_rate is not None:
            weights = Path(folder) / f"{FILE}.safetensors"
            if not weights.is_file():
                raise FileNotFoundError(
                    f"no {weights.name} in {folder}, the learned rates; save the model again"
                )
            try:
                rates = load_file(str(weights))
            except SafetensorError as error:
                raise InputError(f"{weights} is damaged ({error}); save the model again") from error
            with torch.no_grad():
                stacked.log_rate.copy_(rates["log_rate"])
        return stacked

    def _levels(self) -> list[FastLevel]:
        """One level for each MLP; those of a period share their rate, so they are merged."""
        every = sorted(set(self.periods.values()))
        given = {k: v for k, v in self.settings.items() if k not in ("rate", "learn_rate")}
        rates = (
            [self.settings["rate"]] * len(every) if self.log_rate is None else self.log_rate.exp().unbind()
        )
        by_period = dict(zip(every, rates, strict=True))
        layers = _layers(self.model)
        return [
            FastLevel(
                names=tuple(f"layers.{i}.mlp.{name}" for name, _ in layers[i].mlp.named_parameters()),
                period=period,
                rate=by_period[period],
                **given,
            )
            for i, period in self.periods.items()
        ]

    def _upper(self) -> _Upper:
        return _Upper(self.model.model, min(self.periods))

    def _empty(self, numbers: range, h: Tensor) -> LayerCaches:
        """Caches of those layers without a token."""
        sizes = {}
        for i in numbers:
            attention = self.model.model.layers[i].self_attn
            heads = attention.k_proj.out_features // attention.head_dim
            sizes[str(i)] = (h.shape[0], heads, 0, attention.head_dim)
        return LayerCaches(
            keys={i: h.new_zeros(size) for i, size in sizes.items()},
            values={i: h.new_zeros(size) for i, size in sizes.items()},
        )

    @staticmethod
    def _seen(given: StackedState) -> int:
        """Tokens of a state, the one whose successor is not known among them."""
        check_class(given, StackedState)
        return given.lower.position if given.lower.keys else given.late.learning.position + 1

    def _check(self, ids: Tensor, labels: Tensor | None, given: StackedState | None) -> None:
        vocabulary = self.model.config.vocab_size
        if ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
            raise InputError(
                f"input_ids are whole numbers [B, T], T at least 1; got {ids.dtype} {list(ids.shape)}"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise InputError(
                f"input_ids are below vocab_size {vocabulary}; got {int(ids.min())} to {int(ids.max())}: the "
                "tokenizer is another model's"
            )
        if labels is not None and (labels.shape != ids.shape or ids.shape[1] < 2):
            raise InputError(
                f"labels are [B, T] as input_ids, {list(ids.shape)}, with at least 2 tokens; got {list(labels.shape)}"
            )
        longest = getattr(self.model.config, "max_position_embeddings", None)
        position = ids.shape[1] + (self._seen(given) if given is not None else 0)
        if longest is not None and position > longest:
            raise InputError(
                f"{position} tokens are more than max_position_embeddings, {longest}; cut the text, or raise it in the "
                "config if the model is to go beyond what it was trained on"
            )
        if given is not None:
            check_class(given, StackedState)
            rows = next(iter(given.late.learning.weights.values())).shape[0]
            if rows != ids.shape[0]:
                raise InputError(f"the state is that of {rows} sequences, and input_ids has {ids.shape[0]}")


class _Upper(nn.Module):
    """The layers from `first` on and the last norm, as one function of their weights. Names are the model's."""

    def __init__(self, base: Any, first: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(i): base.layers[i] for i in range(first, len(base.layers))})
        self.norm = base.norm
        # Not a child: nothing of it is called but the rotary table, which has no weights.
        self.parts = (base,)

    def forward(self, h: Tensor, past: LayerCaches) -> tuple[Tensor, LayerCaches]:
        """h [B, n, D] -> behind the norm [B, n, D], and the caches."""
        h, after = _read(self.parts[0], [int(i) for i in self.layers], h, past)
        return self.norm(h), after


class _Cache:
    """What an attention layer of transformers calls to put new keys and values behind the old ones."""

    def __init__(self, past: LayerCaches) -> None:
        self.keys, self.values = dict(past.keys), dict(past.values)

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *more: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        i = str(layer_idx)
        self.keys[i] = torch.cat([self.keys[i], keys], 2)
        self.values[i] = torch.cat([self.values[i], values], 2)
        return self.keys[i], self.values[i]


def _read(base: Any, numbers: Sequence[int], h: Tensor, past: LayerCaches) -> tuple[Tensor, LayerCaches]:
    """Some decoder layers in turn, h [B, n, D] -> [B, n, D] and their caches; a window's cache is cut to it."""
    n, start = h.shape[1], past.position
    here = torch.arange(start, start + n, device=h.device)
    rotary = base.rotary_emb(h, here[None])
    cache = _Cache(past)
    keys, values = {}, {}
    for i in numbers:
        layer, number = base.layers[i], str(i)
        window = _window(layer.self_attn)
        kept = past.keys[number].shape[2]
        source = torch.arange(start - kept, start + n, device=h.device)
        seen = source <= here[:, None]
        if window is not None:
            seen = seen & (source > here[:, None] - window)
        mask = h.new_zeros(seen.shape).masked_fill(~seen, torch.finfo(h.dtype).min)[None, None]
        h = layer(
            h,
            attention_mask=mask,
            position_ids=here[None],
            past_key_values=cache,
            use_cache=True,
            position_embeddings=rotary,
        )
        start_at = 0 if window is None else max(0, kept + n - (window - 1))
        keys[number] = cache.keys[number][:, :, start_at:]
        values[number] = cache.values[number][:, :, start_at:]
    return h, LayerCaches(keys=keys, values=values, position=start + n)


def _window(attention: Any) -> int | None:
    """How many tokens an attention layer looks back at, itself included; None: all."""
    if attention.config.model_type == "mistral":
        return attention.config.sliding_window
    return getattr(attention, "sliding_window", None)


def _layers(model: Any) -> Any:
    """The decoder layers of a model that can be stacked, or InputError."""
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in FAMILIES or not hasattr(model, "lm_head"):
        raise InputError(
            f"levels can be stacked on causal language models of the kinds {', '.join(FAMILIES)}; got "
            f"{type(model).__name__} ({family})"
        )
    return model.model.layers


def _check_model(model: PreTrainedModel) -> None:
    """What the inner loop cannot differentiate through or repeat."""
    config = model.config
    attention = config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise InputError(
            f"the inner loop differentiates attention twice, which {attention} cannot; load the model with "
            'attn_implementation="sdpa"'
        )
    if getattr(config, "attention_dropout", 0.0):
        raise InputError(
            f"attention_dropout is {config.attention_dropout}; the inner loop repeats its computation, so set it to 0"
        )
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary in ("dynamic", "longrope"):
        raise InputError(
            f"rotary positions of type {rotary} change with the text's length; use another model"
        )
