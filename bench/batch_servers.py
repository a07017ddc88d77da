"""Does `labels batch` scale with servers? One and two that answer after a fixed time, so that the client is judged.

    python -m bench.batch_servers --scenes 400 --latency 0.3

Or two real ones of a model that is the better part of the work, each on a core of its own; one is the mean of each
alone:

    python -m bench.wider log/wider
    taskset -c 0 python main.py serve --backend vllm --model log/wider --port 8100 --detach  # and 1 and 8101
    python -m bench.batch_servers --scenes 300 --real http://127.0.0.1:8100/v1 http://127.0.0.1:8101/v1
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preceptor.agent.labels.batch import batch
from preceptor.agent.labels.config import BatchConfig, ServersConfig
from tests.faulty_server import Script, faulty

_CONCURRENCY = 4  # requests in flight at each server


def measured(urls: Sequence[str], scenes: int, **asked: Any) -> float:
    """Labels a second, from the first request after the probes to the last."""
    with tempfile.TemporaryDirectory() as folder:
        labels = str(Path(folder, "labels.sqlite"))
        teacher = ServersConfig(base_url=tuple(urls), permutations=1, scoring="logprobs", labels=labels, **asked)
        result = batch(BatchConfig(task="ColoredDoorKey", scenes=scenes, teacher=teacher, quiet=True))
    assert result["labels"] == scenes
    return float(result["calls"] / max(server["seconds"] for server in result["servers"]))


def main() -> None:
    """Print one line of JSON: labels a second of one server and of two, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.3, help="seconds that a server takes for a request")
    parser.add_argument("--real", nargs=2, metavar="URL", help="two servers, instead of those that wait")
    said = parser.parse_args()
    if said.real:
        alone = [measured([url], said.scenes, prompt="compact") for url in said.real]
        show(sum(alone) / len(alone), measured(said.real, 2 * said.scenes, prompt="compact"))
        return

    def slow(number: int, body: dict[str, Any]) -> None:
        time.sleep(said.latency)

    script = Script(refuses=("prompt",))  # one prompt in a request
    with faulty(script) as first, faulty(script) as second:
        first.intercept = second.intercept = slow
        urls = [server.url for server in (first, second)]
        show(*(measured(some, said.scenes, concurrency=_CONCURRENCY) for some in (urls[:1], urls)))


def show(one: float, two: float) -> None:
    """Labels a second of one server and of two."""
    print(json.dumps({"one": one, "two": two, "ratio": two / one}))


if __name__ == "__main__":
    main()
