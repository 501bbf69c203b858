"""The scripts in examples/ do what they say.

The converter is compared with a second reading of llama2.c's files, written after its C source and sharing nothing
with it, on a random model that the test writes itself. With the environment variable LLAMA2C naming a folder that
holds stories260K.bin and tok512.bin, the real model is converted too.
"""

import importlib.util
import itertools
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

import nestmem
from nestmem.adapters.fast_weights import CALIBRATION
from nestmem.train.tokenizer import train_tokenizer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
STORIES = Path(os.environ["LLAMA2C"]) if "LLAMA2C" in os.environ else None
STORY = (
    "Once upon a time, there was a little boy named Tim. Tim had a red ball. He liked to play with his ball in the "
    'park. One day, Tim saw a big dog. The dog was sad. Tim said, "Do you want to play with me?" The dog was happy. '
    "They played all day. Tim and the dog were good friends."
)


def load(name: str):
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


convert_llama2c = load("convert_llama2c")
remember = load("remember")


# --- a tiny model file, and llama2.c's own reading of it ---------------------------------------------

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, CONTEXT = 16, 24, 2, 4, 2, 32
WORDS = ["a", "b", "c", "d", " ", "ab", "cd", " a", "abcd", " ab", "bc", "é"]
SCORES = [-1e9, -1e9, -1e9, -1e9, -1e9, -1.0, -2.0, -3.0, -4.0, -0.5, -6.0, -7.0]
PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{b:02X}>" for b in range(256)), *WORDS]
VOCABULARY = len(PIECES)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A model file with random weights and its tokenizer file."""
    rng = np.random.default_rng(0)
    head = DIM // HEADS
    sizes = [VOCABULARY * DIM, LAYERS * DIM, LAYERS * DIM * DIM, 2 * LAYERS * KV_HEADS * head * DIM]
    sizes += [LAYERS * DIM * DIM, LAYERS * DIM, 3 * LAYERS * HIDDEN * DIM, DIM, CONTEXT * head]
    numbers = rng.normal(0, 0.3, sum(sizes)).astype("<f4")
    model = tmp_path / "model.bin"
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT)
    model.write_bytes(header + numbers.tobytes())
    tokenizer = tmp_path / "tokenizer.bin"
    scores = [0.0] * 259 + SCORES
    data = struct.pack("<i", max(len(p.encode()) for p in PIECES))
    for piece, score in zip(PIECES, scores, strict=True):
        data += struct.pack("<fi", score, len(piece.encode())) + piece.encode()
    tokenizer.write_bytes(data)
    return model, tokenizer


def logits_as_in_c(path: Path, ids: list[int]) -> np.ndarray:
    """run.c's forward, one token at a time: rotation of neighbouring pairs, grouped heads, SwiGLU. (T, V)"""
    data = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, _ = struct.unpack("<7i", data[:28])
    numbers = np.frombuffer(data, "<f4", offset=28).astype(np.float64)
    head, place = dim // heads, 0

    def take(*shape: int) -> np.ndarray:
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return numbers[place - size : place].reshape(shape)

    embedding, norm1 = take(vocabulary, dim), take(layers, dim)
    wq, wk = take(layers, dim, dim), take(layers, kv_heads * head, dim)
    wv, wo = take(layers, kv_heads * head, dim), take(layers, dim, dim)
    norm2, w1 = take(layers, dim), take(layers, hidden, dim)
    w2, w3, last = take(layers, dim, hidden), take(layers, hidden, dim), take(dim)

    def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight * x / np.sqrt((x * x).mean() + 1e-5)

    def rotate(x: np.ndarray, position: int) -> np.ndarray:
        x = x.copy()
        for i in range(0, len(x), 2):
            angle = position / 10000 ** ((i % head) / head)
            a, b = x[i], x[i + 1]
            x[i], x[i + 1] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return x

    keys: list[list[np.ndarray]] = [[] for _ in range(layers)]
    values: list[list[np.ndarray]] = [[] for _ in range(layers)]
    found = []
    for position, token in enumerate(ids):
        x = embedding[token].copy()
        for layer in range(layers):
            h = rms(x, norm1[layer])
            q = rotate(wq[layer] @ h, position)
            keys[layer].append(rotate(wk[layer] @ h, position))
            values[layer].append(wv[layer] @ h)
            out = np.zeros(dim)
            for n in range(heads):
                mine, shared = slice(n * head, (n + 1) * head), n // (heads // kv_heads)
                theirs = slice(shared * head, (shared + 1) * head)
                scores = np.array([q[mine] @ k[theirs] for k in keys[layer]]) / np.sqrt(head)
                weights = np.exp(scores - scores.max())
                out[mine] = sum(
                    w * v[theirs] for w, v in zip(weights / weights.sum(), values[layer], strict=True)
                )
            x = x + wo[layer] @ out
            h = rms(x, norm2[layer])
            gate = w1[layer] @ h
            x = x + w2[layer] @ (gate / (1 + np.exp(-gate)) * (w3[layer] @ h))
        found.append(embedding @ rms(x, last))
    return np.array(found)


def encode_as_in_c(text: str) -> list[int]:
    """run.c's encode: a leading space, one token a character or its bytes, then the best adjacent pair merges."""
    ids = []
    for character in " " + text:
        whole = PIECES.index(character) if character in PIECES else None
        ids += [whole] if whole is not None else [byte + 3 for byte in character.encode()]
    scores = [0.0] * 259 + SCORES
    while True:
        pairs = [(PIECES[a] + PIECES[b], i) for i, (a, b) in enumerate(itertools.pairwise(ids))]
        known = [(scores[PIECES.index(word)], -i, word) for word, i in pairs if word in WORDS]
        if not known:
            return [1, *ids]
        _, i, word = max(known)
        ids[-i : -i + 2] = [PIECES.index(word)]


def test_converted_model_computes_what_llama2c_computes(files: tuple[Path, Path], tmp_path: Path) -> None:
    convert_llama2c.convert(*files, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    ids = [1, 259, 261, 7, 264, 266, 3, 259]
    with torch.no_grad():
        ours = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(ours, logits_as_in_c(files[0], ids), atol=1e-6)


@pytest.mark.parametrize("text", ["abcd", "ab cd", "aab bcabcd", "é x\na", "b  a", "日本"])
def test_converted_tokenizer_encodes_as_llama2c_does(
    files: tuple[Path, Path], tmp_path: Path, text: str
) -> None:
    convert_llama2c.convert(*files, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(text)["input_ids"]
    assert ids == encode_as_in_c(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(" " + text)["input_ids"] == ids


def test_an_output_matrix_of_its_own_is_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    data = bytearray(files[0].read_bytes())
    struct.pack_into("<i", data, 20, -VOCABULARY)
    own = np.random.default_rng(1).normal(size=(VOCABULARY, DIM)).astype("<f4")
    files[0].write_bytes(bytes(data) + own.tobytes())
    model = convert_llama2c.convert(*files, tmp_path / "out")
    assert torch.equal(model.lm_head.weight.detach(), torch.from_numpy(own))
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_cut_model_file_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-1000])
    with pytest.raises(ValueError, match="the file is cut"):
        convert_llama2c.convert(*files, tmp_path / "out")


def test_another_format_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_bytes(b"ak42" + struct.pack("<8i", 1, 16, 24, 2, 4, 2, 9, 0))
    with pytest.raises(ValueError, match="legacy format"):
        convert_llama2c.convert(*files, tmp_path / "out")


def test_a_tokenizer_of_another_model_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[1].write_bytes(files[1].read_bytes()[:-9])
    with pytest.raises(ValueError, match="whole pieces"):
        convert_llama2c.convert(*files, tmp_path / "out")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K in Hugging Face's format."""
    if STORIES is None:
        pytest.skip("LLAMA2C names no folder with stories260K.bin and tok512.bin")
    out = tmp_path_factory.mktemp("stories260K")
    convert_llama2c.convert(STORIES / "stories260K.bin", STORIES / "tok512.bin", out)
    return out


def test_stories260k_tells_a_story(stories: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    model = AutoModelForCausalLM.from_pretrained(stories)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    made = model.generate(**prompt, max_new_tokens=45, do_sample=False, pad_token_id=2)
    text = tokenizer.decode(made[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside")
    ids = tokenizer(STORY, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
        shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
        noise = float(model(input_ids=shuffled, labels=shuffled).loss)
    assert loss < 1.6
    assert noise > 4


# --- remember.py ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Qwen3 with a tokenizer, as one from the hub would lie there."""
    folder = tmp_path_factory.mktemp("qwen3")
    said = [text for _, session in remember.LIFE for text in session]
    texts = [" ".join(pair) for pair in CALIBRATION] + said + list(remember.QUESTIONS)
    tokenizer = train_tokenizer(texts * 20, vocabulary=400)
    config = Qwen3Config(
        vocab_size=400,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def told(model: Path) -> list:
    """What the weights hold after the life of remember.py."""
    with nestmem.open(":memory:", model=model, embedder="none") as memory:
        return remember.live(memory, "noor")


def test_a_random_qwen3_remembers_a_life(qwen3: Path) -> None:
    found = told(qwen3)
    assert {one.answer for one in found} == {"Biscuit", "green", "walnuts", "Porto", "Ines"}
    assert all(one.after > one.before for one in found)


def test_the_ten_lines_run_with_a_model_by_name(qwen3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with nestmem.open(":memory:", model=qwen3, embedder="none") as memory:
        remember.ten_lines(memory)
        assert "Biscuit" not in {one.answer for one in remember.held(memory, "maya")}
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("removed: {")
    assert "'events': 1" in lines[1]
    assert "Biscuit" not in lines[2]


@pytest.mark.slow
def test_stories260k_remembers_a_life(stories: Path) -> None:
    found = told(stories)
    assert sum(one.after - one.before for one in found) / len(found) > 2
