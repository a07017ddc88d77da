"""Actions of a small agent through the policy server: latency of one client, throughput of 64, and flat memory.

The peer is a server in the manner of openpi's: a WebSocket, msgpack, and inference in the event loop, one request after
another; with the same agent, messages and event loop, but nothing saved, checked or counted. Both are driven by the
same clients, which send a step as soon as the last one is answered and do as little as they can otherwise.

    python -m bench.serving_agents                  a minute
    python -m bench.serving_agents --minutes 10     ten minutes of load, for the memory
"""

import argparse
import asyncio
import json
import os
import platform
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

import preceptor
from preceptor.agent.remote.client import Client
from preceptor.agent.remote.wire import packed, unpacked
from preceptor.ground.errors import UserError
from preceptor.serving.ports import free_ports

CLIENTS = 64
TASK, METHOD = "PointReach", "sac"
_SIZED = 126  # of a frame: two bytes with its size follow
_BINARY, _PING, _PONG = 2, 9, 10  # kinds of frames


class Socket:
    """A WebSocket with the least work that the protocol allows: frames up to 64 KiB, masked with zeros."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""
        head = "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self.socket.sendall((head + key).encode())
        said = b""
        while b"\r\n\r\n" not in said:
            said += self.socket.recv(4096)
        assert said.startswith(b"HTTP/1.1 101"), said

    def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        self._send(_BINARY, packed(message))

    def receive(self) -> bytes:
        """The next message; pings on the way to it are answered."""
        while True:
            head = self._read(2)
            size = struct.unpack(">H", self._read(2))[0] if head[1] == _SIZED else head[1]
            data = self._read(size)
            if head[0] & 15 == _BINARY:
                return data
            assert head[0] & 15 == _PING, data
            self._send(_PONG, data)

    def _send(self, kind: int, data: bytes) -> None:
        size = bytes([0x80 | len(data)]) if len(data) < _SIZED else struct.pack(">BH", 0x80 | _SIZED, len(data))
        self.socket.sendall(bytes([0x80 | kind]) + size + bytes(4) + data)

    def _read(self, size: int) -> bytes:
        while len(self._left) < size:
            more = self.socket.recv(65536)
            assert more, "the server has closed the connection"
            self._left += more
        data, self._left = self._left[:size], self._left[size:]
        return data


def latency(port: int, steps: int) -> list[float]:
    """Milliseconds of each step of one client with one environment."""
    connection, step = Socket(port), _Steps(port, 1)
    taken = []
    for number in range(1, steps + 100):
        message = step.message(0, number)
        began = time.perf_counter()
        connection.send(message)
        reply = connection.receive()
        taken.append(1000 * (time.perf_counter() - began))
        assert "error" not in unpacked(reply), unpacked(reply)
    return taken[99:]


def throughput(port: int, pid: int, seconds: float, clients: int = CLIENTS, environments: int = 1) -> dict[str, float]:
    """Actions a second of so many clients, the server's processor seconds for each, and its memory before and after."""
    step, poll = _Steps(port, clients, environments), select.epoll()
    connections = [Socket(port) for _ in range(clients)]
    numbers, of_file = [1] * clients, {each.socket.fileno(): i for i, each in enumerate(connections)}
    for i, connection in enumerate(connections):
        poll.register(connection.socket, select.EPOLLIN)
        connection.send(step.message(i, 1))
    server = psutil.Process(pid)
    count, failed, began, start, memory = 0, 0, time.perf_counter(), 0.0, 0
    warm, end = began + min(2.0, seconds / 4), began + seconds
    while (now := time.perf_counter()) < end:
        if not start and now > warm:  # first steps open files and compile nothing; they are not counted
            count, began, start, memory = 0, now, _used(server), server.memory_info().rss
        for file, _ in poll.poll():
            i = of_file[file]
            failed += b"error" in connections[i].receive()
            count += 1
            numbers[i] += 1
            connections[i].send(step.message(i, numbers[i]))
    taken = time.perf_counter() - began
    grown = server.memory_info().rss - memory
    used = _used(server) - start
    for connection in connections:
        connection.socket.close()
    count *= environments
    return {
        "actions_per_second": count / taken,
        "processor_microseconds": 1e6 * used / count,
        "actions_per_core_second": count / used,
        "failed": failed,
        "megabytes": memory / 2**20,
        "megabytes_grown": grown / 2**20,
    }


def _used(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


class _Steps:
    """Messages of clients: of the policy server's sessions, or the bare observations of the peer."""

    def __init__(self, port: int, clients: int, environments: int = 1) -> None:
        self._obs = np.random.default_rng(0).uniform(-1, 1, (clients, 64, environments, 6)).astype(np.float32)
        try:
            with Client(f"http://127.0.0.1:{port}", patience=2.0) as client:
                client.agents()
                self._sessions = [
                    client.open(environments=environments, seed=i).told["session"] for i in range(clients)
                ]
        except UserError:
            self._sessions = []

    def message(self, i: int, number: int) -> dict[str, Any]:
        obs = self._obs[i, number % 64]
        if not self._sessions:
            return {"obs": obs}
        return {"op": "act", "session": self._sessions[i], "number": number, "obs": obs}


@contextmanager
def policy_server(run: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """Port and process of ours."""
    (port,) = free_ports(1)
    words = ["--agent", f"agent={run}", "--state", str(folder), "--port", str(port)]
    yield from _running(["-m", "preceptor.serving.policy", *words], port)


@contextmanager
def peer(run: Path) -> Iterator[tuple[int, int]]:
    """Port and process of the peer."""
    (port,) = free_ports(1)
    yield from _running(["-m", "bench.serving_agents", "--peer", str(run), "--port", str(port)], port)


def _running(words: list[str], port: int) -> Iterator[tuple[int, int]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.DEVNULL) as started:
        try:
            for _ in range(600):
                try:
                    Socket(port).socket.close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield port, started.pid
        finally:
            started.terminate()


async def serve_peer(run: str, port: int) -> None:
    """The peer: an agent per connection, asked in the event loop."""
    import torch
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed

    torch.set_num_threads(1)

    async def answer(connection: ServerConnection) -> None:
        agent = preceptor.load(run, seed=0)
        try:
            while True:
                ask = unpacked(await connection.recv(decode=False))
                await connection.send(packed({"action": agent.act(ask["obs"])}))
        except ConnectionClosed:
            return

    async with serve(answer, "127.0.0.1", port, compression=None):
        await asyncio.get_running_loop().create_future()


def measure(seconds: float, minutes: float, clients: int, environments: int) -> dict[str, Any]:
    """Both servers in turn; print and return the figures."""
    with TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"savedir": "agent", "preset": "tiny", "quiet": True}
        settings |= {"steps": 600, "warmup": 100, "eval_episodes": 2}
        run = preceptor.train(TASK, METHOD, logdir=folder, **settings).path
        result: dict[str, Any] = {"cores": os.cpu_count(), "python": platform.python_version()}
        servers = {"ours": policy_server(run, Path(folder, "state")), "one request at a time": peer(run)}
        for name, running in servers.items():
            with running as (port, pid):
                taken = latency(port, 3000)
                found: dict[str, Any] = {
                    "p50_ms": float(np.percentile(taken, 50)),
                    "p99_ms": float(np.percentile(taken, 99)),
                }
                found |= throughput(port, pid, seconds, clients, environments)
                if name == "ours" and minutes:
                    found["long"] = throughput(port, pid, 60 * minutes, clients, environments)
            result[name] = found | {"load_average": os.getloadavg()[0]}
            print(
                f"{name}: p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms; {clients} clients: "
                f"{found['actions_per_second']:,.0f} actions/s, {found['processor_microseconds']:.0f} microseconds of "
                f"processor each ({found['actions_per_core_second']:,.0f} on a core of its own), "
                f"{found['failed']} failed; the machine's load is {os.getloadavg()[0]:.1f}"
            )
            for kind in ("", "long")[: 1 + ("long" in found)]:
                said = found[kind] if kind else found
                print(f"  memory {said['megabytes']:.0f} MiB, and {said['megabytes_grown']:+.1f} under load")
    ours, other = result["ours"], result["one request at a time"]
    result["ratio"] = ours["actions_per_core_second"] / other["actions_per_core_second"]
    print(f"ratio by processor time: {result['ratio']:.2f}")
    return result


def main(words: Sequence[str] | None = None) -> None:
    """Measure, or be the peer."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving_agents", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--environments", type=int, default=1, help="of each client's session")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer")
    parser.add_argument("--port", type=int)
    given = parser.parse_args(words)
    if given.peer:
        import uvloop

        return uvloop.run(serve_peer(given.peer, given.port))
    result = measure(given.seconds, given.minutes, given.clients, given.environments)
    if given.json:
        print(json.dumps(result))
    return None


if __name__ == "__main__":
    main()
