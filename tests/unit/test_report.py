"""The table and the curves that `report` makes of runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from preceptor.agent.flags import ReportConfig
from preceptor.agent.runs import report as reporting
from preceptor.agent.runs.report import report
from preceptor.agent.runs.run import Run
from preceptor.agent.runs.statistics import wilson
from preceptor.agent.runs.text import render
from preceptor.ground.errors import UserError


def leave_run(
    logdir: Path, method: str, name: str, success: list[float], task: str = "KeyInBox", judged: bool = True, **more: Any
) -> Run:
    settings = {"task": task, "method": method, "teacher": {"teacher": "local"}}
    run = Run.create(logdir, method, task, name, settings, resume=False)
    with run.metrics(quiet=True) as log:
        for step, value in enumerate(success, start=1):
            asked = {"teacher/queries": 10 * step, "teacher/calls": 40}
            log.scalars(step * 1000, {"rollout/success": value, "rollout/return": value - 9, **asked})
    if judged and success:
        score = {"success": success[-1], "low": 0.1, "high": 0.9, "episodes": 500, "return": 0.5, "length": 20.0}
        score |= more
        (run.path / "eval.json").write_text(json.dumps({"task": task, "student": {"sampled": score, "greedy": score}}))
    return run


def test_a_report_has_a_row_per_run_and_averages_seeds(tmp_path: Path) -> None:
    for seed, success in enumerate((0.5, 0.7, 0.9)):
        leave_run(tmp_path, "ihac", f"many/seed-{seed}", [0.0, success])
    leave_run(tmp_path, "ppo", "bare", [0.0, 0.25], judged=False)
    result = report(ReportConfig(logdir=str(tmp_path)))
    many, bare = result["runs"]
    assert (many["run"], many["seeds"], many["steps"], many["queries"], many["calls"]) == ("many", 3, 2000, 20, 40)
    assert many["sampled"]["success"] == pytest.approx(0.7)
    assert 0.5 <= many["sampled"]["low"] < 0.7 < many["sampled"]["high"] <= 0.9
    assert bare["sampled"] is None
    pooled = {"success": 0.72, "low": 0.68, "high": 0.76, "length": 21.0}
    (tmp_path / "ihac" / "KeyInBox" / "many" / "eval.json").write_text(json.dumps({"student": {"sampled": pooled}}))
    assert report(ReportConfig(logdir=str(tmp_path)))["runs"][0]["sampled"] == pooled
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    text = render("report", result)
    assert "many (3 seeds)" in text
    assert "2,000" in text
    assert "report.png" in text


def test_the_teacher_of_a_run_is_the_one_of_its_controller(tmp_path: Path) -> None:
    for method, taught in (("hiro", "scripted"), ("hiro", "none"), ("halo", "truth"), ("ihac", "local")):
        run = leave_run(tmp_path, method, taught, [0.5])
        if method != "ihac":
            run.conclude({"teacher": taught})
    leave_run(tmp_path, "hiro", "running", [0.5])
    rows = report(ReportConfig(logdir=str(tmp_path)))["runs"]
    teachers = {(row["method"], row["run"]): row["teacher"] for row in rows}
    assert teachers.pop(("hiro", "running")) == "local", "as it was told, until it says more"
    assert all(teacher == name for (_, name), teacher in teachers.items())


def test_what_the_teachers_have_cost_is_a_table_of_its_own(tmp_path: Path) -> None:
    asking = {"queries": 20.0, "calls": 50.0, "hits": 7.0, "latency_p50": 0.012, "tokens": 1200.0, "retries": 0.0}
    for seed, calls in enumerate((40.0, 60.0)):
        run = leave_run(tmp_path, "ihac", f"asked/seed-{seed}", [0.5])
        run.conclude({"task": "KeyInBox", "asking": asking | {"calls": calls, "fallbacks": 4.0 * seed}})
    still_running = leave_run(tmp_path, "ihac", "running", [0.5, 0.6], judged=False)
    assert not still_running.results().get("asking")
    silent = leave_run(tmp_path, "ppo", "silent", [])
    with silent.metrics(quiet=True) as log:
        log.scalars(1000, {"rollout/success": 0.5})
    result = report(ReportConfig(logdir=str(tmp_path)))
    rows = {row["run"]: row["asking"] for row in result["runs"]}
    assert rows["asked"] == asking | {"calls": 50.0, "fallbacks": 2.0}
    assert rows["running"] == {"queries": 20.0, "calls": 40.0}
    assert rows["silent"] == {}
    head, *lines = render("report", result).split("\n\n")[1].splitlines()
    assert head.split("  ")[0] == "task"
    assert "p50 ms" in head
    assert "fallbacks" in head
    assert not {"retries", "p95 ms", "invalid"} & set(head.split("  ")), "columns in which nothing stands"
    asked = next(line for line in lines if " asked " in line).split()
    assert asked == ["KeyInBox", "ihac", "asked", "local", "20", "50", "7", "1,200", "2", "12.0"]
    assert any(" running " in line for line in lines)
    assert not any("silent" in line for line in lines)


def test_a_result_says_what_asking_has_cost() -> None:
    text = render("train", {"task": "KeyInBox", "asking": {"queries": 20.0, "calls": 50.0, "latency_p95": 0.25}})
    assert "asking: queries 20, calls 50, p95 ms 250.0" in text
    assert "asking" not in render("train", {"task": "KeyInBox", "asking": {"queries": 0.0}})


def test_a_report_takes_names_paths_and_tasks(tmp_path: Path) -> None:
    here = leave_run(tmp_path, "ihac", "a", [0.1])
    leave_run(tmp_path, "ihac", "a", [0.2], task="TwoDoor")
    leave_run(tmp_path, "ppo", "b", [0.3])

    def rows(*runs: str, **only: Any) -> list[tuple[str, str, str]]:
        found = report(ReportConfig(runs=runs, logdir=str(tmp_path), **only))["runs"]
        return [(row["task"], row["method"], row["run"]) for row in found]

    assert rows("a") == [("KeyInBox", "ihac", "a"), ("TwoDoor", "ihac", "a")]
    assert rows(str(here.path), "b") == [("KeyInBox", "ihac", "a"), ("KeyInBox", "ppo", "b")]
    assert rows(task="TwoDoor") == [("TwoDoor", "ihac", "a")]
    with pytest.raises(UserError, match="Did you mean 'a'"):
        rows("aa")
    with pytest.raises(UserError, match="no runs"):
        report(ReportConfig(logdir=str(tmp_path / "nowhere")))


def test_players_stand_in_one_table_with_intervals() -> None:
    score = {"success": 0.97, "low": 0.951, "high": 0.982, "episodes": 500, "return": 0.9, "length": 22.5}
    paired = {"student minus": "teacher", "success": (0.1, 0.05, 0.15), "length": (-3.0, -4.0, -2.0), "mcnemar_p": 0.01}
    student = {"sampled": {**score, "ms_per_step": 0.0123}, "greedy": score}
    judged = {"task": "KeyInBox", "student": student, "teacher": {**score, "success": 1.0}, "steps": 30_000}
    text = render("eval", judged | {"differences": [paired]})
    assert "student minus teacher, same levels: success +0.100 [+0.050, +0.150], length -3.000" in text
    lines = text.splitlines()
    assert sum(line.startswith("student  ") for line in lines) == 2
    assert any(line.startswith("teacher") and "1.000 [0.951" in line for line in lines)
    assert all(part in text for part in ("0.970 [0.951, 0.982]", "0.012", "steps: 30,000"))
    assert render("train", {"task": "KeyInBox", "runs": [{"seed": 0, "steps": 5}, {"seed": 1}]}).count("seed: ") == 2


def test_seeds_that_agree_by_chance_say_no_more_than_their_episodes(tmp_path: Path) -> None:
    for seed in range(4):
        leave_run(tmp_path, "ihac", f"four/seed-{seed}", [0.0, 0.85], episodes=20, return_low=0.3, return_high=0.9)
    result = report(ReportConfig(logdir=str(tmp_path)))
    row, (together,) = result["runs"][0], result["together"]
    low, high = wilson(68, 80)
    assert (row["sampled"]["low"], row["sampled"]["high"]) == (low, high)
    assert row["sampled"]["return_low"] == pytest.approx(0.5 - 0.2 / 2)
    assert row["sampled"]["return_high"] == pytest.approx(0.5 + 0.4 / 2)
    assert (together["greedy"]["low"], together["greedy"]["high"]) == wilson(34, 40), "those of the middle two"
    text = render("report", result)
    assert f"0.850 [{low:.3f}, {high:.3f}]" in text
    assert "0.500 [0.400, 0.700]" in text


def test_runs_of_one_name_are_drawn_and_averaged_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns below successes, and on a task that knows of no success only returns, in the table, too."""
    drawn = {}
    monkeypatch.setattr(reporting, "_write", lambda figure, path: drawn.setdefault(path.name, figure) is not None)
    for seed, success in enumerate((0.0, 0.2, 0.6, 1.0)):
        leave_run(tmp_path, "ppo", f"many/seed-{seed}", [0.0, success])
        leave_run(tmp_path, "ppo", f"many/seed-{seed}", [0.0, 1.0], task="TwoDoor")
        more = {"return": -150.25, "return_low": -151.0, "return_high": -149.5}
        leave_run(tmp_path, "ppo", f"many/seed-{seed}", [0.0], task="HalfCheetah-v5", **more)
    leave_run(tmp_path, "ppo", "one", [0.0, 0.5])
    result = report(ReportConfig(logdir=str(tmp_path)))
    (together,) = result["together"]
    assert (together["run"], together["tasks"], together["runs"]) == ("many", 2, 8)
    assert together["sampled"]["success"] == pytest.approx((0.6 + 3 * 1.0) / 4), "0, 0.2 | 0.6, 1, 1, 1 | 1, 1"
    panels = {(axis.get_title(), axis.get_ylabel()) for axis in drawn["report.png"].axes if axis.get_visible()}
    both = {(task, f"{kind} while learning") for task in ("KeyInBox", "TwoDoor") for kind in ("success", "return")}
    assert panels == both | {("HalfCheetah-v5", "return while learning")}
    sampled, _ = drawn["report-profiles.png"].axes
    (line,) = sampled.get_lines()
    assert line.get_ydata()[[0, 20, 60, 100]] == pytest.approx([0.875, 0.75, 0.625, 0.0])
    cheetah = next(line for line in render("report", result).splitlines() if "HalfCheetah" in line)
    assert "0.000" not in cheetah
    assert "-150.2 [-150.6, -149.9]" in cheetah, "0.75 / sqrt(4)"


def test_figures_have_the_digits_that_they_need() -> None:
    text = render("train", {"task": "n2", "option_error": 0.0077, "expert_return": -4321.25, "seconds": 0.0})
    assert "option error: 0.00770" in text
    assert "expert return: -4,321.2" in text
    assert "seconds: 0.0" in text
