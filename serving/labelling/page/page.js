// The page: asks the server what is asked, shows it, and sends what is typed. An answer names its question, and the
// next one is shown when the server says that the answer is on the disk; so nothing is lost, and nothing counts twice.
import { drawFrame, drawGroups, drawStrip, drawTimeline, stepAt } from "./drawing.js";
import { element, palette, percent, showFigures } from "./parts.js";
import { Pictures } from "./pictures.js";

const at = (id) => document.getElementById(id);
const who = new URLSearchParams(location.search).get("who");
const asking = who ? `?who=${encodeURIComponent(who)}` : "";
const pictures = new Pictures(paint);
const POLL = { asking: 4000, thinking: 120, finishing: 500, finished: 4000, loading: 500 };
const pause = () => (unheard(state?.question) ? 500 : POLL[state?.phase ?? "loading"]); // milliseconds
const TICK = 250, ASLEEP = 3000; // milliseconds

let about = null, state = null, colours = [];
let cursor = 0, low = 0, high = 0; // the step that is looked at, and the interval that is marked
let busy = false, playing = null, polling = null, pressed = 0;
let watched = 0; // for how long the question has been in sight, in milliseconds

// --- talking to the server --------------------------------------------------------------------------------------

async function talk(path, body) {
  const sent = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  for (;;) {
    try {
      const reply = await fetch(path, sent);
      return { status: reply.status, said: await reply.json() };
    } catch {
      // The server is away: it may be starting again. The same answer twice is refused, so that repeating is safe.
      tell("The server does not answer. Everything said so far is kept; the page goes on as soon as it is back.", true);
      await new Promise((resolve) => setTimeout(resolve, 700));
    }
  }
}

async function send(path, body, done) {
  if (busy || !state) return;
  busy = true;
  stop();
  const { status, said } = await talk(path, { ...body, who });
  busy = false;
  if (status === 200) {
    show(said);
    tell(done);
  } else if (status === 409) {
    show(said);
    tell(path === "undo" ? "There is nothing of yours to take back." : "That was answered already; here is the next question.");
  } else {
    tell(`Not kept. ${said.error ?? `The server said ${status}.`}`, true);
  }
}

async function refresh() {
  clearTimeout(polling);
  if (!busy) {
    const { status, said } = await talk(`state${asking}`);
    if (status === 200 && !busy) show(said);
    else if (status !== 200) tell(said.error ?? `The server said ${status}.`, true);
  }
  polling = setTimeout(refresh, pause());
}

// --- what is shown ----------------------------------------------------------------------------------------------

const unheard = (q) => Object.values(q?.said ?? {}).includes(null); // an opinion is still to come
const reviewing = (q) => q?.prompt !== undefined; // what a teacher was asked, rather than a demonstration
const same = (a, b) => a && b && a.trajectory === b.trajectory && a.step === b.step && a.before === b.before;

function show(next) {
  const before = state;
  state = next;
  const q = state.question;
  if (q && !same(q, before?.question)) {
    cursor = low = high = q.step;
    watched = 0;
    tell("");
  }
  pictures.want(state.pictures || reviewing(q) ? null : q, state.next ?? []);
  document.body.dataset.phase = state.phase;
  document.body.dataset.question = q ? `${q.trajectory}/${q.step}/${q.before}` : "";
  document.body.dataset.answered = state.progress.answered;
  if (state.trouble) tell(state.trouble, true);
  render();
  if (before && before.progress.mine !== state.progress.mine && state.progress.mine % 8 === 0) agree();
  if (pressed) {
    const since = pressed;
    pressed = 0;
    requestAnimationFrame(() => { document.body.dataset.latency = (performance.now() - since).toFixed(1); });
  }
  if (pause() < 1000) { clearTimeout(polling); polling = setTimeout(refresh, pause()); }
}

function render() {
  const { question: q, progress: p, phase } = state;
  at("ask").textContent = {
    asking: q?.ask, thinking: "Thinking about what to ask next …",
    finishing: "All is answered. Learning from it …", finished: "All questions are answered.",
  }[phase];
  renderOptions(q);
  const suggested = q?.suggestion;
  at("accept").disabled = !suggested;
  at("accept").querySelector(".what").textContent = suggested ? about.options[suggested.option].words : "accept";
  at("accept").querySelector(".sure").textContent = suggested ? percent(suggested.probability) : "";
  at("skip").disabled = !q;
  at("undo").disabled = p.mine === 0;
  at("count").textContent = `${p.answered} of ${p.budget}`;
  at("bar").firstElementChild.style.width = `${(100 * p.answered) / Math.max(p.budget, 1)}%`;
  at("bar").setAttribute("aria-valuemax", p.budget);
  at("bar").setAttribute("aria-valuenow", p.answered);
  at("who").textContent = state.again ? `${state.who}, second reading` : state.who;
  const wrong = p.expected_error;
  const figures = [
    ["expected wrong", wrong === null ? "–" : percent(wrong, 1)], ["a minute", p.per_minute ?? "–"],
    ["time left", p.seconds_left === null ? "–" : duration(p.seconds_left)],
    ["cost", p.cost], ["time spent", duration(p.seconds)], ["skipped", p.skipped],
  ];
  showFigures(at("figures"), figures);
  if (phase === "finished" && state.result) tell(outcome(state.result));
  paint();
}

function renderOptions(q) {
  const box = at("options");
  if (!box.children.length) {
    about.options.forEach((option, k) => {
      const button = element("button", "", "option");
      const swatch = element("span", "", "swatch");
      swatch.style.background = colours[k];
      button.append(element("kbd", option.key), swatch, element("span", option.words), element("span", "", "said"), element("span", "", "share"));
      button.lastElementChild.style.background = colours[k];
      button.addEventListener("click", () => { pressed = performance.now(); answer(k); });
      box.append(button);
    });
  }
  [...box.children].forEach((button, k) => {
    button.disabled = !q || !q.legal[k];
    button.classList.toggle("suggested", q?.suggestion?.option === k);
    const now = q?.timeline?.[q.step][k];
    const said = Object.entries(q?.said ?? {}).map(([name, probs]) =>
      `${name} ${probs === null ? "…" : probs.length ? percent(probs[k]) : "abstains"}`);
    if (now !== undefined) said.push(`${reviewing(q) ? "teacher" : "model"} ${percent(now)}`);
    button.querySelector(".said").textContent = !q ? "" : q.legal[k] ? said.join(" · ") : "not possible here";
    button.querySelector(".share").style.width = `${100 * (now ?? 0)}%`;
  });
}

function paint() {
  const q = state?.question;
  const curtain = at("curtain");
  const hint = !state ? "" : !q ? at("ask").textContent : reviewing(q) ? `${q.prompt}\n\n→ ${q.reply}`
    : state.pictures ? `No pictures: ${state.pictures}` : "";
  document.body.dataset.kind = reviewing(q) ? "review" : "steps";
  curtain.textContent = hint;
  curtain.classList.toggle("shown", hint !== "");
  at("words").textContent = q ? q.words[cursor] : "";
  at("where").textContent = q ? `demo ${q.trajectory}, step ${cursor} of ${q.length - 1}${cursor === q.step ? ", asked" : ""}` : "";
  at("marked").textContent = low < high ? `${low}–${high}` : "";
  drawFrame(at("frame"), q && pictures.get(q.trajectory, cursor), q && !hint && cursor === q.step);
  drawStrip(at("strip"), q, cursor, low, high, pictures);
  drawTimeline(at("timeline"), q, cursor, low, high, colours, about);
  drawGroups(at("groups"), q, cursor);
}

function tell(words, wrong = false) {
  at("notice").textContent = words;
  at("notice").classList.toggle("wrong", wrong);
}

async function agree() {
  const { status, said } = await talk("agreement");
  if (status !== 200) return;
  at("agreement").replaceChildren(...said.map(({ pair, steps, agree: share, kappa, confusion }) => {
    const details = document.createElement("details");
    const kappas = kappa === null ? "" : `, κ ${kappa.toFixed(2)}`;
    details.append(element("summary", `${pair.join(" and ")} agree on ${percent(share)} of ${steps}${kappas}`), counts(pair, confusion));
    return details;
  }));
}

// Who said which option where the other said which: rows are the first one's.
function counts([one, other], confusion) {
  const table = document.createElement("table");
  const used = about.options.map((_, k) => k).filter((k) => confusion[k].some(Boolean) || confusion.some((row) => row[k]));
  const head = document.createElement("tr");
  head.append(element("th", `${one} ↓ ${other} →`), ...used.map((k) => element("th", about.options[k].key)));
  table.append(head, ...used.map((k) => {
    const row = document.createElement("tr");
    row.append(element("th", `${about.options[k].key} ${about.options[k].words}`), ...used.map((j) => element("td", String(confusion[k][j]))));
    return row;
  }));
  return table;
}

const duration = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
function outcome(r) {
  const student = r.student?.sampled;
  return `Kept in ${r.run}.${student ? ` The student succeeds in ${percent(student.success)} of held-out episodes.` : ""} Ctrl-C in the terminal ends the page.`;
}

// --- what is typed ----------------------------------------------------------------------------------------------

function answer(option) {
  const q = state?.question;
  if (!q) return;
  if (option !== null && !q.legal[option]) {
    const button = at("options").children[option];
    button.classList.remove("refused");
    void button.offsetWidth; // so that the animation starts again
    button.classList.add("refused");
    tell(`“${about.options[option].words}” is not possible here.`, true);
    return;
  }
  tick();
  const words = option === null ? "skipped" : about.options[option].words;
  const where = reviewing(q) ? "" : low < high ? `steps ${low}–${high}, ` : `step ${q.step}, `;
  send("answers", { question: [q.trajectory, q.step, q.before], option, interval: [low, high + 1], seconds: watched / 1000 }, `Kept: ${where}${words}.`);
}

function look(step) {
  const q = state?.question;
  if (!q) return;
  cursor = Math.max(0, Math.min(q.length - 1, step));
  paint();
}

function mark(from, to) {
  const q = state?.question;
  if (!q) return;
  low = Math.max(0, Math.min(from, to, q.step)); // an interval holds the step that is asked about
  high = Math.min(q.length - 2, Math.max(from, to, q.step)); // at the last observation nothing was done
  high = Math.max(high, q.step);
  paint();
}

function widen(by) {
  const q = state?.question;
  if (!q) return;
  // The edge that the cursor is on moves, out or back in; from elsewhere, the edge on that side.
  if (by < 0 && cursor === high && high > q.step) cursor = high - 1, mark(low, high - 1);
  else if (by > 0 && cursor === low && low < q.step) cursor = low + 1, mark(low + 1, high);
  else if (by < 0) mark(low - 1, high), look(low);
  else mark(low, high + 1), look(high);
}

function stretch() {
  const q = state?.question;
  if (!q?.timeline) return;
  const best = (t) => q.timeline[t].indexOf(Math.max(...q.timeline[t]));
  let from = q.step, to = q.step;
  while (from > 0 && best(from - 1) === best(q.step)) from--;
  while (to < q.length - 2 && best(to + 1) === best(q.step)) to++;
  mark(from, to);
}

function stop() {
  clearInterval(playing);
  playing = null;
}

function play() {
  if (playing) return stop();
  if (!state?.question) return;
  playing = setInterval(() => {
    if (cursor >= state.question.length - 1) { stop(); look(state.question.step); }
    else look(cursor + 1);
  }, 120);
}

const KEYS = {
  Enter: () => { const s = state?.question?.suggestion; if (s) answer(s.option); },
  s: () => answer(null), u: () => send("undo", {}, "Taken back."), a: stretch, "?": () => at("keys").showModal(),
  " ": play, Escape: () => { stop(); const q = state?.question; if (q) { mark(q.step, q.step); look(q.step); } },
  ArrowLeft: () => look(cursor - 1), ArrowRight: () => look(cursor + 1), Home: () => look(state?.question?.step ?? 0),
};
const SHIFTED = {
  ArrowLeft: () => widen(-1), ArrowRight: () => widen(1),
  Home: () => { mark(0, high); look(low); }, End: () => { mark(low, Infinity); look(high); },
};
const MOVES = new Set(["ArrowLeft", "ArrowRight"]); // the only keys that say something while they are held

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
  if (event.key === "Enter" && event.target.closest?.(".quiet, .foot a")) return;
  const option = about?.options.findIndex(({ key }) => key === event.key) ?? -1;
  const act = option >= 0 ? () => answer(option) : (event.shiftKey && SHIFTED[event.key]) || KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  if ((event.repeat && !MOVES.has(event.key)) || (busy && !MOVES.has(event.key))) return;
  pressed = performance.now();
  act();
  if (MOVES.has(event.key) || !busy) pressed = 0;
});
at("accept").addEventListener("click", KEYS.Enter);
at("skip").addEventListener("click", KEYS.s);
at("undo").addEventListener("click", KEYS.u);
at("help").addEventListener("click", KEYS["?"]);

let dragged = null;
at("timeline").addEventListener("pointerdown", (event) => {
  if (!state?.question) return;
  at("timeline").setPointerCapture(event.pointerId);
  dragged = stepAt(at("timeline"), event, state.question);
  look(dragged);
});
at("timeline").addEventListener("pointermove", (event) => {
  if (dragged === null || !state?.question) return;
  const step = stepAt(at("timeline"), event, state.question);
  if (step !== dragged || low < high) mark(dragged, step);
  look(step);
});
for (const over of ["pointerup", "pointercancel"]) at("timeline").addEventListener(over, () => { dragged = null; });

// The clock of an answer ticks while the page is in sight. After a gap the browser slept, or the tab was frozen: what is
// shown may be old, and the person was away.
let ticked = Date.now();
function tick() {
  const gap = Date.now() - ticked;
  ticked += gap;
  if (gap > ASLEEP) refresh();
  else if (!document.hidden) watched += gap;
}
setInterval(tick, TICK);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
addEventListener("focus", refresh);
addEventListener("online", refresh);
addEventListener("resize", () => state && paint());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state && paint());

about = (await talk(`state${asking}`)).said.about;
colours = palette(about.options.map(({ words }) => words));
at("task").textContent = about.task;
at("goal").textContent = about.goal;
await refresh();
agree();
