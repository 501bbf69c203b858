"""Fetching public files, from a server in this process."""

import hashlib
import json
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Part, Task
from nestmem.evals.datasets.fetch import SOURCE, fetch
from nestmem.evals.files import find, rows

DATE = "2026-01-02"
BODY = b'[{"a": 1}]\n' * 1000
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self):
        type(self).asked.append(self.path)
        pages = {
            "/good": (200, "application/json", BODY, len(BODY)),
            "/short": (200, "application/json", BODY, len(BODY) + 5),
            "/page": (200, "text/html; charset=utf-8", b"<html>sign in</html>", 20),
            "/hidden-page": (200, "text/plain", b"\n<!DOCTYPE html><p>", 19),
            "/empty": (200, "text/plain", b"", 0),
            "/gone": (404, "text/plain", b"no", 2),
            "/part": (206, "application/json", BODY[:10], 10),
        }
        status, kind, body, length = pages[self.path]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type("Asked", (Handler,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler.asked
        running.shutdown()
        thread.join()


def task(*parts, folder="toy"):
    return Task(
        name="toy",
        version="toy/1",
        title="Toy data",
        paper="",
        source="a server in a test",
        licence=Licence(name="CC BY-NC 4.0", redistribution="no"),
        load=lambda folder: Dataset(streams=(), source=""),
        scorers=("exact",),
        without_reader="exact",
        folder=folder,
        fetch=parts,
    )


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_are_put_in_place_with_their_source(tmp_path, server):
    url, _ = server
    lines = []
    parts = (
        Part(file="a.json", url=f"{url}/good", bytes=len(BODY), sha256=SHA),
        Part(file="in/b.json", url=f"{url}/good"),
    )
    paths = fetch(task(*parts), tmp_path, date=DATE, progress=lines.append)
    assert paths == [tmp_path / "toy" / "a.json", tmp_path / "toy" / "in" / "b.json"]
    assert all(path.read_bytes() == BODY for path in paths)
    assert left(tmp_path) == ["toy/SOURCE.json", "toy/a.json", "toy/in/b.json"]
    assert "CC BY-NC 4.0" in lines[0] and "may not be passed on" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["1/2", "2/2"]
    record = json.loads((tmp_path / "toy" / SOURCE).read_text())
    assert record["licence"] == {"name": "CC BY-NC 4.0", "redistribution": "no"}
    assert record["files"]["a.json"] == {
        "url": f"{url}/good",
        "bytes": len(BODY),
        "sha256": SHA,
        "date": DATE,
    }


def test_what_is_there_is_not_fetched_again(tmp_path, server):
    url, asked = server
    one = Part(file="a.json", url=f"{url}/good")
    fetch(task(one), tmp_path, date=DATE, progress=lambda _: None)
    fetch(task(one, Part(file="b.json", url=f"{url}/good")), tmp_path, date="later", progress=lambda _: None)
    assert asked == ["/good", "/good"]
    record = json.loads((tmp_path / "toy" / SOURCE).read_text())
    assert [record["files"][name]["date"] for name in ("a.json", "b.json")] == [DATE, "later"]


def test_the_date_is_of_today_unless_it_is_given(tmp_path, server):
    url, _ = server
    fetch(task(Part(file="a.json", url=f"{url}/good")), tmp_path, progress=lambda _: None)
    record = json.loads((tmp_path / "toy" / SOURCE).read_text())
    assert abs((date.fromisoformat(record["files"]["a.json"]["date"]) - date.today()).days) <= 1


def test_a_file_that_was_changed_is_left_alone(tmp_path, server):
    url, asked = server
    toy = task(Part(file="a.json", url=f"{url}/good"))
    fetch(toy, tmp_path, date=DATE, progress=lambda _: None)
    (tmp_path / "toy" / "a.json").write_text("mine")
    with pytest.raises(InputError, match="is in the way"):
        fetch(toy, tmp_path, date=DATE, progress=lambda _: None)
    assert (tmp_path / "toy" / "a.json").read_text() == "mine" and len(asked) == 1


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("/gone", {}, "HTTP 404"),
        ("/short", {}, "broke off after|IncompleteRead|more expected"),
        ("/page", {}, "gave a web page"),
        ("/hidden-page", {}, "gave a web page"),
        ("/empty", {}, "empty file"),
        ("/part", {}, "HTTP 206"),
        ("/good", {"bytes": 12}, r"has 11,000 bytes, expected 12"),
        ("/good", {"sha256": "0" * 64}, "another version of the data, or damaged"),
    ],
)
def test_nothing_half_is_left(tmp_path, server, path, more, said):
    url, _ = server
    good = Part(file="a.json", url=f"{url}/good")
    with pytest.raises(InputError, match=said):
        fetch(
            task(good, Part(file="b.json", url=url + path, **more)),
            tmp_path,
            date=DATE,
            progress=lambda _: None,
        )
    assert left(tmp_path) == ["toy/SOURCE.json", "toy/a.json"]
    assert list(json.loads((tmp_path / "toy" / SOURCE).read_text())["files"]) == ["a.json"]


def test_no_server_and_an_interruption(tmp_path):
    toy = task(Part(file="a.json", url="http://127.0.0.1:9/none"))
    with pytest.raises(InputError, match="could not be downloaded"):
        fetch(toy, tmp_path, date=DATE, progress=lambda _: None)

    def stopped(url, timeout):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(toy, tmp_path, date=DATE, opener=stopped, progress=lambda _: None)
    assert left(tmp_path) == []


def test_nothing_to_fetch(tmp_path):
    with pytest.raises(InputError, match="has nothing to fetch: a server in a test"):
        fetch(task(), tmp_path, date=DATE)
    assert left(tmp_path) == []


def test_a_damaged_source_file(tmp_path, server):
    url, _ = server
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / SOURCE).write_text("{")
    with pytest.raises(InputError, match=r"SOURCE\.json cannot be read"):
        fetch(task(Part(file="a", url=f"{url}/good")), tmp_path, date=DATE, progress=lambda _: None)


def test_find_and_rows(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"x": "a\u2028b"}\n\n{"x": 2}\n', encoding="utf-8")
    assert find(tmp_path, ("a.jsonl", "b.jsonl"), "rows") == tmp_path / "b.jsonl"
    assert [row["x"] for row in rows(tmp_path / "b.jsonl", ("x",))] == ["a\u2028b", 2]
    with pytest.raises(InputError, match="line 1 has no y; expected x, y"):
        rows(tmp_path / "b.jsonl", ("x", "y"))
    with pytest.raises(InputError, match=r"has none of a\.jsonl \(nor with \.gz or \.xz\); expected rows"):
        find(tmp_path, ("a.jsonl",), "rows")
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        rows(tmp_path / "b.jsonl", ("x",))
