"""Gradient steps of SBX's SAC (Stable-Baselines3 in JAX), transitions drawn from its memory included, per CPU second.

Run by `python -m bench.peers` with the interpreter of the peers' environment; it imports nothing of ours. Networks and
batch are those of `bench.sac`: two layers of 256, batch 256. Prints JSON; compilation is left out.
"""

import argparse
import json
import time
from importlib.metadata import version

import sbx

_MEMORY = 3_000


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=150)
    said = parser.parse_args()
    model = sbx.SAC("MlpPolicy", said.task, learning_starts=_MEMORY, buffer_size=_MEMORY, batch_size=256, seed=0)
    model.learn(_MEMORY)
    model.train(said.steps, 256)  # compiles
    start = time.process_time()
    model.train(said.steps, 256)
    speed = said.steps / (time.process_time() - start)
    print(json.dumps({"speed": round(speed, 1), "versions": {name: version(name) for name in ("sbx-rl", "jax")}}))


if __name__ == "__main__":
    main()
