// The live view: asks for the last step of one session and shows it. Nothing is asked while the page is out of sight.
import { element, palette, percent, showFigures } from "./parts.js";

const at = (id) => document.getElementById(id);
const LOOK = 300, LIST = 3000, AWAY = 2000; // milliseconds
const DECIDERS = ["controller", "low level", "teacher"];

let key = sessionStorage.getItem("key") ?? ""; // of this tab alone
let sessions = [], listed = -Infinity, after = 0, shown = "", colours = [], options = "", advice = "";

class Refusal extends Error {}

// --- talking to the server --------------------------------------------------------------------------------------

async function talk(path) {
  for (;;) {
    const reply = await fetch(`../v1/${path}`, { headers: key ? { authorization: `Bearer ${key}` } : {}, cache: "no-store" });
    if (reply.status === 204) return null;
    const said = await reply.json();
    if (reply.ok) return said;
    if (reply.status !== 401) throw new Refusal(said.error?.message ?? `The server said ${reply.status}.`);
    document.body.dataset.phase = "locked";
    at("ask").showModal();
    await new Promise((closed) => at("ask").addEventListener("close", closed, { once: true }));
    key = at("key").value;
    sessionStorage.setItem("key", key);
  }
}

async function look() {
  if (performance.now() > listed + LIST) {
    list(await talk("live"));
    listed = performance.now();
  }
  const name = at("session").value, environment = Math.max(0, Number.parseInt(at("environment").value, 10) || 0);
  if (!name) return idle("No session plays. One that was opened is listed here after its first step.");
  if (shown !== `${name}/${environment}`) after = 0;
  const step = await talk(`live/${encodeURIComponent(name)}?environment=${environment}&after=${after}`);
  if (name !== at("session").value) return;
  if (step) {
    show(step);
    shown = `${name}/${environment}`;
    after = step.number;
    document.body.dataset.phase = "watching";
  } else if (!after) {
    idle("This session has taken no step yet.");
  }
  tell(advice, advice !== "");
}

async function loop() {
  let rest = LOOK;
  if (!document.hidden && at("pause").ariaPressed !== "true") {
    try {
      await look();
    } catch (error) {
      listed = -Infinity;
      rest = AWAY;
      tell(error instanceof Refusal ? error.message : "The server does not answer; the page goes on as soon as it does.", true);
    }
  }
  setTimeout(loop, rest);
}

// --- what is shown ----------------------------------------------------------------------------------------------

function list(found) {
  sessions = found.filter((each) => each.number > 0);
  const chosen = at("session").value || sessions[0]?.name; // the one that was used last, until another is chosen
  sessions.sort((a, b) => (a.name < b.name ? -1 : 1));
  const names = sessions.map(({ name }) => name);
  if (names.join() !== [...at("session").options].map(({ value }) => value).join()) {
    at("session").replaceChildren(...sessions.map(({ name, agent, task }) => {
      const option = element("option", `${agent} · ${task} · ${name}`);
      option.value = name;
      return option;
    }));
    if (names.includes(chosen)) at("session").value = chosen; // it stays although another was used since
  }
}

function idle(words) {
  document.body.dataset.phase = "idle";
  at("option").textContent = "…";
  at("picture").hidden = true;
  at("curtain").textContent = words;
  at("curtain").classList.add("shown");
  for (const id of ["deciders", "options", "figures"]) at(id).replaceChildren();
  after = 0;
  options = shown = advice = "";
}

function show(step) {
  const session = sessions.find(({ name }) => name === at("session").value);
  at("task").textContent = session.task;
  at("goal").textContent = step.goal;
  at("environment").max = session.environments - 1;
  at("option").textContent = step.option ?? (step.command ? "a vector" : "primitive actions");
  at("deciders").replaceChildren(...DECIDERS.map((who) => {
    const pill = element("span", who, who === step.decided ? "now" : "");
    pill.role = "listitem";
    if (who === step.decided) pill.ariaCurrent = "true";
    return pill;
  }));
  paint(step.picture);
  bars(step);
  advice = step.advice;
  const short = (numbers) => [numbers].flat().map((x) => (Number.isInteger(x) ? x : x.toFixed(2))).join(", ");
  const figures = [["step", step.number], ["action", short(step.action)], ["agent", `${session.agent} @ ${session.version}`]];
  for (const [of, value] of Object.entries(step.teacher ?? {})) {
    figures.push([`teacher's ${of}`, of === "usd" ? `$${value.toFixed(4)}` : value.toLocaleString()]);
  }
  if (step.command) figures.push(["vector", short(step.command)]);
  showFigures(at("figures"), figures);
}

function paint(png) {
  at("picture").hidden = png === null;
  at("curtain").classList.toggle("shown", png === null);
  at("curtain").textContent = png === null ? "No picture: what this task is observed by does not tell how it looks." : "";
  if (png === null) return;
  const before = at("picture").src;
  at("picture").src = URL.createObjectURL(new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], { type: "image/png" }));
  if (before) URL.revokeObjectURL(before);
}

function bars(step) {
  const box = at("options");
  if (options !== step.options.join("\n")) {
    options = step.options.join("\n");
    colours = palette(step.options);
    box.replaceChildren(...step.options.map((words, k) => {
      const bar = element("div", "", "option"), swatch = element("span", "", "swatch"), share = element("span", "", "share");
      bar.role = "listitem";
      swatch.style.background = share.style.background = colours[k];
      bar.append(swatch, element("span", words), element("span", "", "said"), share);
      return bar;
    }));
  }
  [...box.children].forEach((bar, k) => {
    bar.classList.toggle("running", k === step.running);
    bar.querySelector(".said").textContent = step.probs ? percent(step.probs[k]) : "";
    bar.querySelector(".share").style.width = percent(step.probs?.[k] ?? 0, 1);
  });
}

function tell(words, wrong = false) {
  at("notice").textContent = words;
  at("notice").classList.toggle("wrong", wrong);
}

at("pause").addEventListener("click", () => {
  const paused = at("pause").ariaPressed !== "true";
  at("pause").ariaPressed = String(paused);
  at("pause").textContent = paused ? "go on" : "pause";
});
loop();
