"""What a controller makes of missions that it was not trained on: other pairs, lengths, words and levels (issue 18).

    python -m bench.missions --full     # three seeds, and the control; an interrupted call goes on where it was
    python -m bench.missions --players rooms     # one seed of that which is taught on BabyAI's BossLevel
    python -m bench.missions --players "1000 missions" "10000 missions"   # labels against missions played
    python -m bench.missions --report log/missions.jsonl

One controller is taught by the script on missions of one or two clauses, in the sentence forms for training, about the
pairs of colour and kind that are not held out. Each row is another set of held-out levels. `script` is the expert,
which has nothing to say where no rule reads the words. `no words` was trained and is played on the same levels, with
the same facts, without the mission's words. `rooms` was taught on BabyAI's BossLevel, which has all verbs and up to
four clauses, and is judged on that and on seven other levels of BabyAI's. `N missions` played so many, and its teacher
was asked only where it was not sure. Settings were chosen on seeds below 10.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import preceptor
from preceptor.agent.evaluate import load_student
from preceptor.agent.players import play, teacher_player
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.statistics import mean_interval, widened
from preceptor.envs.catalog import get_task
from preceptor.envs.missions import rooms
from preceptor.envs.missions.levels import ABSENT
from preceptor.envs.missions.tasks import MissionTask, Obs
from preceptor.envs.missions.vocabulary import VOCABULARY
from preceptor.envs.task import Task
from preceptor.ground.level_seeds import SEEDS_PER_SPLIT
from preceptor.teacher.controls import ScriptedTeacher
from preceptor.teacher.labels import LabelStore

SEEDS, FIRST, EPISODES, STEPS = 3, 10, 500, 40_000
_TRAINED: dict[str, Any] = {"words": "training", "pairs": "known", "clauses": "1-2"}
_LEVELS = 20_000  # each has a mission of its own: with few, words are learned by heart


def _variant(**changed: Any) -> str:
    """The task that is trained on, changed in some respects; None takes one back."""
    said = {name: value for name, value in (_TRAINED | changed).items() if value is not None}
    return "OneRoom-Mix:" + ",".join(f"{name}={value}" for name, value in said.items())


TRAINED = _variant(levels=_LEVELS)
ROWS = {
    "as trained": TRAINED,
    "held-out pairs": _variant(pairs="new"),
    "held-out paraphrases": _variant(words="held-out"),
    "three clauses": _variant(clauses=3),
    "four clauses": _variant(clauses=4),
    "room of 12": _variant(side=12),
    "room of 12, 24 other objects": _variant(side=12, distractors=24),
    "all at once": _variant(pairs="new", words="held-out", clauses=3, side=12),
} | {
    f"{kind}, {others} other objects": f"OneRoom-{kind}" + ("" if others == 8 else f":distractors={others}")
    for kind in rooms.ROOMS
    for others in (0, 8)
}  # the last ten are BALROG's kinds, in minigrid's own words and about all pairs
BOSS = f"BabyAI-BossLevel:levels={_LEVELS}"
LEVELS = ("PickupLoc", "GoTo", "PutNextLocal", "Open", "Unlock", "SynthLoc", "GoToSeq", "BossLevel")
TAUGHT: dict[str, Any] = {"retell": True, "guided": 0.9, "updates": 0.1}  # many missions of each scene
# How many missions are played, most of them once and in about 11 steps, and gradient steps per environment step
PLAYED = {1_000: 0.1, 10_000: 0.04, 100_000: 0.004}
# Of each player the task that it is taught on, its settings, and the rows that it is judged on
PLAYERS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "student": (TRAINED, TAUGHT, ROWS),
    "no words": ("bench.missions:Wordless", TAUGHT, {"as trained": "bench.missions:Wordless"}),
    "script": ("", {}, ROWS),
    "rooms": (BOSS, TAUGHT, {level: f"BabyAI-{level}" for level in LEVELS}),
} | {
    f"{count} missions": (
        _variant(levels=4 * count),
        {"ask_below": 0.9, "steps": 11 * count, "updates": updates, "doubt": False},  # a script is right
        {"as trained": TRAINED},
    )
    for count, updates in PLAYED.items()
}


class Wordless(MissionTask):
    """The task that is trained on; controllers see one word of every mission, and not how many clauses there are."""

    def __init__(self) -> None:
        super().__init__(
            "Wordless", rooms.registered(rooms.MIX, rooms.Chosen(**_TRAINED)), _LEVELS, side=rooms.Chosen.side
        )

    def sensed(self, obs: Obs) -> tuple[Any, ...]:
        """As ever, with the same words for all."""
        status, facts, done, words = super().sensed(obs)
        done = np.where(done == ABSENT, 0, done)  # how many clauses there are is said in words
        return status, facts, done, np.broadcast_to(VOCABULARY.encode("go", words.shape[1]), words.shape)


def measure(player: str, seed: int, steps: int, episodes: int, done: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of success, sampled and greedy, of one of `PLAYERS`."""
    task_name, own, rows = PLAYERS[player]
    run, calls = None, 0
    if task_name:
        name = f"missions-{player.replace(' ', '-')}-{seed}"
        settings: dict[str, Any] = {
            "teacher": "scripted",
            "steps": steps,
            "seed": seed,
            "savedir": name,
            "eval_episodes": 1,
        } | own
        trained = preceptor.train(task_name, "dagger", resume=True, **settings)
        run, calls = Run.find("log", None, None, str(trained.path)), trained.result["calls"]
    for row, where in rows.items():
        if row not in done:
            found = _success(get_task(where), run, seed, episodes)
            yield {"player": player, "seed": seed, "row": row, "calls": calls} | found


def _success(task: Task, run: Run | None, seed: int, episodes: int) -> dict[str, float]:
    player = load_student(run, task) if run else teacher_player(task, ScriptedTeacher(task, LabelStore()))
    levels = range(SEEDS_PER_SPLIT, SEEDS_PER_SPLIT + episodes)
    played = {mode: play(task, player, levels, greedy=mode == "greedy", seed=seed) for mode in ("sampled", "greedy")}
    return {mode: float(each.success.mean()) for mode, each in played.items()} | {"episodes": episodes}


def report(path: Path) -> str:
    """The table in Markdown: mean success over seeds with its interval, sampled, and greedy."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = ["| levels | player | seeds | sampled | greedy |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["row"] for row in rows):
        for player in dict.fromkeys(row["player"] for row in rows):
            found = [row for row in rows if row["row"] == name and row["player"] == player]
            if not found:
                continue
            episodes = sum(row["episodes"] for row in found)
            told = []
            for mode in ("sampled", "greedy"):
                interval = mean_interval([row[mode] for row in found])
                low, high = widened(interval, episodes)
                told.append(f"{interval[0]:.3f} [{low:.3f}, {high:.3f}]")
            lines.append(f"| {name} | {player} | {len(found)} | {' | '.join(told)} |")
    calls = {f"{row['player']} {row['seed']}": row["calls"] for row in rows if row["calls"]}
    return "\n".join([*lines, "", f"Labels: {calls}"])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all seeds and players of the table")
    parser.add_argument("--players", nargs="*", default=["student"], choices=PLAYERS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--out", type=Path, default=Path("log/missions.jsonl"))
    parser.add_argument("--report", type=Path, help="print the table of this file")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.report:
        print(report(words.report))
        return
    wanted = [(player, seed) for player in words.players for seed in words.seeds]
    if words.full:
        wanted = [(player, FIRST + n) for player in ("student", "rooms") for n in range(SEEDS)]
        wanted += [("script", FIRST), ("no words", FIRST)]
    words.out.parent.mkdir(parents=True, exist_ok=True)
    old = [json.loads(line) for line in words.out.read_text().splitlines()] if words.out.exists() else []
    for player, seed in wanted:
        done = {row["row"] for row in old if (row["player"], row["seed"]) == (player, seed)}
        for row in measure(player, seed, words.steps, words.episodes, done):
            with words.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
