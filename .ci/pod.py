"""Runs a rendered Deployment as a pod for real, with podman, and plays the kubelet: probes, mounted folders, SIGTERM.

    pod.py sidecar|shared MANIFESTS IMAGE

What is changed in the pod: images; a sidecar is a container beside the service, as this podman knows no native sidecars; the
service, or a container beside the shared gateway, is Linksfield's simulator; volumes are folders of this machine, laid out as
the kubelet does. Probes are made here, as podman would look for curl in the image.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml

NAME = "linksfield-gateway"
SECRET = "demo-secret-0001"  # the simulator's, made up and public
ADMIN_TOKEN = "made-up-token-of-admin"
QUERY, ORDER = "/package/queryOrder", "/package/orderPackage"
CARD = {
    "device_id": "89860012018111220455", "global_order": "0", "is_open": "0", "order_period": "1",
    "package_code": "PACKAGE20180428000007", "package_name": "x", "package_type": "2", "pay_amount": "0", "pay_rst": "2",
    "test_flow": "0", "test_flow_flag": "0",
}


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout.strip()


def until(what, condition, seconds=90):
    """Waits for a condition, not for a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            print(f"  {what}")
            return value
        time.sleep(0.1)
    raise SystemExit(f"not within {seconds} s: {what}")


def expect(what, holds):
    if not holds:
        raise SystemExit(f"does not hold: {what}")
    print(f"  {what}")


class Mounted:
    """A ConfigMap or Secret as the kubelet mounts it: files behind ..data, which is replaced by a rename."""

    def __init__(self, root, group, mode):
        self.root, self.group, self.mode, self.version = root, group, mode, 0
        root.mkdir()

    def write(self, files):
        self.version += 1
        version = self.root / f"..{self.version}"
        version.mkdir()
        for name, text in files.items():
            path = version / name
            path.write_text(text)
            os.chown(path, 0, self.group)
            path.chmod(self.mode)
            if not (self.root / name).is_symlink():
                (self.root / name).symlink_to(f"..data/{name}")
        new = self.root / "..data_tmp"
        new.symlink_to(version.name)
        new.rename(self.root / "..data")
        if self.version > 1:
            shutil.rmtree(self.root / f"..{self.version - 1}")


class Pod:
    def __init__(self, manifests, image, folder):
        documents = {document["kind"]: document for document in manifests}
        self.spec = spec = documents["Deployment"]["spec"]["template"]["spec"]
        self.is_sidecar = "initContainers" in spec
        if self.is_sidecar:
            [self.gateway] = spec.pop("initContainers")
            expect("the gateway is a native sidecar", self.gateway.pop("restartPolicy") == "Always")
        else:
            [self.gateway] = spec["containers"]
        self.probes = {kind: self.gateway.pop(f"{kind}Probe") for kind in ("startup", "liveness", "readiness")}
        self.ports = {port["name"]: port["containerPort"] for port in self.gateway["ports"]}
        self.gateway["image"] = image
        simulator = {"name": "simulator", "image": image, "args": ["simulate"], "securityContext": {"runAsUser": 10001}}
        spec["containers"] = [self.gateway, simulator]

        group = spec["securityContext"]["fsGroup"]
        self.mounts = {}
        for volume in spec["volumes"]:
            root = folder / volume["name"]
            kind = next(key for key in volume if key != "name")
            source = volume.pop(kind)
            if kind == "persistentVolumeClaim":
                root.mkdir()
                os.chown(root, 0, group)
                root.chmod(0o2775)
            else:
                self.mounts[kind] = Mounted(root, group, source["defaultMode"])
            volume["hostPath"] = {"path": str(root), "type": "Directory"}
        expect("no volume is mounted by subPath", all("subPath" not in mount for mount in self.gateway["volumeMounts"]))

        vendor = "http://127.0.0.1:6190/cube/v4"
        text = documents["ConfigMap"]["data"]["gateway.toml"]
        self.config = text.replace("https://api-uat.io.linksfield.net/cube/v4", vendor)
        expect("the configuration is led to the simulator", vendor in self.config)
        self.file = folder / "pod.yaml"
        self.id = f"{NAME}-{self.gateway['name']}"
        self.file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": spec}))

    def start(self):
        run("podman", "play", "kube", str(self.file))
        self.pid = self.inspect("{{.State.Pid}}")
        [network] = json.loads(self.inspect("{{json .NetworkSettings.Networks}}")).values()
        self.address = network["IPAddress"]

    def inspect(self, what):
        return run("podman", "inspect", self.id, "--format", what)

    def probe(self, kind):
        """As the kubelet does, from outside the pod."""
        get = self.probes[kind]["httpGet"]
        try:
            url = f"http://{self.address}:{self.ports[get['port']]}{get['path']}"
            with urllib.request.urlopen(url, timeout=self.probes[kind].get("timeoutSeconds", 1)) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def metric(self, name):
        with urllib.request.urlopen(f"http://{self.address}:{self.ports['admin']}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"linksfield_gateway_{name}"))

    def asking(self, path, body, *headers, port=6180):
        """Asks a sidecar as its service would, from inside the pod, and a shared gateway from outside."""
        inside = self.is_sidecar or port == 6190
        enter = ["nsenter", "--target", self.pid, "--net"] if inside else []
        command = ["curl", "--silent", "--max-time", "30", "--data", json.dumps(body)]
        for header in ("Content-Type: application/json", *headers):
            command += ["--header", header]
        command.append(f"http://{'127.0.0.1' if inside else self.address}:{port}{path}")
        return subprocess.Popen(enter + command, stdout=subprocess.PIPE, text=True)

    def ask(self, path, body, *headers, port=6180):
        """The `code` of the answer."""
        output, _ = self.asking(path, body, *headers, port=port).communicate()
        return json.loads(output).get("code")

    def operate(self, path, body, *tokens):
        """The status of what an operator asks of the admin listener, from outside the pod."""
        headers = {"Content-Type": "application/json"} | {"Authorization": f"Bearer {token}" for token in tokens}
        url = f"http://{self.address}:{self.ports['admin']}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def check_operators(self):
        for path, body in (("/reload", ""), ("/cache/purge", '{"all": true}'), ("/explain", "{}"), ("/log-level", "info")):
            expect(f"{path} needs the token", [self.operate(path, body), self.operate(path, body, "another")] == [401, 401])
            expect(f"{path} takes the token of the Secret", self.operate(path, body, ADMIN_TOKEN) == 200)

    def stop(self):
        grace = self.spec["terminationGracePeriodSeconds"]
        return subprocess.Popen(["podman", "stop", "--time", str(grace), self.id], stdout=subprocess.DEVNULL)

    def wait_for_startup(self):
        probe = self.probes["startup"]
        allowed = probe["periodSeconds"] * probe["failureThreshold"]
        until("the startup probe passes", lambda: self.probe("startup") == 200, allowed)

    def check_confinement(self):
        lines = pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        expect("it runs as nobody in particular", set(status["Uid"].split() + status["Gid"].split()) == {"65532"})
        expect("without a capability", int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0)
        expect("without a way to new privileges, behind seccomp", (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"))
        mounts = [line.split() for line in pathlib.Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()]
        expect("on a root that is read-only", all("ro" in mount[5].split(",") for mount in mounts if mount[4] == "/"))


def sidecar(pod):
    pod.mounts["configMap"].write({"gateway.toml": pod.config})
    pod.mounts["secret"].write({"acme": "not yet the right one", "admin-token": ADMIN_TOKEN})
    pod.start()
    pod.wait_for_startup()
    expect("it is alive and ready", pod.probe("liveness") == pod.probe("readiness") == 200)
    run("podman", "exec", pod.id, "/linksfield-gateway", "healthcheck")
    pod.check_confinement()
    pod.check_operators()
    outside = subprocess.run(["curl", "--silent", "--max-time", "5", f"http://{pod.address}:6180/"])
    expect("other pods cannot connect to it", outside.returncode == 7)

    body = {"page_no": 1, "page_size": 2}
    expect("a wrong secret is refused by Linksfield", pod.ask(QUERY, body) != "0000")
    pod.mounts["secret"].write({"acme": SECRET, "admin-token": ADMIN_TOKEN})
    until("a Secret that is replaced is used", lambda: pod.ask(QUERY, body) == "0000")
    expect("an order goes through", pod.ask(ORDER, CARD) == "0000")
    braked = pod.config.replace("[tenants.acme]", "[tenants.acme]\ncommands = false")
    pod.mounts["configMap"].write({"gateway.toml": braked})
    until("a ConfigMap that is replaced is used", lambda: pod.ask(ORDER, CARD) == "commands_disabled")
    expect("all that without a restart", pod.inspect("{{.State.Pid}}") == pod.pid)

    pod.ask("/_simulator/control", {"latency": "3s"}, port=6190)
    slow = pod.asking(QUERY, {"page_no": 2, "page_size": 2})
    until("a query is under way", lambda: pod.metric("fills_in_flight") == 1)
    stop = pod.stop()
    until("told to end, it is ready no more", lambda: pod.probe("readiness") == 503)
    expect("the query is answered all the same", json.loads(slow.communicate()[0])["code"] == "0000")
    stop.wait()
    expect("it ends with exit code 0", pod.inspect("{{.State.ExitCode}}") == "0")


def shared(pod):
    pod.mounts["configMap"].write({"gateway.toml": pod.config})
    tokens = {name: f"made-up-token-of-{name}" for name in ("billing", "orders")}
    secret = {"acme": SECRET, "admin-token": ADMIN_TOKEN}
    pod.mounts["secret"].write(secret | {f"caller-{name}": token for name, token in tokens.items()})
    billing, orders = (f"Authorization: Bearer {tokens[name]}" for name in ("billing", "orders"))
    pod.start()
    pod.wait_for_startup()
    expect("it is alive and ready", pod.probe("liveness") == pod.probe("readiness") == 200)
    pod.check_confinement()
    pod.check_operators()

    body = {"page_no": 1, "page_size": 2}
    expect("who has no token is refused", pod.ask(QUERY, body) == "unauthenticated")
    expect("a caller is answered", pod.ask(QUERY, body, billing) == "0000")
    expect("one who may not order is refused", pod.ask(ORDER, CARD, billing, "Idempotency-Key: one") == "commands_forbidden")
    expect("one who may, orders", pod.ask(ORDER, CARD, orders, "Idempotency-Key: one") == "0000")

    stop = pod.stop()
    until("told to end, it is ready no more", lambda: pod.probe("readiness") == 503)
    expect("who does not know yet is still answered", pod.ask(QUERY, {"page_no": 2, "page_size": 2}, billing) == "0000")
    stop.wait()
    expect("it ends with exit code 0", pod.inspect("{{.State.ExitCode}}") == "0")
    run("podman", "start", pod.id)
    pod.wait_for_startup()
    expect("its successor knows the order", pod.ask(ORDER, CARD, orders, "Idempotency-Key: one") == "0000")
    expect("and does not send it again", pod.metric("idempotency_replays_total") == 1)


def main(scenario, manifests, image):
    with tempfile.TemporaryDirectory() as temporary, open(manifests) as file:
        # The gateway's user enters the folder.
        pathlib.Path(temporary).chmod(0o755)
        pod = Pod([document for document in yaml.safe_load_all(file) if document], image, pathlib.Path(temporary))
        try:
            scenario(pod)
            logs = run("podman", "logs", pod.id, stderr=subprocess.STDOUT)
            expect("no log line has a secret", not any(secret in logs for secret in (SECRET, "not yet the right one", "made-up")))
        except BaseException:
            subprocess.run(["podman", "logs", "--tail", "20", pod.id])
            raise
        finally:
            subprocess.run(["podman", "pod", "rm", "--force", NAME], stdout=subprocess.DEVNULL)


main({"sidecar": sidecar, "shared": shared}[sys.argv[1]], *sys.argv[2:])
