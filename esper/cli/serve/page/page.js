// Mission control. No framework and no build: what comes over the socket is shown, and what a person does is posted.
// All text goes in as text; pictures are SVG that the server has drawn and escaped.
"use strict";

const $ = (id) => document.getElementById(id);
const EMPTY = "\u2013";
let session = null, overview = null, run = null, chosen = null, live = true, shownKey = "", asking = false, again = false;

// ------------------------------------------------------------------------------------------------------------ elements
function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return made;
}

const drawn = new Map();
function fill(id, told, children) {
  // Only what has changed is made anew, and who was on something of it with the keyboard stays there.
  const text = JSON.stringify(told);
  if (drawn.get(id) === text) return;
  const place = $(id), at = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  if (at && document.activeElement.tagName === "INPUT") return; // somebody types: the next change will do
  drawn.set(id, text);
  place.replaceChildren(...children());
  if (at) place.querySelector(`[data-key="${CSS.escape(at)}"]`)?.focus({ preventScroll: true });
}

const figure = (value, digits = 4) => value === null || value === undefined ? EMPTY
  : Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(digits)));
const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);
const moment = (iso) => iso ? new Date(iso).toISOString().slice(0, 16).replace("T", " ") : EMPTY;
const named = (text) => text.toLowerCase().replaceAll("_", " ");
const nothing = (text) => [h("li", { class: "soft" }, text)];

// ------------------------------------------------------------------------------------------------------------- asking
async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (session) headers.Authorization = `Bearer ${session}`;
  const answer = await fetch(path, { ...options, headers });
  const body = await answer.json();
  if (answer.status === 401) forget();
  if (!answer.ok) throw new Error(body.error || `it answered ${answer.status}`);
  return body;
}

const post = (path, body) => ask(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
});

function forget() {
  session = null;
  sessionStorage.removeItem("session");
  showWhoMay();
}

function showWhoMay() {
  $("reading").hidden = session !== null;
  for (const each of document.querySelectorAll("#tell button, #tell input")) each.disabled = session === null;
  drawn.delete("seeds");
  drawn.delete("alerts");
  if (overview) showAlerts();
  if (run) showState(run.then);
}

async function letIn() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  session = sessionStorage.getItem("session");
  if (token) {
    history.replaceState(null, "", location.pathname);
    const answer = await fetch("/api/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
    if (answer.ok) {
      session = (await answer.json()).session;
      sessionStorage.setItem("session", session);
    }
  }
  showWhoMay();
}

// ------------------------------------------------------------------------------------------------------------- stream
let wait = 500;
function listen() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/ws/stream`, session ? ["esper", session] : ["esper"]);
  socket.onmessage = (message) => {
    const told = JSON.parse(message.data);
    wait = 500;
    overview = told.state;
    const late = told.skipped ? `, ${told.skipped} updates skipped: this page is slow` : "";
    connected(true, `live, ${clock(overview.at)} UTC${late}`);
    showOverview();
  };
  socket.onclose = () => {
    connected(false, "not connected; trying again");
    setTimeout(listen, wait);
    wait = Math.min(wait * 2, 10000);
  };
}

function connected(well, text) {
  $("connection").classList.toggle("well", well);
  if ($("connection").textContent !== text) $("connection").textContent = text;
}

// ----------------------------------------------------------------------------------------------------------- overview
function showOverview() {
  const going = overview.runs.filter((each) => each.status === "running");
  $("stale").hidden = !overview.stale;
  $("stale").textContent = overview.stale ? `What you see is not the newest: ${overview.stale}` : "";
  const mode = overview.conservative_mode || overview.forge_conservative ? "conservative" : "normal";
  const glance = [["runs that train", going.length], ["alerts on", overview.alert_count],
    ["telemetry waiting", overview.queue_depth === null ? EMPTY : figure(overview.queue_depth)], ["mode", mode]];
  fill("glance", glance, () => glance.map(([name, value]) => h("div", {}, h("dt", {}, name),
    h("dd", {}, name === "alerts on" ? h("a", { href: "#alerts", "data-key": "to alerts" }, String(value)) : String(value)))));
  showRuns();
  showAlerts();
  fill("breakers", overview.breakers, () => overview.breakers.length ? overview.breakers.map((each) => h("li", {},
    h("span", { class: each.state === "CLOSED" ? "good" : "bad" }, named(each.state)), ` ${each.breaker} `,
    h("div", { class: "note" }, each.run_id))) : nothing("None of a run that trains has tripped."));
  fill("budgets", overview.budgets, () => overview.budgets.length ? overview.budgets.map((each) => h("li", {},
    h("strong", { class: each.burning ? "bad" : null }, named(each.slo)), h("meter", { min: 0, max: 1, low: 0.25, optimum: 1, value: each.budget_left, "aria-label": "left of the budget" }),
    h("div", {}, `${figure(100 * each.budget_left, 3)} % of the budget left`), h("div", { class: "note" }, `${figure(each.bad)} of ${figure(each.asked)} were bad; ${figure(100 - 100 * each.objective, 3)} % may be. `
      + `Spent ${figure(each.burn_1h, 2)} times as fast as it may be in the last hour, ${figure(each.burn_1d, 2)} in the last day.`)))
    : nothing("No objective has been measured here."));
  const mine = overview.runs.find((each) => each.run_id === chosen);
  if (mine && JSON.stringify(mine) !== shownKey) showRun();
}

function runKey(id) {
  return JSON.stringify((overview?.runs || []).find((each) => each.run_id === id) || null);
}

function showRuns() {
  const known = new Set(overview.runs.map((each) => each.run_id));
  const shown = overview.runs.filter((each) => each.status === "running" || !(known.has(each.control_of) || known.has(each.static_of)));
  shown.sort((a, b) => (b.status === "running") - (a.status === "running"));
  if (!chosen && shown.length) choose(shown[0].run_id);
  fill("runs", [shown, overview.waiting, chosen], () => [
    ...shown.map((each) => h("li", {}, h("a", { href: `#/${each.run_id}`, "data-key": each.run_id, "aria-current": String(each.run_id === chosen) },
      h("span", { class: "name" }, h("span", {}, each.task), h("span", { class: `state ${each.status}` }, each.paused ? "paused" : each.status)),
      each.status === "running" && h("progress", { max: Math.max(each.epochs_planned, 1), value: each.epochs_done, "aria-label": "epochs" }),
      h("div", { class: "note" }, `${each.run_id} · ${each.epochs_done}/${each.epochs_planned} epochs`
        + (each.probe_loss === null ? "" : ` · loss ${figure(each.probe_loss)}`) + (each.metric && !each.metric.startsWith("loss ") ? ` · ${each.metric}` : "")),
      each.seeds.map((seed) => h("span", { class: "chip" }, h("span", { class: `stage ${seed.stage.toLowerCase()}` }, `${seed.seed_id} ${named(seed.stage)}`)))))),
    ...overview.waiting.map((each) => h("li", {}, h("div", { class: "note" }, `${each.run_id} · ${each.task || ""} · ${each.told}`))),
    ...(overview.runs_left_out ? nothing(`${overview.runs_left_out} older ${overview.runs_left_out === 1 ? "run is" : "runs are"} left out; esper runs --limit 0 lists all.`) : []),
  ]);
}

let acking = null; // the alert whose form is open
function showAlerts() {
  fill("alerts", [overview.alerts, session !== null, acking], () => overview.alerts.length ? overview.alerts.map((each) => h("li", {},
    h("strong", { class: each.cleared_at ? "soft" : "bad" }, each.rule), ` ${each.cleared_at ? "cleared" : "on"}`,
    h("div", { class: "note" }, `${each.run_id || "everywhere"} · ${moment(each.fired_at)} · ${figure(each.value)} against ${figure(each.threshold)}`),
    each.said_by ? h("div", { class: "note" }, `known to ${each.said_by}${each.note ? `: ${each.note}` : ""}`)
      : session && acking !== each.id ? h("button", { type: "button", class: "small", "data-key": `open ${each.id}`, on: { click: () => openForm(each.id) } }, "Acknowledge")
      : session && h("form", { on: { submit: (event) => acknowledge(event, each) } },
      h("input", { name: "by", "data-key": `by ${each.id}`, value: localStorage.getItem("by") || "", placeholder: "your name", required: true, maxlength: 60, "aria-label": "Your name" }),
      h("input", { name: "note", "data-key": `note ${each.id}`, placeholder: "a note", maxlength: 200, "aria-label": "A note" }),
      h("button", { type: "submit", "data-key": `ack ${each.id}` }, "Acknowledge")))) : nothing("None has fired."));
}

function openForm(id) {
  acking = id;
  showAlerts();
  $("alerts").querySelector("form input")?.focus();
}

async function acknowledge(event, alert) {
  event.preventDefault();
  const form = event.target, by = form.elements.by.value.trim(), note = form.elements.note.value;
  localStorage.setItem("by", by);
  form.querySelector("button").disabled = true;
  $("acked").textContent = `${alert.rule}: on its way`;
  try {
    const told = await post(`/api/alerts/${alert.id}/ack`, { by, note });
    $("acked").textContent = `${told.rule} is known to ${told.by}`;
    acking = null;
  } catch (error) {
    $("acked").textContent = `${alert.rule}: ${error.message}`;
    form.querySelector("button").disabled = false;
  }
  document.activeElement?.blur();
}

// ------------------------------------------------------------------------------------------------------------ one run
function choose(id) {
  chosen = id;
  live = true;
  run = target = epoch = null;
  shownKey = "";
  for (const name of ["seeds", "then", "decisions", "events", "tiles"]) drawn.delete(name);
  for (const name of ["picture-loss", "picture-seeds"]) $(name).replaceChildren();
  $("told").textContent = "";
  if (overview) showRuns();
  showRun();
}

async function showRun() {
  if (asking) { again = true; return; }
  asking = true;
  const id = chosen;
  shownKey = runKey(id);
  try {
    const [told, pictures] = await Promise.all([ask(`/api/runs/${id}`), ask(`/api/runs/${id}/pictures?width=${room()}`)]);
    if (id === chosen) {
      if (told.generation < overview.generation) shownKey = ""; // what is kept for all pages: look again
      const then = run && !live ? run.then : told.state;
      run = { ...told, pictures, then };
      showOne();
    }
  } catch (error) {
    $("none").hidden = false;
    $("none-title").textContent = error.message;
    $("one").hidden = true;
  }
  asking = false;
  if (again || id !== chosen) { again = false; showRun(); }
}

const room = () => Math.floor(($("view").clientWidth || 720) - ($("view").clientWidth > 700 ? 42 : 30));

function showOne() {
  $("none").hidden = true;
  $("one").hidden = false;
  const listed = overview.runs.find((each) => each.run_id === run.run.run_id);
  if (listed) run.run = { ...run.run, status: listed.status, paused: listed.paused }; // whether its trainer lives is known there
  $("task").textContent = run.run.task;
  $("run-id").textContent = run.run.run_id;
  document.title = `${run.run.task} ${run.run.run_id}: mission control`;
  $("verdict").textContent = run.verdict;
  $("facts").textContent = [run.run.paused ? "paused" : run.run.status, `policy ${run.run.policy}`, `${run.run.epochs_done} of ${run.run.epochs_planned} epochs`,
    `began ${moment(run.run.started_at)} UTC`, run.run.reason].filter(Boolean).join(" · ");
  fill("tiles", run.tiles, () => run.tiles.map((each) => h("div", { class: "tile" }, h("div", { class: "name" }, each.name),
    h("div", { class: "value" }, each.value), h("div", { class: "note" }, each.note))));
  $("tell").hidden = run.run.status !== "running";
  const slider = $("at");
  slider.max = run.state.now.step;
  showPicture("picture-loss", run.pictures.loss);
  showPicture("picture-seeds", run.pictures.seeds);
  showState(run.then);
  $("decided").textContent = `${figure(run.decisions.acted)} of ${figure(run.decisions.total)} decisions were to do something.`;
  fill("decisions", run.decisions.rows, () => run.decisions.rows.map((each) => h("tr", {}, h("td", { class: "n" }, each.epoch),
    h("th", { scope: "row", class: each.chosen === "nothing" ? "soft" : null }, each.chosen), h("td", { class: "text" }, each.reason || EMPTY), h("td", { class: "n" }, each.risk === null ? EMPTY : each.risk.toFixed(2)),
    h("td", {}, [each.outcome, each.rejected].filter(Boolean).join(": ") || EMPTY))));
  fill("events", run.events, () => run.events.map((each) => h("tr", {}, h("td", {}, h("time", { datetime: new Date(each.at * 1000).toISOString() }, clock(each.at))),
    h("td", { class: "n" }, each.epoch), h("td", {}, named(each.type)), h("td", { class: "text" }, each.told))));
}

function showPicture(id, picture) {
  if (drawn.get(id) === picture.svg && $(id).firstChild) return;
  drawn.set(id, picture.svg);
  const parsed = new DOMParser().parseFromString(picture.svg, "image/svg+xml").documentElement;
  $(id).replaceChildren(document.importNode(parsed, true));
}

function showState(then) {
  const now = run.state.now, slider = $("at"), exact = then.step / run.steps_per_epoch;
  const epochs = Math.abs(exact - then.epoch) <= 1 ? exact : then.epoch; // a loop of one's own may have epochs of any length
  slider.value = then.step;
  $("live").setAttribute("aria-pressed", String(live));
  $("at-told").textContent = `Step ${figure(then.step)}, epoch ${then.epoch}`;
  $("at-more").textContent = live ? "now" : `of ${figure(now.step)} by now`;
  $("at-command").textContent = `esper state ${run.run.run_id} --at ${then.step}`;
  slider.setAttribute("aria-valuetext", `step ${then.step}, epoch ${then.epoch}`);
  const decision = then.last_decision;
  const told = [["status", then.paused ? "paused by a person" : then.status], ["network", `${figure(then.params)} parameters`],
    ["probe loss", figure(then.probe_loss)], ...then.metrics.map((each) => [`probe ${each.name}`, `${figure(each.value)}${each.unit ? ` ${each.unit}` : ""}`]),
    ["learning rates", Object.entries(then.learning_rates).map(([name, rate]) => `${name} ${figure(rate)}`).join(", ") || EMPTY],
    ["mode", then.conservative ? "conservative" : "normal"], ["timeline", then.timeline],
    ["breakers", Object.entries(then.breakers).map(([name, state]) => `${name} ${named(state)}`).join(", ") || "none has tripped"],
    ["last decision", decision ? `epoch ${decision.epoch}: ${decision.chosen}${decision.reason ? `: ${decision.reason}` : ""}` : "none yet"]];
  fill("then", told, () => told.map(([name, value]) => h("div", { class: name === "last decision" ? "long" : null }, h("dt", {}, name), h("dd", {}, String(value)))));
  const may = session !== null && live && run.run.status === "running";
  fill("seeds", [then.seeds, may], () => then.seeds.map((seed) => h("tr", {}, h("th", { scope: "row" }, seed.seed_id, h("div", { class: "soft" }, seed.site)),
    h("td", {}, h("span", { class: `stage ${seed.stage.toLowerCase()}` }, named(seed.stage))), h("td", {}, (then.names || {})[seed.blueprint_id] || seed.blueprint_id || EMPTY),
    h("td", {}, seed.stage === "DORMANT" ? EMPTY : [h("meter", { min: 0, max: 1, value: seed.alpha, "aria-label": "alpha" }), figure(seed.alpha, 2)]),
    h("td", { class: "n" }, seed.stage === "DORMANT" ? EMPTY : figure(seed.parameters)), h("td", { class: "n" }, seed.stage === "DORMANT" ? EMPTY : seed.since_epoch),
    h("td", { class: "acts" }, may ? actsOf(seed) : EMPTY))));
  for (const each of document.querySelectorAll("#tell button, #tell input")) each.disabled = session === null;
  point("picture-loss", run.pictures.loss.frame, epochs);
  point("picture-seeds", run.pictures.seeds.frame, exact);
}

function actsOf(seed) {
  const lives = !["DORMANT", "CULLED", "EMBARGOED", "RESETTING", "FOSSILIZED", "TERMINATED"].includes(seed.stage);
  const words = lives ? ["advance", "hold", "cull", ...(seed.stage === "PROBATIONARY" ? ["fossilize"] : [])] : [];
  return words.length ? words.map((word) => h("button", { type: "button", "data-key": `${word} ${seed.seed_id}`, "data-say": `${word} ${seed.seed_id}`,
    "data-sure": word === "cull" ? `Really cull ${seed.seed_id}?` : null }, word)) : EMPTY;
}

function point(id, frame, epochs) {
  const picture = $(id).querySelector("svg");
  picture?.querySelector(".cursor")?.remove();
  if (!picture || !frame) return;
  const share = Math.min(1, Math.max(0, (epochs - frame.low) / (frame.high - frame.low || 1)));
  const x = frame.left + share * (frame.right - frame.left);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ class: "cursor", x1: x, x2: x, y1: frame.top, y2: frame.bottom })) line.setAttribute(name, value);
  picture.append(line);
}

// --------------------------------------------------------------------------------------------------------------- time
let moving = false, target = null, epoch = null; // the epoch that was gone to; null where a step was
async function goTo(place) {
  // A place is what `esper state --at` takes: a step, or epoch:7.
  if (!run) return;
  live = false;
  target = place;
  if (moving) return; // the newest place is asked for when the answer is there
  moving = true;
  while (target !== null) {
    const id = chosen, wanted = target;
    target = null;
    try {
      const then = await ask(`/api/runs/${id}/state?at=${wanted}`);
      if (id === chosen && !live && target === null) { run.then = then; showState(then); }
    } catch (error) { $("at-more").textContent = error.message; }
  }
  moving = false;
}

function goToStep(step) {
  epoch = null;
  goTo(Math.min(run.state.now.step, Math.max(0, Math.round(step))));
}

function byEpoch(way) {
  const at = epoch === null ? run.then.epoch + (way > 0 || live ? way : 0) : epoch + way;
  if (at > run.state.now.epoch) { goLive(); return; }
  epoch = Math.max(0, at);
  goTo(`epoch:${epoch}`);
}

function goLive() {
  if (!run) return;
  live = true;
  target = epoch = null;
  run.then = run.state;
  showState(run.state);
}

$("at").addEventListener("input", (event) => run && goToStep(Number(event.target.value)));
$("at").addEventListener("keydown", (event) => {
  const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  if (!way || !run) return;
  event.preventDefault();
  if (event.shiftKey) goToStep(Number($("at").value) + way);
  else byEpoch(way);
});
$("back").addEventListener("click", () => run && byEpoch(-1));
$("on").addEventListener("click", () => run && byEpoch(1));
$("live").addEventListener("click", goLive);
for (const name of ["loss", "seeds"]) {
  $(`picture-${name}`).addEventListener("click", (event) => {
    const picture = event.currentTarget.querySelector("svg"), frame = run?.pictures[name].frame;
    if (!picture || !frame) return;
    const box = picture.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * picture.viewBox.baseVal.width;
    const share = (x - frame.left) / (frame.right - frame.left || 1);
    const place = frame.low + share * (frame.high - frame.low);
    if (name === "seeds") { goToStep(place * run.steps_per_epoch); return; }
    epoch = Math.min(run.state.now.epoch, Math.max(0, Math.round(place)));
    goTo(`epoch:${epoch}`);
  });
}

// ------------------------------------------------------------------------------------------------------------ telling
async function tell(words) {
  const id = chosen;
  $("told").className = "soft";
  $("told").textContent = `${words}: on its way; the run takes it before its next step`;
  try {
    const told = await post(`/api/runs/${id}/tell`, { words });
    const where = told.step === null ? "not answered yet" : `before step ${told.step + 1}`;
    $("told").className = told.outcome === "applied" ? "good" : "bad";
    $("told").textContent = `${told.told}: ${told.outcome} ${where}${told.reason ? ` (${told.reason})` : ""}${told.detail ? `: ${told.detail}` : ""}`;
  } catch (error) {
    $("told").className = "bad";
    $("told").textContent = `${words}: ${error.message}`;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-say]");
  if (!button) return;
  if (button.dataset.sure && !button.classList.contains("sure")) {
    const words = button.textContent; // what cannot be taken back is asked twice
    button.classList.add("sure");
    button.textContent = button.dataset.sure;
    setTimeout(() => { button.classList.remove("sure"); button.textContent = words; }, 4000);
    return;
  }
  tell(button.dataset.say);
});
$("rate").addEventListener("submit", (event) => { event.preventDefault(); tell(`rate ${event.target.elements.share.value}`); });
$("words").addEventListener("submit", (event) => { event.preventDefault(); tell(event.target.elements.words.value.trim()); });

// -------------------------------------------------------------------------------------------------------------- begin
function follow() {
  const found = location.hash.match(/^#\/([0-9A-Za-z_.-]+)$/);
  if (found && found[1] !== chosen) choose(found[1]);
}
addEventListener("hashchange", follow);
let resized = null;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { if (run && run.pictures.width !== Math.floor(room() / 20) * 20) showRun(); }, 300); });
letIn().finally(() => { follow(); listen(); });
