"""Plans instead of labels: a teacher that is asked once for each mission, and whose plan is then followed.

Plans are calls like all others, found again in the store by their keys, where their replies are the answers; refused
ones are kept as a trace. What the plan's current step is, and the option that brings it nearer, `Task.plans` tells from
a scene's facts alone. Where it tells that the step is impossible by now, another plan is asked for.
"""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from preceptor.envs.plans import Plans
from preceptor.envs.task import Scene, Task
from preceptor.ground.errors import UserError
from preceptor.teacher.asking import AskingTeacher, Facts, Model, Reply
from preceptor.teacher.base import UNAVAILABLE, Label, only_option
from preceptor.teacher.call import OK, Call, recorded_rows
from preceptor.teacher.faults import say
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.parse import after_thinking
from preceptor.teacher.prompts import Menu, Prompt, Template

PLAN_TOKENS = 256  # of a plan, at most; the longest of the expert's have 16 lines
REFUSED = "refused"  # status of a reply that is no plan for its mission
NO_MENU = Menu(())
_SAID = 5  # refusals that are told of; the others are counted


class PlanningTeacher(AskingTeacher):
    """Labels scenes by plans, which `model` writes.

    Its queries are missions, and parts of missions of which a step has become impossible. `stats.extra` counts plans
    that were `repaired`, those that were asked for `again`, and missions that are `not_understood`.

    Args:
        name, model, store, as_recorded: As `AskingTeacher` has them.
        task: One with plans.
        plans: Its.
    """

    def __init__(
        self, name: str, task: Task, model: Model, plans: Plans, store: LabelStore, *, as_recorded: bool = False
    ) -> None:
        super().__init__(name, task, model, plan_template(plans), store, as_recorded=as_recorded)
        self._rules, self._said = plans, 0
        self._plans: dict[Facts, tuple[str, str]] = {}  # by questions: the plan, empty for none, and its query
        if as_recorded:
            calls = store.calls(task.name, task.options.digest, answers_only=False)
            for facts, rows in recorded_rows(calls).get((model.name, self._prompt_hash), {}).items():
                self._keep(facts, [call for call in rows if call.status == OK])

    def _label_distinct(self, scenes: Sequence[Scene]) -> list[Label]:
        """One-hot labels; abstained where there is no plan, or nothing of it can be done."""
        new = [scene for scene in scenes if scene.facts not in self._labels]
        stuck = self._follow(dict.fromkeys(new, ""))
        self.stats.extra["again"] = self.stats.extra.get("again", 0) + len(stuck)
        self._follow(stuck)
        labels = [self._labels[scene.facts] for scene in new]
        self.stats.abstained += sum(label.abstained and label.method != UNAVAILABLE for label in labels)
        return [self._labels[scene.facts] for scene in scenes]

    def _follow(self, scenes: Mapping[Scene, str]) -> dict[Scene, str]:
        """Label scenes, by plans for when a step of theirs is impossible if one is named; those that are stuck now."""
        count, stuck = len(self._task.options), dict[Scene, str]()
        questions = {scene: self._question(scene, step) for scene, step in scenes.items() if len(scene.legal) > 1}
        unreached = self._learn({question.facts: question for question in questions.values() if question})
        for scene in scenes:
            option, (plan, query) = None, ("", "")
            if question := questions.get(scene):
                plan, query = self._plans.get(question.facts, ("", ""))
            if plan:
                option, step = self._rules.follow(plan, scene)
                stuck |= {scene: step} if option is None and step else {}
            probs = tuple(float(k == option) for k in range(count))
            label = Label(probs, self.model.source, "plan", query, abstained=option is None)
            if len(scene.legal) == 1:
                label = only_option(scene, count, self.model.source)
            elif question and question.facts in unreached:
                label = replace(label, method=UNAVAILABLE)
            self._labels[scene.facts] = label
        return stuck

    def _question(self, scene: Scene, impossible: str) -> Scene | None:
        try:
            return self._rules.question(scene, impossible)
        except UserError as error:
            self._count("not_understood", error)
            return None

    def _learn(self, questions: Mapping[Facts, Scene]) -> set[Facts]:
        """Ask for the plans that are missing; the questions to which there was no reply."""
        asks = {facts: [self._asked(question)] for facts, question in questions.items() if facts not in self._plans}
        answers, unreached = self._answered(asks, len(questions))
        for facts in asks.keys() - unreached:
            self._keep(facts, [answers[call.key] for call, _ in asks[facts] if call.key in answers])
        return unreached

    def _asked(self, question: Scene) -> tuple[Call, Prompt]:
        return self._call(question, ()), self.template.render(self._task, question, NO_MENU)

    def _keep(self, facts: Facts, answers: Sequence[Call]) -> None:
        self._plans[facts] = (self._read(answers[-1])[0], answers[-1].query) if answers else ("", "")

    def _read(self, call: Call) -> tuple[str, int]:
        """The plan of a reply, and its repairs. Raises `UserError` if it is none."""
        return self._rules.read(Scene(call.task, call.facts, call.scene, ()), after_thinking(call.reply))

    def replied(self, call: Call, prompt: Prompt, reply: Reply) -> Call:
        """The call with its reply, which is checked."""
        call = super().replied(call, prompt, reply)
        if call.status == OK:
            try:
                repaired = self._read(call)[1] > 0
            except UserError as error:
                self._count("refused", error)
                return replace(call, status=REFUSED)
            self.stats.extra["repaired"] = self.stats.extra.get("repaired", 0) + repaired
        return call

    def _count(self, what: str, error: UserError) -> None:
        """Count what was not understood, and say what, unless that was said of many already."""
        self.stats.extra[what] = self.stats.extra.get(what, 0) + 1
        self._said += 1
        if self._said <= _SAID:
            say(f"warning: {error.what}{' More of this kind is only counted.' if self._said == _SAID else ''}")


def plan_template(plans: Plans) -> Template:
    """The request for a plan as a template."""
    text = "\n".join(f"[{role}]\n{content}" for role, content in plans.messages)
    return Template("plan", plans.messages, hashlib.sha256(text.encode()).hexdigest()[:16])


def plan_prompts(task: Task, plans: Plans, count: int) -> list[Prompt]:
    """The requests for the plans of so many sampled scenes, each once, the longest first."""
    template, found = plan_template(plans), dict[Facts, Prompt]()
    for scene in task.sample_scenes(np.random.default_rng(0), count):
        question = plans.question(scene)
        found[question.facts] = template.render(task, question, NO_MENU)
    return sorted(found.values(), key=lambda prompt: -prompt.tokens)


class ScriptedPlans:
    """The expert as the model that writes plans (`asking.Model`), so that they are counted as those of a server are."""

    name, source, method, template, samples = "script@plans", "scripted", "script", "plan", 1

    def __init__(self, plans: Plans) -> None:
        self.extra: dict[str, float] = {}
        self._plans = plans

    def replies(self, prompts: Sequence[Prompt]) -> Generator[list[tuple[int, Reply]], None, None]:
        """All at once."""
        yield [(i, Reply(OK, text=self._plans.script(prompt.messages[-1][1]))) for i, prompt in enumerate(prompts)]
