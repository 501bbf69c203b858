"""Loss by position, on models that are functions with a known loss."""

import gzip
import json
import lzma
import math
from contextlib import contextmanager

import pytest
import torch

from nestmem.adapters.fast_weights import mini_folder
from nestmem.errors import InputError
from nestmem.evals import files
from nestmem.evals.stats import clustered_mean
from nestmem.evals.tasks import language
from nestmem.evals.tasks.language import (
    Text,
    Variant,
    by_position,
    bytes_encoded,
    encoder,
    from_logits,
    from_model,
    ratio,
)


def by_place(ids):
    """Token t costs t nats."""
    return torch.arange(1, ids.shape[1], dtype=torch.float32)


def by_novelty(ids):
    """A token costs 0 when it was read before, 1 when not: a reader that remembers all of its context."""
    seen = [float(token not in ids[0, :t]) for t, token in enumerate(ids[0])]
    return torch.tensor(seen[1:])


def letters(*chunks):
    return Text(id=chunks[0][0], text="".join(chunks))


def test_losses_go_to_the_bucket_of_their_position():
    texts = [Text(id="a", text="x" * 10), Text(id="b", text="y" * 6)]
    found = by_position(
        texts, [Variant(name="v", losses=by_place)], encode=bytes_encoded, edges=(0, 4, 8, 20)
    )
    buckets = found["variants"]["v"]["buckets"]
    assert [(b["from"], b["to"], b["tokens"]) for b in buckets] == [(0, 4, 6), (4, 8, 6), (8, 20, 2)]
    assert [b["nats_per_token"]["mean"] for b in buckets] == pytest.approx(
        [2, (4 + 5 + 6 + 7 + 4 + 5) / 6, 8.5]
    )
    assert [b["nats_per_token"]["clusters"] for b in buckets] == [2, 2, 1]
    assert buckets[0]["bits_per_byte"]["mean"] == pytest.approx(2 / math.log(2))
    assert found["variants"]["v"]["all"]["tokens"] == 14 and found["documents"] == 2
    assert buckets[0]["nats_per_token"]["se"] == 0 and math.isnan(buckets[2]["nats_per_token"]["se"])


def test_a_start_makes_the_first_token_count():
    text = [Text(id="a", text="xyz")]
    seen = []

    def losses(ids):
        seen.append(ids.tolist())
        return by_place(ids)

    found = by_position(
        text, [Variant(name="v", losses=losses)], encode=bytes_encoded, edges=(0, 8), start=(7, 7)
    )
    assert seen == [[[7, 7, 120, 121, 122]]]
    bucket = found["variants"]["v"]["buckets"][0]
    assert (bucket["tokens"], bucket["nats_per_token"]["mean"]) == (3, 3.0)


def test_what_the_far_context_is_worth():
    """The second half of each document repeats its first. A reader that remembers pays nothing for it, unless
    its context is another document's; in its own context reordered it still knows every token."""
    one = "abcdefghijklmnop"
    two = "ABCDEFGHIJKLMNOP"
    texts = [Text(id="one", text=one + one), Text(id="two", text=two + two)]
    variants = [
        Variant(name="own", losses=by_novelty),
        Variant(name="other", losses=by_novelty, context="other"),
        Variant(name="shuffled", losses=by_novelty, context="shuffled"),
    ]
    found = by_position(texts, variants, encode=bytes_encoded, edges=(0, 16, 32), near=4)["variants"]
    second = {name: part["buckets"][1]["nats_per_token"]["mean"] for name, part in found.items()}
    # Of the 16 repeated letters, the last 4 of the first half stay in the context.
    assert second == {"own": 0.0, "other": 12 / 16, "shuffled": 0.0}
    assert "minus_first" not in found["own"]["buckets"][1]
    gap = found["other"]["buckets"][1]["minus_first"]
    assert (gap["mean"], gap["se"], gap["clusters"]) == (12 / 16, 0.0, 2)
    assert found["other"]["buckets"][0]["minus_first"]["mean"] == 0


@pytest.mark.parametrize("context", ["other", "shuffled"])
def test_only_the_far_context_is_replaced(context):
    one, two = "abcdefghijklmnopqrstuvwx", "A" * 10
    seen = []

    def losses(ids):
        seen.append("".join(map(chr, ids[0].tolist())))
        return by_place(ids)

    variant = Variant(name="v", losses=losses, context=context)
    texts = [Text(id="one", text=one), Text(id="two", text=two)]
    by_position(texts, [variant], encode=bytes_encoded, edges=(0, 12, 24), near=2)
    plain, replaced, short = seen
    assert plain == one and short == two
    assert len(replaced) == 24 and replaced[10:] == one[10:] and replaced[:10] != one[:10]
    assert (replaced[:10] == "A" * 10) if context == "other" else (sorted(replaced) == sorted(one))


def test_positions_in_bytes_compare_tokenizers():
    def pairs(text):
        return [ord(a) for a in text[::2]], [2] * (len(text) // 2)

    texts = [Text(id=name, text=name * 40) for name in "abc"]
    one = Variant(name="v", losses=lambda ids: torch.ones(ids.shape[1] - 1))
    for encode, nats in ((bytes_encoded, 1.0), (pairs, 1.0)):
        found = by_position(texts, [one], encode=encode, edges=(0, 10, 40), by="bytes")
        assert [b["nats_per_token"]["mean"] for b in found["variants"]["v"]["buckets"]] == [nats, nats]
    assert found["variants"]["v"]["buckets"][1]["tokens"] == 3 * 15
    assert found["variants"]["v"]["buckets"][1]["bits_per_byte"]["mean"] == pytest.approx(0.5 / math.log(2))


def test_windows_of_a_document_are_one_cluster_and_do_not_overlap():
    seen = []

    def losses(ids):
        seen.append("".join(map(chr, ids[0].tolist())))
        return by_place(ids)

    text = "".join(chr(65 + i) for i in range(32))
    texts = [Text(id="long", text=text), Text(id="short", text="xy")]
    found = by_position(
        texts, [Variant(name="v", losses=losses)], encode=bytes_encoded, edges=(0, 10), windows=4
    )
    assert seen == [text[:10], text[11:21], text[22:], "xy"]
    assert found["documents"] == 2
    assert found["variants"]["v"]["all"]["nats_per_token"]["clusters"] == 2


def test_the_ratio_is_the_clustered_mean():
    values, clusters = [1.0, 2.0, 4.0, 4.0, 9.0, 0.5], ["a", "a", "b", "b", "b", "c"]
    sums = [sum(v for v, c in zip(values, clusters, strict=True) if c == k) for k in "abc"]
    found, expected = ratio(sums, [2, 3, 1], 6), clustered_mean(values, clusters)
    assert (found.mean, found.se, found.n, found.clusters) == pytest.approx(
        (expected.mean, expected.se, 6, 3)
    )


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("piece", [1, 7, 39, 40, 100])
def test_reading_in_pieces_is_reading_at_once(llama, piece):
    ids = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = from_logits(lambda x: llama(input_ids=x).logits)(ids)
        pieces = from_model(llama, piece=piece)(ids)
    assert whole.shape == (39,)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


def test_a_way_of_reading_is_entered(llama):
    entered = []

    @contextmanager
    def without_learning():
        entered.append(True)
        yield

    from_model(llama, around=without_learning)(torch.zeros(1, 4, dtype=torch.int64))
    assert entered == [True]
    with pytest.raises(InputError, match="piece is 0"):
        from_model(llama, piece=0)


def test_bytes_of_tokens_add_up():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(mini_folder())
    text = "The café — naïve, 漢字 🙂 — of  two   spaces.\nEnd"
    ids, sizes = encoder(tokenizer)(text)
    assert len(ids) == len(sizes) and sum(sizes) == len(text.encode())
    assert all(size >= 0 for size in sizes)
    with pytest.raises(InputError, match="give a fast tokenizer"):
        encoder(object())


def test_a_bad_question_is_refused():
    text, variant = [Text(id="a", text="abc")], [Variant(name="v", losses=by_place)]
    cases = [
        (([], variant), {}, "0 documents"),
        ((text, []), {}, "0 variants"),
        ((text, variant), {"edges": (0,)}, "at least 2 rising"),
        ((text, variant), {"edges": (8, 4)}, "at least 2 rising"),
        ((text, variant), {"by": "words"}, "'tokens' or 'bytes'"),
        ((text, variant), {"near": 0}, "near 0"),
        ((text, variant * 2), {}, "one name"),
        ((text, [Variant(name="v", losses=by_place, context="other")]), {}, "needs another document"),
    ]
    for given, options, message in cases:
        with pytest.raises(InputError, match=message):
            by_position(*given, encode=bytes_encoded, **options)
    with pytest.raises(InputError, match="own, other, shuffled"):
        Variant(name="v", losses=by_place, context="far")


# The files.


def test_reading_the_sets(tmp_path):
    for folder in ("wikitext2", "tinystories_sample", "pg19_books"):
        (tmp_path / folder).mkdir()
    articles = (
        " \n = A title = \n \n Some words . \n \n = = A section = = \n More . \n = Other = \n \n End .\n"
    )
    (tmp_path / "wikitext2/test.txt.gz").write_bytes(gzip.compress(articles.encode()))
    (tmp_path / "tinystories_sample/tinystories_sample.txt").write_text(
        "Once.\n<|endoftext|>\nTwice.\n<|endoftext|>\n"
    )
    book = json.dumps({"id": 7, "text": "\n\nA book."})
    (tmp_path / "pg19_books/books.jsonl.xz").write_bytes(lzma.compress(book.encode()))
    wiki = language.read(tmp_path, "wikitext2")
    assert [text.id for text in wiki] == ["A title", "Other"]
    assert "A section" in wiki[0].text and wiki[1].text.endswith("End .")
    assert [text.text for text in language.read(tmp_path, "tinystories")] == ["Once.", "Twice."]
    assert language.read(tmp_path, "pg19") == [Text(id="7", text="A book.")]
    with pytest.raises(InputError, match="expected one of wikitext2, tinystories, pg19"):
        language.read(tmp_path, "ptb")
    (tmp_path / "wikitext2/test.txt").write_text("no headings")
    with pytest.raises(InputError, match="not WikiText"):
        language.read(tmp_path, "wikitext2")


def test_what_is_said_about_missing_and_broken_files(tmp_path):
    with pytest.raises(
        InputError, match=r"books\.jsonl does not exist .* Get it from: https://github.com/google"
    ):
        language.read(tmp_path, "pg19")
    folder = tmp_path / "pg19_books"
    folder.mkdir()
    path = folder / "books.jsonl.xz"
    cases = [
        (lzma.compress(b"{}"), "line 1 has no id, text"),
        (lzma.compress(b"[1]"), "record 1 has no id, text"),
        (lzma.compress(b'{"id": 1'), "line 1 is not JSON"),
        (lzma.compress(b"\n"), "is empty"),
        (lzma.compress(b"\xff\xfe"), "cannot be read as text"),
        (lzma.compress(b"{}" * 99)[:40], "cannot be read as text"),
        (b"plain", "cannot be read as text"),
    ]
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            language.read(tmp_path, "pg19")
    path.unlink()
    (folder / "books.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99)[:15])
    with pytest.raises(InputError, match="cannot be read as text"):
        files.text(files.find_set(tmp_path, "pg19_books", "books.jsonl"))
