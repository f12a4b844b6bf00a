// The set of neurons that was drawn around: where they are, whose they are, and a mask to take away.
import { body, copied, make, percent, said, tell, whole } from "./dom.js";
import { swatch } from "./tasks.js";

/** The set as the JSON that `NeuronMask.load` reads. */
export function maskJson(data, values) {
  const neurons = {};
  for (const site of data.sites) neurons[site.address] = [];
  for (const neuron of values.set) {
    const site = data.siteOf(neuron);
    neurons[data.sites[site].address].push(neuron - data.offsets[site]);
  }
  const widths = Object.fromEntries(data.sites.map((site) => [site.address, site.width]));
  // a set that is drawn by hand was not found as the scores were: of these, what the model is holds for it alone
  const known = ["model", "revision", "fingerprint", "dtype"].filter((key) => data.head.about[key]);
  const of_model = Object.fromEntries(known.map((key) => [key, data.head.about[key]]));
  const about = { ...of_model, task: data.tasks[values.task]?.name ?? null, made: "by hand, in the explorer" };
  return JSON.stringify({ kind: "NeuronMask", format: 1, unit: data.head.unit, widths, neurons, manifest: about });
}

/** The set as a line of Python. */
export function maskPython(data, values) {
  const { neurons } = JSON.parse(maskJson(data, values));
  const some = Object.entries(neurons).filter(([, indices]) => indices.length);
  const lines = some.map(([address, indices]) => `    ${JSON.stringify(address)}: [${indices.join(", ")}],\n`);
  const unit = data.head.unit === "hidden" ? "" : `, unit="${data.head.unit}"`;
  return `mask = ns.NeuronMask.of({\n${lines.join("")}}, model${unit})`;
}

export function chosenPanel(store) {
  const { data } = store;
  const section = document.getElementById("panel-chosen");
  const host = body("chosen");

  const copy = (make_text) => async () => tell((await copied(make_text(data, store.values))) ? "Copied" : "This browser does not let the page copy: download it");

  function download() {
    const link = make("a", { href: URL.createObjectURL(new Blob([maskJson(data, store.values)], { type: "application/json" })), download: "mask.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    tell("mask.json: read it with ns.NeuronMask.load");
  }

  function draw(values) {
    const { set } = values;
    section.hidden = !set.length;
    if (!set.length) return host.replaceChildren();
    const counts = data.sites.map(() => 0);
    for (const neuron of set) counts[data.siteOf(neuron)]++;
    const layers = counts.map((count, site) => [count, site]).filter(([count]) => count);
    const rows = data.tasks
      .map((_, task) => [task, data.masks[task] ? set.filter((neuron) => data.inMask(task, neuron)).length : 0])
      .filter(([, shared]) => shared)
      .sort((a, b) => b[1] - a[1]);
    host.replaceChildren(
      make("p", {}, make("b", {}, whole(set.length)), ` neurons (${percent(set.length / data.total)} of all), in layer `, layers.slice(0, 12).map(([count, site]) => `${data.sites[site].layer}: ${whole(count)}`).join(", "), layers.length > 12 ? " …" : "", "."),
      make("ul", { class: "shares" }, ...rows.slice(0, 6).map(([task, shared]) => make("li", {}, swatch(data, task), said(data.tasks[task].name), make("span", { class: "soft" }, ` ${percent(shared / set.length)} of the set is in its mask`)))),
      make(
        "div",
        { class: "buttons" },
        make("button", { type: "button", id: "copy-json", onclick: copy(maskJson) }, "Copy as JSON"),
        make("button", { type: "button", id: "copy-python", onclick: copy(maskPython) }, "Copy as Python"),
        make("button", { type: "button", id: "download", onclick: download }, "Download mask.json"),
        make("button", { type: "button", "aria-pressed": String(values.inside === "set"), onclick: () => store.change({ inside: values.inside === "set" ? "" : "set" }) }, "List only these"),
        make("button", { type: "button", id: "clear", onclick: () => store.change({ set: [], inside: values.inside === "set" ? "" : values.inside }) }, "Clear"),
      ),
    );
    return undefined;
  }

  store.listen((values, changed) => {
    if (["set", "inside", "theme", "data"].some((name) => changed.has(name))) draw(values);
  });
  draw(store.values);
}
