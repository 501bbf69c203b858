"""The LoCoMo evaluation on a conversation written here (nothing of the data set is in the repository)."""

import gzip
import json

import pytest

from nestmem.errors import InputError
from nestmem.evals import locomo


def sample(name="conv-1"):
    def turn(dia_id, speaker, text, **more):
        return {"dia_id": dia_id, "speaker": speaker, "text": text, **more}

    talk = [
        [
            turn("D1:1", "Ada", "Hi Bo! I adopted a ferret called Nimbus."),
            turn("D1:2", "Bo", "Lovely! I am learning the oboe."),
            turn("D1:3", "Ada", "Look at this.", blip_caption="a photo of a ferret on a sofa"),
        ],
        [turn("D2:1", "Bo", "I sold my boat yesterday."), turn("D2:2", "Ada", "I joined a choir in Graz.")],
    ]
    filler = [
        [
            turn(f"D{s}:{t}", ("Ada", "Bo")[t % 2], f"Nothing much happened here, day {s} hour {t}.")
            for t in range(1, 21)
        ]
        for s in range(3, 13)
    ]
    conversation: dict[str, object] = {"speaker_a": "Ada", "speaker_b": "Bo"}
    for number, turns in enumerate([*talk, *filler], 1):
        conversation[f"session_{number}"] = turns
        conversation[f"session_{number}_date_time"] = f"1:56 pm on {number} May, 2023"
    questions = [
        ("What is Ada's ferret called?", 4, ["D1:1"]),
        ("When did Bo sell the boat?", 2, ["D2:1"]),
        ("What do Ada and Bo do with music, oboe and choir?", 1, ["D1:2; D2:02"]),
        ("What does Bo's ferret eat?", 5, ["D1:1"]),
        ("Is evidence missing?", 4, ["D"]),
        ("Is it elsewhere?", 3, ["D9:99"]),
        ("Is there none?", 3, []),
    ]
    qa = [{"question": text, "category": category, "evidence": ids} for text, category, ids in questions]
    return {"sample_id": name, "conversation": conversation, "qa": qa}


@pytest.fixture
def data(tmp_path):
    samples = json.dumps([sample("conv-1"), sample("conv-2")]).encode()
    (tmp_path / "locomo.json.gz").write_bytes(gzip.compress(samples))
    return tmp_path


def test_the_record(data, tmp_path):
    record = locomo.run(
        data, embedder="none", budgets=(60, 500), json_path=tmp_path / "record.json", progress=False
    )
    assert record["n"]["questions"] == 6
    assert record["n"]["by_category"] == {"1": 2, "2": 2, "3": 0, "4": 2, "5": 2}
    assert record["n"]["left_out"] == {"malformed": 2, "unknown": 2, "questions": 6}
    assert record["n"]["turns"] == 410
    large = record["evidence"]["500"]
    assert (large["share"], large["all"], large["clusters"]) == (1.0, 1.0, 2)
    assert large["by_category"]["1"]["all"] == 1.0
    small = record["evidence"]["60"]
    assert small["share"] <= large["share"]
    assert small["max_tokens"] <= 60
    assert set(small["by_category"]) == {"1", "2", "4", "5"}
    for what in ("observe", "recall"):
        assert 0 < record["latency_ms"][what]["p50"] <= record["latency_ms"][what]["p95"]
    assert record["stored"]["bytes"] > record["stored"]["text_bytes"] > 0
    assert record["config"]["embedder"] is None
    assert {"commit", "cpu", "cores"} <= set(record["environment"])
    written = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert written["evidence"]["500"]["share"] == 1.0


def test_the_table_says_it_all(data):
    table = locomo.render(locomo.run(data, embedder="none", budgets=(500,), progress=False))
    for words in ("embedder none", "multi-hop", "100.0 ± 0.0", "2 malformed", "bytes stored", "observe p50"):
        assert words in table


@pytest.mark.parametrize(
    ("given", "found", "malformed"),
    [
        (["D1:3"], ["D1:3"], 0),
        (["D8:6; D9:17"], ["D8:6", "D9:17"], 0),
        (["D1:18 D1:20"], ["D1:18", "D1:20"], 0),
        (["D:11:26"], ["D11:26"], 0),
        (["D30:05"], ["D30:5"], 0),
        (["D"], [], 1),
        (["D1:1", "D1:01"], ["D1:1"], 0),
        ([], [], 0),
    ],
)
def test_evidence_is_read(given, found, malformed):
    assert locomo.parse_evidence(given) == (found, malformed)


def test_bad_data_is_explained(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        locomo.read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no"):
        locomo.read(tmp_path)
    for name, content in (("a.json", b"{}"), ("b.json", b"not json"), ("c.json.gz", b"not gzip")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="LoCoMo"):
            locomo.read(tmp_path / name)
