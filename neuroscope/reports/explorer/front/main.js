// The page: the panels around one store, the filters, the theme, and what is told where a page cannot be shown.
import { cardPanel } from "./card.js";
import { chosenPanel } from "./chosen.js";
import { isDark } from "./colours.js";
import { Data } from "./data.js";
import { depthPanel } from "./depth.js";
import { copied, counted, make, percent, said, tell } from "./dom.js";
import { evidencePanel } from "./evidence.js";
import { keys } from "./keys.js";
import { listPanel } from "./list.js";
import { matricesPanel } from "./matrices.js";
import { scatterPanel } from "./scatter.js";
import { searchField } from "./search.js";
import { START, Store } from "./state.js";
import { tasksPanel } from "./tasks.js";

function heading(data) {
  const { title, about, unit } = data.head;
  document.title = title;
  document.getElementById("title").replaceChildren(said(title));
  const facts = [`${counted(data.total, `${unit} neuron`)} at ${counted(data.sites.length, "site")}`, counted(data.tasks.length, "task")];
  if (data.head.cards) facts.push(counted(data.head.cards, "card"));
  for (const name of ["method", "objective"]) if (about[name]) facts.push(about[name]);
  if (about.k) facts.push(`masks of the top ${percent(Number(about.k))}`);
  document.getElementById("about").replaceChildren(said(facts.join(" · ")));
}

function filters(store) {
  const { data } = store;
  const form = document.getElementById("filters");
  const numbers = new Set(["layer", "task"]);

  const field = (name, label, options) => {
    const select = make("select", { id: `filter-${name}`, onchange: (event) => store.change({ [name]: numbers.has(name) ? (event.target.value === "" ? null : Number(event.target.value)) : event.target.value }) });
    select.append(...options.map(([value, words]) => make("option", { value }, words)));
    return make("label", {}, make("span", {}, label), select);
  };
  const verdicts = [...new Set((data.head.verdicts ?? []).filter(Boolean).map((one) => one.verdict))];
  form.replaceChildren(
    ...[
      data.tasks.length ? field("task", "Task", data.tasks.map((task, i) => [i, task.name])) : null,
      field("layer", "Layer", [["", "all"], ...data.sites.map((site, i) => [i, site.layer])]),
      verdicts.length ? field("verdict", "Verdict", [["", "all"], ...verdicts.map((name) => [name, name])]) : null,
      field("inside", "Neurons", [
        ["", "all"],
        ["mask", "in the task's mask"],
        ["alone", "in this mask alone"],
        ["both", "in both masks of a pair"],
        ["card", "with a card"],
        ["set", "in the set"],
      ]),
      field("sign", "Polarity", [["", "both"], ["+", "+ for the task"], ["-", "− against it"]]),
      make("button", { type: "button", onclick: () => store.change({ ...START, task: store.values.task, set: store.values.set, scale: store.values.scale }) }, "Reset"),
    ].filter(Boolean),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  const mark = (values) => {
    for (const name of ["task", "layer", "verdict", "inside", "sign"]) {
      const select = document.getElementById(`filter-${name}`);
      if (select) select.value = values[name] === null ? "" : String(values[name]);
    }
    const able = { mask: data.masks[values.task], alone: data.masks[values.task], both: values.other !== null, card: data.cards.size, set: values.set.length };
    for (const option of document.getElementById("filter-inside").options) if (option.value) option.disabled = !able[option.value];
    const sign = document.getElementById("filter-sign");
    sign.disabled = !data.hasSigns;
    sign.title = sign.disabled ? "These scores have no sign: the reduction takes absolute values" : "";
  };
  store.listen(mark);
  mark(store.values);
}

function contents() {
  const links = [...document.querySelectorAll("main section[id]")].map((section) =>
    make("button", { type: "button", "data-panel": section.id, onclick: () => section.scrollIntoView({ behavior: "smooth", block: "start" }) }, section.dataset.name ?? section.querySelector("h2").textContent),
  );
  const nav = document.getElementById("contents");
  nav.replaceChildren(...links);
  const mark = () => {
    for (const link of links) link.hidden = document.getElementById(link.dataset.panel).hidden;
  };
  mark();
  return mark;
}

function theme(store) {
  const button = document.getElementById("theme");
  const label = () => (button.textContent = isDark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    label();
    store.tell(new Set(["theme"]));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    label();
    store.tell(new Set(["theme"]));
  });
  label();
}

async function begin() {
  const data = new Data();
  heading(data);
  const store = new Store(data);
  if (data.tasks.length) await data.load(store.values.task);
  filters(store);
  tasksPanel(store);
  depthPanel(store);
  scatterPanel(store);
  matricesPanel(store);
  const step = listPanel(store);
  cardPanel(store, step);
  evidencePanel(store);
  chosenPanel(store);
  searchField(store);
  keys(store, step);
  const mark = contents();
  store.listen(mark);
  theme(store);
  const { style } = document.documentElement; // what is below the header and below the tasks begins where these end
  const [header, tasks] = ["header", "#panel-tasks"].map((selector) => document.querySelector(selector));
  const sizes = new ResizeObserver(() => {
    style.setProperty("--below", `${header.offsetHeight + 12}px`);
    style.setProperty("--tasks", `${tasks.offsetHeight}px`);
  });
  for (const one of [header, tasks]) sizes.observe(one);
  document.getElementById("link").addEventListener("click", async () => {
    const link = location.href.split("#")[0] + store.address();
    const without = store.isCut ? `, without the set: ${counted(store.values.set.length, "neuron")} do not fit into an address. Download it as a mask instead.` : "";
    tell((await copied(link)) ? `The address of this view is copied${without}` : "This browser does not let the page copy its address");
  });
  document.body.dataset.state = "open"; // what is asked for is drawn; the rest is unpacked behind it
  await data.loadCards();
  for (let task = 0; task < data.tasks.length; task++) {
    await data.load(task);
    await new Promise((resolve) => setTimeout(resolve)); // clicks are answered in between
  }
  data.isWhole = true;
  await store.change(store.able(store.values));
  if (store.values.inside === "card" || store.values.neuron !== null || data.tasks.length) store.tell(new Set(["data"]));
  document.body.dataset.state = "whole";
}

begin().catch((error) => {
  document.getElementById("panels").replaceChildren(make("p", { class: "failed", role: "alert" }, String(error.message ?? error)));
  document.body.dataset.state = "failed";
  throw error;
});
