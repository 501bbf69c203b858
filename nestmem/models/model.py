"""The language model: embedding, blocks, norm, head, and the inner loop of those blocks whose weights learn.

Legend of shapes: B rows, T columns, N sequences that are computed together, L their tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from nestmem.core.checks import state_dtype
from nestmem.errors import InputError
from nestmem.layers import FastLevel, merge, teach_signal
from nestmem.models import late
from nestmem.models.block import Block, BlockState
from nestmem.models.cache import MemoryCache, ModelState, fingerprint, joined
from nestmem.models.config import NestmemConfig
from nestmem.models.late import LateState
from nestmem.models.ragged import Group, groups
from nestmem.ops import endtoend
from nestmem.ops.recompute import recomputed

# The module that a saved folder has for programs that do not import nestmem.
REMOTE = "modeling_nestmem"
# What transformers may hand to any model, and the values of it that ask for nothing.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "return_dict": (None, True),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "inputs_embeds": (None,),
    "cache_position": (None,),
    "token_type_ids": (None,),
}


class NestmemForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model of any `NestmemConfig`, with Hugging Face's interface.

    Rows of a batch may differ in length (attention_mask) or hold several documents (document_ids): every document is
    computed as if it stood alone, so padding and packing change no result. Rows of different lengths are computed in
    one pass each where their memory is kept, which is exact and slower than a batch of equal rows.

    >>> from nestmem.models import NestmemConfig
    >>> model = NestmemForCausalLM(NestmemConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2))
    >>> ids = torch.randint(0, 32, (2, 10))
    >>> first = model(ids[:, :6], use_cache=True)
    >>> rest = model(ids[:, 6:], past_key_values=first.past_key_values)
    >>> torch.allclose(rest.logits, model(ids).logits[:, 6:], atol=1e-5)
    True
    """

    config_class = NestmemConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012
    # Memories cannot go back to an earlier token, which assisted generation would ask of them.
    _is_stateful = True

    def __init__(self, config: NestmemConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        kinds = config.kinds()
        primes = 0 if config.prime is None else math.ceil(len(kinds) * config.prime.get("share", 0.25))
        self.blocks = nn.ModuleList(
            Block(config, kind, prime=i >= len(kinds) - primes) for i, kind in enumerate(kinds)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=1e-6)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.gradient_checkpointing = False
        self.learning = True
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding [V, D]."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding."""
        self.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        """The head [V, D]."""
        return self.lm_head

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        own = list(module.parameters(recurse=False))
        if not own or all(getattr(p, "_is_hf_initialized", False) for p in own):
            return
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()

    @contextmanager
    def without_learning(self) -> Iterator[None]:
        """Within it, the weights that learn from the model's own loss are read and not written. For comparison.

        InputError for a model without such weights.
        """
        if self._first() == len(self.blocks):
            raise InputError(
                "no weights of this model learn from its own loss (TTT-E2E, or a continuum memory with objective 'lm' or "
                "'teach'); what other memories add is seen by reading without one, such as document_ids that start again"
            )
        before, self.learning = self.learning, False
        try:
            yield
        finally:
            self.learning = before

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: MemoryCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        position_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V], the loss of `labels`, and the memory after the tokens.

        input_ids        [B, T]
        attention_mask   [B, T], or [B, columns read + T]; 0 is padding, anywhere
        document_ids     [B, T] ints; tokens of a row with the same id are one document, negative ids are padding
        labels           [B, T], as input_ids, -100 where no loss is wanted; token t + 1 is predicted at token t, and
                         never from another document. The loss is the mean, in nats per token; nan where none is asked
        past_key_values  the memory to go on from
        use_cache        return the memory; None: when a memory is given, or in eval mode if config.use_cache
        logits_to_keep   only the last so many columns of logits; 0: all
        position_ids     [B, T] that start again at 0 with each document of a row, instead of document_ids, as Hugging
                         Face's collators pack; other positions are refused, since a memory counts its own
        num_items_in_batch   what the sum of losses is divided by instead of their number, from transformers' Trainer

        Logits at padding are 0. Raises InputError for ids outside the vocabulary, masks or labels of another shape, a
        cache that is none of ours, more tokens than config.max_position_embeddings, arguments it does not know.
        """
        refused = {name: value for name, value in others.items() if value not in HARMLESS.get(name, ())}
        if refused:
            raise InputError(
                f"forward takes no {', '.join(refused)}; see its documentation for what it takes"
            )
        if not isinstance(logits_to_keep, int):
            raise InputError(f"logits_to_keep is a number of columns; got {type(logits_to_keep).__name__}")
        if position_ids is not None:
            document_ids = _packed(input_ids, position_ids, attention_mask, document_ids, past_key_values)
        documents = self._documents(input_ids, attention_mask, document_ids, past_key_values)
        self._check_labels(input_ids, labels)
        by_itself = past_key_values is not None or (self.config.use_cache and not self.training)
        keep = by_itself if use_cache is None else use_cache
        if document_ids is not None:
            if past_key_values is not None or use_cache:
                raise InputError(
                    "document_ids are for training on packed rows, which leave no memory; give use_cache=False and "
                    "no past_key_values, or one document per row with attention_mask"
                )
            keep = False
        hidden, cache = self._read(input_ids, documents, past_key_values, keep)
        loss = None
        if labels is not None:
            targets = labels[:, 1:]
            if documents is not None:
                same = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
                targets = targets.masked_fill(~same, -100)
            # In float32 at least, and only where something is asked.
            asked = targets != -100
            logits = self.lm_head(hidden)
            chosen = logits[:, :-1][asked]
            sums = "mean" if num_items_in_batch is None else "sum"
            loss = F.cross_entropy(chosen.to(state_dtype(chosen)), targets[asked], reduction=sums)
            if num_items_in_batch is not None:
                loss = loss / num_items_in_batch
            logits = logits[:, -logits_to_keep:]
        else:
            logits = self.lm_head(hidden[:, -logits_to_keep:])
        if documents is not None:
            logits = logits.masked_fill(documents[:, -logits.shape[1] :, None] < 0, 0.0)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)

    def _check_labels(self, ids: Tensor, labels: Tensor | None) -> None:
        if labels is None:
            return
        if labels.shape != ids.shape or labels.is_floating_point():
            raise InputError(
                f"labels are whole numbers [B, T] as input_ids, {list(ids.shape)}; got {labels.dtype} "
                f"{list(labels.shape)}"
            )
        wrong = (labels != -100) & ((labels < 0) | (labels >= self.config.vocab_size))
        if bool(wrong.any()):
            raise InputError(
                f"labels are below vocab_size {self.config.vocab_size}, or -100 where no loss is wanted; got "
                f"{int(labels[wrong][0])}"
            )

    def _documents(
        self, ids: Tensor, mask: Tensor | None, documents: Tensor | None, cache: MemoryCache | None
    ) -> Tensor | None:
        """Ids of documents [B, T], None where every row is one document without padding."""
        if ids.ndim != 2 or ids.is_floating_point() or not ids.shape[1]:
            raise InputError(
                f"input_ids are whole numbers [B, T], T at least 1; got {ids.dtype} {list(ids.shape)}"
            )
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size):
            raise InputError(
                f"input_ids are below vocab_size {self.config.vocab_size}; got {int(ids.min())} to "
                f"{int(ids.max())}: the tokenizer is another model's"
            )
        if cache is not None:
            if not isinstance(cache, MemoryCache):
                raise InputError(
                    f"past_key_values is a MemoryCache that this model returned; got {type(cache).__name__}"
                )
            if cache.rows != ids.shape[0]:
                raise InputError(
                    f"the memory is that of {cache.rows} rows, and input_ids {list(ids.shape)} has {ids.shape[0]}; "
                    "take rows of it with memory.select(torch.tensor([...]))"
                )
            if cache.model != fingerprint(self.config):
                raise InputError(
                    "the memory is that of a model of another shape; read on with the model that made it, or one of its "
                    "config"
                )
        if documents is not None:
            if documents.shape != ids.shape or mask is not None:
                raise InputError(
                    f"document_ids are [B, T] as input_ids, instead of an attention_mask; got {list(documents.shape)} "
                    f"for {list(ids.shape)}" + (" and a mask" if mask is not None else "")
                )
            return documents
        if mask is None:
            return None
        longest = mask.shape[1] if cache is not None else ids.shape[1]
        if mask.ndim != 2 or mask.shape[0] != ids.shape[0] or not ids.shape[1] <= mask.shape[1] <= longest:
            raise InputError(
                f"attention_mask is [B, T] or [B, columns read + T], for input_ids {list(ids.shape)}; got "
                f"{list(mask.shape)}"
            )
        mine = mask[:, -ids.shape[1] :] != 0
        return None if bool(mine.all()) else torch.where(mine, 0, -1)

    def _read(
        self, ids: Tensor, documents: Tensor | None, cache: MemoryCache | None, keep: bool
    ) -> tuple[Tensor, MemoryCache | None]:
        """Final hidden states [B, T, D] (0 at padding) and the memory after them."""
        rows, tokens = ids.shape
        columns = tokens + (cache.columns if cache is not None else 0)
        if documents is None and (cache is None or len(cache.state.rows) == 1):
            past = None
            order = torch.arange(rows)
            if cache is not None:
                past, order = cache.state.states[0], cache.state.rows[0]
            straight = bool((order == torch.arange(rows)).all())
            hidden, state = self._sequences(ids if straight else ids[order.to(ids.device)], past, keep)
            if not straight:
                hidden = hidden[torch.argsort(order).to(hidden.device)]
            if not keep:
                return hidden, None
            model = fingerprint(self.config)
            return hidden, joined([(order, state)], rows=rows, columns=columns, model=model)
        every = torch.zeros_like(ids) if documents is None else documents
        pieces: list[tuple[Group, ModelState | None]] = []
        waiting: list[tuple[Tensor, ModelState]] = []
        if cache is None:
            pieces = [(group, None) for group in groups(every, exact=keep)]
        else:
            for mine, past in zip(cache.state.rows, cache.state.states, strict=True):
                quiet = (every[mine] < 0).all(1)
                if bool(quiet.any()):
                    waiting.append((mine[quiet], past.select(torch.nonzero(quiet).flatten())))
                if bool(quiet.all()):
                    continue
                only = torch.full_like(every, -1)
                only[mine] = every[mine]
                place = {row: i for i, row in enumerate(mine.tolist())}
                for group in groups(only, exact=True):
                    chosen = torch.tensor([place[row] for row in group.rows.tolist()])
                    pieces.append((group, past.select(chosen)))
        hidden = None
        flat, after = ids.flatten(), []
        for group, past in pieces:
            found, state = self._sequences(flat[group.places], past, keep)
            if hidden is None:
                hidden = found.new_zeros(rows * tokens, found.shape[-1])
            hidden = hidden.index_put((group.places[group.valid],), found[group.valid])
            after.append((group.rows.cpu(), state))
        if hidden is None:
            raise InputError(f"no token is left of {list(ids.shape)}: every place is padding")
        model = fingerprint(self.config)
        made = joined(after + waiting, rows=rows, columns=columns, model=model) if keep else None
        return hidden.unflatten(0, (rows, tokens)), made

    def _sequences(self, ids: Tensor, past: ModelState | None, keep: bool) -> tuple[Tensor, ModelState]:
        """Sequences of one length, [N, L] -> final hidden states [N, L, D], behind the last norm, and the state."""
        position = (past.position if past is not None else 0) + ids.shape[1]
        longest = self.config.max_position_embeddings
        if longest is not None and position > longest:
            raise InputError(
                f"{position} tokens are more than max_position_embeddings, {longest}; cut the text, or raise it in "
                "the config if the model is to go beyond what it was trained on"
            )
        first = self._first()
        states = past.blocks if past is not None else (None,) * first
        h, after = self.embed_tokens(ids), []
        for block, state in zip(self.blocks[:first], states, strict=True):
            h, state = self._block(block, h, state)
            after.append(state)
        if first == len(self.blocks):
            return self.norm(h), ModelState(blocks=tuple(after), position=position)
        if past is None and not keep and ids.shape[1] <= min(level.period for _, level in self._levels()):
            # Nothing is written before the first period ends, so weights are the same for all.
            for block in self.blocks[first:]:
                h, _ = self._block(block, h, None)
            return self.norm(h), ModelState(position=position)
        h, learning = self._learn(first, h, ids, past.late if past is not None else None)
        return h, ModelState(blocks=tuple(after), late=learning, position=position)

    def _block(self, block: nn.Module, h: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        if not (self.gradient_checkpointing and self.training):
            return block(h, state)

        # Not torch's checkpoint, whose hooks torch.func refuses: a layer may have an inner loop.
        def run(weights: dict[str, Tensor], h: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
            return torch.func.functional_call(block, weights, (h, state))

        return recomputed(run, dict(block.named_parameters()), h, state)

    def _levels(self) -> list[tuple[int, FastLevel]]:
        """Each level of weights that learn from the model's own loss, and its block."""
        return [
            (i, level) for i, block in enumerate(self.blocks) for level in block.levels(self.config.prime)
        ]

    def _first(self) -> int:
        """The first block of which weights learn from the model's own loss; the number of blocks where none do."""
        return min((i for i, _ in self._levels()), default=len(self.blocks))

    def _learn(self, first: int, h: Tensor, ids: Tensor, past: LateState | None) -> tuple[Tensor, LateState]:
        """The blocks from the first that learns, [N, L, D] -> [N, L, D], with weights of its own for each sequence."""
        found = self._levels()
        levels = merge([level.under(f"{i - first}.") for i, level in found])
        upper = _Upper(self.blocks[first:])
        names = {n for level in levels for n in level.names or ()}
        every = dict(upper.named_parameters())
        fast = {n: p.to(state_dtype(p)) for n, p in every.items() if n in names}
        outer = {"blocks": {n: p for n, p in every.items() if n not in names}}
        outer |= {"norm": self.norm.weight, "head": self.lm_head.weight}
        teach = any(level.teach for _, level in found)
        eps = self.norm.eps

        def step(outer: Any, fast: dict[str, Tensor], inputs: Any, carry: Any) -> tuple[Tensor, Any, Any]:
            hidden, after = inputs["hidden"], inputs["next"]
            weights = outer["blocks"] | {n: w.to(hidden.dtype) for n, w in fast.items()}
            states = pytree.tree_map(lambda x: x[None], carry)
            made = torch.func.functional_call(upper, weights, (hidden[None], states, teach))
            normed = F.rms_norm(made[0][0], outer["norm"].shape, outer["norm"], eps)
            logits = normed @ outer["head"].mT
            if teach:
                signal = teach_signal(logits, after, outer["head"])
                losses = (made[2][0] * signal).sum(-1)
            else:
                losses = F.cross_entropy(logits.to(state_dtype(logits)), after, reduction="none")
            return losses, normed, pytree.tree_map(lambda x: x[0], made[1])

        if past is None:
            carry = upper.init_state(h.shape[0], dtype=h.dtype, device=h.device)
            past = LateState(learning=endtoend.init(fast, h.shape[0], levels=levels, carry=carry))
        return late.read(
            step,
            outer,
            h,
            ids,
            past,
            levels=levels,
            checkpoint=self.training,
            write=self.learning,
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: MemoryCache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The tokens that the memory has not read yet. InputError where a row ends in padding, or none is left."""
        read = 0 if past_key_values is None else past_key_values.columns
        if input_ids.shape[1] <= read:
            raise InputError(
                f"the memory has read {read} tokens of this conversation and input_ids has {input_ids.shape[1]}; give "
                "all of it and the new ones, or memory.continued() for a conversation that starts here"
            )
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and bool((mask[:, -1] == 0).any()):
            raise InputError(
                "a row ends in padding, behind which nothing can be generated; pad on the left: "
                'tokenizer.padding_side = "left"'
            )
        input_ids = input_ids[:, read:]
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "attention_mask": kwargs.get("attention_mask"),
            "use_cache": kwargs.get("use_cache"),
            "logits_to_keep": kwargs.get("logits_to_keep", 0),
        }

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        cache = kwargs.get("past_key_values")
        ids, kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        # Each row several times, for beams and several samples, and its memory too.
        if isinstance(cache, MemoryCache) and expand_size > 1:
            kwargs["past_key_values"] = cache.select(torch.arange(cache.rows).repeat_interleave(expand_size))
        return ids, kwargs

    def _reorder_cache(self, past_key_values: MemoryCache, beam_idx: Tensor) -> MemoryCache:
        return past_key_values.select(beam_idx)

    def load_memory(self, path: str | Path) -> MemoryCache:
        """The memory that `MemoryCache.save` wrote, for a later call of this model or one of the same shape."""
        return MemoryCache.load(path, self.config, device=self.device)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As transformers', with a line of code beside the weights for programs that do not import nestmem.

        They load the folder with trust_remote_code=True where nestmem is installed; after `import nestmem` nothing else
        is needed.
        """
        self.config.auto_map = {
            "AutoConfig": f"{REMOTE}.NestmemConfig",
            "AutoModelForCausalLM": f"{REMOTE}.NestmemForCausalLM",
        }
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            code = "from nestmem.models import NestmemConfig, NestmemForCausalLM  # noqa: F401\n"
            (Path(save_directory) / f"{REMOTE}.py").write_text(code)

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, **kwargs: Any) -> Any:
        """As transformers', but a checkpoint that lacks weights or has others is refused.

        Raises InputError for a checkpoint of another architecture, format or shape, or a damaged file.
        """
        wanted = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise InputError(
                f"the weights in {name} are damaged ({error}); copy or train the model again"
            ) from error
        wrong = {
            kind: sorted(str(each) for each in info.get(kind) or ())[:3]
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
            if info.get(kind)
        }
        if wrong:
            raise InputError(
                f"the weights in {name} are not those of its config: "
                + "; ".join(f"{kind.replace('_', ' ')} such as {names}" for kind, names in wrong.items())
            )
        return (model, info) if wanted else model


def _packed(
    ids: Tensor, positions: Tensor, mask: Tensor | None, documents: Tensor | None, cache: MemoryCache | None
) -> Tensor:
    """Documents of rows whose positions start again with each of them."""
    following = positions[..., 1:]
    good = positions.shape == ids.shape and bool((positions[:, 0] == 0).all())
    if good:
        good = bool(((following == 0) | (following == positions[:, :-1] + 1)).all())
    if not good or mask is not None or documents is not None or cache is not None:
        raise InputError(
            f"position_ids [B, T] count 0, 1, 2, ... and start again at 0 with each document of a row, without a mask, "
            f"document_ids or a memory; got {list(positions.shape)} for input_ids {list(ids.shape)}: leave them out"
        )
    return (positions == 0).cumsum(1) - 1


class _Upper(nn.Module):
    """The blocks above the first that learns, as one function of their weights. Names are those of the list."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        for i, block in enumerate(blocks):
            self.add_module(str(i), block)

    def init_state(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> tuple[BlockState, ...]:
        """Before the first token."""
        return tuple(block.init_state(batch, dtype=dtype, device=device) for block in self.children())

    def forward(
        self, h: Tensor, states: tuple[BlockState, ...], alone: bool
    ) -> tuple[Tensor, tuple[BlockState, ...], Tensor | None]:
        """h [B, T, D] -> h, the next states, and with `alone` the sum of what the learning layers add by themselves."""
        after, total = [], None
        for block, state in zip(self.children(), states, strict=True):
            h, state, local = block.read(h, state, alone=alone)
            after.append(state)
            if local is not None:
                total = local if total is None else total + local
        return h, tuple(after), total
