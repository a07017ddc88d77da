"""Does `labels batch` scale with servers? One and two that answer after a fixed time, so that the client is judged.

    python -m bench.batch_servers --scenes 400 --latency 0.3

Or two real ones of a model that is the better part of the work, each on a core of its own; one is the mean of each
alone, the first before and the second after both together. No scene is asked about twice, so that no cache has read it:

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


def measured(turns: Sequence[tuple[Sequence[str], int]], **asked: Any) -> list[float]:
    """Labels a second of each turn's servers on new scenes, from the first request after the probes to the last."""
    met, found = 0, []
    with tempfile.TemporaryDirectory() as folder:
        labels = str(Path(folder, "labels.sqlite"))  # one for all: what it holds is not asked again
        for urls, scenes in turns:
            met += scenes
            teacher = ServersConfig(base_url=tuple(urls), permutations=1, scoring="logprobs", labels=labels, **asked)
            result = batch(BatchConfig(task="ColoredDoorKey", scenes=met, teacher=teacher, quiet=True))
            assert result["labels"] == met
            found.append(float(result["calls"] / max(server["seconds"] for server in result["servers"])))
    return found


def main() -> None:
    """Print one line of JSON: labels a second of one server and of two, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.3, help="seconds that a server takes for a request")
    parser.add_argument("--real", nargs=2, metavar="URL", help="two servers, instead of those that wait")
    said = parser.parse_args()
    if said.real:
        turns = [(said.real[:1], said.scenes), (said.real, 2 * said.scenes), (said.real[1:], said.scenes)]
        before, both, after = measured(turns, prompt="compact")
        show((before + after) / 2, both)
        return

    def slow(number: int, body: dict[str, Any]) -> None:
        time.sleep(said.latency)

    script = Script(refuses=("prompt",))  # one prompt in a request
    with faulty(script) as first, faulty(script) as second:
        first.intercept = second.intercept = slow
        urls = [server.url for server in (first, second)]
        show(*measured([(urls[:1], said.scenes), (urls, said.scenes)], concurrency=_CONCURRENCY))


def show(one: float, two: float) -> None:
    """Labels a second of one server and of two."""
    print(json.dumps({"one": one, "two": two, "ratio": two / one}))


if __name__ == "__main__":
    main()
