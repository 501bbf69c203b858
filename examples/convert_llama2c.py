"""A model in llama2.c's format as a Hugging Face folder, with its tokenizer.

    python examples/convert_llama2c.py MODEL.bin TOKENIZER.bin OUT
    python examples/remember.py --model OUT

llama2.c (github.com/karpathy/llama2.c) keeps a Llama in one file: seven int32 (dim, hidden, layers, heads, key-value
heads, vocabulary, context) and then float32 tensors, the "legacy" version 0. Its rotary embedding turns neighbouring
pairs, Hugging Face's the two halves of a head, so the rows of the query and key projections are put in another order.
The tokenizer becomes byte-fallback BPE over the same pieces. One difference on purpose: text that already starts with
a space gets no second one, so that an answer can follow a prompt.

A text ends with the token by which run.c's `generate` stops, <s> (`--end 1`). Models trained on TinyStories never saw
</s>: its embedding stayed that of all tokens never seen (169 of the 512 of stories260K), and since the embeddings are
the output matrix too, no fast weight can make it likelier than those. For a Llama 2 of Meta's give `--end 2`.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
FIRST_PIECE = 259
"""After the three special tokens and the 256 bytes."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The seven numbers at the start of a model file, in its order; `vocab` is negative when the output matrix is its
    own tensor at the end of the file."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int


def read_model(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors under Hugging Face's names. Raises `ValueError` when the file is not such a model."""
    data = path.read_bytes()
    if len(data) < 28:
        raise ValueError(f"{path}: {len(data)} bytes; a llama2.c model starts with 28 bytes of header")
    header = Header(**dict(zip(Header.__dataclass_fields__, struct.unpack("<7i", data[:28]), strict=True)))
    sizes = (header.dim, header.hidden, header.layers, header.heads, header.kv_heads, header.context)
    if min(sizes) < 1 or header.dim % header.heads or header.heads % header.kv_heads:
        raise ValueError(
            f"{path}: the header reads {header}, which no model has; expected llama2.c's legacy format "
            "(version 0), which starts with its seven sizes and has no magic number"
        )
    numbers = np.frombuffer(data, dtype="<f4", offset=28, count=(len(data) - 28) // 4)
    shapes = list(_shapes(header))
    needed = sum(int(np.prod(shape)) for _, shape in shapes)
    if numbers.size < needed:
        raise ValueError(
            f"{path}: holds {numbers.size} numbers where {header} needs {needed}; the file is cut, copy it again"
        )
    tensors: dict[str, Tensor] = {}
    start = 0
    for name, shape in shapes:
        size = int(np.prod(shape))
        tensors[name] = torch.from_numpy(numbers[start : start + size].reshape(shape).copy())
        start += size
    return header, _renamed(header, tensors)


def _shapes(header: Header) -> Iterator[tuple[str, tuple[int, ...]]]:
    """llama2.c's tensors in the order of the file; the layers of one kind lie together."""
    layers, dim, hidden = header.layers, header.dim, header.hidden
    head = dim // header.heads
    vocabulary = abs(header.vocab)
    yield "embed_tokens", (vocabulary, dim)
    yield "input_layernorm", (layers, dim)
    yield "self_attn.q_proj", (layers, dim, dim)
    yield "self_attn.k_proj", (layers, header.kv_heads * head, dim)
    yield "self_attn.v_proj", (layers, header.kv_heads * head, dim)
    yield "self_attn.o_proj", (layers, dim, dim)
    yield "post_attention_layernorm", (layers, dim)
    yield "mlp.gate_proj", (layers, hidden, dim)
    yield "mlp.down_proj", (layers, dim, hidden)
    yield "mlp.up_proj", (layers, hidden, dim)
    yield "norm", (dim,)
    if header.vocab < 0:
        # Two old tables of the rotary embedding stand before the output matrix.
        yield "rotary", (2, header.context, head // 2)
        yield "lm_head", (vocabulary, dim)


def _renamed(header: Header, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {"model.embed_tokens.weight": tensors["embed_tokens"], "model.norm.weight": tensors["norm"]}
    found["lm_head.weight"] = tensors.get("lm_head", tensors["embed_tokens"])
    heads = {"self_attn.q_proj": header.heads, "self_attn.k_proj": header.kv_heads}
    for name, stacked in tensors.items():
        if name in ("embed_tokens", "norm", "rotary", "lm_head"):
            continue
        for layer, tensor in enumerate(stacked):
            tensor = halves(tensor, heads[name]) if name in heads else tensor
            found[f"model.layers.{layer}.{name}.weight"] = tensor
    return found


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows (out, in) of a projection whose heads rotate neighbouring pairs, ordered for heads that rotate halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns).contiguous()


def read_pieces(path: Path, vocabulary: int) -> list[tuple[str, float]]:
    """The pieces of a tokenizer file with their scores, in order of id; bytes that are no UTF-8 become U+FFFD."""
    data = path.read_bytes()
    pieces: list[tuple[str, float]] = []
    place = 4
    while len(pieces) < vocabulary:
        if place + 8 > len(data):
            raise ValueError(
                f"{path}: holds {len(pieces)} whole pieces, the model has {vocabulary}; "
                "give the tokenizer file that belongs to this model"
            )
        score, size = struct.unpack_from("<fi", data, place)
        place += 8
        if size < 0 or place + size > len(data):
            raise ValueError(f"{path}: piece {len(pieces)} says it has {size} bytes; the file is damaged")
        pieces.append((data[place : place + size].decode("utf-8", errors="replace"), score))
        place += size
    return pieces


def tokenizer_of(pieces: list[tuple[str, float]], context: int, end: int) -> PreTrainedTokenizerFast:
    """Byte-fallback BPE that merges what llama2.c merges: the adjacent pair whose whole has the highest score."""
    words = [UNKNOWN, BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [piece.replace(" ", "▁") for piece, _ in pieces[FIRST_PIECE:]]
    ids = {word: id for id, word in reversed(list(enumerate(words)))}
    merges = []
    for word, (_, score) in zip(words[FIRST_PIECE:], pieces[FIRST_PIECE:], strict=True):
        for cut in range(1, len(word)):
            left, right = word[:cut], word[cut:]
            if left in ids and right in ids:
                merges.append((-score, ids[word], ids[left], (left, right)))
    model = models.BPE(
        vocab={word: id for id, word in enumerate(words)},
        merges=[pair for *_, pair in sorted(merges)],
        unk_token=UNKNOWN,
        fuse_unk=True,
        byte_fallback=True,
    )
    whole = Tokenizer(model)
    whole.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    whole.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    whole.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=words[end],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def convert(model_file: Path, tokenizer_file: Path, out: Path, *, end: int = 1) -> LlamaForCausalLM:
    """Write the Hugging Face folder `out` and return the model. Raises `ValueError` on files of another format."""
    header, tensors = read_model(model_file)
    vocabulary = abs(header.vocab)
    tokenizer = tokenizer_of(read_pieces(tokenizer_file, vocabulary), header.context, end)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=header.dim,
        intermediate_size=header.hidden,
        num_hidden_layers=header.layers,
        num_attention_heads=header.heads,
        num_key_value_heads=header.kv_heads,
        max_position_embeddings=header.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=header.vocab > 0,
        bos_token_id=1,
        eos_token_id=end,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(tensors)
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="llama2.c's model file, such as stories260K.bin")
    parser.add_argument("tokenizer", type=Path, help="its tokenizer file, such as tok512.bin")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--end", type=int, choices=(1, 2), default=1, help="id of the token that ends a text")
    options = parser.parse_args()
    model = convert(options.model, options.tokenizer, options.out, end=options.end)
    print(f"{options.out}: {model.num_parameters():,} parameters, {model.config.num_hidden_layers} layers")


if __name__ == "__main__":
    main()
