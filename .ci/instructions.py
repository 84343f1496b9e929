"""What .ci/instructions does once everything is installed. Its argument is the gateway's binary, and --renew.

The whole gateway runs under callgrind, which counts while the measured requests are answered, one after the other over one
connection: the ways through the kernel are not in it, all else is.
"""

import contextlib
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path

FIGURES = Path("benches/instructions.toml")
CONFIG = Path("benches/peers/gateway.toml")
TOKEN = "token-of-the-benchmark"
QUERIES = 100  # different ones; all are in memory before it counts
REQUESTS = 2000
MARGIN = 0.15

# What is asked, and the level of the log: lines of commands are written at every level.
KINDS = {"hit": ("page", "error"), "hit_with_line": ("page", "info"), "command": ("order", "error")}
PATHS = {"page": "/package/queryOrder", "order": "/package/orderPackage"}
ANSWERS = {what: Path(f"benches/peers/{what}.json").read_bytes().strip() for what in PATHS}


def read(connection):
    """The body of the next message; nothing at the end."""
    text = b""
    while b"\r\n\r\n" not in text:
        part = connection.recv(65536)
        if not part:
            return None
        text += part
    head, _, body = text.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
    while len(body) < length:
        body += connection.recv(65536)
    return body


def answer(connection, body):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        while read(connection) is not None:
            connection.sendall(head % len(body) + body)


def upstream(body):
    """The port of a server that answers the same always."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0], body), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(connection, what, number):
    body = b'{"device_id":"8986%016d","order_id":"","order_status":"","order_type":"","page_no":1,"page_size":2}' % number
    head = (
        f"POST {PATHS[what]} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-linksfield-tenant: acme\r\n"
        f"authorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    if (said := read(connection)) != ANSWERS[what]:
        raise SystemExit(f"not what the upstream says: {said}")


def connect(port, process):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except OSError:
            if process.poll() is not None:
                raise
            time.sleep(0.1)


def count(binary, kind, folder):
    """Instructions of one request."""
    what, level = KINDS[kind]
    port = free_port()
    keys = {
        "LOG__LEVEL": level,
        "SERVER__LISTEN": f"127.0.0.1:{port}",
        "SERVER__ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
        "UPSTREAM__BASE_URL": f"http://127.0.0.1:{upstream(ANSWERS[what])}",
    }
    for name, text in (("secret", "demo-secret-0001"), ("token", TOKEN)):
        (folder / name).write_text(text)
    log = folder.with_suffix(f".{kind}.log")
    with log.open("w") as out:
        process = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null", binary, "serve", "--config", CONFIG.resolve()],
            cwd=folder,
            env=os.environ | {f"LINKSFIELD_GATEWAY__{key}": value for key, value in keys.items()},
            stdout=out,
            stderr=out,
        )
    try:
        with connect(port, process) as connection:
            for number in range(2 * QUERIES):
                ask(connection, what, number % QUERIES)
            control(process, "on")
            for number in range(REQUESTS):
                ask(connection, what, number % QUERIES)
            control(process, "off")
    except OSError as error:
        raise SystemExit(f"{kind}: {error}\n{log.read_text()[-4000:]}") from None
    finally:
        process.terminate()
        process.wait(60)
    return int(re.search(r"Collected : (\d+)", log.read_text())[1]) // REQUESTS


def control(process, instrumentation):
    command = ["callgrind_control", f"--instr={instrumentation}", str(process.pid)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    binary, *options = sys.argv[1:]
    machine = platform.machine()
    with tempfile.TemporaryDirectory() as folder:
        (inner := Path(folder) / "gateway").mkdir()
        counts = {kind: count(Path(binary).resolve(), kind, inner) for kind in KINDS}
    if options == ["--renew"]:
        text = FIGURES.read_text()
        renewed = {"machine": f'"{machine}"'} | {kind: f"{counted:_}" for kind, counted in counts.items()}
        for key, value in renewed.items():
            text = re.sub(rf"^{key} = .*", f"{key} = {value}", text, flags=re.MULTILINE)
        FIGURES.write_text(text)
    figures = tomllib.loads(FIGURES.read_text())
    if machine != figures["machine"]:
        print(f"  no figures of {machine}: {counts}")
        return
    dearer = []
    for kind, counted in counts.items():
        ratio = counted / figures[kind]
        print(f"  {kind}: {counted:,} instructions, {ratio:.2f} of the figure", flush=True)
        if ratio > 1 + MARGIN:
            dearer.append(kind)
        elif ratio < 1 - MARGIN:
            print(f"  it has become so cheap that a new figure is due: .ci/instructions {binary} --renew")
    if dearer:
        raise SystemExit(f"does not hold: {', '.join(dearer)} within {MARGIN:.0%} of {FIGURES}, which tells what to do")


if __name__ == "__main__":
    main()
