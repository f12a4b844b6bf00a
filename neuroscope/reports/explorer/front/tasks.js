// The tasks: how well the model does each, whether its neurons are its own, and which one is looked at.
import { category } from "./colours.js";
import { body, counted, ink, make, points, ramp, reveal, said } from "./dom.js";
import { shown } from "./neurons.js";

/** A colour beside a task's name: that of its family. Where tasks share colours, a number tells them apart. */
export function swatch(data, task) {
  const mark = make("i", { class: "swatch", "aria-hidden": "true", "data-number": sharesColours(data) ? task + 1 : null });
  const colour = colourOf(data, task);
  mark.style.backgroundColor = colour;
  mark.style.color = ink(ramp([colour, colour], 0));
  return mark;
}

const sharesColours = ({ families, tasks, head }) => Math.min(families.length, head.palette.categories.length) < tasks.length;

export function colourOf(data, task) {
  const { family, name } = data.tasks[task];
  return category(data.head.palette, data.families.indexOf(family || name));
}

export function tasksPanel(store) {
  const { data } = store;
  const { verdicts, standings } = data.head;
  const list = make("div", { role: "listbox", "aria-label": "Tasks", tabindex: 0, class: "list" });
  body("tasks").replaceChildren(
    list,
    make("p", { class: "soft hint" }, `${standings ? "Score with nothing off, and with the task's own neurons off. " : ""}${verdicts ? "The word is the verdict on these neurons." : ""}`),
  );

  function about(task) {
    const [verdict, standing] = [verdicts?.[task], standings?.[task]];
    const facts = [];
    if (standing) facts.push(`${points(standing.original)}\u00a0→\u00a0${points(standing.off)}\u00a0%`);
    else if (verdict) facts.push(`${points(verdict.effect)} points lost`);
    if (!facts.length && data.tasks[task].counts) facts.push(counted(data.size(task), "neuron"));
    return facts.join(" · ");
  }

  function draw(values) {
    list.replaceChildren(
      ...data.tasks.map((task, i) =>
        make(
          "div",
          { role: "option", id: `task-${i}`, "aria-selected": i === values.task, class: "row", hidden: !shown(data, values, i), onclick: () => store.change({ task: i }) },
          make("span", { class: "name" }, swatch(data, i), said(task.name)),
          make("span", { class: "soft facts" }, about(i)),
          verdicts?.[i] ? make("span", { class: `verdict ${verdicts[i].verdict.replace(" ", "-")}` }, said(verdicts[i].verdict)) : null,
        ),
      ),
    );
    mark(values);
  }

  function mark(values) {
    for (const [i, row] of [...list.children].entries()) {
      row.setAttribute("aria-selected", String(i === values.task));
      row.classList.toggle("other", i === values.other);
    }
    list.setAttribute("aria-activedescendant", `task-${values.task}`);
  }

  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const seen = data.tasks.map((_, i) => i).filter((i) => shown(data, store.values, i));
    const next = seen[seen.indexOf(store.values.task) + step];
    if (next !== undefined) store.change({ task: next });
  });
  store.listen((values, changed) => {
    if (changed.has("verdict") || changed.has("theme")) draw(values);
    else mark(values);
    if (changed.has("task")) reveal(list.querySelector("[aria-selected=true]"));
  });
  draw(store.values);
}
