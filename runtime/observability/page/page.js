"use strict";
// The page reads what Prometheus reads, once a second, and keeps two minutes of it.
const SECONDS = 120, NOW = 5, RECENT = 30;
const COLORS = ["#2f7fd3", "#d9822b", "#2e9e5b", "#a259c4", "#c94f4f", "#4aa6b5"];
const $ = (id) => document.getElementById(id);
const samples = [];
let models = [];

function parse(text) {
  const series = new Map();
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    if (!series.has(found[1])) series.set(found[1], []);
    series.get(found[1]).push({ labels, value: Number(found[3]) });
  }
  return series;
}

const fits = (labels, wanted) => Object.entries(wanted).every(([name, value]) => labels[name] === value);

function total(sample, name, wanted = {}) {
  return (sample.series.get(name) || []).reduce((sum, { labels, value }) => sum + (fits(labels, wanted) ? value : 0), 0);
}

function before(seconds) {
  const last = samples[samples.length - 1];
  return samples.find((sample) => sample.time >= last.time - seconds - 0.5) || last;
}

function gained(name, wanted, seconds) {
  return total(samples[samples.length - 1], name, wanted) - total(before(seconds), name, wanted);
}

function rate(name, wanted, seconds = NOW) {
  const elapsed = samples[samples.length - 1].time - before(seconds).time;
  return elapsed > 0 ? gained(name, wanted, seconds) / elapsed : 0;
}

// Speed-up and acceptance of the latest texts: of what happened lately, or of the whole time where nothing did.
function ratio(above, below, wanted) {
  const last = samples[samples.length - 1];
  const recent = gained(below, wanted, RECENT);
  const whole = total(last, below, wanted);
  if (recent > 0) return gained(above, wanted, RECENT) / recent;
  return whole > 0 ? total(last, above, wanted) / whole : null;
}

function values(name, model, label) {
  const series = samples[samples.length - 1].series.get(name) || [];
  const found = series.filter(({ labels }) => labels.model === model).map(({ labels }) => labels[label]);
  return found.sort((a, b) => a - b);
}

const bytes = (size) => (size >= 2 ** 30 ? `${(size / 2 ** 30).toFixed(1)} GiB` : `${(size / 2 ** 20).toFixed(1)} MiB`);
const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);

function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function number(name, text, unit) {
  const made = element("div", { className: "number" }, [element("b", { textContent: text }), element("span", { textContent: unit })]);
  made.dataset.name = name;
  return made;
}

function bars(title, rows) {
  const made = rows.map(([label, share]) => {
    const bar = element("i");
    bar.style.width = percent(share ?? 0).replace(" ", "");
    return element("div", { className: "row" }, [
      element("span", { textContent: label }),
      element("span", { className: "track" }, [bar]),
      element("span", { className: "share", textContent: percent(share) }),
    ]);
  });
  return element("div", { className: title.toLowerCase().replaceAll(" ", "-") }, [element("h3", { textContent: title }), ...made]);
}

function card(model) {
  const last = samples[samples.length - 1], of = { model };
  const speedup = ratio("s2d_plain_seconds_total", "s2d_decode_seconds_total", of);
  const positions = values("s2d_drafts_per_position_total", model, "position");
  const exits = values("s2d_exit_answers_total", model, "exit");
  const accepted = (position) =>
    ratio("s2d_accepted_tokens_per_position_total", "s2d_drafts_per_position_total", { model, position });
  const recent = gained("s2d_exit_answers_total", of, RECENT) > 0;
  const answers = (wanted) =>
    recent ? gained("s2d_exit_answers_total", wanted, RECENT) : total(last, "s2d_exit_answers_total", wanted);
  const share = (exit) => (answers(of) ? answers({ model, exit }) / answers(of) : null);
  const made = element("article", {}, [
    element("h2", { textContent: model }),
    element("div", { className: "numbers" }, [
      number("running", total(last, "s2d_requests_running", of), "running"),
      number("waiting", total(last, "s2d_requests_waiting", of), "waiting"),
      number("tokens", rate("s2d_generated_tokens_total", of).toFixed(1), "tokens/s"),
      number("acceptance", percent(ratio("s2d_accepted_tokens_total", "s2d_draft_tokens_total", of)), "accepted"),
      number("speedup", speedup === null ? "–" : `${speedup.toFixed(2)}x`, "speed-up"),
      number("cache", bytes(total(last, "s2d_cache_bytes", of)), "cache"),
    ]),
    element("div", { className: "bars" }, [
      bars("Acceptance by position", positions.slice(0, 8).map((position) => [position, accepted(position)])),
      bars("Answers by exit", exits.map((exit) => [`layer ${exit}`, share(exit)])),
    ]),
  ]);
  made.dataset.model = model;
  return made;
}

const plots = {};

function plot(id, read) {
  const data = [samples.map(({ time }) => time), ...models.map((model) => read(model))];
  if (plots[id]) return plots[id].setData(data);
  const ink = getComputedStyle(document.body).color;
  const axis = { stroke: ink, grid: { stroke: "#8884", width: 1 } };
  const series = models.map((label, index) => ({ label, stroke: COLORS[index % COLORS.length], width: 2 }));
  const scales = { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1 || 1)] } };
  const width = $(id).clientWidth || 480;
  plots[id] = new uPlot({ width, height: 190, scales, axes: [axis, axis], series: [{}, ...series] }, data, $(id));
}

function draw() {
  const known = samples[samples.length - 1].series.get("s2d_target_info") || [];
  if (known.length !== models.length) {
    models = known.map(({ labels }) => labels.model);
    $("target").replaceChildren(...models.map((model) => element("option", { textContent: model })));
  }
  $("targets").replaceChildren(...models.map(card));
  const last = samples[samples.length - 1];
  const resident = total(last, "s2d_memory_bytes"), limit = total(last, "s2d_memory_limit_bytes");
  $("memory").textContent = `memory ${bytes(resident)} of ${bytes(limit)}`;
  if (!models.length) return;
  plot("plot-tokens", (model) => samples.map((sample, index) => {
    const earlier = samples[Math.max(0, index - NOW)], seconds = sample.time - earlier.time;
    const tokens = total(sample, "s2d_generated_tokens_total", { model }) - total(earlier, "s2d_generated_tokens_total", { model });
    return seconds > 0 ? tokens / seconds : null;
  }));
  plot("plot-speedup", (model) => samples.map((sample) => total(sample, "s2d_speedup_ratio", { model })));
}

async function read() {
  if (!document.hidden) {
    try {
      const answer = await fetch("metrics", { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      samples.push({ time: Date.now() / 1000, series: parse(await answer.text()) });
      while (samples[0].time < Date.now() / 1000 - SECONDS) samples.shift();
      $("state").textContent = "live";
      draw();
    } catch (error) {
      $("state").textContent = `no answer (${error.message})`;
    }
  }
  setTimeout(read, 1000);
}

// The parts of a server-sent stream, as objects.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function show(part) {
  const drafted = part.pieces.slice(0, part.drafted).join(""), own = part.pieces.slice(part.drafted).join("");
  for (const [className, textContent] of [["accepted", drafted], ["own", own]]) {
    if (textContent) $("text").append(element("span", { className, textContent }));
  }
}

function summarize({ tokens, steps, accepted, draft_tokens, seconds, seed, exact }) {
  const speed = seconds > 0 ? ` at ${(tokens / seconds).toFixed(1)} a second` : "";
  const drafts = draft_tokens ? `, ${accepted} of ${draft_tokens} draft tokens accepted` : "";
  const same = exact ? ", bit-identical to the target alone" : "";
  $("summary").textContent = `${tokens} tokens in ${steps} steps${speed}${drafts}${same}; seed ${seed}`;
}

let stop = null;

async function ask(event) {
  event.preventDefault();
  if (stop) return stop.abort();
  stop = new AbortController();
  $("go").textContent = "Stop";
  $("text").replaceChildren();
  $("summary").textContent = "";
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  const body = JSON.stringify({
    model: $("target").value, prompt: $("prompt").value, stream: true,
    max_tokens: Number($("tokens").value), temperature: Number($("temperature").value),
    speculative: { enabled: $("drafting").checked },
  });
  try {
    const answer = await fetch("live/text", { method: "POST", headers, body, signal: stop.signal });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const part of events(answer)) {
      if (part.error) throw new Error(part.error.message);
      if (part.pieces) show(part);
      else summarize(part);
    }
  } catch (error) {
    $("summary").textContent = error.name === "AbortError" ? "stopped" : error.message;
  }
  stop = null;
  $("go").textContent = "Generate";
}

$("ask").addEventListener("submit", ask);
read();
