"""Environment steps of JAX's MiniGrids, jitted as a whole: DoorKey-8x8 of XLand-MiniGrid and of NAVIX, random actions.

Run by `python -m bench.peers` with the interpreter of the peers' environment; it imports nothing of ours. One
`lax.scan` over steps; episodes begin anew by themselves, and every observation (7 x 7, as seen from the agent) is
summed up, lest it be left out. Prints steps per CPU second as JSON, compilation left out.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import navix
import xminigrid
from xminigrid.wrappers import GymAutoResetWrapper

Made = tuple[Callable[..., Any], Callable[..., Any], int]  # reset(key), step(timestep, action), actions


def xland() -> Made:
    """XLand-MiniGrid's."""
    env, params = xminigrid.make("MiniGrid-DoorKey-8x8")
    env = GymAutoResetWrapper(env)
    return partial(env.reset, params), partial(env.step, params), env.num_actions(params)


def navix_made() -> Made:
    """NAVIX's."""
    env = navix.make("Navix-DoorKey-8x8-v0", observation_fn=navix.observations.symbolic_first_person)
    return env.reset, env.step, len(env.action_set)


def speed(made: Made, num_envs: int, steps: int) -> float:
    """Steps per CPU second of N environments that take so many steps in all."""
    reset, step, actions = made

    def one(carry: Any, _: None) -> Any:
        timestep, key, seen = carry
        key, drawn = jax.random.split(key)
        timestep = jax.vmap(step)(timestep, jax.random.randint(drawn, (num_envs,), 0, actions))
        return (timestep, key, seen + timestep.observation.astype(jnp.int32).sum()), None

    @jax.jit
    def play(carry: Any) -> Any:
        return jax.lax.scan(one, carry, None, steps // num_envs)[0]

    levels = jax.random.split(jax.random.key(0), num_envs)
    carry = jax.block_until_ready(play((jax.vmap(reset)(levels), jax.random.key(1), jnp.int32(0))))  # compiles
    start = time.process_time()
    jax.block_until_ready(play(carry))
    return steps // num_envs * num_envs / (time.process_time() - start)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=400_000)
    said = parser.parse_args()
    speeds = {name: speed(made(), said.envs, said.steps) for name, made in (("xland", xland), ("navix", navix_made))}
    print(json.dumps({"speeds": speeds, "versions": {name: version(name) for name in ("jax", "xminigrid", "navix")}}))


if __name__ == "__main__":
    main()
