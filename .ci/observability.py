"""What .ci/observability does once everything is installed and built. Its argument is the gateway's binary."""

import calendar
import contextlib
import http.client
import json
import math
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

RULES = Path("deploy/prometheus/rules.yaml")
TESTS = Path("deploy/prometheus/rules_test.yaml")
DASHBOARD = Path("deploy/grafana/dashboard.json")
PREFIX = "linksfield_gateway_"
PATIENCE = 90  # seconds, for whatever is waited for
SECRET = "demo-secret-0001"  # of the simulator; made up and public


def fail(reason):
    raise SystemExit(f"does not hold: {reason}")


def passed(what):
    print(f"  {what}", flush=True)


def rules(kind):
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def check_rules():
    subprocess.run(["promtool", "check", "rules", RULES], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["promtool", "test", "rules", TESTS], check=True, stdout=subprocess.DEVNULL)
    fired, quiet = set(), set()
    for group in yaml.safe_load(TESTS.read_text())["tests"]:
        for test in group["alert_rule_test"]:
            (fired if test["exp_alerts"] else quiet).add(test["alertname"])
    sections = re.findall(r"^## (LinksfieldGateway\w+)$", Path("docs/runbook.md").read_text(), re.MULTILINE)
    alerts = rules("alert")
    for rule in alerts:
        name, notes = rule["alert"], rule["annotations"]
        if rule["labels"]["severity"] not in ("page", "ticket") or not notes["summary"] or not notes["description"]:
            fail(f"{name} has severity, summary and description")
        if notes["runbook_url"] != f"docs/runbook.md#{name.lower()}" or name not in sections:
            fail(f"{name} has its section in the runbook")
        if name not in fired or name not in quiet:
            fail(f"{name} has a test that fires it and one that does not")
    names = [rule["alert"] for rule in alerts]
    if sorted(sections) != sorted(names):
        fail(f"each section of the runbook has its alert: {set(sections) ^ set(names)}")
    passed(f"{len(alerts)} alerts, each tested and in the runbook")


def documented():
    """Families of docs/metrics.md with their types."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", Path("docs/metrics.md").read_text(), re.MULTILINE)
    return {PREFIX + name: kind for name, kind in rows}


def queries(dashboard):
    """Title and expression of each query, in the order of the panels."""
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]


def check_dashboard():
    printed = subprocess.run([sys.executable, DASHBOARD.with_suffix(".py")], check=True, capture_output=True, text=True).stdout
    if printed != DASHBOARD.read_text():
        fail(f"{DASHBOARD} is what dashboard.py prints")
    dashboard = json.loads(printed)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    if variables["datasource"]["type"] != "datasource":
        fail("the data source is a variable")
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(set(ids)) != len(ids):
        fail("each panel has an id of its own")
    for panel in panels:
        title = panel["title"]
        if not panel["description"] or not panel["fieldConfig"]["defaults"]["unit"]:
            fail(f"the panel {title!r} has a description and a unit")
        for part in [panel, *panel["targets"]]:
            if part["datasource"]["uid"] != "${datasource}":
                fail(f"the data source of the panel {title!r} is the variable")
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            fail(f"the panel {title!r} is within the grid")
    counters = {name for name, kind in documented().items() if kind == "counter"} | {"process_cpu_seconds_total"}
    parts = {name + part for name, kind in documented().items() if kind == "histogram" for part in ("_bucket", "_count", "_sum")}
    for title, expression in queries(dashboard):
        for name, before in ((match.group(2), match.group(1)) for match in re.finditer(r"(\w+\()?\b(\w+_(?:total|bucket|count|sum))\{", expression)):
            if name in counters | parts and before not in ("rate(", "increase("):
                fail(f"the panel {title!r} has the counter {name} under rate or increase")
        known = documented()
        for name in re.findall(rf"\b{PREFIX}\w+", expression):
            if name not in known and name not in parts:
                fail(f"{name} of the panel {title!r} is in docs/metrics.md")
    passed(f"{len(panels)} panels")
    return dashboard


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **dict(headers)})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def wait(what, holds):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if result := holds():
                return result
        time.sleep(0.2)
    return fail(f"within {PATIENCE} s: {what}")


@contextlib.contextmanager
def running(command, log):
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    except BaseException:
        print(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-20:]), file=sys.stderr)
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()


class Gateway:
    """A gateway that runs, with the simulator behind it."""

    def __init__(self, folder, vendor):
        self.folder, self.vendor, self.port, self.admin = folder, vendor, free_port(), free_port()
        for name, content in (("secret", "not yet known to the simulator"), ("previous", SECRET), ("token", "t" * 32)):
            (folder / name).write_text(content)
        self.config = folder / "gateway.toml"
        self.config.write_text(f"""
[server]
listen = "127.0.0.1:{self.port}"
admin_listen = "127.0.0.1:{self.admin}"
state_dir = "{folder}/state"
[upstream]
base_url = "http://127.0.0.1:{vendor}/cube/v4"
[upstream.limits]
requests_per_second = 100
[upstream.codes]
bad_signature = ["SIM-4011"]
[tenants.acme]
access_code = "P000270"
secret_file = "{folder}/secret"
previous_secret_file = "{folder}/previous"
[callers.shop]
token_file = "{folder}/token"
tenants = ["acme"]
commands = true
[routes."/package/queryOrder"]
kind = "query"
fresh_for = "1s"
stale_for = "1m"
pages = true
[routes."/package/orderPackage"]
kind = "command"
invalidates = ["/package/queryOrder"]
""")

    def post(self, path, body, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.port, "POST", path, body, {"Authorization": "Bearer " + "t" * 32, **headers}.items())

    def query(self, page=1, size=10, **headers):
        return self.post("/package/queryOrder", json.dumps({"page_no": page, "page_size": size}), **headers)

    def order(self, **headers):
        return self.post("/package/orderPackage", json.dumps({
            "device_id": "89860012018111220455", "global_order": "0", "is_open": "0", "order_period": "1",
            "package_code": "PACKAGE20180428000007", "package_name": "a", "package_type": "2", "pay_amount": "0", "pay_rst": "2",
            "test_flow": "0", "test_flow_flag": "0"}), **headers)

    def simulate(self, **settings):
        status, answer = ask(self.vendor, "POST", "/_simulator/control", json.dumps(settings))
        if status != 200:
            fail(f"the simulator takes {settings}: {answer}")

    def load(self, turn):
        """Hits, stale and coalesced answers, commands, and each kind of failure, once in each turn."""
        self.simulate(fail=None, fail_status=None, fail_code=None, fail_path=None, fail_count=None, latency="100ms")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: self.query(1, 20 + turn), range(8)))  # one fill, the others wait for it
        for _ in range(5):
            self.query(1)  # fresh, then stale and fetched again
        self.query(2, Cache_Control="no-cache")
        self.query(3, Cache_Control="no-store")
        if self.order(Idempotency_Key=f"key-{turn}")[0] != 200 or self.order(Idempotency_Key=f"key-{turn}")[0] != 200:
            fail("an order goes through")
        self.query(1, 50, x_linksfield_pages="all")
        self.post("/package/queryOrder", "{")  # the caller's fault
        self.post("/not/configured", "{}")
        self.simulate(fail_status=500, fail_count=6)
        self.query(1, 40 + turn)
        self.query(2, 40 + turn)
        self.simulate(fail_status=None, fail_code="SIM-9999", fail_count=1)
        self.query(1, 60 + turn)
        self.simulate(fail_code=None, fail_status=429, fail_count=1)
        self.query(1, 80 + turn)
        # An order whose answer is lost.
        self.simulate(fail_status=None, fail="drop", apply="after_effect", fail_count=1)
        status, answer = self.order()
        if status != 502 or json.loads(answer)["sent"] != "unknown":
            fail(f"an order whose answer is lost is in doubt: {status} {answer}")

    def rotate(self):
        """The secret that works moves into its place."""
        (self.folder / "secret").write_text(SECRET)
        token = {"Authorization": "Bearer "}.items()
        status, answer = ask(self.admin, "POST", "/reload", "", token)
        if status != 200:
            fail(f"a rotation is taken: {answer}")


class Prometheus:
    def __init__(self, folder, admin):
        self.port, self.folder = free_port(), folder
        self.config = folder / "prometheus.yml"
        self.config.write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES.resolve())],
            "scrape_configs": [{"job_name": "gateway", "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}]}],
        }))

    def command(self):
        return ["prometheus", f"--config.file={self.config}", f"--storage.tsdb.path={self.folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]

    def ready(self):
        """Until it has read its storage it refuses every query."""
        return ask(self.port, "GET", "/-/ready")[0] == 200

    def evaluated(self):
        """When the group of rules that was last to be looked at was."""
        groups = json.loads(ask(self.port, "GET", "/api/v1/rules")[1])["data"]["groups"]
        # With nanoseconds, and Z for the zone.
        times = [time.strptime(group["lastEvaluation"][:19], "%Y-%m-%dT%H:%M:%S") for group in groups]
        return min(calendar.timegm(when) for when in times)

    def series(self, expression):
        """Labels and value of each series."""
        status, answer = ask(self.port, "GET", "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        if status != 200:
            fail(f"Prometheus takes {expression}: {answer}")
        result = json.loads(answer)["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def values(self, expression):
        return [value for _, value in self.series(expression) if not math.isnan(value)]


OK = b'{"code":"0000","data":null,"message":"ok","success":true}'


def answer(status, body, *headers):
    """An answer as it goes over the wire, whole and with its length."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} Answer", f"Content-Length: {len(body)}", *headers))
    return head.encode() + b"\r\n" + body


# Each way that a command can be in doubt: what the vendor answers; None if it says nothing until the gateway gives up.
DOUBTS = {
    "500": answer(500, OK),
    "502": answer(502, b"<html>"),
    "408": answer(408, b""),
    "transient": answer(200, OK.replace(b"0000", b"5030")),
    "lost": b"",
    "cut": answer(200, OK)[:-9],
    "timed-out": None,
    "too-large": answer(200, OK.replace(b"null", b'"' + b"x" * 9000 + b'"')),
    "gzip": answer(200, b"\x1f\x8b\x08\x00", "Content-Encoding: gzip"),
    "not-json": answer(200, b"<html>"),
    "not-utf-8": answer(200, OK.replace(b"ok", b"\xff")),
    "redirect": answer(302, b"", "Location: https://elsewhere/"),
    "upgrade": b"HTTP/1.1 101 Answer\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "broken-head": answer(200, OK).replace(b"Content-Length:", b"Content-Length :"),
    "caller-gone": answer(502, b""),
}
# And ways that say what became of it.
CLEAR = {
    "success": answer(200, OK),
    "unknown-code": answer(200, OK.replace(b"0000", b"4711")),
    "no-content": b"HTTP/1.1 204 Answer\r\n\r\n",
    "not-found": answer(404, b"<html>"),
    "throttled": answer(429, b""),
}
# And ways to be in doubt until the answer comes, after the command's time or its caller's: they count, and are looked up no more.
LATE = {
    "answered-late": answer(200, OK),
    "caller-gave-up": answer(200, OK),
}


class Vendor:
    """Ends each call as its path says. What a caller does not wait for ends once it has gone."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asked, self.callers_have_gone = threading.Semaphore(0), threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        with peer, peer.makefile("rb") as request, contextlib.suppress(OSError):
            way = request.readline().split()[1].decode().rpartition("/")[2]
            length = 0
            while (line := request.readline().strip().lower()):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            request.read(length)
            if way.startswith("caller-"):
                self.asked.release()
            if way.startswith("caller-") or way in LATE:
                self.callers_have_gone.wait(PATIENCE)
            said = {**DOUBTS, **CLEAR, **LATE}[way]
            if said is None:
                peer.recv(1)
            else:
                peer.sendall(said)


def lookups():
    """The two of the runbook, by its own words."""
    section = Path("docs/runbook.md").read_text().partition("## LinksfieldGatewayCommandInDoubt\n")[2].partition("\n## ")[0]
    return re.search(r"\*What to look at\.\* Which: `(.+?)`", section)[1], re.search(r"```sh\n(jq .+?)\n```", section, re.DOTALL)[1]


def check_doubts(binary, folder):
    vendor, port, admin = Vendor(), free_port(), free_port()
    prometheus = Prometheus(folder, admin)
    (folder / "secret").write_text(SECRET)
    routes = "".join(
        f'[routes."/doubt/{way}"]\nkind = "command"\ntimeout = "{1 if way in ("timed-out", "answered-late") else 30}s"\n'
        for way in [*DOUBTS, *CLEAR, *LATE]
    )
    config = folder / "gateway.toml"
    config.write_text(f"""
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
[log]
format = "json"
[upstream]
base_url = "http://127.0.0.1:{vendor.port}"
max_answer = "4KiB"
[upstream.limits]
requests_per_second = "none"
requests_per_day = "none"
connections = 8 # some are held until the end
[upstream.breaker]
consecutive = 1000
min_calls = 1000
[upstream.codes]
transient = ["5030"]
[tenants.acme]
access_code = "P000270"
secret_file = "{folder}/secret"
{routes}""")
    promql, jq = lookups()
    only_json = re.search(r"journalctl .+? \| (grep .+? >gateway\.log)`", Path("docs/runbook.md").read_text())[1]

    def save():
        subprocess.run(["bash", "-c", f"{only_json} <journal"], cwd=folder, check=False)

    def command(way, **headers):
        return ask(port, "POST", f"/doubt/{way}", "{}", {"x-request-id": f"order-{way}", **headers}.items())

    # As systemd's own lines, which `journalctl -o cat` shows with the gateway's.
    with_a_plain_line = ["bash", "-c", 'echo "Started the gateway."; exec "$@"', "bash", binary, "serve", "--config", config]

    def leave(way):
        with socket.create_connection(("127.0.0.1", port)) as caller:
            head = f"POST /doubt/{way} HTTP/1.1\r\nHost: gateway\r\nx-request-id: order-{way}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
            caller.sendall(head.encode())
            vendor.asked.acquire(timeout=PATIENCE)

    def logged():
        save()
        shown = subprocess.run(["bash", "-c", jq], cwd=folder, check=True, capture_output=True, text=True).stdout
        return {json.loads(line)["request_id"] for line in shown.splitlines()}

    def answered_late():
        save()
        lines = map(json.loads, (folder / "gateway.log").read_text().splitlines())
        ends = ("command finished without its caller", "command answered after its time")
        return {line["request_id"] for line in lines if line["message"] in ends}

    def counted():
        return {labels["route"] for labels, _ in prometheus.series(promql)}

    with (
        running(with_a_plain_line, folder / "journal"),
        running(prometheus.command(), folder / "prometheus.log"),
    ):
        wait("the gateway is ready", lambda: ask(admin, "GET", "/readyz")[0] == 200)
        wait("Prometheus is ready", prometheus.ready)
        wait("two scrapes", lambda: prometheus.values(f"count_over_time({PREFIX}build_info[1m]) >= 2"))
        for way in [*DOUBTS, *CLEAR, *LATE]:
            if way == "caller-gone":
                leave(way)
            elif way in LATE:
                command(way, **({"x-request-timeout": "1s"} if way == "caller-gave-up" else {}))
                wait(f"the runbook's jq finds what is not answered yet: {way}", lambda: f"order-{way}" in logged())
            elif way == "too-large":
                with contextlib.suppress(http.client.IncompleteRead):
                    command(way)
            else:
                command(way)
        vendor.callers_have_gone.set()
        for way in DOUBTS:
            wait(f"the runbook's jq finds what is in doubt: {way}", lambda: f"order-{way}" in logged())
            wait(f"the runbook's PromQL counts what is in doubt: {way}", lambda: f"/doubt/{way}" in counted())
        for way in LATE:
            wait(f"an answer comes late: {way}", lambda: f"order-{way}" in answered_late())
            wait(f"the runbook's PromQL counts what was in doubt: {way}", lambda: f"/doubt/{way}" in counted())
            if f"order-{way}" in logged():
                fail(f"the runbook's jq leaves out what ended well: {way}")
        wrong = {way for way in CLEAR if f"order-{way}" in logged() or f"/doubt/{way}" in counted()}
        if wrong:
            fail(f"the runbook finds only what is in doubt: {wrong}")
        for look_up in re.findall(r"```sh\n(jq .+?)\n```", Path("docs/runbook.md").read_text(), re.DOTALL):
            subprocess.run(["bash", "-ec", look_up], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    passed(f"the runbook's look-ups find each of {len(DOUBTS)} ways to be in doubt, and none of {len(CLEAR)} that are clear or {len(LATE)} that ended well later")


def check_live(binary, dashboard, folder):
    vendor = free_port()
    gateway = Gateway(folder, vendor)
    prometheus = Prometheus(folder, gateway.admin)
    with (
        running([binary, "simulate", "--listen", f"127.0.0.1:{vendor}"], folder / "simulator.log"),
        running([binary, "serve", "--config", gateway.config], folder / "gateway.log"),
        running(prometheus.command(), folder / "prometheus.log"),
    ):
        wait("the gateway is ready", lambda: ask(gateway.admin, "GET", "/readyz")[0] == 200)
        wait("Prometheus is ready", prometheus.ready)
        wait("two scrapes", lambda: prometheus.values(f"count_over_time({PREFIX}build_info[1m]) >= 2"))
        for turn in range(4):
            gateway.load(turn)
            if turn == 1:
                gateway.rotate()

        scrape = ask(gateway.admin, "GET", "/metrics")[1]
        subprocess.run(["promtool", "check", "metrics"], input=scrape, text=True, check=True)
        families = dict(re.findall(rf"^# TYPE ({PREFIX}\w+) (\w+)$", scrape, re.MULTILINE))
        if families != documented():
            fail(f"docs/metrics.md has what is scraped: {set(families.items()) ^ set(documented().items())}")
        passed(f"{len(families)} families, as docs/metrics.md has them; promtool finds no fault")

        wanted = [(rule["record"], rule["record"]) for rule in rules("record")]
        for title, expression in queries(dashboard):
            for variable, value in (("$__rate_interval", "5m"), ("$__range", "1h"), ("$job", ".*"), ("$instance", ".*")):
                expression = expression.replace(variable, value)
            wanted.append((title, expression))
        number = len(wanted)

        def all_have_data():
            wanted[:] = [(title, expression) for title, expression in wanted if not prometheus.values(expression)]
            return not wanted

        try:
            wait("data", all_have_data)
        except SystemExit:
            fail("\n".join(f"{title!r} has data: {expression}" for title, expression in wanted))
        passed(f"{number} queries of panels and recording rules have data")

        for alert in ("CommandInDoubt", "UnlistedPath", "UnknownVendorCode", "ForeignThrottles"):
            name = f"LinksfieldGateway{alert}"
            wait(f"{name} fires", lambda: prometheus.values(f'ALERTS{{alertname="{name}",alertstate="firing"}}'))
        if prometheus.values('ALERTS{alertname="LinksfieldGatewayBadSignatures"}'):
            fail("a rotation is no alert")
        passed("the alerts fire that should at once")


def check_demo(binary, folder):
    """What somebody who tries it out does raises no alert, nor would in a while: none is pending."""
    admin = 0
    while not admin:
        port = free_port()
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)), socket.create_server(("127.0.0.1", port + 2)):
            admin = port + 1
    prometheus = Prometheus(folder, admin)
    with running([binary, "demo", "--listen", f"127.0.0.1:{port}"], folder / "demo.log"):
        wait("the demo is ready", lambda: ask(admin, "GET", "/readyz")[0] == 200)
        with running(prometheus.command(), folder / "prometheus.log"):
            wait("Prometheus is ready", prometheus.ready)
            wait("the demo is scraped", lambda: prometheus.values("linksfield_gateway_build_info"))
            query, order = json.dumps({"page_no": 1, "page_size": 2}), {"device_id": "89860012018111220455"}
            for path, body in (("queryOrder", query), ("queryOrder", query), ("orderPackage", json.dumps(order)), ("queryOrder", "{")):
                ask(port, "POST", f"/package/{path}", body)
            wait("what was asked is scraped", lambda: prometheus.values('sum(linksfield_gateway_tenant_requests_total) >= 3'))
            evaluated = time.time()
            wait("the rules have looked at it since", lambda: prometheus.evaluated() > evaluated)
            # A forecast for the day from a few seconds is wild; the alert waits for a quarter of an hour.
            if alerts := prometheus.series('ALERTS{alertname!="LinksfieldGatewayDayBudgetRunsOut"}'):
                fail(f"the demo raises no alert: {alerts}")
    passed("the demo raises no alert")


def main():
    check_rules()
    dashboard = check_dashboard()
    with tempfile.TemporaryDirectory() as folder:
        check_doubts(sys.argv[1], Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        check_demo(sys.argv[1], Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        check_live(sys.argv[1], dashboard, Path(folder))


main()
