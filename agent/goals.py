"""Goals as HIRO has them (Nachum et al., 2018): relative targets in named state dimensions, and their relabelling.

A goal g at s asks for s + g. While it runs it moves with the agent, h(s, g, s') = s + g - s', so that the target
stays where it is; the low level is rewarded with -||s + g - s'|| for each step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preceptor.agent.clock import GoalFrame
from preceptor.agent.computed import Computed
from preceptor.agent.data.views import Segments
from preceptor.agent.distributions import ClippedNormal, Distribution, UniformBox
from preceptor.controller.network import mask_logits
from preceptor.controller.roles import Controller
from preceptor.envs.task import GoalSpace, Task
from preceptor.ground.device import normal, to_numpy, to_tensor
from preceptor.ground.errors import UserError, unknown_name

CANDIDATES = ("original", "difference", "drawn")  # kinds of candidates, in their order in `candidates`


def goal_space(task: Task, name: str | None, planned: bool) -> GoalSpace:
    """The space in which goals are set, where a controller's are too if they are `planned`; the task's own by default.

    Raises:
        UserError: There is none, or none of that name.
    """
    spaces: dict[str, GoalSpace] = getattr(task, "goal_spaces", {})
    space = task.goal_space
    if name is not None:
        if name not in spaces:
            known = "the same without --goal-space"
            raise unknown_name(f"goal space of {task.name}", name, spaces, known)
        space = spaces[name]
        if planned and space.names != task.goal_space.names:
            places = ", ".join(task.goal_space.names)
            raise UserError(
                f"A controller's goals are places ({places}), and those of {name} are more than that.",
                "--prior none --high-level learned, or leave --goal-space out",
            )
    if not space.indices:
        what = f"{task.name} has no space in which a goal could be set."
        raise UserError(what, f"python main.py train --method ppo --task {task.source}")
    return space


def candidates(
    frame: GoalFrame,
    goal: Tensor,
    first: Tensor,
    final: Tensor,
    draws: int,
    generator: torch.Generator,
) -> Tensor:
    """Goals that might explain what the low level did, [B, C, D], all in the box.

    The original; the difference that was reached, s_{t+c} - s_t; and samples of a Gaussian around that difference with
    half the reach as deviation (HIRO, appendix C).

    Args:
        frame: The goal's dimensions.
        goal: [B, D], as it was chosen.
        first: [B, O], s_t.
        final: [B, O], s_{t+c}: after the last step, not the last that was acted on.
        draws: Number of Gaussian samples.
        generator: Samples them.
    """
    difference = (frame.of(final) - frame.of(first))[:, None]
    noise = normal((len(goal), draws, goal.shape[-1]), generator)
    drawn = difference + 0.5 * goal.new_tensor(frame.reach) * noise
    return frame.clip(torch.cat([goal[:, None], difference, drawn], 1))


def explained(
    frame: GoalFrame,
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    goals: Tensor,
    obs: Tensor,
    action: Tensor,
    inside: Tensor,
) -> Tensor:
    """How well each candidate explains the actions, [B, C]: the sum of scores along the stored states, in one forward.

    Args:
        frame: The goal's dimensions.
        score: (observations [M, O], goals [M, D], actions [M, A]) -> [M], for example the low level's log-probability.
        goals: [B, C, D], as they would have been chosen at the first observation.
        obs: [B, c, O].
        action: [B, c, A].
        inside: bool [B, c], the steps that belong to the segment.
    """
    batch, count, _ = goals.shape
    steps = obs.shape[1]
    at = frame.of(obs)  # [B, c, D]
    rolled = goals[:, :, None] + (at[:, :1] - at)[:, None]  # [B, C, c, D]
    every = (batch, count, steps)
    scores = score(
        obs[:, None].expand(*every, -1).flatten(0, 2),
        rolled.flatten(0, 2),
        action[:, None].expand(*every, -1).flatten(0, 2),
    )
    return (scores.view(every) * inside[:, None]).sum(-1)


def relabelled(goals: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The best candidate of each segment [B, D], and which one it is [B]; the original wins ties."""
    best = scores.argmax(1)
    return goals.gather(1, best[:, None, None].expand(-1, 1, goals.shape[2])).squeeze(1), best


@torch.no_grad()
def relabel(
    frame: GoalFrame,
    mode: Callable[[Tensor, Tensor], Tensor],
    parts: Segments,
    draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, list[str]]:
    """The goals [B, D] that explain segments best, by the distance of the actions from those that the low level takes
    now, and what kind of candidate each is.

    Args:
        frame: The goal's dimensions.
        mode: (observations [M, O], goals [M, D]) -> the low level's most probable actions [M, A].
        parts: The segments.
        draws: Number of Gaussian samples.
        generator: Samples them.
    """
    obs, action, goal = to_tensor(parts.obs), to_tensor(parts.action), to_tensor(parts.command)
    goals = candidates(frame, goal, obs[:, 0], to_tensor(parts.final), draws, generator)

    def score(seen: Tensor, wanted: Tensor, action: Tensor) -> Tensor:
        return -0.5 * (action - mode(seen, wanted)).square().sum(-1)

    best, which = relabelled(goals, explained(frame, score, goals, obs, action, to_tensor(parts.inside)))
    kinds = (*CANDIDATES[:2], *CANDIDATES[2:] * draws)
    return best, [kinds[index] for index in which.tolist()]


@torch.no_grad()
def preferred(
    critic: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, policy: Distribution, planned: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Where critics value the planner's goals [N, D] more than the policy's most probable ones, [N]."""
    theirs, ours = (critic(inputs, to_tensor(goal)).amin(0) for goal in (planned, policy.draw(None)))
    return to_numpy(theirs > ours)


class PlannedGoals:
    """The controller's goals: its most probable option, grounded, as a target relative to where the agent is.

    Args:
        controller: The planner.
        frame: The dimensions of goals.
        reversed: Give the opposite goals, as a control.
    """

    def __init__(self, controller: Controller, frame: GoalFrame, reversed: bool = False) -> None:
        self.controller, self.frame = controller, frame
        self._reach = np.array(frame.reach, np.float32) * (-1 if reversed else 1)

    def __call__(self, obs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Goals [N, D] in [-1, 1] for observations [N, O]."""
        option, _ = self.controller.label(obs, self.controller.task.legal(obs))
        target, _ = self.controller.goal(obs, option)
        return np.clip((target - self.frame.of(obs)) / self._reach, -1.0, 1.0)

    def computed(self) -> Computed:
        """The same of tensors: of observations, and of the places that their options lead to."""
        controller, reach = self.controller, torch.as_tensor(self._reach)

        def goals(*inputs: Tensor) -> tuple[Tensor]:
            *parts, legal, obs, places = inputs
            none = torch.full_like(legal[:, 0], -1, dtype=torch.int64)
            logits = mask_logits(controller.network(*parts, none)[0], legal)
            option = logits.argmax(1)[:, None, None].expand(-1, 1, places.shape[2])
            target = places.gather(1, option).squeeze(1)
            return (((target - self.frame.of(obs)) / reach).clamp(-1.0, 1.0),)

        return Computed(controller.network, ClippedNormal, goals, ("parts", "legal", "obs", "places"))


@dataclass(frozen=True)
class ExploringGoals(Distribution):
    """N goals, sampled from the policy, from the planner, or uniformly.

    Attributes:
        policy: What the policy's goals are sampled from.
        uniform: float [N], probability of a uniform goal.
        planned: float32 [N, D], the planner's goals, or None.
        share: float [N], probability of the planner's goal, where it is not a uniform one.
    """

    policy: Distribution
    uniform: NDArray[np.floating]
    planned: NDArray[np.float32] | None = None
    share: NDArray[np.floating] | None = None

    def sample(self, rng: np.random.Generator | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Goals [N, D] in [-1, 1]; log-probabilities of the mixture are of no use, and given as 0."""
        goal, _ = self.policy.sample(rng)
        if rng is not None:
            if self.planned is not None and self.share is not None:
                goal = np.where((rng.random(len(goal)) < self.share)[:, None], self.planned, goal)
            anywhere, _ = UniformBox(goal.shape).sample(rng)
            goal = np.where(rng.random(len(goal))[:, None] < self.uniform[:, None], anywhere, goal)
        return goal, np.zeros(len(goal), np.float32)
