// One field for addresses ("9.431"), layers, tasks, verdicts, and words in the texts and tokens of cards.
import { make, reveal, said } from "./dom.js";

const MOST = 30; // lines of what was found
const BESIDE = 36; // letters shown on either side of a word that was found

export function searchField(store) {
  const { data } = store;
  const field = document.getElementById("search");
  const found = document.getElementById("found");
  let texts = null; // of cards, in small letters, made at the first search
  let lines = [];
  let at = -1;

  function textsOf() {
    texts ??= [...data.cards].map(([neuron, card]) => {
      const tokens = [card.tokens, card.writes, card.reads].flatMap((one) => [...(one?.toward ?? []), ...(one?.away ?? [])].map(([token]) => token));
      const whole = [...(card.notes ?? []), ...(card.texts ?? []).map((text) => text.tokens.join("")), tokens.join(" ")];
      return { neuron, whole, small: whole.map((text) => text.toLowerCase()) };
    });
    return texts;
  }

  function search(asked) {
    const word = asked.trim().toLowerCase();
    if (!word) return [];
    const results = [];
    const neuron = data.find(asked);
    if (typeof neuron === "number") results.push({ kind: "neuron", text: data.name(neuron), change: { neuron } });
    else if (neuron) results.push({ kind: "", text: neuron, change: null });
    const layer = data.findSite(asked);
    const [, missing] = word.match(/^(?:layer|l)\s*(\d+)\.?$/) ?? [];
    if (layer >= 0) results.push({ kind: "layer", text: data.sites[layer].layer, change: { layer } });
    else if (missing) results.push({ kind: "", text: data.noLayer(missing), change: null });
    data.tasks.forEach((task, i) => {
      if (task.name.toLowerCase().includes(word)) results.push({ kind: "task", text: task.name, change: { task: i } });
    });
    const verdicts = new Set((data.head.verdicts ?? []).filter(Boolean).map((one) => one.verdict));
    for (const verdict of verdicts) if (verdict.includes(word)) results.push({ kind: "verdict", text: verdict, change: { verdict } });
    for (const { neuron: one, whole, small } of word.length > 1 ? textsOf() : []) {
      if (results.length >= MOST) break;
      const which = small.findIndex((text) => text.includes(word));
      if (which < 0) continue;
      const start = Math.max(small[which].indexOf(word) - BESIDE, 0);
      results.push({ kind: data.name(one), text: (start ? "…" : "") + whole[which].slice(start, start + word.length + 2 * BESIDE), change: { neuron: one } });
    }
    if (!results.length) results.push({ kind: "", text: "Nothing is called so, or says so.", change: null });
    return results.slice(0, MOST);
  }

  function draw() {
    lines = search(field.value);
    at = lines.findIndex((line) => line.change);
    found.replaceChildren(
      ...lines.map((line, i) =>
        make("div", { role: "option", id: `found-${i}`, class: line.change ? "row" : "row soft", "aria-disabled": line.change ? null : "true", onpointerdown: (event) => (event.preventDefault(), take(i)) }, make("span", { class: "kind soft" }, line.kind), said(line.text)),
      ),
    );
    open(lines.length > 0);
    mark();
  }

  function open(is) {
    found.hidden = !is;
    field.setAttribute("aria-expanded", String(is));
  }

  function mark() {
    [...found.children].forEach((line, i) => line.setAttribute("aria-selected", String(i === at)));
    if (at >= 0 && !found.hidden) {
      field.setAttribute("aria-activedescendant", `found-${at}`);
      reveal(found.children[at]);
    } else field.removeAttribute("aria-activedescendant");
  }

  function take(i) {
    if (!lines[i]?.change) return;
    open(false);
    field.value = "";
    field.blur();
    store.change(lines[i].change);
  }

  field.addEventListener("input", draw);
  field.addEventListener("focus", () => field.value && draw());
  field.addEventListener("blur", () => open(false));
  field.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && lines.length) {
      event.preventDefault();
      const able = lines.map((_, i) => i).filter((i) => lines[i].change);
      at = able[Math.min(Math.max(able.indexOf(at) + step, 0), able.length - 1)] ?? -1;
      mark();
    } else if (event.key === "Enter") {
      event.preventDefault();
      take(at);
    } else if (event.key === "Escape") {
      field.value = "";
      open(false);
      field.blur();
      event.stopPropagation();
    }
  });
}
