// The neurons that pass the filters, the most relevant first, and the step from one to the next.
import { body, make, number, reveal, said, whole } from "./dom.js";
import { all, listed, passes } from "./neurons.js";
import { peak } from "./texts.js";
import { swatch } from "./tasks.js";

const STEP = 60; // rows shown at first, and at each wish for more

export function listPanel(store) {
  const { data } = store;
  const words = make("p", { class: "soft hint" });
  const list = make("div", { role: "listbox", "aria-label": "Neurons", tabindex: 0 });
  const more = make("button", { type: "button", onclick: () => ((most += STEP), draw(store.values)) }, "More");
  const take = make("button", { type: "button", onclick: () => store.change({ set: all(data, store.values) }) }, "Make a set of all these");
  const box = make("div", { class: "list" }, list, more);
  body("list").replaceChildren(words, box, make("div", { class: "buttons" }, take));
  let most = STEP;
  let neurons = [];

  function row(neuron, values, largest, i) {
    const scores = data.scores[values.task];
    const score = scores ? scores[neuron] : null;
    const card = data.cards.get(neuron);
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("i"));
    bar.firstChild.style.width = `${largest && Number.isFinite(score) ? (100 * Math.abs(score)) / largest : 0}%`;
    bar.classList.toggle("negative", score < 0);
    const masks = data.tasks.map((_, task) => task).filter((task) => data.inMask(task, neuron));
    const marks = make("span", { class: "marks", title: masks.length ? `in the masks of ${masks.map((task) => data.tasks[task].name).join(", ")}` : "in no mask" });
    marks.append(...masks.map((task) => swatch(data, task)));
    const text = card?.texts?.length ? make("span", { class: "snippet soft" }, peak(card.texts[0])) : null;
    return make(
      "div",
      { role: "option", class: "row neuron", id: `neuron-${neuron}`, "data-neuron": neuron, "aria-selected": neuron === values.neuron },
      make("span", { class: "rank soft" }, score === null ? "" : String(i + 1)),
      make("span", { class: "name" }, said(data.name(neuron))),
      make("span", { class: "score" }, score === null ? "" : number(score)),
      bar,
      marks,
      text,
    );
  }

  function draw(values) {
    neurons = listed(data, values, most + 1);
    const rest = neurons.length > most;
    neurons = neurons.slice(0, most);
    const scores = data.scores[values.task];
    const largest = scores && neurons.length ? Math.max(...neurons.map((neuron) => Math.abs(scores[neuron]) || 0)) : 0;
    const { all: every } = passes(data, values);
    list.replaceChildren(...neurons.map((neuron, i) => row(neuron, values, largest, i)));
    if (!neurons.length) list.replaceChildren(make("p", { class: "soft" }, "No neuron passes the filters."));
    more.hidden = !rest;
    take.hidden = !neurons.length || (every && values.layer === null);
    const where = values.layer === null ? "" : ` of layer ${data.sites[values.layer].layer}`;
    words.replaceChildren(scores ? "Most relevant" : "", scores ? `${where} for ` : "", scores ? said(data.tasks[values.task].name) : "No scores were given.", marksNote());
    mark(values);
  }

  const marksNote = () => (data.masks.some(Boolean) ? "; the squares are the masks that it is in" : "");

  function mark(values) {
    for (const element of list.querySelectorAll("[role=option]")) {
      element.setAttribute("aria-selected", String(Number(element.dataset.neuron) === values.neuron));
    }
    const on = list.querySelector("[aria-selected=true]");
    if (on) list.setAttribute("aria-activedescendant", on.id);
    else list.removeAttribute("aria-activedescendant");
    reveal(on);
  }

  /** The next neuron of the list (1), or the one before (-1). */
  function step(by) {
    const at = neurons.indexOf(store.values.neuron);
    if (by > 0 && at === neurons.length - 1 && !more.hidden) {
      most += STEP;
      draw(store.values);
    }
    const next = neurons[at < 0 ? 0 : at + by];
    if (next !== undefined) store.change({ neuron: next });
  }

  list.addEventListener("click", (event) => {
    const element = event.target.closest("[data-neuron]");
    if (element) store.change({ neuron: Number(element.dataset.neuron) });
  });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    step(by);
  });
  const redraws = ["task", "other", "layer", "sign", "inside", "theme", "data"];
  store.listen((values, changed) => {
    if (redraws.some((name) => changed.has(name)) || (values.inside === "set" && changed.has("set"))) {
      if (!changed.has("theme") && !changed.has("data")) most = STEP;
      draw(values);
      if (!changed.has("theme") && !changed.has("data")) box.scrollTop = 0;
      mark(values);
    } else mark(values);
  });
  draw(store.values);
  return step;
}
