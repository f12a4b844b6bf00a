// Keys that work wherever no field is being written in, and the page that lists them.
import { make } from "./dom.js";

const KEYS = [
  ["/", "search: an address such as 9.431, a layer, a task, a verdict, a word in the texts"],
  ["← →", "the neuron before, the next neuron of the list"],
  ["↑ ↓", "the task before, the next task"],
  [", .", "one layer up, one layer down"],
  ["m", "only the neurons in the task's mask, and all of them again"],
  ["s", "put the neuron into the set, or take it out"],
  ["Tab", "from panel to panel; arrows then go through the list or matrix, Enter chooses"],
  ["← → ↑ ↓", "among the scores, once they have the focus: the nearest score of the next layer, the next score of the layer"],
  ["Shift ←", "there, with any arrow: the same, and both neurons go into the set"],
  ["Esc", "close what is open, then leave the neuron, the pair and the layer"],
  ["?", "this list"],
];

export function keys(store, step) {
  const { data } = store;
  const help = document.getElementById("help");
  const button = document.getElementById("keys");
  help.append(make("dl", {}, ...KEYS.flatMap(([key, what]) => [make("dt", {}, ...key.split(" ").map((one) => make("kbd", {}, one))), make("dd", {}, what)])));
  const show = (is) => {
    help.hidden = !is;
    button.setAttribute("aria-expanded", String(is));
  };
  button.addEventListener("click", () => show(help.hidden));

  const task = (by) => {
    const { values } = store;
    const seen = data.tasks.map((_, i) => i).filter((i) => !values.verdict || data.head.verdicts?.[i]?.verdict === values.verdict);
    const next = seen[seen.indexOf(values.task) + by];
    if (next !== undefined) store.change({ task: next });
  };
  const layer = (by) => {
    const next = store.values.layer === null ? (by > 0 ? 0 : data.sites.length - 1) : store.values.layer + by;
    store.change({ layer: data.sites[next] ? next : null });
  };
  const set = () => {
    const { neuron, set: was } = store.values;
    if (neuron === null) return;
    store.change({ set: was.includes(neuron) ? was.filter((one) => one !== neuron) : [...was, neuron].sort((a, b) => a - b) });
  };
  const leave = () => {
    const { values } = store;
    if (!help.hidden) return show(false);
    const open = ["neuron", "other", "layer"].find((name) => values[name] !== null);
    if (open) store.change({ [open]: null, ...(open === "other" && values.inside === "both" ? { inside: "" } : {}) });
    return undefined;
  };
  const actions = {
    "/": () => document.getElementById("search").focus(),
    "?": () => show(help.hidden),
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    ArrowUp: () => task(-1),
    ArrowDown: () => task(1),
    ",": () => layer(-1),
    ".": () => layer(1),
    m: () => store.change({ inside: store.values.inside === "mask" ? "" : "mask" }),
    s: set,
    Escape: leave,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
    if (event.target.closest("input, select, textarea") && event.key !== "Escape") return;
    event.preventDefault();
    actions[event.key]();
  });
}
