"""Pretraining of a language model from text: any model of nestmem, or any Hugging Face causal language model.

    text -> tokenizer -> tokens on disk -> packed rows -> `loop.fit` -> a folder that transformers loads

A run is a folder: `config.json` (what was asked, and on what), `tokenizer/`, `tokens/` (unless `cache` says where),
`log.jsonl`, `checkpoints/`, and at the end `model/`, `result.json` and `curves.png`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from nestmem.errors import InputError, MissingExtra, ModelError, ModelNotFound
from nestmem.models.presets import config_for, matched
from nestmem.train import distributed
from nestmem.train.loop import (
    FREE,
    FitConfig,
    Fitted,
    Step,
    fit,
    full_state,
    mean_loss,
    same_identity,
    usable_device,
)
from nestmem.train.packing import (
    PACKINGS,
    Rows,
    Source,
    Tokens,
    document_key,
    is_held_out,
    split,
    tokenise,
    tokenizer_digest,
)
from nestmem.train.plot import is_language_run, plot_language
from nestmem.train.record import environment
from nestmem.train.tokenizer import LEAST_VOCABULARY, train_tokenizer

TOKENIZER_CHARACTERS = 30_000_000
"""The vocabulary is learned from so many characters at most."""


@dataclass(frozen=True, kw_only=True)
class LMConfig:
    """One run.

    out               its folder; given again, the run goes on
    data              the documents, see `packing.Source`
    held_out_share    of the documents, which no step sees; the loss on them is measured
    model             the name of an architecture of nestmem, see `nestmem.models.presets`
    sizes             fields of its config: hidden_size, num_hidden_layers, num_attention_heads, options, ...
    parameters        the feed-forward width is chosen to come near so many parameters; 0: as in `sizes`
    start             instead of model: a folder, or a name on the Hugging Face hub, to go on from. A folder with
                      config.json and without weights: a new model of that config
    tokenizer         the folder of a tokenizer, or a name on the hub; empty: that of `start`, or a new one
    vocabulary        tokens of a new one
    context           tokens of a row
    batch             rows of a step, of all processes together
    tokens            train for so many tokens (rows times context); 0: for `fit.steps`
    packing           "pack": memories start anew with every document; "stream": documents flow into each other
    held_out_rows     held-out rows measured, at most
    cache             the folder for tokens, which runs can share; None: out/tokens
    fit               how the model is trained, see `loop.FitConfig`
    """

    out: Path
    data: Source
    held_out_share: float = 0.01
    model: str = "transformer"
    sizes: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    start: str = ""
    tokenizer: str = ""
    vocabulary: int = 8192
    context: int = 512
    batch: int = 8
    tokens: int = 0
    packing: str = "pack"
    held_out_rows: int = 64
    cache: Path | None = None
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if self.packing not in PACKINGS:
            raise InputError(f"packing={self.packing!r}: expected one of {', '.join(PACKINGS)}")
        for name, least in (
            ("parameters", 0),
            ("vocabulary", LEAST_VOCABULARY),
            ("context", 2),
            ("batch", 1),
            ("tokens", 0),
            ("held_out_rows", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name}={value!r}: expected a whole number, at least {least}")
        if not 0 <= self.held_out_share < 1:
            raise InputError(f"held_out_share={self.held_out_share}: expected a share, from 0 to below 1")
        if self.start and (self.sizes or self.parameters):
            raise InputError(
                f"start={self.start!r} with sizes={self.sizes} and parameters={self.parameters}: the sizes are those "
                "of the model to start from; leave them out"
            )
        if self.batch % self.fit.accumulation:
            raise InputError(
                f"batch={self.batch} cannot be split into accumulation={self.fit.accumulation} equal parts"
            )
        if self.tokens:
            steps = max(1, round(self.tokens / (self.batch * self.context)))
            object.__setattr__(self, "fit", replace(self.fit, steps=steps))

    def identity(self) -> dict[str, Any]:
        """What a run cannot change when it goes on, by dotted names. Data are known by content, not by path."""
        free = {"out", "cache", "data", "tokenizer", "tokens", *(f"fit.{name}" for name in FREE)}
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            nested = value if name in ("sizes", "fit") else None
            flat |= {f"{name}.{k}": v for k, v in nested.items()} if nested is not None else {name: value}
        flat |= {f"data.{name}": getattr(self.data, name) for name in ("field", "separator", "split")}
        return json.loads(
            json.dumps({name: value for name, value in flat.items() if name not in free}, default=str)
        )


def read_config(path: Path, **changes: Any) -> LMConfig:
    """The config of a saved run's config.json, with `changes` of LMConfig's fields, such as another `out`.

    Raises `InputError` when the file is no such config.
    """
    try:
        saved = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"cannot read a config from {path}: {error}; expected a run's config.json"
        ) from error
    values = saved.get("config", saved) if isinstance(saved, dict) else {}
    parts = {"data": Source, "fit": FitConfig}
    wrong = [
        f"{prefix}{name}"
        for prefix, kind, given in [
            ("", LMConfig, values),
            *((f"{n}.", k, values.get(n, {})) for n, k in parts.items()),
        ]
        for name in given
        if name not in {each.name for each in fields(kind)}
    ]
    if wrong or not {"out", "data"} <= values.keys():
        raise InputError(
            f"{path} is no config of `nestmem train lm`: "
            + (f"it has no field {', '.join(wrong)}" if wrong else "it lacks out or data")
        )
    data: dict[str, Any] = {**values["data"]}
    data["files"] = tuple(Path(p) for p in data.get("files", ()))
    training = dict(values.get("fit", {}))
    training["betas"] = tuple(training.get("betas", FitConfig.betas))
    cache = values.get("cache")
    values |= {"out": Path(values["out"]), "cache": Path(cache) if cache else None}
    return LMConfig(**{**values, "data": Source(**data), "fit": FitConfig(**training), **changes})


def train_lm(
    config: LMConfig,
    *,
    on_step: Callable[[Step], None] | None = None,
    on_event: Callable[[str], None] = print,
    stop: Callable[[], bool] | None = None,
) -> Path:
    """Run, or go on with the run in `config.out`. Returns the folder of the trained model. `stop` as in `fit`.

    Under `torchrun` every process calls this alike. Raises `InputError` for bad data or sizes and for a run that was
    begun with another config, `ModelNotFound` and `ModelError` for the model to start from, and `ModelError` when the
    loss is not finite.
    """
    usable_device(config.fit.device)
    if not config.start:
        # A mistyped name or size is found before the text is read.
        config_for(config.model, **config.sizes)
    if distributed.rank() != 0:
        on_event = _silent
    text_digest = config.data.digest()
    identity = {**config.identity(), "data": text_digest}
    _check_run(config, identity)
    # Process 0 makes what is on disk; the others find it there.
    if distributed.rank() == 0:
        tokenizer = _tokenizer(config, on_event)
        tokens = _tokens(config, tokenizer, on_event)
        distributed.barrier()
    else:
        distributed.barrier()
        tokenizer = _tokenizer(config, on_event)
        tokens = _tokens(config, tokenizer, on_event)
    identity["tokenizer"] = tokenizer_digest(tokenizer)
    _check_run(config, identity)
    model = new_model(config, tokenizer)
    documents, held_out = split(tokens, config.held_out_share)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    pack = {"context": config.context, "pad": pad, "seed": config.fit.seed, "packing": config.packing}
    rows = Rows.pack(tokens, documents, **pack)
    measured = (
        Rows.pack(tokens, held_out, **pack).in_order(config.batch, config.held_out_rows)
        if len(held_out)
        else []
    )
    facts = {
        "documents": len(documents),
        "held_out_documents": len(held_out),
        "empty_documents": tokens.empty,
        "tokens": int(tokens.ends[-1]),
        "rows": len(rows),
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
    }
    if distributed.rank() == 0:
        header = {
            "config": asdict(config),
            "identity": identity,
            "facts": facts,
            "environment": environment(),
        }
        temporary = config.out / "config.json.tmp"
        temporary.write_text(json.dumps(header, indent=1, default=str) + "\n")
        temporary.replace(config.out / "config.json")
        _say(config, facts, on_event)

    def evaluate(each: nn.Module) -> dict[str, float]:
        return {"held_out_loss": mean_loss(each, measured, config.fit)}

    fitted = fit(
        model,
        rows.by_step(config.batch, config.fit.seed),
        config.fit,
        out=config.out,
        evaluate=evaluate if measured else None,
        identity=identity,
        on_step=on_step,
        on_event=on_event,
        stop=stop,
    )
    folder = config.out / "model"
    save(model, tokenizer, folder)
    if distributed.rank() == 0:
        _finish(config, fitted, facts, on_event)
    distributed.barrier()
    return folder


def _silent(_message: str) -> None:
    """What the processes but the first say."""


def _check_run(config: LMConfig, identity: dict[str, Any]) -> None:
    """Refuse to go on with a run that was begun with other values, before anything costly is done."""
    path = config.out / "config.json"
    if path.exists():
        try:
            saved = json.loads(path.read_text())["identity"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not the config of a run of `nestmem train lm`; choose another out"
            ) from error
        same_identity({name: saved.get(name) for name in identity}, identity, config.out)


def _say(config: LMConfig, facts: dict[str, Any], on_event: Callable[[str], None]) -> None:
    on_event(
        f"{facts['parameters']:,} parameters; {facts['tokens']:,} tokens in {facts['documents']:,} documents and "
        f"{facts['held_out_documents']:,} held out; {facts['rows']:,} rows of {config.context}; "
        f"{facts['empty_documents']:,} empty documents left out"
    )
    if config.held_out_share and not facts["held_out_documents"]:
        on_event("no document is held out, as there is one alone; a separator cuts plain text into documents")
    if facts["rows"] < config.batch:
        on_event(f"{facts['rows']} rows are fewer than a batch of {config.batch}: rows repeat within a batch")


# -- the vocabulary ------------------------------------------------------------------------------------------


def _tokenizer(config: LMConfig, on_event: Callable[[str], None]) -> PreTrainedTokenizerBase:
    """The run's tokenizer: the one it has, the one named, that of the model to start from, or a new one."""
    own = config.out / "tokenizer"
    named = load_tokenizer(config.tokenizer) if config.tokenizer else None
    if own.exists():
        tokenizer = load_tokenizer(own)
        if named is not None and tokenizer_digest(named) != tokenizer_digest(tokenizer):
            raise InputError(
                f"the run in {config.out} has another tokenizer than {config.tokenizer}; leave tokenizer out, or "
                "choose another out"
            )
        return tokenizer
    if named is not None:
        tokenizer = named
    elif config.start and _has_tokenizer(config.start):
        tokenizer = load_tokenizer(config.start)
    elif config.start and _has_weights(config.start):
        raise InputError(
            f"{config.start} holds a trained model without its tokenizer; name one with tokenizer"
        )
    else:
        on_event(f"learning a vocabulary of {config.vocabulary} tokens")
        tokenizer = train_tokenizer(_sample(config), vocabulary=config.vocabulary, longest=VERY_LARGE_INTEGER)
    temporary = config.out / f"tokenizer.{os.getpid()}.tmp"
    tokenizer.save_pretrained(temporary)
    temporary.replace(own)
    # Read back, so that the first call and those that go on have the very same.
    return load_tokenizer(own)


def _sample(config: LMConfig) -> Any:
    """Text that the vocabulary is learned from, without what is held out."""
    left = TOKENIZER_CHARACTERS
    for text in config.data.documents():
        if left <= 0:
            return
        if config.held_out_share == 0 or not is_held_out(document_key(text), config.held_out_share):
            for at in range(0, min(left, len(text)), 10_000):
                yield text[at : at + 10_000]
            left -= len(text)


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or by its name on the hub. Raises `InputError` when there is none."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"no tokenizer could be loaded from {str(name)!r}: {error}. Expected a folder with tokenizer.json, or a "
            "name on the Hugging Face hub"
        ) from error


def _has_tokenizer(start: str) -> bool:
    folder = Path(start)
    return not folder.is_dir() or any(
        (folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    )


def _has_weights(start: str) -> bool:
    folder = Path(start)
    return not folder.is_dir() or any(
        path.suffix in (".safetensors", ".bin") for path in folder.iterdir() if path.is_file()
    )


def _tokens(config: LMConfig, tokenizer: PreTrainedTokenizerBase, on_event: Callable[[str], None]) -> Tokens:
    return tokenise(config.data, tokenizer, config.cache or config.out / "tokens", on_event=on_event)


# -- the model -----------------------------------------------------------------------------------------------


def new_model(config: LMConfig, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """The model of a config in float32: a preset of nestmem drawn by the seed, or what `start` holds."""
    torch.manual_seed(config.fit.seed)
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if not config.start:
        sizes = {"vocab_size": len(tokenizer), **config.sizes}
        made = (
            matched(config.model, config.parameters, **sizes)
            if config.parameters
            else config_for(config.model, **sizes)
        )
        for name, value in ends.items():
            setattr(made, name, value)
        model = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    elif _has_weights(config.start):
        model = _pretrained(config.start)
        if config.tokenizer and _has_tokenizer(config.start):
            own = load_tokenizer(config.start)
            if own.get_vocab() != tokenizer.get_vocab():
                raise InputError(
                    f"the tokenizer {config.tokenizer} ({len(tokenizer)} tokens) gives other numbers to tokens than that "
                    f"of {config.start} ({len(own)} tokens), which its weights were learned with; leave tokenizer out"
                )
    else:
        model = AutoModelForCausalLM.from_config(_config_of(config.start), dtype=torch.float32)
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, and the model's vocabulary {rows}; use the model's own "
            f"tokenizer, or for a new model vocab_size={len(tokenizer)}"
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and longest < config.context:
        raise InputError(
            f"context={config.context}: the model reads {longest} tokens at most (max_position_embeddings)"
        )
    return model


def _config_of(start: str) -> Any:
    try:
        return AutoConfig.from_pretrained(start)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"no causal language model could be loaded from {start!r}: {error}. Expected a folder with config.json, "
            "or a Hugging Face name."
        ) from error


def _pretrained(start: str) -> Any:
    config = _config_of(start)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            start, config=config, dtype=torch.float32, output_loading_info=True
        )
    except SafetensorError as error:
        raise ModelError(
            f"the weights in {start} are damaged: {error}. Fetch or copy the model again."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the weights in {start} do not fit its config.json: {error}") from error
    model, found = loaded
    wrong = sorted(found["missing_keys"]) or sorted(found["mismatched_keys"])
    if wrong:
        raise ModelError(
            f"the weights in {start} are not those of its config.json: {len(wrong)} tensors are missing or of another "
            f"shape, the first is {wrong[0]}"
        )
    return model


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the model as Hugging Face writes it, with its tokenizer. Every process must call it."""
    state = full_state(model)
    if distributed.rank() != 0:
        return
    if distributed.world() > 1:
        # A sharded model is of a class of its own, which no config should name.
        model = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
        model.load_state_dict(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _finish(config: LMConfig, fitted: Fitted, facts: dict[str, Any], on_event: Callable[[str], None]) -> None:
    """The results beside the config, and the curves where matplotlib is there."""
    result = {
        "finished": fitted.finished,
        "step": fitted.step,
        "tokens": fitted.tokens,
        "seconds": round(fitted.seconds, 2),
        "loss": fitted.loss,
        **fitted.evaluation,
        "parameters": facts["parameters"],
    }
    (config.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    if not fitted.finished:
        on_event(f"stopped at step {fitted.step} of {config.fit.steps}; the same command goes on")
    if not is_language_run(config.out):
        # Stopped before anything was logged.
        return
    try:
        plot_language([config.out], config.out / "curves.png")
    except MissingExtra as missing:
        on_event(f"no curves were drawn: {missing}")
