"""What .ci/instructions does once everything is installed. Its argument is the gateway's binary, and --renew.

The whole gateway runs under callgrind, which counts while the measured requests are answered, one after the other over one
connection: the ways through the kernel are not in it, all else is.
"""

import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.append("benches")
from work import Gateway

FIGURES = Path("benches/instructions.toml")
CALLGRIND = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
QUERIES = 100  # different ones; all are in memory before it counts
REQUESTS = 2000
MARGIN = 0.15

# What is asked, and the level of the log: lines of commands are written at every level.
KINDS = {"hit": ("page", "error"), "hit_with_line": ("page", "info"), "command": ("order", "error")}


def count(binary, kind):
    """Instructions of one request."""
    what, level = KINDS[kind]
    with Gateway(binary, level, *CALLGRIND) as gateway, gateway.connect() as connection:
        for number in range(2 * QUERIES):
            gateway.ask(connection, what, number % QUERIES)
        control(gateway.process, "on")
        for number in range(REQUESTS):
            gateway.ask(connection, what, number % QUERIES)
        control(gateway.process, "off")
    return int(re.search(r"Collected : (\d+)", gateway.log)[1]) // REQUESTS


def control(process, instrumentation):
    command = ["callgrind_control", f"--instr={instrumentation}", str(process.pid)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    binary, *options = sys.argv[1:]
    machine = platform.machine()
    counts = {kind: count(binary, kind) for kind in KINDS}
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
