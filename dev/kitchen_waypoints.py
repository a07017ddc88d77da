"""Search the loops of FrankaKitchen's expert, one subtask after another: envs/kitchen/waypoints.json.

    python -m dev.kitchen_waypoints microwave kettle --seconds 90
    python -m dev.kitchen_waypoints microwave kettle "light switch" "slide cabinet" --judge 5 --noise 0.1

A candidate is waypoints of the end effector around the object's handle, with the hand turned and the fingers opened as
it says. Inverse kinematics by damped least squares makes joints of them, and the expert itself plays them in the
simulator, with noise, after other subtasks were done or not. The search is the cross-entropy method (Rubinstein, 1999).
`--judge` plays the expert of the task instead, on levels of each order of the subtasks.
"""

import argparse
import json
import sys
import time
from itertools import permutations
from typing import Any

import mujoco
import numpy as np
from gymnasium_robotics.envs.franka_kitchen import KitchenEnv
from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS as GOALS
from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_INDICES as INDICES
from numpy.typing import NDArray

from preceptor.envs.kitchen.franka import ORIGINAL
from preceptor.envs.kitchen.franka_expert import WAYPOINTS, Loops, loops_of
from preceptor.envs.kitchen.franka_tasks import Kitchen
from preceptor.envs.kitchen.orders import words_of

W, ACTING = 6, 5  # waypoints of a loop; those that lead to the object and move it
OPEN, SHUT = 0.04, 0.0
# First guesses: the handle's site, waypoints relative to it in metres, the opening of the fingers.
GUESSES: dict[str, tuple[str, list[list[float]], list[float]]] = {
    "microwave": ("microhandle_site",
        [[0.0, -0.12, 0], [0.0, 0.0, 0], [0.0, 0.0, 0], [-0.05, -0.18, 0], [-0.2, -0.32, 0], [-0.1, -0.4, 0.1]],
        [OPEN, OPEN, SHUT, SHUT, SHUT, OPEN]),
    "kettle": ("kettle_site",
        [[0.0, -0.25, -0.05], [0.0, -0.15, -0.08], [0.0, 0.05, -0.08], [0.0, 0.2, -0.08], [0.0, 0.3, -0.08],
         [0.0, 0.1, 0.05]], [SHUT] * 6),
    "light switch": ("light_site",
        [[0.1, -0.15, 0], [0.08, 0.0, 0], [0.0, 0.0, 0], [-0.08, 0.0, 0], [-0.1, 0.02, 0], [-0.1, -0.12, 0]],
        [SHUT] * 6),
    "slide cabinet": ("slide_site",
        [[0.12, -0.22, 0], [0.0, 0.0, 0], [0.0, 0.0, 0], [0.1, -0.01, 0], [0.2, -0.02, 0], [0.15, -0.2, 0]],
        [OPEN, OPEN, SHUT, SHUT, SHUT, OPEN]),
    "hinge cabinet": ("hinge_site2",
        [[0.0, -0.12, 0], [0.0, 0.0, 0], [0.0, 0.0, 0], [0.12, -0.16, 0], [0.38, -0.22, 0], [0.2, -0.35, -0.1]],
        [OPEN, OPEN, SHUT, SHUT, SHUT, OPEN]),
    "bottom burner": ("knob2_site",
        [[0.0, -0.12, 0], [0.0, -0.04, 0], [0.0, -0.04, 0], [0.0, -0.04, 0], [0.0, -0.04, 0], [0.0, -0.15, 0]],
        [OPEN, OPEN, SHUT, SHUT, SHUT, OPEN]),
    "top burner": ("knob4_site",
        [[0.0, -0.12, 0], [0.0, -0.04, 0], [0.0, -0.04, 0], [0.0, -0.04, 0], [0.0, -0.04, 0], [0.0, -0.15, 0]],
        [OPEN, OPEN, SHUT, SHUT, SHUT, OPEN]),
}  # fmt: skip
# By how much the hand is twisted about the axis that knobs turn about at each waypoint, rad.
TWISTS = {
    "bottom burner": [0.0, 0, 0, 0.7, 1.2, 0.6],
    "top burner": [0.0, 0, 0, 0.7, 1.2, 0.6],
}
# How else it is turned at all of them, as an axis times rad: it comes to the sliding door past the open hinged one.
TURNS = {"slide cabinet": [0.0, 0.0, 0.6]}
AFTER = {"hinge cabinet": [0.0, 1.25]}  # what the expert leaves behind, if not the goal
NAMES = tuple(GUESSES)
SIGN = {name: float(np.sign(GOALS[name][0 if name != "hinge cabinet" else 1])) for name in NAMES}
STEPS = 110  # of a roll-out


class Arm:
    """Inverse kinematics of the end effector."""

    def __init__(self, model: mujoco.MjModel, home: NDArray[np.float64]) -> None:
        self.model, self.data, self.home = model, mujoco.MjData(model), home
        self.site = model.site("end_effector").id
        self.data.qpos[:] = home
        mujoco.mj_kinematics(model, self.data)
        self.turned = self.data.site_xmat[self.site].reshape(3, 3).copy()
        self.low, self.high = model.jnt_range[:7].T + np.array([[0.02], [-0.02]])

    def solve(
        self, start: NDArray[np.float64], place: NDArray, turn: NDArray, soft: float = 0.3
    ) -> NDArray[np.float64]:
        """Joints [7] near `start` that bring the end effector to a place [3], turned [3] from home's orientation."""
        q, data = start.copy(), self.data
        quat, wanted = np.zeros(4), np.zeros(9)
        size = np.linalg.norm(turn)
        mujoco.mju_axisAngle2Quat(quat, turn / max(size, 1e-9), size)
        mujoco.mju_quat2Mat(wanted, quat)
        goal = wanted.reshape(3, 3) @ self.turned
        jacobian = np.zeros((6, self.model.nv))
        for _ in range(40):
            data.qpos[:7] = q
            mujoco.mj_kinematics(self.model, data)
            mujoco.mj_comPos(self.model, data)
            mujoco.mj_jacSite(self.model, data, jacobian[:3], jacobian[3:], self.site)
            now = data.site_xmat[self.site].reshape(3, 3)
            spin = 0.5 * sum(np.cross(now[:, i], goal[:, i]) for i in range(3))
            error = np.concatenate([place - data.site_xpos[self.site], soft * spin])
            j = jacobian[:, :7] * np.r_[1, 1, 1, soft, soft, soft][:, None]
            move = j.T @ np.linalg.solve(j @ j.T + 1e-3 * np.eye(6), error)
            move += 0.01 * (self.home[:7] - q)
            q = np.clip(q + np.clip(move, -0.2, 0.2), self.low, self.high)
        return q


class Search:
    """One subtask's."""

    def __init__(self, name: str, stored: dict[str, Any], seed: int) -> None:
        self.env = KitchenEnv(robot_noise_ratio=0.0, object_noise_ratio=0.0)
        self.env.reset(seed=0)
        self.model, self.data = self.env.model, self.env.data
        self.home = self.data.qpos.copy()
        self.rest = np.r_[self.home[:7], SHUT]
        self.arm = Arm(self.model, self.home)
        self.name, self.k = name, NAMES.index(name)
        site, places, opening = GUESSES[name]
        self.handle, self.site = self.data.site(site).xpos.copy(), site
        twists = TWISTS.get(name, [0.0] * W)
        self.mean = np.concatenate([np.ravel(places), np.array(opening) / OPEN, TURNS.get(name, [0.0] * 3), twists])
        fine = 0.5 if name in TWISTS else 1.0  # a grasp asks for precise guesses
        self.std = fine * np.concatenate([np.full(3 * W, 0.05), np.full(W, 0.4), np.full(3, 0.4), np.full(W, 0.3)])
        self.std[-W:] *= name in TWISTS
        self.rng = np.random.default_rng(seed)
        self.joint = INDICES[name][1 if name == "hinge cabinet" else 0]
        self.stored = stored

    def way(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Waypoints [W, 8] of a candidate."""
        places, opening, turn = x[: 3 * W].reshape(W, 3), np.clip(x[3 * W : 4 * W], 0, 1) * OPEN, x[4 * W : -W]
        q, rows = self.home[:7], []
        for place, width, twist in zip(places, opening, x[-W:], strict=True):
            q = self.arm.solve(q, self.handle + place, turn + np.array([0, twist, 0]))
            rows.append(np.r_[q, width])
        return np.array(rows)

    def loops(self, way: NDArray[np.float64]) -> Loops:
        """The expert with this way for the subtask; the option behind the last one stays at home."""
        own = {"places": way.tolist(), "acting": ACTING}
        return loops_of(self.stored | {"ways": self.stored["ways"] | {self.name: own}}, (*NAMES, "rest"))

    def done(self, name: str) -> bool:
        """Whether a subtask is."""
        return bool(np.linalg.norm(self.data.qpos[INDICES[name]] - GOALS[name]) < 0.3)

    def play(self, way: NDArray[np.float64], noise: float, others: tuple[str, ...]) -> tuple[float, bool]:
        """Value of a roll-out, and whether the subtask was done and stayed so while the arm went home."""
        loops, start = self.loops(way), self.home.copy()
        for before in others:
            start[INDICES[before]] = AFTER.get(before, GOALS[before])
        self.env.robot_env.set_state(start, np.zeros(self.model.nv))
        self.env.robot_env._get_obs()
        nearest, moved, when, home = 1.0, 0.0, None, 1.0
        moved0 = self._progress()
        for t in range(STEPS):
            option = np.array([self.k if when is None else len(NAMES)])
            action = loops.act(self.data.qpos[None, :9], option)[0]
            self.env.robot_env.step(action + noise * self.rng.standard_normal(9))
            if when is None:
                touch = self.data.site("end_effector").xpos - self.data.site(self.site).xpos
                nearest, moved = min(nearest, float(np.linalg.norm(touch))), max(moved, self._progress() - moved0)
                when = t if self.done(self.name) else None
            else:
                home = float(np.abs(self.data.qpos[:7] - self.rest[:7]).max())
                if home < 0.15:
                    break
        if when is None:
            return moved - 0.5 * nearest, False
        fine = self.done(self.name) and home < 0.15
        upset = sum(not self.done(other) for other in others)
        return 2.0 + self.done(self.name) - 0.5 * min(home, 1.0) - t / STEPS - upset, fine and not upset

    def _progress(self) -> float:
        """Share of the way that the object has moved."""
        if self.name == "kettle":
            return float(1 - np.linalg.norm(self.data.qpos[INDICES["kettle"]] - GOALS["kettle"]) / 0.42)
        wanted = GOALS[self.name][1 if self.name == "hinge cabinet" else 0]
        return float(np.clip(self.data.qpos[self.joint] / wanted, 0, 1))

    def score(self, x: NDArray[np.float64], rolls: int, noise: float) -> tuple[float, float]:
        """Mean value of roll-outs, the first as in a fresh kitchen without noise, and the share that did it."""
        others = [n for n in NAMES if n != self.name]
        way, got = self.way(x), []
        for i in range(rolls):
            had = tuple(n for n in others if self.rng.random() < 0.5) if i else ()
            got.append(self.play(way, noise if i else 0.0, had))
            if i == 0 and got[0][0] < 1.0:
                break  # it does not work at all
        return float(np.mean([v for v, _ in got])) - (rolls > len(got)), sum(f for _, f in got) / rolls

    def run(self, seconds: float, population: int = 24, elite: int = 5, noise: float = 0.1) -> tuple[NDArray, float]:
        """The best candidate, and the share of its roll-outs that did the subtask."""
        began, best, generation = time.time(), (-np.inf, self.mean, 0.0), 0
        while (left := 1 - (time.time() - began) / seconds) > 0:
            rolls = 1 if best[0] < 1.5 else 4
            tried = self.mean + self.std * self.rng.standard_normal((population, len(self.mean)))
            tried[0], tried[1] = self.mean, best[1]
            scores = [self.score(x, rolls, noise) for x in tried]
            order = np.argsort([-s for s, _ in scores])
            top = tried[order[:elite]]
            if rolls > 1 or scores[order[0]][0] > best[0]:
                best = (scores[order[0]][0], tried[order[0]], scores[order[0]][1])
            self.mean = 0.3 * self.mean + 0.7 * top.mean(0)
            self.std = np.maximum(0.4 * self.std + 0.6 * top.std(0), (0.004 + 0.01 * left) * (self.std > 0))
            generation += 1
            print(
                f"{self.name} {generation} rolls {rolls} best {best[0]:.2f} {best[2]:.2f} left {left:.2f}", flush=True
            )
        finalists = [self.mean, best[1], *top[:3]]
        judged = [self.score(x, 12, noise) for x in finalists]
        i = int(np.argmax([value for value, _ in judged]))
        return finalists[i], judged[i][1]


def judge(names: list[str], levels: int, noise: float, max_steps: int) -> None:
    """Print what the expert does in each order of the subtasks, on so many levels."""
    rng, did, took = np.random.default_rng(0), [], []
    for order in permutations(ORIGINAL.index(name) for name in names):
        task = Kitchen(words_of(order), max_steps=max_steps)
        simulator = task.simulator(levels)
        simulator.begin(np.arange(levels), np.arange(1_000_000, 1_000_000 + levels))
        total, ended, length = np.zeros(levels), np.zeros(levels, np.bool_), np.zeros(levels)
        while not ended.all():
            obs = simulator.observe()
            option = task.expert_of[task.fact_codes(obs)]
            action = task.skill(obs, option) + noise * rng.standard_normal((levels, task.num_actions))
            outcome = simulator.step(action)
            total, length = total + outcome.reward * ~ended, length + ~ended
            ended |= outcome.terminated | outcome.truncated
        did.append(total)
        took.append(length)
        print(task.name, total.tolist(), length.tolist(), flush=True)
    done = np.array(did)
    print(
        f"{done.size} episodes, noise {noise}: {done.mean():.3f} of {len(names)}, "
        f"all {(done == len(names)).mean():.3f}, {np.mean(took):.0f} steps, at most {np.max(took):.0f}"
    )


def main() -> None:
    """Search the subtasks named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+", choices=NAMES)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--max-steps", type=int, default=280)
    args = parser.parse_args()
    if args.judge:
        judge(args.names, args.judge, args.noise, args.max_steps)
        return
    for name in args.names:
        stored = json.loads(WAYPOINTS.read_text()) if WAYPOINTS.exists() else {"ways": {}}
        search = Search(name, {"home": [0.0] * 8, **stored}, args.seed)
        search.stored["home"] = np.round(search.rest, 4).tolist()
        x, share = search.run(args.seconds)
        print(f"{name}: {share:.2f} of its roll-outs", file=sys.stderr)
        had = search.stored["ways"].get(name, {"share": 0.0})
        if share > had["share"]:
            search.stored["ways"][name] = {
                "places": np.round(search.way(x), 4).tolist(), "acting": ACTING, "share": round(share, 2)
            }  # fmt: skip
            WAYPOINTS.write_text(json.dumps(search.stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
