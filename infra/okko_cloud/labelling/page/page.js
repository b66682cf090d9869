"use strict";
// Shows one photo after the other and sends what the person says. The next photos are here before they are needed, and
// decisions go out behind the person's back, one after the other. All text goes in by textContent.

const AHEAD = 3, NEWS_MS = 2000, ASK_MS = 30000, KEEP = 40;
const at = (id) => document.getElementById(id);
const session = crypto.randomUUID();

let labels = [];
let photos = []; // shown, then the one that is looked at, then those that come
let here = 0;
let news = null;
let taking = false;
let sending = Promise.resolve();
let shownNumber = null;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function set(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

async function ask(path, content) {
  const answer = await fetch(path, {
    method: "POST", cache: "no-store", signal: AbortSignal.timeout(ASK_MS),
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ who: who(), session, ...content }),
  });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

function why(error) {
  return error instanceof TypeError || error.name === "TimeoutError" ? "okko does not answer. Is it still running?" : error.message;
}

function notice(text) {
  set("notice", text);
  at("notice").hidden = !text;
}

const who = () => at("who").value.trim() || news?.who || "somebody";
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const current = () => photos[here];
const percent = (share) => `${Math.round(100 * share)} %`;
const clock = (unix_s) => {
  const date = new Date(1000 * unix_s), today = new Date().toDateString() === date.toDateString();
  return date.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
};

// --- photos: those that come are fetched and decoded ahead ---

async function fetchPicture(photo) {
  if (photo.problem) return;
  try {
    const answer = await fetch(`/photo?number=${photo.number}`, { signal: AbortSignal.timeout(ASK_MS) });
    if (!answer.ok) throw new Error((await answer.json()).error);
    photo.url = URL.createObjectURL(await answer.blob());
    const image = new Image();
    image.src = photo.url;
    await image.decode();
    photo.ready = true;
  } catch (error) {
    photo.problem = why(error);
  }
  if (photo === current()) show();
}

async function takeMore() {
  const ahead = photos.slice(here).filter((photo) => !photo.label_now && !photo.skipped);
  if (taking || ahead.length > AHEAD) return;
  taking = true;
  try {
    const taken = await ask("/take", { count: AHEAD, holding: ahead.slice(0, 8).map((photo) => photo.number) });
    for (const photo of taken.photos) {
      const known = photos.findIndex((other) => other.number === photo.number);
      // One that was labelled here comes again if somebody else has taken the label back.
      if (known >= here || (photos[known]?.label_now && photos[known].revision >= photo.revision)) continue;
      photos.push(photo);
      fetchPicture(photo);
    }
    forget();
    if (taken.photos.length) show();
  } catch (error) {
    notice(why(error));
  }
  taking = false;
}

function forget() {
  while (here > KEEP) {
    const old = photos.shift();
    if (old.url) URL.revokeObjectURL(old.url);
    here -= 1;
  }
}

// --- what the person says ---

function go(to) {
  here = Math.max(0, Math.min(to, photos.length));
  show();
  takeMore();
}

function onward() {
  let next = here + 1;
  while (next < photos.length && (photos[next].label_now || photos[next].skipped)) next += 1;
  go(next);
}

function send(photo, work) {
  photo.pending = true;
  sending = sending.then(work).catch((error) => {
    photo.label_now = photo.label_sure ?? null;
    notice(`${photo.name}: ${why(error)}`);
  }).then(() => { photo.pending = false; show(); refresh(); });
}

function said(decision) {
  if (decision.undoes) return `${decision.who} took the label back`;
  return `${decision.who} said ${decision.label}`;
}

function overtaken(photo, decision, wish) {
  photo.revision = decision.revision;
  photo.decided = decision;
  photo.label_now = photo.label_sure = decision.undoes ? null : decision.label;
  photo.order = photo.mine = 0;
  notice(`${said(decision)} of ${photo.name} at ${clock(decision.unix_s)}, before you; ${wish} was not stored. To overrule, go back with ←.`);
}

function decide(label) {
  const photo = current();
  if (!photo || photo.problem || !photo.ready) return;
  notice("");
  photo.label_now = label;
  photo.order = performance.now();
  send(photo, async () => {
    const done = await ask("/decide", { number: photo.number, label, revision: photo.revision });
    if (!done.stands) return overtaken(photo, done.decision, `your ${label}`);
    photo.revision = done.decision.revision;
    photo.label_sure = label;
    photo.mine = photo.revision;
    photo.decided = null;
  });
  onward();
}

const canUndo = (photo) => Boolean(photo.order && (photo.label_now || photo.skipped));

function undo() {
  const photo = photos.filter(canUndo).reduce((last, other) => (!last || other.order > last.order ? other : last), null);
  if (!photo) return notice("There is nothing to undo.");
  notice("");
  photo.order = 0;
  const decided = photo.label_now;
  photo.label_now = null;
  photo.skipped = false;
  if (decided) send(photo, async () => {
    if (!photo.mine) return; // it was never stored
    const done = await ask("/undo", { number: photo.number, revision: photo.revision });
    if (!done.stands) return overtaken(photo, done.decision, "your undo");
    photo.revision = done.decision.revision;
    photo.label_sure = null;
    photo.mine = 0;
  });
  go(photos.indexOf(photo));
}

function skip() {
  const photo = current();
  if (!photo) return;
  notice("");
  if (!photo.label_now && !photo.skipped) {
    photo.skipped = true;
    photo.order = performance.now();
    send(photo, () => ask("/skip", { number: photo.number }));
  }
  onward();
}

// --- what is shown ---

function show() {
  const photo = current();
  at("photo").hidden = !photo?.ready;
  if (photo?.ready && shownNumber !== photo.url) at("photo").src = shownNumber = photo.url;
  at("photo").alt = photo ? photo.name : "";
  document.querySelector(".stage").classList.toggle("decided", Boolean(photo?.label_now));
  at("empty").hidden = Boolean(photo?.ready);
  set("empty", empty(photo));
  set("reason", photo ? photo.reason : "");
  set("guess", photo ? guess(photo) : "");
  set("stored", photo ? stored(photo) : "");
  set("said", photo ? history(photo) : "");
  set("name", photo ? photo.name : "");
  for (const button of at("choices").children) {
    button.disabled = !photo?.ready || Boolean(photo.problem);
    button.setAttribute("aria-pressed", String(photo?.label_now === button.dataset.label));
  }
  at("skip").disabled = !photo;
  at("back").disabled = here === 0;
  at("forward").disabled = !(photo && (photo.label_now || photo.skipped) && here < photos.length);
  at("undo").disabled = !photos.some(canUndo);
}

function empty(photo) {
  if (photo?.problem) return `This photo cannot be read: ${photo.problem} It takes no label; skip it.`;
  if (photo) return "Loading";
  if (!news) return "Looking for photos";
  const { looked, photos: all, left } = news.progress;
  const waiting = Object.values(left).reduce((sum, count) => sum + count, 0);
  if (looked < all) return `Looking at the photos: ${looked} of ${all}`;
  if (waiting) return `Nothing is left for you: ${waiting} ${waiting === 1 ? "photo is" : "photos are"} skipped, or others look at them now.`;
  return all ? "Nothing is left to label. Thank you." : "There are no photos here yet.";
}

function guess(photo) {
  const parts = [];
  if (photo.guess) {
    parts.push(`${capital(photo.guess.by)} says ${photo.guess.label}, ${percent(photo.guess.confidence)} sure`);
    if (photo.guess.novelty > 1) parts.push("unlike anything it was trained on");
  }
  return parts.length ? `${parts.join("; ")}.` : "";
}

function stored(photo) {
  const verb = photo.label_now ? "was" : "is";
  return photo.label ? `It ${verb} labelled ${photo.label}.` : `It ${photo.label_now ? "had" : "has"} no label.`;
}

function history(photo) {
  const lines = [];
  if (photo.corrected) lines.push(`At the device somebody said ${photo.corrected}.`);
  if (photo.decided) lines.push(`${said(photo.decided)} at ${clock(photo.decided.unix_s)}.`);
  if (photo.skipped && !photo.label_now) lines.push("You skipped it.");
  if (photo.label_now && photo.order) lines.push(photo.pending ? `Storing ${photo.label_now}` : `You said ${photo.label_now}.`);
  return lines.join(" ");
}

function keyOf(label, others) {
  if (label === "OK") return "O";
  if (label === "KO") return "K";
  const number = others.indexOf(label) + 1;
  return number < 10 ? String(number) : "";
}

function showLabels() {
  const others = labels.filter((label) => label !== "OK" && label !== "KO");
  at("choices").replaceChildren(...labels.map((label) => {
    const button = element("button", label === "OK" || label === "KO" ? label : "", label);
    button.type = "button";
    button.dataset.label = label;
    button.dataset.key = keyOf(label, others);
    if (button.dataset.key) button.append(" ", element("kbd", "", button.dataset.key));
    button.addEventListener("click", () => { button.blur(); decide(label); });
    return button;
  }));
}

function showProgress() {
  const { done, left, looked, photos: all, labels: counts, unlabelled } = news.progress;
  const sum = (counted) => Object.values(counted).reduce((total, count) => total + count, 0);
  const finished = sum(done), waiting = sum(left);
  set("sum", `${finished} done, ${waiting} left`);
  at("bar").style.width = `${(100 * finished) / Math.max(1, finished + waiting)}%`;
  const rows = [...new Set([...Object.keys(left), ...Object.keys(done)])].sort((a, b) => news.reasons.indexOf(a) - news.reasons.indexOf(b));
  at("reasons").replaceChildren(...rows.map((reason) => {
    const row = element("tr"), head = element("th", "", reason);
    head.scope = "row";
    row.append(head, element("td", "", String(done[reason] ?? 0)), element("td", "", String(left[reason] ?? 0)));
    return row;
  }));
  const each = Object.entries(counts).map(([label, count]) => `${label} ${count}`);
  set("counts", [...each, `unlabelled ${unlabelled}`].join(" · ") + (looked < all ? ` · ${looked} of ${all} looked at` : ""));
  set("trouble", news.trouble ?? "");
}

// --- news ---

async function refresh() {
  try {
    const ahead = photos.slice(here).filter((photo) => !photo.label_now && !photo.skipped);
    news = await ask("/news", { holding: ahead.slice(0, 8).map((photo) => photo.number) });
  } catch (error) {
    set("trouble", why(error));
    return;
  }
  set("place", news.place);
  at("who").placeholder = news.who;
  if (String(labels) !== String(news.labels)) {
    labels = news.labels;
    showLabels();
  }
  showProgress();
  show();
  takeMore();
}

async function follow() {
  if (!document.hidden) await refresh();
  setTimeout(follow, NEWS_MS);
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target === at("who")) return;
  const key = event.key.toUpperCase();
  const choice = [...at("choices").children].find((button) => button.dataset.key === key);
  const steps = { S: skip, U: undo, ARROWLEFT: () => go(here - 1), ARROWRIGHT: () => at("forward").disabled || go(here + 1) };
  if (choice) decide(choice.dataset.label);
  else if (steps[key]) steps[key]();
  else return;
  event.preventDefault();
});
for (const [id, step] of [["skip", skip], ["undo", undo], ["back", () => go(here - 1)], ["forward", () => go(here + 1)]]) {
  at(id).addEventListener("click", () => { at(id).blur(); step(); });
}
at("who").value = localStorage.getItem("who") ?? "";
at("who").addEventListener("change", () => { localStorage.setItem("who", at("who").value.trim()); at("who").blur(); });
at("who").addEventListener("keydown", (event) => { if (event.key === "Enter") at("who").blur(); });
addEventListener("beforeunload", (event) => { if (photos.some((photo) => photo.pending)) event.preventDefault(); });
at("notice").addEventListener("click", () => notice(""));
addEventListener("pagehide", () => {
  const body = new Blob([JSON.stringify({ who: who(), session })], { type: "application/json" });
  navigator.sendBeacon("/leave", body);
});
follow();
