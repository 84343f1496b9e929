"""Lays out what a rendered Deployment mounts for the gateway, so that `check` can read it.

    rendered.py MANIFESTS FOLDER

writes FOLDER/config/gateway.toml, a secret in FOLDER/secrets for each file that it names there, and the gateway's variables
into FOLDER/env.
"""

import os
import pathlib
import sys
import tomllib

import yaml

with open(sys.argv[1]) as file:
    documents = [document for document in yaml.safe_load_all(file) if document]
folder = pathlib.Path(sys.argv[2])
config = next(document["data"]["gateway.toml"] for document in documents if "gateway.toml" in document.get("data", {}))


def gateways():
    for document in documents:
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            for container in pod.get("initContainers", []) + pod["containers"]:
                if any(port.get("name") == "admin" for port in container.get("ports", [])):
                    yield container


[gateway] = gateways()
for name in ("config", "secrets"):
    (folder / name).mkdir(parents=True)
(folder / "config" / "gateway.toml").write_text(config)
(folder / "env").write_text("".join(f"{pair['name']}={pair['value']}\n" for pair in gateway.get("env", [])))

tables = tomllib.loads(config)
named = [tables["server"]["admin_token_file"]]
named += [tenant["secret_file"] for tenant in tables["tenants"].values()]
named += [caller["token_file"] for caller in tables.get("callers", {}).values()]
for path in named:
    mounted = pathlib.PurePath(path).relative_to("/etc/linksfield")
    secret = folder / "secrets" / mounted
    secret.write_text(f"made-up-secret-of-{mounted}\n")
    os.chown(secret, 0, 65532)
    secret.chmod(0o440)
