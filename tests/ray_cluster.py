"""A real cluster of Ray: nodes that `ray start` begins on this machine, and that are killed."""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(self, *words: str) -> None:
        """Begin a node."""
        command = [*_STARTS, f"--object-store-memory={_MEMORY}", *words]
        self.nodes.append(subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL))

    def alive(self) -> int:
        """How many nodes the head knows of."""
        code = f"import ray; ray.init({self.address!r}, logging_level=40); print(sum(n['Alive'] for n in ray.nodes()))"
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        return int(done.stdout) if not done.returncode else 0

    def kill(self, node: int) -> None:
        """A machine that goes down: none of its processes may still do anything."""
        pids = [self.nodes[node].pid, *descendants(self.nodes[node].pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                kill(pid)
        self.nodes[node].wait()
        assert until(lambda: not any(map(stat, pids)), 30.0)

    def folders(self, node: int) -> set[Path]:
        """Where runs that are trained on a node now live, by the locks that its processes hold."""
        found = set()
        for pid in descendants(self.nodes[node].pid):
            with contextlib.suppress(OSError):
                held = [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir()]
                found |= {path.parent for path in held if path.name == ".lock"}
        return found


def descendants(pid: int) -> list[int]:
    """All processes that a process has begun, and those have."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def until(is_so: object, seconds: float) -> bool:
    """Whether something became true in time."""
    assert callable(is_so)
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
            assert until(lambda: made.alive() == len(made.nodes), 120.0)
            made.add(f"--address={made.address}")
        assert until(lambda: made.alive() == len(made.nodes), 120.0)
        yield made
    finally:
        for node in reversed(range(len(made.nodes))):
            made.kill(node)
