"""A real cluster of Ray: nodes that `ray start` begins on this machine, and that are killed."""

import contextlib
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.serving.ports import free_ports
from tests.processes import kill, stat

_STARTS = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
_MEMORY = 80_000_000  # bytes of a node's object store, nearly the least that Ray takes


@dataclass
class Cluster:
    """Nodes of one CPU each; the first is the head.

    Attributes:
        address: Of the head.
        environment: With which commands may use it: others on the network have no token.
        nodes: What runs in the place of each machine.
    """

    address: str
    environment: dict[str, str]
    nodes: list[subprocess.Popen[str]] = field(default_factory=list)

    def add(self, *words: str) -> None:
        """Begin a node. Ray gives one up that takes half a minute, as it may on a busy machine."""
        command = [*_STARTS, f"--object-store-memory={_MEMORY}", *words]
        pipe: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        for _ in range(4):
            node = subprocess.Popen(command, env=self.environment, **pipe)
            assert node.stdout is not None
            if any("Ray runtime started" in line for line in node.stdout):
                self.nodes.append(node)
                return
            end(node)
        raise AssertionError(f"no node began: {shlex.join(command)}")

    def kill(self, node: int) -> None:
        """A machine that goes down: none of its processes may still do anything."""
        end(self.nodes[node])

    def folders(self, node: int) -> set[Path]:
        """Where runs that are trained on a node now live, by the locks that its processes hold."""
        found = set()
        for pid in descendants(self.nodes[node].pid):
            with contextlib.suppress(OSError):
                held = [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir()]
                found |= {path.parent for path in held if path.name == ".lock"}
        return found


def end(node: "subprocess.Popen[str]") -> None:
    """Kill a process and all that it has begun."""
    pids = [node.pid, *descendants(node.pid)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            kill(pid)
    node.wait()
    assert node.stdout is not None
    node.stdout.close()
    assert until(lambda: not any(map(stat, pids)), 60.0)


def descendants(pid: int) -> list[int]:
    """All processes that a process has begun, and those have."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def until(is_so: Callable[[], object], seconds: float) -> bool:
    """Whether something became true in time."""
    end = time.monotonic() + seconds
    while not (found := bool(is_so())) and time.monotonic() < end:
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def cluster(nodes: int, folder: Path) -> Iterator[Cluster]:
    """A cluster, which is ended with all that runs on it."""
    (port,) = free_ports(1)
    private = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Tasks would give way to all else on this machine.
    made = Cluster(f"127.0.0.1:{port}", os.environ | private | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"})
    try:
        made.add("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        for _ in range(1, nodes):
            made.add(f"--address={made.address}")
        yield made
    finally:
        for node in reversed(range(len(made.nodes))):
            made.kill(node)
