// Every neuron of the model by layer and score, on a canvas: choose one, draw around many, or go from one to the next.
import { styled } from "./colours.js";
import { body, counted, make, number, round, tell, whole } from "./dom.js";
import { listed, passes } from "./neurons.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [48, 8, 16, 30]; // around the points
const NEAR = 14; // pixels from a point that still choose it
const FEW = 6000; // neurons that are drawn as discs
const DECADES = 4; // of scores below the largest that the logarithmic scale shows

export function scatterPanel(store) {
  const { data } = store;
  const points = make("canvas", { "aria-hidden": "true" });
  const over = make("canvas", { tabindex: 0, role: "application", "aria-describedby": "scatter-note" });
  const frame = make("div", { class: "canvases" }, points, over);
  const note = make("p", { class: "soft hint", id: "scatter-note" });
  const scale = make("button", { type: "button", onclick: () => store.change({ scale: store.values.scale === "log" ? "linear" : "log" }) });
  const brush = make("button", { type: "button", "aria-pressed": "false", class: "touch", onclick: () => brushing(!frame.classList.contains("brush")) }, "Draw around neurons");
  const keys = make("p", { class: "legend" });
  body("scatter").replaceChildren(make("div", { class: "buttons" }, scale, brush, keys), frame, note);
  const tip = document.getElementById("tip");
  let view = null; // what the drawn points were drawn with
  let drag = null;
  const kept = { asked: null, heights: null };

  const brushing = (on) => {
    frame.classList.toggle("brush", on);
    brush.setAttribute("aria-pressed", String(on));
  };

  /** Of scores: the range that is shown, and how it becomes a height. */
  function heights(values) {
    let [low, high] = data.ranges[values.task];
    const largest = Math.max(Math.abs(low), Math.abs(high)) || 1;
    const unit = 10 ** (Math.ceil(Math.log10(largest)) - DECADES);
    const bent = values.scale === "log" ? (score) => Math.asinh(score / unit) : (score) => score;
    const back = values.scale === "log" ? (height) => Math.sinh(height) * unit : (height) => height;
    [low, high] = [bent(low), bent(high) * 1.03];
    return { bent, back, low: low < 0 ? low * 1.03 : low, high, ticks: ticksOf(values.scale, unit, largest, low < 0) };
  }

  function draw(values) {
    const width = frame.clientWidth;
    const height = frame.clientHeight;
    const scores = data.scores[values.task];
    frame.hidden = !scores;
    scale.textContent = values.scale === "log" ? "Linear scale" : "Logarithmic scale";
    if (!scores) return note.replaceChildren("No scores were given for this task.");
    if (!width) return undefined;
    const dots = devicePixelRatio || 1;
    for (const canvas of [points, over]) [canvas.width, canvas.height] = [Math.round(width * dots), Math.round(height * dots)];
    const column = (width - LEFT - RIGHT) / data.sites.length;
    const { bent, back, low, high, ticks } = heights(values);
    const y = (score) => TOP + ((high - bent(score)) / (high - low)) * (height - TOP - BOTTOM);
    const x = (site, neuron) => LEFT + (site + 0.08 + (0.84 * (neuron + 0.5)) / data.sites[site].width) * column;
    view = { values, scores, column, y, x, width, height, dots };
    view.score = (at) => back(high - ((at - TOP) / (height - TOP - BOTTOM)) * (high - low));
    const pen = points.getContext("2d", { willReadFrequently: true });
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    axes(pen, values, ticks);
    const { test, all } = passes(data, values);
    const chosen = (kept.chosen ??= new Uint8Array(data.total)).fill(0);
    for (const neuron of values.set) chosen[neuron] = 1;
    const bits = data.masks[values.task] ?? (kept.none ??= new Uint8Array((data.total >> 3) + 1));
    const every = all && values.layer === null;
    const kind = (i) => (chosen[i] ? 3 : !every && !test(i) ? 0 : 1 + ((bits[i >> 3] >> (i & 7)) & 1));
    const colours = [styled("point-out"), styled("point"), styled("point-mask"), styled("point-set")];
    if (data.total <= FEW) discs(pen, kind, colours);
    else pixels(pen, kind, colours);
    overlay(values);
    keys.replaceChildren(...legendOf(values, colours));
    const most = data.tops[values.task][0];
    over.setAttribute("aria-label", `Scores of ${data.tasks[values.task].name}: ${whole(data.total)} neurons by layer; the largest is ${data.name(most)}, ${number(scores[most])}`);
    const how = "Click a neuron, or draw around several to make a set; arrows go from one to the next. Within a layer neurons stand in their own order.";
    note.replaceChildren(how);
    return undefined;
  }

  function legendOf(values, colours) {
    const size = data.size(values.task);
    const parts = [[colours[1], "neurons"], size ? [colours[2], "in the task's mask"] : null, values.set.length ? [colours[3], "in the set"] : null];
    return parts.filter(Boolean).map(([colour, words]) => {
      const mark = make("i", { class: "dot", "aria-hidden": "true" });
      mark.style.backgroundColor = colour;
      return make("span", {}, mark, words);
    });
  }

  function axes(pen, values, ticks) {
    const { width, height, column, y } = view;
    pen.clearRect(0, 0, width, height);
    pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const [faint, soft, band] = [styled("line"), styled("soft"), styled("band")];
    if (values.layer !== null) {
      pen.fillStyle = band;
      pen.fillRect(LEFT + values.layer * column, TOP, column, height - TOP - BOTTOM);
    }
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    let last = Infinity;
    for (const tick of ticks) {
      const at = y(tick);
      if (at < TOP - 1 || at > height - BOTTOM + 1 || Math.abs(last - at) < 14) continue;
      last = at;
      pen.fillStyle = faint;
      pen.fillRect(LEFT, Math.round(at), width - LEFT - RIGHT, 1);
      pen.fillStyle = soft;
      pen.fillText(round(tick), LEFT - 6, at);
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    const every = Math.max(1, Math.ceil((22 + 5 * Math.max(...data.sites.map((site) => site.layer.length - 2), 0)) / column));
    for (const [site, { layer }] of data.sites.entries()) {
      if (site % every === 0) pen.fillText(layer, LEFT + (site + 0.5) * column, height - BOTTOM + 5);
    }
    pen.fillText("layer", LEFT + (width - LEFT - RIGHT) / 2, height - 12);
    pen.textAlign = "left";
    pen.fillText("score", 2, 0);
  }

  function discs(pen, kind, colours) {
    const groups = [[], [], [], []];
    for (let i = 0; i < data.total; i++) groups[kind(i)].push(i);
    for (const [group, neurons] of groups.entries()) {
      pen.fillStyle = colours[group];
      pen.globalAlpha = group < 2 ? 0.55 : 0.85;
      pen.beginPath();
      for (const i of neurons) {
        const site = data.siteOf(i);
        const [px, py] = [view.x(site, i - data.offsets[site]), view.y(view.scores[i])];
        if (Number.isNaN(py)) continue;
        pen.moveTo(px + 2.2, py);
        pen.arc(px, py, group < 2 ? 2 : 2.6, 0, 7);
      }
      pen.fill();
    }
    pen.globalAlpha = 1;
  }

  /** The height in the picture of every neuron: of the last task and scale it is kept. */
  function lines() {
    const asked = [view.values.task, view.values.scale, view.height].join();
    if (kept.asked !== asked) {
      kept.heights ??= new Float32Array(data.total);
      for (let i = 0; i < data.total; i++) kept.heights[i] = view.y(view.scores[i]);
      kept.asked = asked;
    }
    return kept.heights;
  }

  /** Hundreds of thousands of points: counted for every pixel, which is darker where there are more. */
  function pixels(pen, kind, colours) {
    const { dots, column } = view;
    const [wide, high] = [points.width, points.height];
    const picture = pen.getImageData(0, 0, wide, high);
    const pixel = picture.data;
    const size = Math.max(1, Math.round(dots));
    const tops = lines();
    const counts = kept.counts?.[0].length === wide * high ? kept.counts : [0, 1, 2, 3].map(() => new Uint8Array(wide * high));
    kept.counts = counts;
    for (const [site, { width }] of data.sites.entries()) {
      const [left, step] = [(LEFT + (site + 0.08) * column) * dots, (0.84 * column * dots) / width];
      for (let i = data.offsets[site], at = 0; at < width; i++, at++) {
        const top = tops[i] * dots;
        if (!(top >= 0 && top < high - 2 * size)) continue; // NaN as well
        const group = kind(i);
        const count = counts[group];
        const square = group < 2 ? size : 2 * size;
        const corner = Math.round(top) * wide + Math.round(left + step * at);
        for (let down = 0; down < square; down++) {
          for (let over = 0; over < square; over++) if (count[corner + down * wide + over] < 255) count[corner + down * wide + over]++;
        }
      }
    }
    for (let group = 0; group < 4; group++) {
      const count = counts[group];
      const [red, green, blue] = colours[group].match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
      const weight = [0.25, 0.4, 0.8, 1][group];
      for (let i = 0; i < count.length; i++) {
        if (!count[i]) continue;
        const share = 1 - (1 - weight) ** count[i];
        const under = pixel[4 * i + 3] ? 1 - share : 0; // nothing lies there: the colour itself, as faint as it is
        pixel[4 * i] = red + (pixel[4 * i] - red) * under;
        pixel[4 * i + 1] = green + (pixel[4 * i + 1] - green) * under;
        pixel[4 * i + 2] = blue + (pixel[4 * i + 2] - blue) * under;
        pixel[4 * i + 3] = Math.max(pixel[4 * i + 3], 255 * share);
      }
      count.fill(0);
    }
    pen.putImageData(picture, 0, 0);
  }

  /** What lies over the points: the neuron that is looked at, and what is being drawn around. */
  function overlay(values) {
    if (!view) return;
    const pen = over.getContext("2d");
    pen.setTransform(view.dots, 0, 0, view.dots, 0, 0);
    pen.clearRect(0, 0, view.width, view.height);
    if (values.neuron !== null) {
      const site = data.siteOf(values.neuron);
      const [px, py] = [view.x(site, values.neuron - data.offsets[site]), view.y(view.scores[values.neuron])];
      for (const [colour, wide] of [[styled("panel"), 5], [styled("ink"), 2]]) {
        [pen.strokeStyle, pen.lineWidth] = [colour, wide];
        pen.beginPath();
        pen.arc(px, py, 7, 0, 7);
        pen.stroke();
      }
      pen.font = `bold 12px ${getComputedStyle(document.body).fontFamily}`;
      const right = px < view.width - 70;
      pen.textAlign = right ? "left" : "right";
      [pen.strokeStyle, pen.lineWidth, pen.fillStyle] = [styled("panel"), 4, styled("ink")];
      const words = [data.name(values.neuron), px + (right ? 12 : -12), Math.max(py, TOP + 8)];
      pen.strokeText(...words);
      pen.fillText(...words);
    }
    if (drag?.to) {
      const [from, to] = [drag.from, drag.to];
      [pen.strokeStyle, pen.fillStyle, pen.lineWidth] = [styled("point-set"), styled("band"), 1.5];
      const box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
      pen.globalAlpha = 0.5;
      pen.fillRect(...box);
      pen.globalAlpha = 1;
      pen.strokeRect(...box);
    }
  }

  /** Neurons of the sites between two places of the picture, as [site, neuron, x, y]. */
  function* between(from, to) {
    const site = (px) => Math.min(Math.max(Math.floor((px - LEFT) / view.column), 0), data.sites.length - 1);
    for (let at = site(from); at <= site(to); at++) {
      for (let i = data.offsets[at]; i < data.offsets[at + 1]; i++) yield [i, view.x(at, i - data.offsets[at]), view.y(view.scores[i])];
    }
  }

  function nearest(px, py) {
    let [best, least] = [null, NEAR ** 2];
    const { test } = passes(data, view.values);
    for (const [i, nx, ny] of between(px - NEAR, px + NEAR)) {
      const away = (nx - px) ** 2 + (ny - py) ** 2;
      if (away < least && test(i)) [best, least] = [i, away];
    }
    return best;
  }

  function around(from, to) {
    const [left, right] = [Math.min(from[0], to[0]), Math.max(from[0], to[0])];
    const [top, low] = [Math.min(from[1], to[1]), Math.max(from[1], to[1])];
    const { test } = passes(data, view.values);
    const set = [];
    for (const [i, x, y] of between(left, right)) if (x >= left && x <= right && y >= top && y <= low && test(i)) set.push(i);
    return set;
  }

  const about = (neuron) => `${data.name(neuron)} · score ${number(view.scores[neuron])} · rank ${whole(data.rank(store.values.task, neuron))}`;

  /** Where an arrow leads: up and down to the next score in the layer, left and right to the nearest in the next layer. */
  function beside(neuron, key) {
    if (neuron === null) return listed(data, store.values, 1)[0] ?? null;
    const { scores, y } = view;
    const { test } = passes(data, store.values);
    const best = (site, able, better) => {
      let found = null;
      for (let i = data.offsets[site]; i < data.offsets[site + 1]; i++) if (able(i) && (found === null || better(i, found)) && test(i)) found = i;
      return found;
    };
    const site = data.siteOf(neuron);
    const across = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (!across) {
      const up = key === "ArrowUp" ? 1 : -1;
      const above = (i, j) => up * (scores[i] === scores[j] ? j - i : scores[i] - scores[j]); // of equal ones the first
      return best(site, (i) => above(i, neuron) > 0, (i, j) => above(i, j) < 0);
    }
    const away = (i) => Math.abs(y(scores[i]) - y(scores[neuron]));
    for (let at = site + across; data.sites[at]; at += across) {
      const found = best(at, (i) => away(i) >= 0, (i, j) => away(i) < away(j));
      if (found !== null) return found;
    }
    return null;
  }

  over.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key) || event.ctrlKey || event.metaKey || event.altKey || !view) return;
    event.preventDefault();
    event.stopPropagation();
    const { neuron: was, set } = store.values;
    const neuron = beside(was, event.key);
    if (neuron === null) return;
    const more = event.shiftKey ? [was, neuron].filter((one) => one !== null && !set.includes(one)) : [];
    store.change({ neuron, ...(more.length ? { set: [...set, ...more].sort((a, b) => a - b) } : {}) });
    tell(about(neuron) + (event.shiftKey ? ` · ${counted(store.values.set.length, "neuron")} in the set` : ""));
  });

  const place = (event) => {
    const box = over.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  over.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !view) return;
    const brushes = event.pointerType === "mouse" || frame.classList.contains("brush");
    drag = { from: place(event), to: null, brushes };
    if (brushes) over.setPointerCapture(event.pointerId);
  });
  over.addEventListener("pointermove", (event) => {
    const [px, py] = place(event);
    if (drag?.brushes && Math.hypot(px - drag.from[0], py - drag.from[1]) > 5) drag.to = [px, py];
    if (drag?.to) return overlay(store.values);
    const near = view && !drag ? nearest(px, py) : null;
    tip.hidden = near === null;
    if (near === null) return undefined;
    tip.textContent = about(near);
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - 210)}px`;
    tip.style.top = `${event.clientY + 16}px`;
    return undefined;
  });
  over.addEventListener("pointerleave", () => (tip.hidden = true));
  over.addEventListener("pointercancel", () => (drag = null));
  over.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { from, to } = drag;
    drag = null;
    tip.hidden = true;
    if (to) {
      const set = around(from, to);
      brushing(false);
      tell(set.length ? `${counted(set.length, "neuron")} in the set` : "No neuron lies within");
      if (set.length) store.change({ set });
      else overlay(store.values);
    } else {
      const near = nearest(...place(event));
      if (near !== null) store.change({ neuron: near });
    }
  });

  const redraws = ["task", "other", "layer", "sign", "inside", "scale", "set", "theme", "data"];
  store.listen((values, changed) => (redraws.some((name) => changed.has(name)) ? draw(values) : overlay(values)));
  new ResizeObserver(() => draw(store.values)).observe(frame);
}

/** Numbers at the axis: every power of ten, or about five round ones. */
function ticksOf(scale, unit, largest, both) {
  const ticks = [0];
  if (scale === "log") {
    for (let power = 10 ** Math.floor(Math.log10(largest) + 1e-9); power >= unit * 0.99; power /= 10) ticks.push(power);
  } else {
    const rough = largest / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((times) => power * times >= rough);
    for (let i = 1; i * step <= largest * 1.01; i++) ticks.push(i * step);
  }
  return (both ? [...ticks, ...ticks.slice(1).map((tick) => -tick)] : ticks).sort((a, b) => b - a);
}
