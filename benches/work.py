#!/usr/bin/env python3
"""A gateway at work, between callers and an upstream in Python: for what counts what it does, not for how long it takes.

    work.py BINARY    gives it hits, misses and orders to do, over plain HTTP/1; deploy/build profiles it meanwhile
"""

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "peers/gateway.toml"
TOKEN = "token-of-the-benchmark"
PATHS = {"page": "/package/queryOrder", "order": "/package/orderPackage"}
ANSWERS = {path: (HERE / f"peers/{what}.json").read_bytes().strip() for what, path in PATHS.items()}
CALLERS = 8
QUERIES = 1000  # of each, all different
ORDERS = 5  # as many as queries, so many times


def read(connection):
    """What the next message is about, a path or a status, and its body; nothing at the end."""
    text = b""
    while b"\r\n\r\n" not in text:
        part = connection.recv(65536)
        if not part:
            return None
        text += part
    head, _, body = text.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
    while len(body) < length:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the message is not whole")
        body += part
    return head.split(b" ", 2)[1].decode(), body


def answer(connection):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        while request := read(connection):
            body = ANSWERS[request[0]]
            connection.sendall(head % len(body) + body)


def upstream():
    """The port of a server that answers the same always: a page, or as the vendor answers an order."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Gateway:
    """One that runs `binary`, by a `wrapper` if there is one, until the end of the block; then `log` has what it said."""

    def __init__(self, binary, level, *wrapper):
        self.port, self.admin_port = free_port(), free_port()
        self.folder = tempfile.TemporaryDirectory()
        for name, text in (("secret", "demo-secret-0001"), ("token", TOKEN)):
            Path(self.folder.name, name).write_text(text)
        keys = {
            "LOG__LEVEL": level,
            "SERVER__LISTEN": f"127.0.0.1:{self.port}",
            "SERVER__ADMIN_LISTEN": f"127.0.0.1:{self.admin_port}",
            "UPSTREAM__BASE_URL": f"http://127.0.0.1:{upstream()}",
        }
        self.lines = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [*wrapper, Path(binary).resolve(), "serve", "--config", CONFIG],
            cwd=self.folder.name,
            env=os.environ | {f"LINKSFIELD_GATEWAY__{key}": value for key, value in keys.items()},
            stdout=self.lines,
            stderr=self.lines,
        )

    def __enter__(self):
        return self

    def __exit__(self, failure, error, _):
        self.process.terminate()
        try:
            ended = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            ended = self.process.wait()
        self.lines.seek(0)
        self.log = self.lines.read()
        self.folder.cleanup()
        if ended or failure and issubclass(failure, OSError):
            raise SystemExit(f"the gateway failed: {error or ended}\n{self.log[-4000:]}")

    def connect(self):
        patience = time.monotonic() + 60  # valgrind takes some
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=60)
            except OSError:
                if self.process.poll() is not None or time.monotonic() > patience:
                    raise
                time.sleep(0.1)

    def ask(self, connection, what, number):
        """A query, or an order; the upstream's answer comes back as it is."""
        body = b'{"device_id":"8986%016d","order_id":"","order_status":"","order_type":"","page_no":1,"page_size":2}' % number
        head = (
            f"POST {PATHS[what]} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-linksfield-tenant: acme\r\n"
            f"authorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        if (answer := read(connection)) is None:
            raise ConnectionError("there is no answer")
        if answer[1] != ANSWERS[PATHS[what]]:
            raise SystemExit(f"not what the upstream says: {answer}")

    def results(self):
        """How many of acme's requests ended how, by its metrics."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment's
        with opener.open(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=60) as metrics:
            series = r'^linksfield_gateway_tenant_requests_total{result="(\w+)",tenant="acme"} (\d+)$'
            return [(result, int(number)) for result, number in re.findall(series, metrics.read().decode(), re.MULTILINE)]


def work(gateway, what, times, caller):
    with gateway.connect() as connection:
        for number in range(times * QUERIES):
            gateway.ask(connection, what, caller * QUERIES + number % QUERIES)


def main():
    """Queries that nobody has asked, each of them nine times more; then orders."""
    (binary,) = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and so does the gateway
    each = CALLERS * QUERIES
    expected = {"miss": each, "hit": 9 * each, "command": ORDERS * each}
    for level in ("error", "info"):
        with Gateway(binary, level) as gateway, ThreadPoolExecutor(CALLERS) as callers:
            for what, times in (("page", 10), ("order", ORDERS)):
                list(callers.map(functools.partial(work, gateway, what, times), range(CALLERS)))
            did = {result: number for result, number in gateway.results() if number}
        print(f"log level {level}: {did}")
        if did != expected:
            raise SystemExit(f"it should have been {expected}")


if __name__ == "__main__":
    main()
