// What is known of the mask that is looked at: its evidence card, in words, and fact by fact.
import { body, make, said } from "./dom.js";

/** A line with `**bold**` words; everything else is text. */
function told(line) {
  const pieces = line.replace(/^- /, "").split("**");
  return make("p", {}, ...pieces.map((piece, i) => (i % 2 ? make("b", {}, piece) : piece)));
}

export function evidencePanel(store) {
  const { data } = store;
  const section = document.getElementById("panel-evidence");
  let open = false;

  function draw({ task }) {
    const evidence = data.tasks[task]?.evidence;
    section.hidden = !evidence;
    if (!evidence) return;
    document.getElementById("h-evidence").replaceChildren("What is known of the mask of ", said(data.tasks[task].name));
    const rows = evidence.rows.map((row) => make("tr", {}, ...row.map((cell, i) => (i ? make("td", {}, said(cell)) : make("th", { scope: "row" }, cell)))));
    const facts = make("details", { open, ontoggle: (event) => (open = event.target.open) }, make("summary", {}, "Every fact"), make("div", { class: "scroll" }, make("table", { class: "numbers facts" }, make("tbody", {}, ...rows))));
    body("evidence").replaceChildren(...evidence.words.map(told), facts);
  }

  store.listen((values, changed) => changed.has("task") && draw(values));
  draw(store.values);
}
