"use strict";
// Draws the plots from the JSON beside it. No library, no network; drawn again when the width changes.
const data = JSON.parse(document.getElementById("data").textContent);
const loops = [["cpp", "C++"], ["python", "Python"]];

function element(name, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

function duration(ms) {
  if (ms === null) return "–";
  const digits = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2))
    .replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  if (ms < 1) return `${digits(ms * 1e3)} µs`;
  return ms < 1000 ? `${digits(ms)} ms` : `${digits(ms / 1e3)} s`;
}

const logarithmic = (low, high, from, to) => (value) =>
  from + ((Math.log10(Math.max(value, low)) - Math.log10(low)) / (Math.log10(high) - Math.log10(low))) * (to - from);
const linear = (low, high, from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);

function decades(low, high) {
  const values = [];
  for (let e = Math.ceil(Math.log10(low) - 1e-9); e <= Math.log10(high) + 1e-9; e++) values.push(10 ** e);
  return values;
}

// At most `count` round steps.
function steps(low, high, count) {
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((k) => k >= raw);
  const values = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) {
    values.push(Math.round(value * 1e6) / 1e6);
  }
  return values;
}

function frame(place, height, margin, label) {
  const width = Math.max(240, place.clientWidth);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label }, place);
  return { svg, width, height, left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
}

function xAxis(area, ticks, x, label) {
  element("line", { class: "axis", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom }, area.svg);
  for (const [value, text] of ticks) {
    element("line", { class: "axis", x1: x(value), x2: x(value), y1: area.bottom, y2: area.bottom + 5 }, area.svg);
    element("text", { x: x(value), y: area.bottom + 18, "text-anchor": "middle" }, area.svg, text);
  }
  if (label) element("text", { x: area.right, y: area.bottom + 34, "text-anchor": "end" }, area.svg, label);
}

function yAxis(area, ticks, y, label) {
  for (const [value, text] of ticks) {
    element("line", { class: "axis", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }, area.svg);
    element("text", { x: area.left - 6, y: y(value) + 4, "text-anchor": "end" }, area.svg, text);
  }
  if (label) element("text", { x: area.left - 6, y: area.top - 10, "text-anchor": "start" }, area.svg, label);
}

// Follows the pointer with the text that `describe(x)` gives.
function tooltip(place, area, describe) {
  const tip = document.createElement("div");
  tip.className = "tip";
  place.appendChild(tip);
  const cursor = element("line", { class: "axis", y1: area.top, y2: area.bottom, visibility: "hidden" }, area.svg);
  place.onpointermove = (event) => {
    const x = event.clientX - place.getBoundingClientRect().left;
    const text = x >= area.left && x <= area.right ? describe(x) : "";
    tip.style.display = text ? "block" : "none";
    cursor.setAttribute("visibility", text ? "visible" : "hidden");
    if (!text) return;
    tip.textContent = text;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    tip.style.left = `${Math.min(x + 12, Math.max(0, area.width - tip.offsetWidth))}px`;
  };
  place.onpointerleave = () => {
    tip.style.display = "none";
    cursor.setAttribute("visibility", "hidden");
  };
}

function drawHistogram(place) {
  const area = frame(place, 312, { left: 52, right: 12, top: 52, bottom: 44 }, "histogram of the period error");
  const edges = data.histogram.cpp.edges_us;
  let last = 0, most = 1;
  for (const [name] of loops) {
    data.histogram[name].counts.forEach((count, i) => {
      if (count) last = Math.max(last, i);
      most = Math.max(most, count);
    });
  }
  const low = edges[0] / 10 ** 0.1, high = Math.max(edges[Math.min(last + 1, edges.length - 1)], data.period_ms * 1500);
  const x = logarithmic(low, high, area.left, area.right);
  const top = 10 ** Math.ceil(Math.log10(most * 1.01));
  const y = logarithmic(0.5, top, area.bottom, area.top);
  yAxis(area, decades(1, top).map((value) => [value, String(value)]), y, "ticks");
  xAxis(area, decades(1, high).map((value) => [value, duration(value / 1e3)]), x, "period error");
  for (const [name] of loops) {
    let path = `M${x(low)},${area.bottom}`;
    data.histogram[name].counts.slice(0, last + 1).forEach((count, i) => {
      const from = i === 0 ? low : edges[i - 1], height = count ? y(count) : area.bottom;
      path += `L${x(from).toFixed(1)},${height.toFixed(1)}L${x(edges[i]).toFixed(1)},${height.toFixed(1)}`;
    });
    element("path", { class: `area ${name}`, d: `${path}L${x(edges[last]).toFixed(1)},${area.bottom}Z` }, area.svg);
  }
  const marks = [["neutral", data.period_ms, `period ${duration(data.period_ms)}`]];
  for (const [name, label] of loops) marks.push([name, data.p99_ms[name], `${label} p99 ${duration(data.p99_ms[name])}`]);
  // Labels in rows of their own above the plot, so that marks close to each other stay readable.
  marks.forEach(([name, ms, text], row) => {
    const at = x(ms * 1e3), end = at > area.width - 150;
    const height = area.top - 38 + 13 * row;
    element("line", { class: `mark ${name}`, x1: at, x2: at, y1: height - 8, y2: area.bottom }, area.svg);
    element("text", { class: name === "neutral" ? "" : name, x: end ? at - 5 : at + 5, y: height, "text-anchor": end ? "end" : "start" }, area.svg, text);
  });
  tooltip(place, area, (pixel) => {
    const us = 10 ** (Math.log10(low) + ((pixel - area.left) / (area.right - area.left)) * Math.log10(high / low));
    const i = Math.max(0, edges.findIndex((edge) => us < edge));
    return `up to ${duration(edges[i] / 1e3)}: ` + loops.map(([name, label]) => `${label} ${data.histogram[name].counts[i]}`).join(", ");
  });
}

function drawTimeline(place) {
  const area = frame(place, 280, { left: 52, right: 12, top: 24, bottom: 44 }, "period error over time");
  const values = loops.flatMap(([name]) => data.timeline[name].max_ms).filter((value) => value !== null);
  const low = 10 ** Math.floor(Math.log10(Math.max(1e-3, Math.min(...values))));
  const high = 10 ** Math.ceil(Math.log10(Math.max(data.period_ms, ...values) * 1.01));
  const x = linear(0, data.duration_s, area.left, area.right);
  const y = logarithmic(low, high, area.bottom, area.top);
  yAxis(area, decades(low, high).map((value) => [value, duration(value)]), y, "");
  xAxis(area, steps(0, data.duration_s, area.width < 500 ? 5 : 10).map((value) => [value, `${value}`]), x, "seconds");
  for (const [begin, length] of data.calls) {
    element("rect", { class: "bar policy", x: x(begin), y: area.bottom - 5, width: Math.max(1, x(Math.min(begin + length, data.duration_s)) - x(begin) - 0.5), height: 5 }, area.svg);
  }
  // As many points as pixels, at most: the largest of those that share one.
  const width = data.timeline.cpp.width_s, bins = Math.max(1, Math.ceil(data.timeline.cpp.max_ms.length / ((area.right - area.left) / 2)));
  for (const [name] of [...loops].reverse()) {
    let path = "";
    for (let i = 0; i < data.timeline[name].max_ms.length; i += bins) {
      const here = data.timeline[name].max_ms.slice(i, i + bins).filter((value) => value !== null);
      if (!here.length) continue;
      path += `${path ? "L" : "M"}${x((i + bins / 2) * width).toFixed(1)},${y(Math.max(...here)).toFixed(1)}`;
    }
    element("path", { class: `line ${name}`, d: path || "M0,0" }, area.svg);
  }
  element("line", { class: "mark neutral", x1: area.left, x2: area.right, y1: y(data.period_ms), y2: y(data.period_ms) }, area.svg);
  element("text", { x: area.right, y: area.top - 8, "text-anchor": "end" }, area.svg,
    `dashed: the period, ${duration(data.period_ms)}${data.calls.length ? "; below: the policy's calls" : ""}`);
  tooltip(place, area, (pixel) => {
    const seconds = ((pixel - area.left) / (area.right - area.left)) * data.duration_s;
    const i = Math.min(data.timeline.cpp.max_ms.length - 1, Math.floor(seconds / width));
    return `${seconds.toFixed(2)} s: ` + loops.map(([name, label]) => `${label} ${duration(data.timeline[name].max_ms[i])}`).join(", ");
  });
}

function drawWaterfall(place) {
  const rowHeight = 24, kinds = ["cpp", "python", "policy"];
  data.waterfall.forEach((group, index) => {
    const narrow = place.clientWidth < 560;
    const area = frame(place, 62 + rowHeight * group.rows.length, { left: 84, right: narrow ? 16 : 190, top: 26, bottom: 34 }, `stages: ${group.title}`);
    const total = group.rows.reduce((sum, row) => sum + row.p50_ms, 0) || 1e-3;
    const furthest = Math.max(...group.rows.map((row) => row.begin_ms + row.p99_ms), total);
    const high = Math.min(furthest, 3 * total) * 1.02;
    const x = linear(0, high, area.left, area.right);
    element("text", { class: "strong", x: 0, y: 14 }, area.svg, `${group.title}: median ${duration(total)}`);
    xAxis(area, steps(0, high, narrow ? 3 : 6).map((value) => [value, value ? duration(value) : "0"]), x, "");
    group.rows.forEach((row, i) => {
      const y = area.top + i * rowHeight + 4, middle = y + 8;
      element("text", { x: area.left - 8, y: middle + 4, "text-anchor": "end" }, area.svg, row.name);
      element("rect", { class: `bar ${kinds[index]}`, x: x(row.begin_ms), y, width: Math.max(1.5, x(row.begin_ms + row.p50_ms) - x(row.begin_ms)), height: 16 }, area.svg);
      const end = row.begin_ms + row.p99_ms, to = Math.min(x(end), area.right);
      element("line", { class: kinds[index], x1: x(row.begin_ms + row.p50_ms), x2: to, y1: middle, y2: middle, "stroke-width": 1.5 }, area.svg);
      if (end > high) element("path", { class: `line ${kinds[index]}`, d: `M${to - 6},${middle - 5}L${to},${middle}L${to - 6},${middle + 5}` }, area.svg);
      const label = `p50 ${duration(row.p50_ms)}, p99 ${duration(row.p99_ms)}`;
      if (narrow) element("title", {}, area.svg.lastChild, label);
      else element("text", { x: area.right + 10, y: middle + 4 }, area.svg, label);
    });
  });
}

function drawTracking(place) {
  const { joints } = data.tracking;
  joints.forEach((joint, k) => {
    const cell = document.createElement("div");
    place.appendChild(cell);
    const area = frame(cell, 150, { left: 40, right: 8, top: 24, bottom: 24 }, `tracking of ${joint}`);
    const all = loops.flatMap(([name]) => [...data.tracking[name].target[k], ...data.tracking[name].measured[k]]);
    let low = Math.min(...all), high = Math.max(...all);
    const room = Math.max(0.08 * (high - low), 0.5);
    [low, high] = [low - room, high + room];
    const x = linear(0, data.duration_s, area.left, area.right), y = linear(low, high, area.bottom, area.top);
    element("text", { class: "strong", x: area.left, y: 14 }, area.svg, joint);
    yAxis(area, steps(low, high, 4).map((value) => [value, String(value)]), y, "");
    xAxis(area, steps(0, data.duration_s, 4).map((value) => [value, String(value)]), x, "");
    for (const [name] of [...loops].reverse()) {
      for (const kind of ["target", "measured"]) {
        const { s } = data.tracking[name];
        const path = s.map((second, i) => `${i ? "L" : "M"}${x(second).toFixed(1)},${y(data.tracking[name][kind][k][i]).toFixed(1)}`).join("");
        element("path", { class: `line ${name}${kind === "target" ? " dashed" : ""}`, d: path || "M0,0" }, area.svg);
      }
    }
  });
}

const plots = { histogram: drawHistogram, timeline: drawTimeline, waterfall: drawWaterfall, tracking: drawTracking };

function draw() {
  for (const [name, plot] of Object.entries(plots)) {
    const place = document.getElementById(name);
    place.replaceChildren();
    plot(place);
  }
}

let drawnWidth = 0;
new ResizeObserver(() => {
  const width = document.getElementById("histogram").clientWidth;
  if (width !== drawnWidth) {
    drawnWidth = width;
    draw();
  }
}).observe(document.body);
drawnWidth = document.getElementById("histogram").clientWidth;
draw();
