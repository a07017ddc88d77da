"""What a task gives whose episodes have missions of their own, so that each can be planned once, and not by scenes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preceptor.envs.task import Scene


class Plans:
    """How a task is planned by a language model, once for all scenes of an episode, and how a plan is followed.

    Attributes:
        messages: (role, content) of a request; the text of a question stands for {scene}.
    """

    messages: tuple[tuple[str, str], ...]

    def question(self, scene: "Scene", impossible: str = "") -> "Scene":
        """What is asked for a plan of a scene's episode; equal facts are one question.

        Where a step of an earlier plan has become `impossible`, another plan from there on is asked for.

        Raises:
            UserError: No plan could be followed; it says what is not understood.
        """
        raise NotImplementedError

    def read(self, question: "Scene", reply: str) -> tuple[str, int]:
        """The plan that a model wrote, as text, and how often it was corrected. Raises `UserError` if it is none."""
        raise NotImplementedError

    def script(self, request: str) -> str:
        """The plan that an expert writes, from the last message of a request. Raises `UserError` if it knows none."""
        raise NotImplementedError

    def follow(self, plan: str, scene: "Scene") -> tuple[int | None, str]:
        """The option that comes next, from the facts alone, and the step that it is for.

        No option where the step is impossible; and no step where there is nothing left to do.
        """
        raise NotImplementedError
