"""Does `labels batch` scale with servers? One and two that answer after a fixed time, so that the client is judged.

python -m bench.batch_servers --scenes 400 --latency 0.3
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from preceptor.agent.labels.batch import batch
from preceptor.agent.labels.config import BatchConfig, ServersConfig
from tests.faulty_server import FaultyServer, Script, faulty

_CONCURRENCY = 4  # requests in flight at each server


def measured(servers: list[FaultyServer], scenes: int) -> float:
    """Labels a second, from the first request after the probes to the last."""
    with tempfile.TemporaryDirectory() as folder:
        teacher = ServersConfig(
            base_url=tuple(server.url for server in servers),
            concurrency=_CONCURRENCY,
            permutations=1,
            scoring="logprobs",
            labels=str(Path(folder, "labels.sqlite")),
        )
        result = batch(BatchConfig(task="ColoredDoorKey", scenes=scenes, teacher=teacher, quiet=True))
    assert result["labels"] == scenes
    return float(result["calls"] / max(server["seconds"] for server in result["servers"]))


def main() -> None:
    """Print one line of JSON: labels a second of one server and of two, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.3, help="seconds that a server takes for a request")
    said = parser.parse_args()

    def slow(number: int, body: dict[str, Any]) -> None:
        time.sleep(said.latency)

    script = Script(refuses=("prompt",))  # one prompt in a request
    with faulty(script) as first, faulty(script) as second:
        first.intercept = second.intercept = slow
        one, two = measured([first], said.scenes), measured([first, second], said.scenes)
    print(json.dumps({"latency": said.latency, "one": one, "two": two, "ratio": two / one}))


if __name__ == "__main__":
    main()
