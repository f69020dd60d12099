"use strict";
const { abs, ceil, floor, log10, log1p, log2, max, min } = Math;
const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  const space = `http://www.w3.org/${/svg|path|text/.test(name) ? "2000/svg" : "1999/xhtml"}`;
  const element = document.createElementNS(space, name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  element.append(...children);
  return element;
}
const press = (text, onclick, attributes) =>
  Object.assign(make("button", { type: "button", class: "plain", ...attributes }, text), { onclick });

// The theme is that of the system until somebody chooses.
const system = matchMedia("(prefers-color-scheme: dark)");
document.body.prepend(press("Light / dark", () => {
  const chosen = document.documentElement.dataset;
  chosen.theme = (chosen.theme ?? (system.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
}, { id: "theme" }));

// A click on a heading sorts a table: numbers first, then words, then what is no number.
function sortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, at) => {
    const key = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent.trim();
    const rank = (text) => (text === "" || text === "nan" ? 2 : isNaN(text) ? 1 : 0);
    heading.append(press("", () => {
      const sign = heading.ariaSort === "ascending" ? -1 : 1;
      for (const each of headings) each.ariaSort = each === heading ? (sign > 0 ? "ascending" : "descending") : null;
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        return rank(a) - rank(b) || sign * (rank(a) ? a.localeCompare(b) : a - b);
      }));
    }));
    heading.lastChild.append(...[...heading.childNodes].slice(0, -1));
  });
}
document.querySelectorAll("table.sortable").forEach(sortable);

// The panels: histograms of every layer at one step, which one slider chooses.
const [W, H, LEFT, BOTTOM, TOP] = [340, 196, 38, 34, 14];
const RIGHT = W - 6;

async function panels(data) {
  const packed = Uint8Array.from(atob(data.counts), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(stream).arrayBuffer();
  const counts = data.bytes_each === 2 ? new Uint16Array(bytes) : new Uint32Array(bytes);

  const { bins, first, per_octave: per } = data;
  const width = 2 * bins + 3;
  const all = [...Array(2 * bins + 1).keys()];
  const edge = (i) => first * 2 ** floor(i / per) * (1 + (i % per) / per);
  const lower = (bin) => (bin > bins ? edge(bin - bins - 1) : -edge(bins - bin));
  const upper = (bin) => -lower(2 * bins - bin);
  // An axis that is linear around zero and signedLog beyond.
  const signedLog = (x) => Math.sign(x) * (abs(x) < first ? abs(x) / first : 1 + log2(abs(x) / first));

  let offset = 0;
  for (const run of data.runs) {
    run.offsets = run.series.map(() => (offset += run.steps.length * width) - run.steps.length * width);
  }
  const steps = [...new Set(data.runs.flatMap((run) => run.steps))].sort((a, b) => a - b);
  const last = steps.length - 1;
  const several = data.runs.length > 1;
  const dash = (run, term) => (several ? ["", "6 3", "2 2", "8 2 2 2"][run % 4] : data.terms[term].dash);
  const sample = (run, term) => make("svg", { viewBox: "0 0 26 8", "aria-hidden": true },
    make("path", { class: "curve", d: "M0 4H26", stroke: term < 0 ? "currentColor" : `var(--term-${term})`, "stroke-dasharray": dash(run, max(term, 0)) }));

  const host = byId("panels");
  const grid = make("div", { class: "grid" });
  const tick = (label, on, ...icon) => {
    const box = make("input", { type: "checkbox" });
    box.checked = on;
    box.onchange = draw;
    return [box, make("label", {}, box, ...icon, label)];
  };
  function choices(title, names, on, icon = () => []) {
    const boxes = names.map((name, at) => tick(name, on(at), ...icon(at)));
    if (names.length > 1) host.append(make("fieldset", { class: "choices" }, make("legend", {}, title), ...boxes.map((each) => each[1])));
    return (at) => boxes[at][0].checked;
  }
  const slider = make("input", { type: "range", max: last, value: last, "aria-label": "Step" });
  slider.oninput = draw;
  const shown = make("output");
  const [linear, linearLabel] = tick("linear axis", false);
  const [weighted, weightedLabel] = tick("weighted", false);
  weightedLabel.hidden = data.runs.every((run) => run.weights.flat().every((w) => (w ?? 1) === 1));
  let timer = 0;
  const play = press("Play", () => {
    if (timer) return pause();
    if (+slider.value === last) slider.value = 0;
    timer = setInterval(() => { slider.value++; draw(); }, 100);
    play.textContent = "Pause";
    draw();
  });
  function pause() {
    timer = clearInterval(timer);
    play.textContent = "Play";
  }
  host.append(make("div", { class: "controls", role: "group", "aria-label": "Histograms" }, play, slider, shown, linearLabel, weightedLabel));
  const hasTerm = choices("Terms", data.terms.map((t) => t.name), () => true, (at) => [sample(0, at)]);
  const hasRun = choices("Runs", data.runs.map((r) => r.name), (at) => at < 2, (at) => [sample(at, -1)]);
  const hasLayer = choices("Layers", data.layers, (at) => data.shown_layers.includes(at));
  host.append(grid);

  const number = (x) => (x && (abs(x) < 0.01 || abs(x) >= 1e4) ? x.toExponential(1).replace(".0", "") : String(+x.toPrecision(3))).replaceAll("-", "−");
  const tip = byId("tooltip");
  const views = data.layers.map((name) => {
    const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0 });
    const view = { name, svg, box: make("div", { class: "panel" }, make("h4", {}, name), svg), at: bins };
    grid.append(view.box);
    svg.onpointermove = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * W;
      const off = (bin) => abs(view.x((lower(bin) + upper(bin)) / 2) - x);
      tell(view, all.reduce((best, bin) => (off(bin) < off(best) ? bin : best)), event.clientX, event.clientY);
    };
    svg.onpointerleave = svg.onblur = () => (tip.hidden = true);
    svg.onkeydown = (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const { left, top } = svg.getBoundingClientRect();
      tell(view, min(max(view.at + move, 0), 2 * bins), left, top);
      byId("spoken").textContent = tip.textContent;
    };
    return view;
  });

  // Of a run that lacks the chosen step, its latest earlier one.
  function curvesOf(layer) {
    return data.runs.flatMap((run, r) => run.series.flatMap(([term, at], s) => {
      const i = run.steps.findLastIndex((step) => step <= steps[slider.value]);
      if (at !== layer || !hasRun(r) || !hasTerm(term) || i < 0) return [];
      const from = run.offsets[s] + i * width;
      const [bad, zeros, ...row] = counts.subarray(from, from + width);
      row[bins] += zeros;
      const total = row.reduce((a, b) => a + b, bad);
      const weight = weighted.checked ? abs(run.weights[i][term] ?? 1) : 1;
      const name = data.terms[term].name + (several ? `, ${run.name}` : "");
      return total ? [{ r, term, row, bad, zeros, total, weight, name, step: run.steps[i] }] : [];
    }));
  }

  function draw() {
    const isLinear = linear.checked;
    const curves = views.map((_, layer) => (hasLayer(layer) ? curvesOf(layer) : []));
    const most = max(...curves.flat().map((c) => c.weight), 1);
    const end = most * (isLinear ? data.linear_limit : edge(bins));
    const scale = isLinear ? (x) => x : signedLog;
    const x = (v) => LEFT + ((RIGHT - LEFT) * (scale(v) / scale(end) + 1)) / 2;
    const inside = (v) => min(max(x(v), LEFT), RIGHT).toFixed(1);
    views.forEach((view, layer) => {
      view.box.hidden = !hasLayer(layer) || (!curves[layer][0] && curves.some((c) => c[0]));
      view.x = x;
      view.curves = curves[layer];
      for (const curve of view.curves) {
        const size = (bin) => (scale(upper(bin)) - scale(lower(bin))) * (isLinear ? curve.weight : log10(2));
        curve.y = curve.row.map((n, bin) => n / curve.total / size(bin));
      }
      const top = max(...view.curves.flatMap((c) => c.y), 1e-9);
      const share = isLinear ? (v) => log1p((1e5 * v) / top) / log1p(1e5) : (v) => v / top;
      const y = (v) => H - BOTTOM - (H - BOTTOM - TOP - 4) * share(v);
      const text = (x, y, anchor, content) => make("text", { x, y, "text-anchor": anchor }, content);
      const marks = isLinear ? [end / 2, end] : powers(end);
      view.svg.replaceChildren(
        make("path", { class: "axis", d: `M${LEFT} ${TOP}V${H - BOTTOM}H${RIGHT}M${x(0)} ${TOP}V${H - BOTTOM}` }),
        text(LEFT + 4, 9, "start", isLinear ? "density" : "share per decade"),
        text((LEFT + RIGHT) / 2, H - 4, "middle", "gradient entry"),
        ...[...marks.map((v) => -v), 0, ...marks].map((v) => text(min(x(v), W - 16), H - 19, "middle", number(v))),
        ...[1, isLinear ? 1e-2 : 0.5].map((v) => text(LEFT - 4, y(top * v) + 3, "end", number(top * v))),
        ...view.curves.map(({ r, term, weight, y: part }) => make("path", {
          class: "curve", stroke: `var(--term-${term})`, "stroke-dasharray": dash(r, term),
          d: "M" + all.map((bin) => `${inside(lower(bin) * weight)} ${y(part[bin]).toFixed(1)}H${inside(upper(bin) * weight)}`).join("L") })));
      view.svg.ariaLabel = `Layer ${view.name}. ` + view.curves.map((curve) =>
        `${curve.name}, step ${curve.step}: median magnitude ${number(median(curve))}.`).join(" ");
    });
    slider.ariaValueText = shown.textContent = `step ${steps[slider.value].toLocaleString("en")}`;
    if (timer && +slider.value === last) pause();
  }

  function powers(end) {
    const high = floor(log10(end));
    const every = max(1, ceil(log10(end / first) / 2.5));
    return all.map((i) => high - i * every).map((power) => 10 ** power).filter((v) => signedLog(v) > signedLog(end) / 6);
  }

  function median({ row, total, weight }) {
    let below = row[bins];
    let i = 0;
    while (2 * below < total && i < bins) below += row[bins + ++i] + row[bins - i];
    return edge(i) * weight;
  }

  function tell(view, bin, left, top) {
    view.at = bin;
    const range = `${number(lower(bin))} to ${number(upper(bin))}${weighted.checked ? ", before weighting" : ""}`;
    tip.textContent = [range, ...view.curves.map(({ name, row, total, zeros, bad }) =>
      `${name}: ${row[bin]} of ${total} (${number((100 * row[bin]) / total)} %)${zeros && bin === bins ? `, ${zeros} exactly zero` : ""}${bad ? `; ${bad} not finite` : ""}`)].join("\n");
    tip.hidden = false;
    tip.style.left = `${max(4, min(left + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${min(top + 14, innerHeight - tip.offsetHeight - 8)}px`;
  }

  draw();
  host.hidden = false;
}
if (byId("panels")) panels(JSON.parse(byId("panels-data").textContent));
