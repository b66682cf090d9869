"use strict";
// Draws the two charts into SVG elements that are there; numbers in, nothing fetched, nothing kept.

const WIDTH = 480, HEIGHT = 190, LEFT = 48, RIGHT = 8, TOP = 14, BOTTOM = 24;
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function percent(share) {
  const value = share * 100;
  return `${value > 0 && value < 9.95 ? value.toFixed(1) : Math.round(value)}\u00a0%`;
}

const across = (share) => LEFT + share * (WIDTH - LEFT - RIGHT);
const up = (share) => HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);

function axis(parts, ticks, label) {
  for (const [share, text] of ticks) {
    parts.push(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: up(share), y2: up(share) }));
    parts.push(svg("text", { x: LEFT - 6, y: up(share) + 4, "text-anchor": "end" }, text));
  }
  for (const [share, text, anchor] of label) {
    parts.push(svg("text", { x: across(share), y: HEIGHT - 6, "text-anchor": anchor }, text));
  }
}

// Bars by the probability of OK, coloured by the verdict that their middle leads to; the thresholds as lines.
function drawConfidence(chart, bins, about) {
  const most = Math.max(1, ...bins), parts = [], step = 1 / bins.length;
  axis(parts, [[0, "0"], [1, String(most)]], [[0, "surely KO", "start"], [1, "surely OK", "end"]]);
  bins.forEach((count, index) => {
    const middle = (index + 0.5) * step;
    const verdict = middle >= about.ok_threshold ? "OK" : middle >= about.ko_threshold ? "UNCERTAIN" : "KO";
    const height = count ? Math.max(2, up(0) - up(count / most)) : 0;
    const x = across(index * step) + 1, width = across(step) - across(0) - 2;
    parts.push(svg("rect", { class: verdict, x, y: up(0) - height, width, height, rx: 2 }));
  });
  for (const share of new Set([about.ko_threshold, about.ok_threshold])) {
    parts.push(svg("line", { class: "threshold", x1: across(share), x2: across(share), y1: TOP - 8, y2: up(0) }));
  }
  chart.replaceChildren(...parts);
}

// Shares over time; a stretch without marbles is a gap, not a zero.
function drawDrift(chart, drift, uptime, span, canTell) {
  const parts = [], start = Math.max(0, uptime - span), end = Math.max(uptime, drift.step_s);
  const lines = { UNCERTAIN: (period) => period.uncertain / period.marbles };
  if (canTell) lines.unlike = (period) => (period.classified ? period.unlike / period.classified : null);
  const shares = drift.periods.flatMap((period) => Object.values(lines).map((of) => of(period) ?? 0));
  const top = [0.05, 0.1, 0.25, 0.5].find((limit) => Math.max(0, ...shares) <= limit) ?? 1;
  axis(parts, [[0, "0 %"], [0.5, percent(top / 2)], [1, percent(top)]], [
    [0, ago(uptime - start), "start"],
    [1, "now", "end"],
  ]);
  for (const [name, of] of Object.entries(lines)) {
    let path = "", previous = null;
    for (const period of drift.periods) {
      const share = of(period);
      if (share === null) continue;
      const middle = Math.min(period.start_s + drift.step_s / 2, end);
      const x = across(Math.max(0, (middle - start) / (end - start))), y = up(share / top);
      path += `${previous === period.start_s - drift.step_s ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      previous = period.start_s;
      parts.push(svg("circle", { class: `dot ${name}`, cx: x, cy: y, r: 2.5 }));
    }
    if (path) parts.push(svg("path", { class: `line ${name}`, d: path }));
  }
  chart.replaceChildren(...parts);
}

function duration(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= length) return `${(seconds / length).toFixed(seconds < 10 * length ? 1 : 0)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

function ago(seconds) {
  return seconds < 1 ? "now" : `${duration(seconds)} ago`;
}
