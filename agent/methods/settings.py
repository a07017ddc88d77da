"""What a run is made of."""

from dataclasses import dataclass

from agent.methods.flat import FlatConfig
from agent.methods.hiro import HiroConfig
from agent.methods.hiro_options import OptionHiroConfig
from agent.methods.ihac import IhacConfig


@dataclass(frozen=True)
class Settings:
    """What a run is made of.

    Attributes:
        steps: Environment steps in all, demonstrations included.
        num_envs: Worlds side by side.
        student: Hyper-parameters of the student.
    """

    steps: int
    num_envs: int
    student: IhacConfig | FlatConfig | HiroConfig | OptionHiroConfig
