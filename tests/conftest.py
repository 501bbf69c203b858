"""Settings for the whole test suite."""

import os
import socket
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# One thread per process: the tests share the machine, and sums do not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test reaches the Hugging Face hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Processes that tests start find the package, installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
# The user's own settings are not part of a test.
for name in [name for name in os.environ if name.startswith("NESTMEM_")]:
    del os.environ[name]


@pytest.fixture(
    params=[
        b"\x00\x01 this is no HTTP\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"data": [',
        b"",
    ],
    ids=["junk", "cut", "closed"],
)
def broken_server(request):
    """The URL of a server that answers everything with a broken reply, and a list of its connections."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[int] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                seen.append(1)
                connection.sendall(request.param)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", seen
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
