// Which masks overlap, and whose neurons break which task: two matrices that show the same pair of tasks.
import { diverging, sequential } from "./colours.js";
import { body, counted, make, number, percent, points, ramp, said } from "./dom.js";
import { Grid, legend } from "./grid.js";
import { shown } from "./neurons.js";
import { swatch } from "./tasks.js";

export function matricesPanel(store) {
  const { data } = store;
  const { overlap, crossed, verdicts, alpha, palette } = data.head;
  const names = data.tasks.map((task) => task.name);
  const heads = () => names.map((name, i) => ({ name, swatch: swatch(data, i) }));
  const panels = [];
  const pair = (row, column) => {
    const { task, other } = store.values;
    if (row === null) return store.change({ task: column, other: null });
    if (column === null) return store.change({ task: row, other: null });
    return store.change(row === task && column === other ? { other: null } : { task: row, other: row === column ? null : column });
  };

  function panel(name, there, draw, words) {
    const [host, text] = [make("div", { class: "matrix" }), make("div", { class: "words" })];
    document.getElementById(`panel-${name}`).hidden = !there;
    if (!there) return;
    body(name).append(host, text);
    panels.push({ draw: () => draw(host), words: (values) => text.replaceChildren(...words(values)), grid: null });
  }

  function drawOverlap(host) {
    const colours = sequential(palette);
    const most = Math.max(1e-9, ...overlap.jaccard.flat().filter(Number.isFinite));
    const grid = new Grid(host, {
      label: "Overlap of the masks: tasks by tasks",
      rows: heads(),
      columns: heads(),
      slanted: true,
      cell: (i, j) => {
        const value = overlap.jaccard[i][j];
        if (value === null) return null;
        return { colour: ramp(colours, value / most), text: String(Math.round(100 * value)), title: `${names[i]} and ${names[j]}: Jaccard ${percent(value)}, by chance ${percent(overlap.chance_layer[i][j])}` };
      },
      choose: pair,
    });
    host.append(legend(colours, "0", percent(most), "shared of the neurons in either mask (Jaccard)"));
    return grid;
  }

  function overlapWords({ task, other }) {
    if (other === null) return [make("p", { class: "soft" }, "Choose a cell to compare two masks; the same pair shows among the breaks, and the list can show what they share.")];
    const cell = (name) => overlap[name]?.[task][other] ?? null;
    if (cell("jaccard") === null) return [make("p", {}, "This pair was not compared.")];
    const line = make("p", {}, said(names[task]), " and ", said(names[other]), ` share ${counted(cell("shared"), "neuron")}: Jaccard ${percent(cell("jaccard"))}, by chance ${percent(cell("chance_layer"))} (q = ${number(cell("q"))}).`);
    const show = make("button", { type: "button", "aria-pressed": String(store.values.inside === "both"), onclick: () => store.change({ inside: store.values.inside === "both" ? "" : "both" }) }, "Show the neurons in both");
    return [line, make("div", { class: "buttons" }, show)];
  }

  const lost = (i, j) => crossed.q[i][j] === null && crossed.effect[i][j] !== null; // at chance: not tested

  function drawCrossed(host) {
    const colours = diverging(palette);
    const most = Math.max(0.01, ...crossed.effect.flatMap((row, i) => row.filter((value, j) => value !== null && !lost(i, j)).map(Math.abs)));
    const grid = new Grid(host, {
      label: "Whose neurons break which task: neurons off by task measured",
      corner: "off\u00a0↓ measured\u00a0→",
      rows: heads(),
      columns: heads(),
      slanted: true,
      cell: (i, j) => {
        const value = crossed.effect[i][j];
        if (value === null) return null;
        if (lost(i, j)) return { colour: ramp(colours, 0.5), text: "", title: `${names[j]}: at chance with nothing off, so nothing can break` };
        const dot = crossed.q[i][j] < alpha ? "·" : "";
        return {
          colour: ramp(colours, 0.5 + value / most / 2),
          text: points(value) + dot,
          title: `${names[i]} off, ${names[j]} measured: ${points(value)} points lost beyond random neurons [${points(crossed.low[i][j])}, ${points(crossed.high[i][j])}], q = ${number(crossed.q[i][j])}`,
        };
      },
      choose: pair,
    });
    host.append(legend(colours, `−${points(most)}`, points(most), `points lost beyond random neurons; · q < ${alpha}`));
    return grid;
  }

  function cellWords(source, target) {
    const cell = (name) => crossed[name][source][target];
    if (cell("effect") === null) return null;
    const line = make("p", {}, "Neurons of ", said(names[source]), " off, ", said(names[target]), ` measured: ${percent(cell("score"))} (nothing off ${percent(cell("original"))}, random off ${percent(cell("control"))}). `);
    line.append(lost(source, target) ? "At chance with nothing off: not tested." : `Effect ${points(cell("effect"))} points [${points(cell("low"))}, ${points(cell("high"))}], q = ${number(cell("q"))}.`);
    return line;
  }

  function crossedWords({ task, other, verdict }) {
    const found = verdicts?.[task];
    const words = [];
    if (verdicts) {
      const counts = new Map();
      for (const one of verdicts) if (one) counts.set(one.verdict, (counts.get(one.verdict) ?? 0) + 1);
      words.push(make("div", { class: "buttons" }, ...[...counts].map(([name, count]) => make("button", { type: "button", "aria-pressed": String(verdict === name), onclick: () => store.change({ verdict: verdict === name ? "" : name }) }, `${name}: ${count}`))));
    }
    if (found) words.push(make("p", {}, "The neurons of ", said(names[task]), " are ", make("b", {}, found.verdict), `: ${points(found.effect)} points of its own lost [${points(found.low)}, ${points(found.high)}]`, found.strongest ? ", the most by another family: " : "", found.strongest ? said(found.strongest) : "", "."));
    words.push(...(other === null ? [] : [cellWords(task, other), cellWords(other, task)]).filter(Boolean));
    return words;
  }

  function mark(values) {
    for (const one of panels) {
      one.grid.mark({ row: values.task, column: values.other, cell: [values.task, values.other ?? values.task], faint: (i) => !shown(data, values, i) });
      one.words(values);
    }
  }

  panel("overlap", overlap, drawOverlap, overlapWords);
  panel("crossed", crossed, drawCrossed, crossedWords);
  for (const one of panels) one.grid = one.draw();
  store.listen((values, changed) => {
    if (changed.has("theme")) for (const one of panels) one.grid = one.draw();
    mark(values);
  });
  mark(store.values);
}
