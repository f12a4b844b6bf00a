// What is looked at: kept here, written into the page's address, and told to every panel.

import { tell } from "./dom.js";

export const START = {
  task: 0, // by its number
  other: null, // the second task of a pair
  layer: null, // by the number of its site
  neuron: null,
  verdict: "",
  sign: "", // "+" or "-"
  inside: "", // which neurons: "mask", "alone", "both", "card", "set"
  scale: "log",
  set: [], // neurons, in order
};
const LONGEST = 6000; // letters of a set in the address

/** Rising numbers as a short text: their differences, seven bits to a byte. */
export function written(set) {
  const bytes = [];
  let last = -1;
  for (const neuron of set) {
    let step = neuron - last - 1;
    last = neuron;
    for (; step > 127; step = Math.floor(step / 128)) bytes.push((step % 128) | 128);
    bytes.push(step);
  }
  if (bytes.length > LONGEST) return null; // too long for an address
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

export function read(text, total) {
  let letters;
  try {
    letters = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  } catch {
    return []; // cut off, or written by hand
  }
  const set = [];
  let [last, step, size] = [-1, 0, 1];
  for (const letter of letters) {
    const byte = letter.charCodeAt(0);
    step += (byte & 127) * size;
    size *= 128;
    if (byte & 128) continue;
    last += step + 1;
    if (last >= total) break;
    set.push(last);
    [step, size] = [0, 1];
  }
  return set;
}

export class Store {
  constructor(data) {
    this.data = data;
    this.panels = [];
    this.values = { ...START, ...this.parsed(location.hash) };
    addEventListener("hashchange", () => this.change(this.able({ ...START, ...this.parsed(location.hash) })));
  }

  /** The same values, without a filter by sign where the data turn out to have none: it would leave no neuron. */
  able(values) {
    if (!values.sign || !this.data.isWhole || this.data.hasSigns) return values;
    tell("These scores have no sign: the address's sign is ignored.", true);
    return { ...values, sign: "" };
  }

  /** `panel(values, changed)` is called with every change, and with the names of what changed. */
  listen(panel) {
    this.panels.push(panel);
  }

  async change(changes) {
    const changed = new Set(Object.keys(changes).filter((name) => changes[name] !== this.values[name]));
    if (!changed.size) return;
    if (changed.has("task")) await this.data.load(changes.task);
    this.values = { ...this.values, ...changes };
    try {
      history.replaceState(null, "", this.address());
    } catch {
      // a browser that keeps the addresses of local files as they are: the link can still be copied
    }
    this.tell(changed);
  }

  tell(changed) {
    for (const panel of this.panels) panel(this.values, changed);
  }

  /** The fragment that gives this view back. */
  address() {
    const { data, values } = this;
    const parts = new URLSearchParams();
    if (data.tasks.length) parts.set("task", data.tasks[values.task].name);
    if (values.other !== null) parts.set("with", data.tasks[values.other].name);
    if (values.layer !== null) parts.set("layer", data.sites[values.layer].layer);
    if (values.neuron !== null) parts.set("neuron", data.name(values.neuron));
    for (const name of ["verdict", "sign", "inside"]) if (values[name]) parts.set(name, values[name]);
    if (values.scale !== START.scale) parts.set("scale", values.scale);
    const set = written(values.set);
    if (set && set.length <= LONGEST) parts.set("set", set);
    return `#${parts}`;
  }

  /** Whether the set is too large to be in the address. */
  get isCut() {
    const set = written(this.values.set);
    return set === null || set.length > LONGEST;
  }

  parsed(fragment) {
    const { data } = this;
    const parts = new URLSearchParams(fragment.replace(/^#/, ""));
    if (parts.get("sign") === " ") parts.set("sign", "+"); // as a + written by hand is read
    const [found, missing] = [{}, []];
    for (const [value, name] of [["task", "task"], ["other", "with"]]) {
      const task = data.tasks.findIndex((one) => one.name === parts.get(name));
      if (task >= 0) found[value] = task;
      else if (parts.get(name)) missing.push(`There is no task ${parts.get(name)} here.`);
    }
    const layer = data.findSite(parts.get("layer") ?? "");
    if (layer >= 0) found.layer = layer;
    else if (parts.get("layer")) missing.push(data.noLayer(parts.get("layer")));
    const neuron = data.find(parts.get("neuron") ?? "");
    if (typeof neuron === "number") found.neuron = neuron;
    else if (parts.get("neuron")) missing.push(neuron ?? `There is no neuron ${parts.get("neuron")} here.`);
    const known = { sign: ["+", "-"], scale: ["log", "linear"], inside: ["mask", "alone", "both", "card", "set"] };
    known.verdict = (data.head.verdicts ?? []).map((one) => one?.verdict);
    for (const [name, allowed] of Object.entries(known)) {
      if (allowed.includes(parts.get(name))) found[name] = parts.get(name);
      else if (parts.get(name)) missing.push(`There is no ${name} ${parts.get(name)} here.`);
    }
    if (parts.has("set")) found.set = read(parts.get("set"), data.total);
    tell(missing.join(" "));
    return found;
  }
}
