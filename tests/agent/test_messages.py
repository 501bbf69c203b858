"""Files of messages: each format, and each way to be wrong."""

import gzip
import json
from datetime import UTC, datetime

import pytest

from nestmem.agent.messages import MAX_CONTENT_BYTES, parse, parse_time
from nestmem.errors import InputError

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
LOCOMO = {
    "sample_id": "conv-1",
    "qa": [],
    "conversation": {
        "speaker_a": "Caroline",
        "speaker_b": "Mel",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Caroline", "dia_id": "D1:1", "text": "Hey Mel!"},
            {"speaker": "Mel", "dia_id": "D1:2", "text": "Hey!", "blip_caption": "a photo of a dog"},
        ],
        "session_10_date_time": "10:00 am on 9 June, 2023",
        "session_10": [{"speaker": "Mel", "dia_id": "D10:1", "text": "Back again."}],
        "session_2_date_time": "12:05 am on 9 May, 2023",
        "session_2": [{"speaker": "Mel", "dia_id": "D2:1", "text": "Morning."}],
    },
}


def said(sessions):
    return [[(m.role, m.content) for m in s.messages] for s in sessions]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CHAT),
        json.dumps({"messages": CHAT}),
        "\n".join(json.dumps(m) for m in CHAT),
        json.dumps({"messages": CHAT}) + "\n",
        "User: Hi\nAssistant: Hello\n",
        "\ufeffuser: Hi\r\n\r\nAI: Hello",
        "[2026-03-02 10:00] User: Hi\n[2026-03-02 10:01] Assistant: Hello",
    ],
)
def test_the_same_chat_in_every_format(tmp_path, text):
    path = tmp_path / "chat.txt"
    path.write_text(text, encoding="utf-8", newline="")
    for given in (path, str(path), text.encode(), gzip.compress(text.encode())):
        assert said(parse(given)) == [[("user", "Hi"), ("assistant", "Hello")]]


def test_decoded_json_and_several_sessions():
    assert said(parse(CHAT)) == said(parse({"messages": CHAT}))
    sessions = parse([{"id": "a", "messages": CHAT}, {"messages": CHAT[:1], "at": "2026-03-02T10:00:00Z"}])
    assert [s.id for s in sessions] == ["a", "session-2"]
    assert sessions[1].messages[0].occurred_at == datetime(2026, 3, 2, 10, tzinfo=UTC)
    life = {"id": "life-7", "sessions": [{"at": "2026-03-02", "messages": CHAT}], "questions": []}
    [session] = parse([life])
    assert (session.conversation, len(session.messages)) == ("life-7", 2)


def test_parts_tool_calls_and_tool_results():
    [session] = parse(
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {}}],
            },
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "42", "timestamp": 1772445600},
        ]
    )
    assert [(m.role, m.content, m.source) for m in session.messages] == [
        ("user", "Look", None),
        ("tool", "42", "tool"),
    ]
    assert session.messages[1].occurred_at == datetime(2026, 3, 2, 10, tzinfo=UTC)


def test_transcripts_continue_break_and_name_their_speakers():
    text = "## 2026-03-01\nAnna: I moved.\nTo York, I mean.\n\nTom: Nice: very nice.\n---\nAnna: Bye."
    first, second = parse(text.encode())
    assert [(m.name, m.content, m.group) for m in first.messages] == [
        ("Anna", "I moved.\nTo York, I mean.", True),
        ("Tom", "Nice: very nice.", True),
    ]
    assert first.messages[0].occurred_at == datetime(2026, 3, 1, tzinfo=UTC)
    assert second.messages[0].group is False


def test_locomo_sessions_are_in_order_with_times_and_captions():
    sessions = parse([LOCOMO])
    assert [s.id for s in sessions] == ["session_1", "session_2", "session_10"]
    assert {s.conversation for s in sessions} == {"conv-1"}
    mel = sessions[0].messages[1]
    assert (mel.name, mel.group, mel.content) == ("Mel", True, "Hey! [shares a photo of a dog]")
    assert mel.occurred_at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
    assert sessions[1].messages[0].occurred_at == datetime(2023, 5, 9, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b"", "no message"),
        (b"[]", "no message"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"\x1f\x8bbroken", "gzip"),
        (b"just some words", "line 1"),
        (b'{"role": "user", "content": "x"', "broken JSON"),
        (b'{"role": "user", "content": "x"}\n{broken}', "line 2"),
        (b'[{"role": "wizard", "content": "x"}]', "message 1.*wizard"),
        (b'[{"content": "x"}]', "role is None"),
        (b'[{"role": "user", "content": ""}]', "empty"),
        (b'[{"role": "user", "content": 3}]', "int"),
        (b'[{"role": "user"}]', "NoneType"),
        (b'[{"role": "user", "content": "x", "timestamp": "noon"}]', "no time"),
        (b'[{"role": "user", "content": "x", "name": ""}]', "name"),
        (b'[{"role": "user", "content": "x", "source": "moon"}]', "moon"),
        (b'{"title": "x"}', "expected 'messages'"),
        (b"[3]", "int"),
        (b"User: \nAssistant: hi", "empty"),
        (b'[{"role": "user", "content": "\\ud800"}]', "UTF-8"),
    ],
)
def test_bad_files_are_one_clear_error(given, says):
    with pytest.raises(InputError, match=says):
        parse(given)


def test_a_missing_file_and_a_huge_message(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        parse(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        parse(tmp_path)
    [session] = parse([{"role": "user", "content": "x" * MAX_CONTENT_BYTES}])
    assert len(session.messages) == 1
    with pytest.raises(InputError, match="at most 1,000,000"):
        parse([{"role": "user", "content": "x" * (MAX_CONTENT_BYTES + 1)}])


def test_times_are_utc_whatever_they_came_as():
    noon = datetime(2026, 3, 2, 12, tzinfo=UTC)
    for given in (
        "2026-03-02T12:00:00Z",
        "2026-03-02 12:00",
        "2026-03-02T13:00:00+01:00",
        1772452800,
        1772452800000,
        "1772452800",
        noon,
    ):
        assert parse_time(given) == noon
    assert parse_time(None) is None
    for bad in ("soon", True, float("nan"), 10**30, [2026]):
        with pytest.raises(InputError):
            parse_time(bad)  # pyright: ignore[reportArgumentType]
