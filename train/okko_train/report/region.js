"use strict";
// The rectangle is kept as shares of the photo: [left, top, width, height]. Everything shown follows from it.
const smallest = 0.01;
const stage = document.querySelector(".stage");
const large = stage.querySelector("img");
const inputs = [...document.querySelectorAll(".numbers input")];
const flag = document.querySelector(".flag > code");
const status = document.querySelector(".flag output");
let part = [0.25, 0.25, 0.5, 0.5];
let corner = null;

const rounded = share => Math.round(share * 1000) / 1000;
const within = (value, low, high) => Math.min(Math.max(value, low), high);

function show() {
  const [x, y, width, height] = part;
  const hole = `M0 0H1V1H0ZM${x} ${y}h${width}v${height}h${-width}Z`;
  for (const path of document.querySelectorAll(".shade")) path.setAttribute("d", hole);
  for (const rect of document.querySelectorAll(".edge")) {
    ["x", "y", "width", "height"].forEach((name, index) => rect.setAttribute(name, part[index]));
  }
  inputs.forEach((input, index) => { if (input !== document.activeElement) input.value = rounded(100 * part[index]); });
  flag.textContent = "--roi " + part.join(",");
  status.textContent = "";
}

// Rounded so that left + width never exceeds 1 in the last digit.
function choose(x, y, width, height) {
  x = rounded(within(x, 0, 1 - smallest));
  y = rounded(within(y, 0, 1 - smallest));
  part = [x, y, rounded(within(width, smallest, 1 - x)), rounded(within(height, smallest, 1 - y))];
  show();
}

function place(event) {
  const box = stage.getBoundingClientRect();
  return [within((event.clientX - box.left) / box.width, 0, 1), within((event.clientY - box.top) / box.height, 0, 1)];
}

stage.addEventListener("pointerdown", event => {
  event.preventDefault();
  document.activeElement.blur();
  if (event.isTrusted) stage.setPointerCapture(event.pointerId);
  corner = place(event);
});
stage.addEventListener("pointermove", event => {
  if (!corner) return;
  const [x, y] = place(event);
  choose(Math.min(x, corner[0]), Math.min(y, corner[1]), Math.abs(x - corner[0]), Math.abs(y - corner[1]));
});
for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, () => { corner = null; });

for (const input of inputs) {
  input.addEventListener("input", () => {
    const shares = inputs.map(each => Number(each.value) / 100);
    if (shares.every(Number.isFinite)) choose(...shares);
  });
  input.addEventListener("change", () => { input.blur(); show(); });
}

for (const button of document.querySelectorAll(".others button")) {
  button.addEventListener("click", () => {
    large.src = button.querySelector("img").src;
    large.alt = button.querySelector("img").alt;
    for (const each of document.querySelectorAll(".others button")) {
      each.setAttribute("aria-pressed", String(each === button));
    }
  });
}

document.querySelector(".flag button").addEventListener("click", async () => {
  getSelection().selectAllChildren(flag);
  try {
    await navigator.clipboard.writeText(flag.textContent);
    status.textContent = "copied";
  } catch {
    status.textContent = "selected; copy it with Ctrl-C";
  }
});

show();
