"""What no run could honour, and no type says, is refused before anything slow happens."""

from preceptor.agent.config import TrainConfig
from preceptor.agent.methods import entry_of
from preceptor.agent.runs.names import check_name
from preceptor.ground.errors import UserError


def check_train(config: TrainConfig) -> None:
    """Refuse what no run could honour. Raises `UserError` with the nearest right choice."""
    settings = config.settings
    check_name(config.savedir)
    if len(set(config.seeds)) != len(config.seeds):
        raise UserError(f"--seeds {config.seeds} must be distinct.", "--seeds 0 1 2")
    if entry_of(config.method).plays(settings) and config.total < config.num_envs:
        raise UserError(
            f"--steps {config.steps} is less than one step of {config.num_envs} environments side by side.",
            f"--num-envs {max(1, config.steps)} and at least as many --steps",
        )
    if config.controller and not entry_of(config.method).takes_controller:
        what = f"--method {config.method} has no place for a controller."
        raise UserError(what, "--method ihac, or leave --controller out")
    if config.controller and not getattr(settings, "plans", True):
        what = "A controller is given, and nothing asks for it."
        raise UserError(what, "--prior controller, or --high-level controller")
    if getattr(settings, "prior", "none") != "none" and getattr(settings, "high_level", "") == "controller":
        raise UserError(
            f"--prior {settings.prior} is for a high level that learns, and here the controller is the high level.",
            "--high-level learned, or leave --prior out",
        )
    if getattr(settings, "low_level", None) and settings.high_level == "controller":
        what = "A low level that learns no more leaves nothing to learn here."
        raise UserError(what, "--method hiro --high-level learned")
    if getattr(settings, "student", "") == "flat":
        if config.teacher.on_teacher_failure == "controller":
            raise UserError("A flat student has no controller to stand in.", "--on-teacher-failure hold")
        if config.teacher.ask_below < 1:
            raise UserError("A flat student has no controller that could be sure.", "leave --ask-below out")
