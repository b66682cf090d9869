"use strict";
// Asks the device for its state once a second and shows it. All text goes in by textContent: nothing that a label or a
// file name contains can become a part of the page.

const NEWS_MS = 1000, LIVE_MS = 200, LONG_MS = 3000, ASK_MS = 8000;
const NAMES = { OK: "OK", KO: "KO", UNCERTAIN: "Uncertain" };
const MARKS = { OK: "✓", KO: "✕", UNCERTAIN: "?" };
const at = (id) => document.getElementById(id);

let state = null;
let span = "hour";
let held = false;
let correcting = null;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function set(id, text) {
  const target = at(id);
  if (target.textContent !== text) target.textContent = text;
}

async function ask(path, content) {
  const options = { signal: AbortSignal.timeout(ASK_MS), cache: "no-store" };
  if (content !== undefined) {
    options.method = "POST";
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(content);
  }
  const answer = await fetch(path, options);
  if (answer.status === 401) {
    location.replace("/login");
    throw new Error("log in first");
  }
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

function notice(text) {
  const box = at("notice");
  box.textContent = text;
  box.hidden = !text;
}

async function act(path, content) {
  try {
    await ask(path, content);
    notice("");
  } catch (error) {
    notice(error.name === "TimeoutError" ? "The device does not answer." : error.message);
  }
  await refresh();
}

// --- what is shown ---

function showStatus() {
  const { statistics, paused, view } = state;
  const pill = at("status");
  let text = "Sorting", look = "sorting";
  if (paused) [text, look] = ["Paused", "paused"];
  else if (view && view.age_s > 3) [text, look] = [`No frame for ${duration(view.age_s)}`, "lost"];
  else if (statistics.since_last_s === null) [text, look] = ["Waiting for the first marble", ""];
  else if (statistics.since_last_s > 10) [text, look] = [`No marble for ${duration(statistics.since_last_s)}`, ""];
  pill.className = `pill ${look}`;
  set("status", text);
}

function showCounts() {
  const now = state.statistics;
  set("marbles", now.marbles.toLocaleString("en"));
  for (const [name, count] of Object.entries(now.verdicts)) {
    set(`count-${name}`, count.toLocaleString("en"));
    at("bar").querySelector(`.${name}`).style.flexGrow = count;
  }
  set("rate", now.marbles_per_min.toFixed(now.marbles_per_min < 10 ? 1 : 0));
  set("share-uncertain", now.share_uncertain === null ? "–" : percent(now.share_uncertain));
  set("errors", now.errors.toLocaleString("en"));
  set("uptime", duration(now.uptime_s));
  for (const [name, times] of [["path", now.latency_ms], ["inference", now.inference_ms]]) {
    for (const rank of ["p50", "p95", "p99"]) set(`${name}-${rank}`, times ? times[rank].toFixed(1) : "–");
  }
}

function showView() {
  const { view, about } = state;
  at("no-view").hidden = Boolean(view);
  at("region").style.display = view && view.region ? "" : "none";
  if (!view) return set("view-facts", about.camera);
  at("region").setAttribute("viewBox", `0 0 ${view.width} ${view.height}`);
  if (view.region) {
    const [x, y, width, height] = view.region;
    for (const rect of at("region").querySelectorAll("rect")) {
      for (const [key, value] of Object.entries({ x, y, width, height })) rect.setAttribute(key, value);
    }
  }
  const looks = view.region ? "the model looks at the dashed part" : "the model looks at the whole picture";
  set("view-facts", `${view.width} × ${view.height} pixels, ${view.frames_per_s.toFixed(0)} frames a second; ${looks}`);
}

function card(marble) {
  const item = element("li", marble.outcome === "empty" ? "empty" : marble.verdict);
  item.dataset.number = marble.number;
  const box = element("div", "thumbnail");
  if (marble.picture) {
    const image = element("img");
    image.alt = `Marble ${marble.number}`;
    image.src = `/thumbnail.jpg?number=${marble.number}&run=${state.run}`;
    image.addEventListener("error", () => box.replaceChildren(element("span", "", "no picture")));
    box.append(image);
  } else box.append(element("span", "", "no picture"));
  const text = element("div", "text");
  const verdict = element("div", "verdict");
  const empty = marble.outcome === "empty";
  const mark = element("span", "mark", empty ? "○" : MARKS[marble.verdict]);
  mark.setAttribute("aria-hidden", "true");
  verdict.append(mark, empty ? "Empty slot" : NAMES[marble.verdict]);
  text.append(verdict);
  if (marble.probability_of_ok !== null) {
    text.append(element("div", "", `${percent(marble.probability_of_ok)} OK`));
    const meter = svg("svg", { class: "meter", viewBox: "0 0 100 5", preserveAspectRatio: "none", "aria-hidden": "true" });
    meter.append(svg("rect", { width: marble.probability_of_ok * 100, height: 5 }));
    text.append(meter);
  }
  if (marble.outcome === "two") text.append(element("div", "soft", "more than one marble"));
  if (marble.novelty > 1) text.append(element("div", "soft", "unlike anything in training"));
  if (marble.error) text.append(element("div", "error", marble.error));
  text.append(element("div", "soft when"), element("div", "corrected"));
  item.append(box, text);
  if (state.can_correct && marble.probability) {
    const button = element("button", "", "Correct");
    button.type = "button";
    button.setAttribute("aria-label", `Correct marble ${marble.number}`);
    button.addEventListener("click", () => openCorrection(marble));
    item.append(button);
  }
  return item;
}

function showMarbles() {
  const list = at("latest");
  const old = new Map([...list.children].map((item) => [item.dataset.number, item]));
  if (!held) {
    const items = state.marbles.map((marble) => old.get(String(marble.number)) ?? card(marble));
    // A button that has the focus must not leave the page under the finger.
    const focused = [...old.values()].find((item) => item.contains(document.activeElement));
    if (focused && !items.includes(focused)) items[items.length - 1] = focused;
    if (items.some((item, index) => list.children[index] !== item) || items.length !== list.children.length) {
      const active = document.activeElement;
      list.replaceChildren(...items);
      if (focused) active.focus({ preventScroll: true });
    }
  }
  for (const marble of state.marbles) {
    const item = list.querySelector(`[data-number="${marble.number}"]`);
    if (!item) continue;
    item.querySelector(".when").textContent = `no. ${marble.number}, ${ago(marble.ago_s)}`;
    item.querySelector(".corrected").textContent = marble.correction ? `you said ${marble.correction}` : "";
  }
  at("no-marbles").hidden = list.children.length > 0;
}

function showCharts() {
  const { statistics, about } = state;
  const total = statistics.probability_of_ok.reduce((sum, count) => sum + count, 0);
  drawConfidence(at("confidence"), statistics.probability_of_ok, about);
  const thresholds = `KO below ${percent(about.ko_threshold)}, OK from ${percent(about.ok_threshold)}`;
  const confidence = `The latest ${total} marbles by the probability of being OK; dashed: ${thresholds}.`;
  at("confidence").setAttribute("aria-label", confidence);
  set("confidence-caption", confidence);
  const drift = statistics[span], canTell = statistics.novelty !== null;
  drawDrift(at("drift"), drift, statistics.uptime_s, drift.step_s * (span === "hour" ? 60 : 168), canTell);
  at("unlike-key").hidden = !canTell;
  const uncertain = statistics.share_uncertain === null ? "no marbles yet" : `${percent(statistics.share_uncertain)} uncertain`;
  const unlike = canTell
    ? `, ${percent(statistics.share_unlike)} unlike training (mean novelty ${statistics.novelty.toFixed(2)}; beyond 1 is new)`
    : "; this model cannot tell what is unlike its training photos";
  set("drift-caption", `Lately ${uncertain}${unlike}.`);
  at("drift").setAttribute("aria-label", at("drift-caption").textContent);
}

function rows(id, entries) {
  const list = at(id), wanted = entries.flat();
  if (list.children.length !== wanted.length) {
    list.replaceChildren(...entries.flatMap(() => [element("dt"), element("dd")]));
  }
  wanted.forEach((text, index) => {
    if (list.children[index].textContent !== text) list.children[index].textContent = text;
  });
}

function showFacts() {
  const { about, events, machine } = state;
  const happened = Object.entries(events).filter(([, count]) => count > 0);
  rows("events", happened.map(([name, count]) => [name.replaceAll("_", " "), count.toLocaleString("en")]));
  at("no-events").hidden = happened.length > 0;
  const facts = [
    ["Model", `${about.name}, version ${about.version}`],
    ["Digest", about.digest.slice(0, 16)],
    ["Labels", about.labels.map((label) => (about.ok_labels.includes(label) ? `${label} (good)` : label)).join(", ")],
    ["Camera", about.camera],
    ["Gate", about.gate],
    ["Device", `${about.device}, okko ${about.okko}`],
  ];
  if (machine.memory_bytes !== null) facts.push(["Memory", `${(machine.memory_bytes / 1e6).toFixed(0)} MB`]);
  if (machine.temperature_celsius !== null) facts.push(["Temperature", `${machine.temperature_celsius.toFixed(1)} °C`]);
  rows("facts", facts);
  set("model", `${about.name} on ${about.device}`);
  document.title = `okko: ${about.name} on ${about.device}`;
}

function showControls() {
  at("pause").disabled = false;
  set("pause", state.paused ? "Resume" : "Pause");
  at("pause").classList.toggle("primary", state.paused);
  at("logout").hidden = !state.has_password;
  at("gate").disabled = !state.paused;
  set("gate-caption", state.paused ? "Stand clear: the gate moves." : "Only while paused.");
}

// --- correcting ---

function openCorrection(marble) {
  correcting = { run: state.run, number: marble.number };
  set("correction-title", `Marble ${marble.number}`);
  set("correction-problem", "");
  at("correction-picture").hidden = false;
  at("correction-picture").src = `/marble.jpg?number=${marble.number}&run=${state.run}`;
  const sure = marble.probability_of_ok === null ? "" : `; it took OK for ${percent(marble.probability_of_ok)} likely`;
  set("correction-said", `The model said ${NAMES[marble.verdict]}${sure}.`);
  at("correction-labels").replaceChildren(
    ...state.about.labels.map((label) => {
      const choice = element("label");
      const radio = element("input");
      Object.assign(radio, { type: "radio", name: "label", value: label, checked: label === marble.correction });
      choice.append(radio, label);
      return choice;
    }),
  );
  at("correction").showModal();
}

async function saveCorrection() {
  const chosen = at("correction-labels").querySelector("input:checked");
  if (!chosen) return set("correction-problem", "Choose a label first.");
  try {
    await ask("/correct", { ...correcting, label: chosen.value });
    at("correction").close();
    notice(`Marble ${correcting.number} is ${chosen.value}: saved for the next training.`);
  } catch (error) {
    set("correction-problem", error.message);
  }
  await refresh();
}

// --- news ---

async function refresh() {
  try {
    const news = await ask(held ? "/state?hold=1" : "/state");
    if (state && news.run !== state.run) at("latest").replaceChildren();
    state = news;
  } catch {
    at("status").className = "pill lost";
    set("status", "No connection to the device");
    at("pause").disabled = at("gate").disabled = true;
    return;
  }
  for (const show of [showStatus, showCounts, showView, showMarbles, showCharts, showFacts, showControls]) show();
}

async function follow() {
  if (!document.hidden) await refresh();
  setTimeout(follow, NEWS_MS);
}

// The next picture is asked for when the last one is there: a slow network gets fewer, never a queue of them.
function watch(image) {
  const next = (wait) => setTimeout(() => {
    if (document.hidden || !state || !state.view) return next(NEWS_MS);
    image.src = `/live.jpg?${Date.now()}`;
  }, wait);
  image.addEventListener("load", () => next(LIVE_MS));
  image.addEventListener("error", () => next(LONG_MS));
  next(0);
}

at("pause").addEventListener("click", () => act(state.paused ? "/resume" : "/pause", {}));
at("logout").addEventListener("click", async () => { await act("/logout", {}); location.replace("/login"); });
at("gate").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) act("/gate", { verdict: button.dataset.verdict });
});
at("hold").addEventListener("click", () => {
  held = !held;
  at("hold").setAttribute("aria-pressed", String(held));
  refresh();
});
for (const name of ["hour", "week"]) {
  at(name).addEventListener("click", () => {
    span = name;
    for (const other of ["hour", "week"]) at(other).setAttribute("aria-pressed", String(other === name));
    if (state) showCharts();
  });
}
at("correction-picture").addEventListener("error", () => {
  at("correction-picture").hidden = true;
  set("correction-problem", "There is no picture of this marble any more.");
});
at("correction-save").addEventListener("click", saveCorrection);
at("correction-labels").addEventListener("change", () => set("correction-problem", ""));
follow();
watch(at("live"));
