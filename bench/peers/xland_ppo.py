"""PPO in JAX, jitted as a whole with its environments, on XLand-MiniGrid's DoorKey-8x8: the fastest form there is.

Run by `python -m bench.peers` with the interpreter of the peers' environment; it imports nothing of
ours. The form is PureJaxRL's (Lu et al., 2022): one `lax.scan` over updates, in it one over steps, epochs and
minibatches. The network is ours: embedded tokens of the view and which of them occur, two layers of 64, a head for
actions and one for the value. So are PPO's settings. Prints steps per CPU second as JSON, or per second of the clock
where JAX has a GPU; compilation is left out.
"""

import argparse
import json
import time
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import xminigrid
from xminigrid.wrappers import GymAutoResetWrapper

TASK, EMBEDDING, HIDDEN, TILES, COLOURS = "MiniGrid-DoorKey-8x8", 4, 64, 13, 12
GAMMA, LAM, CLIP, ENTROPY, VALUE, LR, MAX_NORM = 0.99, 0.95, 0.2, 0.01, 0.5, 5e-4, 0.5
Params = dict[str, Any]


class Step(NamedTuple):
    """What one step of N environments leaves."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


def first_weights(key: jax.Array, cells: int, actions: int) -> Params:
    """Orthogonal matrices and zeros, with our gains."""
    keys = jax.random.split(key, 6)

    def layer(key: jax.Array, shape: tuple[int, int], gain: float) -> jax.Array:
        return jax.nn.initializers.orthogonal(gain)(key, shape)

    return {
        "embed": jax.random.normal(keys[0], (TILES * COLOURS, EMBEDDING)),
        "cells": layer(keys[1], (cells * EMBEDDING, HIDDEN), 2**0.5),
        "others": layer(keys[2], (TILES + COLOURS, HIDDEN), 2**0.5),
        "hidden": layer(keys[3], (HIDDEN, HIDDEN), 2**0.5),
        "action": layer(keys[4], (HIDDEN, actions), 0.01),
        "value": layer(keys[5], (HIDDEN, 1), 0.1),
        "biases": [jnp.zeros(HIDDEN), jnp.zeros(HIDDEN), jnp.zeros(actions), jnp.zeros(1)],
    }


def network(params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [N, A] and values [N] of views uint8 [N, V, V, 2]."""
    tile, colour = (part.reshape(len(obs), -1).astype(jnp.int32) for part in (obs[..., 0], obs[..., 1]))
    embedded = params["embed"][tile * COLOURS + colour].reshape(len(obs), -1)
    rows = jnp.arange(len(obs))[:, None]
    present = jnp.zeros((len(obs), TILES + COLOURS)).at[rows, tile].set(1.0).at[rows, TILES + colour].set(1.0)
    first, second, action, value = params["biases"]
    hidden = jax.nn.relu(embedded @ params["cells"] + present @ params["others"] + first)
    hidden = jax.nn.relu(hidden @ params["hidden"] + second)
    return hidden @ params["action"] + action, (hidden @ params["value"] + value)[:, 0]


def loss(params: Params, batch: tuple[Step, jax.Array, jax.Array]) -> jax.Array:
    """The clipped surrogate, the squared value error and the entropy bonus."""
    step, advantage, returns = batch
    logits, value = network(params, step.obs)
    log_probs = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_probs, step.action[:, None], 1)[:, 0]
    ratio = jnp.exp(log_prob - step.log_prob)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage).mean()
    entropy = -(jnp.exp(log_probs) * log_probs).sum(1).mean()
    return -surrogate + 0.5 * VALUE * jnp.square(value - returns).mean() - ENTROPY * entropy


def make_train(view: int, num_envs: int, rollout: int, minibatch: int, epochs: int, updates: int) -> Any:
    """A jitted function (weights, optimiser, environments, key) -> the same, after so many updates."""
    env, env_params = xminigrid.make(TASK, view_size=view)
    env = GymAutoResetWrapper(env)
    reset = jax.vmap(env.reset, (None, 0))
    step = jax.vmap(env.step, (None, 0, 0))
    optimiser = optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(LR, eps=1e-5))
    parts = num_envs * rollout // minibatch

    def play(carry: Any, _: None) -> Any:
        params, timestep, key = carry
        key, sampled = jax.random.split(key)
        logits, value = network(params, timestep.observation)
        action = jax.random.categorical(sampled, logits)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]
        after = step(env_params, timestep, action)
        seen = Step(timestep.observation, action, log_prob, value, after.reward, after.last())
        return (params, after, key), seen

    def advantages(carry: Any, at: Step) -> Any:
        advantage, following = carry
        going = 1.0 - at.done
        error = at.reward + GAMMA * following * going - at.value
        advantage = error + GAMMA * LAM * going * advantage
        return (advantage, at.value), advantage

    def learn(carry: Any, batch: Any) -> Any:
        params, state = carry
        changes, state = optimiser.update(jax.grad(loss)(params, batch), state)
        return (optax.apply_updates(params, changes), state), None

    def epoch(carry: Any, _: None) -> Any:
        params, state, flat, key = carry
        key, shuffled = jax.random.split(key)
        order = jax.random.permutation(shuffled, num_envs * rollout)
        batches = jax.tree.map(lambda x: x[order].reshape(parts, -1, *x.shape[1:]), flat)
        (params, state), _ = jax.lax.scan(learn, (params, state), batches)
        return (params, state, flat, key), None

    def update(carry: Any, _: None) -> Any:
        params, state, timestep, key = carry
        (_, timestep, key), steps = jax.lax.scan(play, (params, timestep, key), None, rollout)
        last = network(params, timestep.observation)[1]
        _, advantage = jax.lax.scan(advantages, (jnp.zeros(num_envs), last), steps, reverse=True)
        normal = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (steps, normal, advantage + steps.value))
        (params, state, _, key), _ = jax.lax.scan(epoch, (params, state, flat, key), None, epochs)
        return (params, state, timestep, key), steps.reward.sum()

    @partial(jax.jit, donate_argnums=0)
    def train(carry: Any) -> Any:
        return jax.lax.scan(update, carry, None, updates)

    def begin(key: jax.Array) -> Any:
        weights, levels, rest = jax.random.split(key, 3)
        params = first_weights(weights, view * view, env.num_actions(env_params))
        return params, optimiser.init(params), reset(env_params, jax.random.split(levels, num_envs)), rest

    return begin, train


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", type=int, nargs=4, action="append", metavar=("ENVS", "ROLLOUT", "BATCH", "EPOCHS"))
    parser.add_argument("--view", type=int, default=7, help="side of what is seen, in cells")
    parser.add_argument("--steps", type=int, default=40_000)
    said = parser.parse_args()
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    speeds = {}
    for num_envs, rollout, minibatch, epochs in said.setting:
        updates = max(1, said.steps // (num_envs * rollout))
        begin, train = make_train(said.view, num_envs, rollout, minibatch, epochs, updates)
        carry, _ = jax.block_until_ready(train(jax.jit(begin)(jax.random.key(0))))  # compiles
        start = clock()
        jax.block_until_ready(train(carry))
        speed = updates * num_envs * rollout / (clock() - start)
        speeds[f"{num_envs} {rollout} {minibatch} {epochs}"] = round(speed)
    print(json.dumps({"speeds": speeds, "versions": {name: version(name) for name in ("jax", "xminigrid", "optax")}}))


if __name__ == "__main__":
    main()
