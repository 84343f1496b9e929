// Reads the page again every two seconds, puts what is live in the place of what was, and draws what has changed meanwhile.
// The server renders it all; what it sends is never run.

const EVERY = 2000; // milliseconds
const PATIENCE = 5000;
const KEPT = 150; // samples: five minutes

const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });

let token = ""; // in memory only
let isPaused = false;

// ---- reading again

async function readAgain() {
  if (!isPaused && !document.hidden) {
    try {
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      const signal = AbortSignal.timeout(PATIENCE);
      const answer = await fetch("/", { headers, signal, cache: "no-store" });
      if (!answer.ok) throw new Error(`it answers ${answer.status}`);
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      tell(byId("lost"), "");
      sample();
    } catch (error) {
      const reason = error.name === "TimeoutError" ? "it takes too long to answer" : error.message;
      tell(byId("lost"), `The gateway cannot be read: ${reason}. What stands here is as of ${byId("as-of").textContent}.`);
    }
  }
  setTimeout(readAgain, EVERY);
}

function replace(page) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = page.getElementById(part.id);
    if (next && next.innerHTML !== part.innerHTML) part.replaceChildren(...next.childNodes);
  }
}

function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

// ---- charts

const samples = [];
const charts = {
  requests: { draw: drawRequests, title: "Requests a second by result" },
  latency: { draw: drawLatency, title: "Mean latency of the calls that ended in each two seconds" },
  budget: { draw: drawBudget, title: "Calls that are left of the day" },
};

/** Remembers the figures of the page as it is now. */
function sample() {
  const now = { at: performance.now() / 1000, limits: {} };
  for (const kind in charts) {
    now[kind] = {};
    for (const cell of document.querySelectorAll(`[data-chart=${kind}] [data-name]`)) {
      now[kind][cell.dataset.name] = Number(cell.dataset.value);
      if (cell.dataset.limit) now.limits[cell.dataset.name] = Number(cell.dataset.limit);
    }
  }
  const before = samples.at(-1);
  const isRestarted = before && Object.entries(now.requests).some(([name, value]) => value < before.requests[name]);
  if (isRestarted) samples.length = 0;
  samples.push(now);
  if (samples.length > KEPT + 1) samples.shift();
  for (const kind in charts) {
    const chart = charts[kind];
    chart.svg ??= begin(kind);
    chart.draw(chart);
  }
}

function begin(kind) {
  const svg = element("svg", { class: "chart", role: "img" });
  document.querySelector(`[data-chart=${kind}] table`).before(svg);
  return svg;
}

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text) made.textContent = text;
  return made;
}

/** Two neighbouring samples each: what has happened between them. */
function intervals(kind) {
  return samples.slice(1).map((now, index) => {
    const before = samples[index];
    const changes = {};
    for (const name in now[kind]) changes[name] = now[kind][name] - (before[kind][name] ?? 0);
    return { seconds: now.at - before.at, age: samples.at(-1).at - now.at, changes };
  });
}

/** The ground of a chart, and how its values become places on it. */
function plane(chart, most, unit, now) {
  const { width, height } = chart.svg.getBoundingClientRect();
  const [left, bottom, top] = [2, height - 16, 16];
  const span = (KEPT * EVERY) / 1000;
  chart.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.svg.setAttribute("aria-label", `${chart.title}: now ${now}`);
  chart.svg.replaceChildren(
    element("line", { class: "grid", x1: left, x2: width - 2, y1: top, y2: top }),
    element("line", { class: "grid", x1: left, x2: width - 2, y1: bottom, y2: bottom }),
    element("text", { x: left, y: top - 4 }, `${number(most)}${unit}`),
    element("text", { x: width - 2, y: top - 4, "text-anchor": "end" }, `now ${now}`),
    element("text", { x: left, y: height - 3 }, "5 min ago"),
    element("text", { x: width - 2, y: height - 3, "text-anchor": "end" }, "now"),
  );
  return {
    x: (age) => width - 2 - (age / span) * (width - 4),
    y: (value) => bottom - (value / most) * (bottom - top),
  };
}

/** A round number that is at least as large. */
function round(value) {
  const unit = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= value) ?? value;
}

function drawRequests(chart) {
  const rates = intervals("requests").map(({ seconds, age, changes }) => {
    const parts = Object.entries(changes).map(([name, value]) => [name, value / seconds]);
    return { seconds, age, parts, sum: parts.reduce((sum, [, rate]) => sum + rate, 0) };
  });
  const most = round(Math.max(1, ...rates.map(({ sum }) => sum)));
  const { x, y } = plane(chart, most, "/s", `${number(rates.at(-1)?.sum ?? 0)}/s`);
  for (const { seconds, age, parts } of rates) {
    let sum = 0;
    for (const [name, rate] of parts.filter(([, rate]) => rate > 0)) {
      const [start, end] = [x(age + seconds), x(age)];
      const box = { x: start, width: Math.max(1, end - start - 0.5), y: y(sum + rate), height: y(sum) - y(sum + rate) };
      chart.svg.append(element("rect", { class: name, ...box }));
      sum += rate;
    }
  }
}

function drawLatency(chart) {
  const means = intervals("latency")
    .filter(({ changes }) => changes.calls > 0)
    .map(({ age, changes }) => ({ age, mean: changes.seconds / changes.calls }));
  const most = round(Math.max(0.001, ...means.map(({ mean }) => mean)));
  const last = means.at(-1);
  const { x, y } = plane(chart, most, " s", last ? `${number(last.mean)} s` : "no call yet");
  chart.svg.append(line("latency", means.map(({ age, mean }) => [x(age), y(mean)])));
  for (const { age, mean } of means) chart.svg.append(element("circle", { cx: x(age), cy: y(mean), r: 2.5 }));
}

function drawBudget(chart) {
  const limit = samples.at(-1).limits.day;
  const left = samples.at(-1).budget.day;
  const { x, y } = plane(chart, limit ?? 1, "", limit ? number(left) : "no limit of a day");
  for (const name of limit ? ["day", "day_queries"] : []) {
    const points = samples.filter(({ budget }) => name in budget);
    chart.svg.append(line(name, points.map(({ at, budget }) => [x(samples.at(-1).at - at), y(budget[name])])));
  }
}

function line(name, points) {
  const path = points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  return element("path", { class: name, d: path });
}

// ---- pausing

const pause = byId("pause");
pause.hidden = false;
pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.setAttribute("aria-pressed", isPaused);
});

// ---- explaining

const form = byId("explain");
if (form) form.hidden = false;
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { path, tenant, language, body } = form.elements;
  token = form.elements.token?.value.trim() ?? "";
  const headers = { "Content-Type": "application/json", "Accept-Language": language.value }; // not the browser's own
  if (tenant.value) headers["X-Linksfield-Tenant"] = tenant.value;
  if (token) headers.Authorization = `Bearer ${token}`;
  try {
    const url = `/explain?path=${path.value.replaceAll("#", "%23")}`;
    const answer = await fetch(url, { method: "POST", headers, body: body.value, signal: AbortSignal.timeout(PATIENCE) });
    const text = await answer.text();
    const isOfToken = answer.status === 401;
    if (isOfToken) form.elements.token?.focus();
    const summary = isOfToken ? "This needs the admin token." : summaryOf(answer, text);
    show(summary, answer.ok, isOfToken ? "" : text);
  } catch (error) {
    show(`The gateway cannot be asked: ${error.message}`, false, "");
  }
});

function summaryOf(answer, text) {
  if (!answer.headers.get("content-type").includes("json")) return text.trim();
  const said = JSON.parse(text);
  return answer.ok ? `${said.result}: ${said.reason}` : `${said.code}: ${said.detail}`;
}

function show(summary, isGood, details) {
  const verdict = document.createElement("p");
  verdict.className = `concern ${isGood ? "good" : "bad"}`;
  verdict.textContent = summary;
  const parts = [verdict];
  if (details) {
    const pre = document.createElement("pre");
    pre.tabIndex = 0;
    pre.textContent = details;
    parts.push(pre);
  }
  byId("explained").replaceChildren(...parts);
}

sample();
setTimeout(readAgain, EVERY);
