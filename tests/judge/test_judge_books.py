"""Books cut into passages, and the tasks made from them: SORT and long-range understanding."""

from __future__ import annotations

import json
import lzma
import os
import random
from pathlib import Path

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets import books, longrange, sort
from nestmem.evals.datasets.base import Dataset, Task, load

NOUNS = [
    "boat",
    "lamp",
    "river",
    "stone",
    "table",
    "horse",
    "garden",
    "letter",
    "window",
    "bridge",
    "kettle",
    "mirror",
    "basket",
    "candle",
    "ladder",
]


def prose(seed: int, paragraphs: int = 300) -> str:
    """Sentences that differ from each other, two or three to a paragraph, wrapped like a Gutenberg text."""
    rng = random.Random(seed)
    made = []
    for number in range(paragraphs):
        said = [
            f"In the matter of the {rng.choice(NOUNS)} and the {rng.choice(NOUNS)} number {number}-{part}, Mr. Bell "
            f"kept {rng.choice(NOUNS)} after {rng.choice(NOUNS)} in his\r\ncoat {seed}-{number}-{part}."
            for part in range(rng.randint(2, 3))
        ]
        made.append(" ".join(said))
    return "\r\n\r\n".join(made)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two books as Gutenberg gives them."""
    path = tmp_path_factory.mktemp("booksort")
    for number in (11, 22):
        head = f"\ufeff*** START OF THE PROJECT GUTENBERG EBOOK NUMBER {number} ***\r\n\r\nProduced by nobody\r\n\r\n"
        foot = f"\r\n\r\n*** END OF THE PROJECT GUTENBERG EBOOK NUMBER {number} ***\r\nDonate now."
        (path / f"{number}-0.txt").write_bytes((head + prose(number) + foot).encode())
    return path


def positions(dataset: Dataset) -> dict[str, str]:
    return {stream.id: books.flat(stream.turns) for stream in dataset.streams}


def test_gutenberg_frame_is_left_out(folder: Path) -> None:
    found = books.read_books(folder, count=0, characters=0)
    assert [book.id for book in found] == ["11", "22"]
    for book in found:
        assert book.text.startswith("In the matter") and "GUTENBERG" not in book.text
        assert "Donate" not in book.text and "Produced" not in book.text and "\r" not in book.text
        assert "\ufeff" not in book.text


def test_books_of_the_two_forms_are_the_same(folder: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({"gutenberg_id": number, "text": (folder / f"{number}-0.txt").read_bytes().decode()})
        for number in ("11", "22")
    ]
    (tmp_path / "books.jsonl.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    assert sort.load(folder).digest() == sort.load(tmp_path).digest()


def test_passages_lose_nothing_and_keep_to_their_size(folder: Path) -> None:
    text = books.read_books(folder, count=1, characters=0)[0].text
    for words in (15, 60, 200):
        found = books.passages(text, words)
        assert " ".join(found).split() == text.split()
        assert max(len(passage.split()) for passage in found) <= words
        assert len(found) <= 2 * len(text.split()) / words + 2


def test_a_long_sentence_is_cut_at_the_size() -> None:
    assert books.passages("word " * 25, 10) == ["word " * 9 + "word"] * 2 + ["word " * 4 + "word"]
    assert books.passages("", 10) == []


def test_characters_are_the_start_of_the_book(folder: Path) -> None:
    whole = books.read_books(folder, count=1, characters=0)[0].text
    part = books.read_books(folder, count=1, characters=5_000)[0].text
    assert whole.startswith(part) and 4_000 < len(part) <= 5_000


def test_sort_answer_is_what_stands_first_and_the_evidence_holds_the_segments(folder: Path) -> None:
    dataset = sort.load(folder, questions=40, passage_words=80, segment_words=12)
    texts = positions(dataset)
    firsts = []
    for stream in dataset.streams:
        held = {turn.id: " ".join(turn.text.split()) for turn in stream.turns}
        assert len(stream.questions) == 40
        for question in stream.questions:
            places = {choice: texts[stream.id].index(choice) for choice in question.choices}
            assert question.answers == (min(places, key=lambda choice: places[choice]),)
            assert all(texts[stream.id].count(choice) == 1 for choice in question.choices)
            assert all(len(choice.split()) == 12 for choice in question.choices)
            assert all(any(choice in held[id_] for id_ in question.evidence) for choice in question.choices)
            low, high = (texts[stream.id][:place].count(" ") for place in sorted(places.values()))
            assert question.kind == sort.kind_of(high - low)
            firsts.append(question.choices.index(question.answers[0]))
    assert 0.3 < sum(firsts) / len(firsts) < 0.7
    assert len({question.kind for stream in dataset.streams for question in stream.questions}) >= 4


def test_long_range_answer_follows_and_the_others_do_not(folder: Path) -> None:
    dataset = longrange.load(folder, questions=30, passage_words=120)
    texts = positions(dataset)
    places = []
    for stream in dataset.streams:
        held = {turn.id: turn.text for turn in stream.turns}
        assert len(stream.questions) == 30
        for question in stream.questions:
            before = question.text.split('"')[1]
            followers = [choice for choice in question.choices if f"{before} {choice}" in texts[stream.id]]
            assert tuple(followers) == question.answers and len(set(question.choices)) == 6
            (evidence,) = question.evidence
            assert before in held[evidence] and question.answers[0] in held[evidence]
            assert sum(choice in held[evidence] for choice in question.choices) == 1
            places.append(question.choices.index(question.answers[0]))
    assert {question.kind for question in dataset.streams[0].questions} == set(longrange.THIRDS)
    assert set(places) == set(range(6))


@pytest.mark.parametrize("task", [sort.TASK, longrange.TASK])
def test_the_same_seed_gives_the_same_and_another_does_not(task: Task, folder: Path) -> None:
    first = task.load(folder, **task.options)
    assert first.digest() == task.load(folder, **task.options).digest()
    assert first.digest() != task.load(folder, **{**task.options, "seed": 1}).digest()


def test_short_books_are_counted(folder: Path) -> None:
    dataset = longrange.load(folder, questions=5_000)
    missing = dataset.left_out["questions that the text is too short for"]
    assert 0 < dataset.questions == 2 * 5_000 - missing


def test_bad_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no books"):
        sort.load(tmp_path)
    (tmp_path / "books.jsonl").write_text('{"title": "A", "text": "One."}\n{"title": "A", "text": "Two."}\n')
    with pytest.raises(InputError, match="book 2"):
        longrange.load(tmp_path)
    with pytest.raises(InputError, match="--data"):
        sort.load(None)


@pytest.mark.skipif("TEST_DATA" not in os.environ, reason="TEST_DATA names no folder of data")
@pytest.mark.parametrize(("task", "streams", "questions"), [(sort.TASK, 9, 270), (longrange.TASK, 4, 100)])
def test_real_books(task: Task, streams: int, questions: int) -> None:
    dataset = load(task, Path(os.environ["TEST_DATA"]), task.options)
    assert (len(dataset.streams), dataset.questions) == (streams, questions)
