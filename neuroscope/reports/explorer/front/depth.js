// Where in depth each task's mask has its neurons: a row for each task, a column for each site.
import { sequential } from "./colours.js";
import { body, make, percent, ramp, whole } from "./dom.js";
import { Grid, legend } from "./grid.js";
import { shown } from "./neurons.js";
import { swatch } from "./tasks.js";

export function depthPanel(store) {
  const { data } = store;
  const masked = data.tasks.map((_, i) => i).filter((i) => data.tasks[i].counts);
  const host = make("div");
  const note = make("div");
  body("depth").replaceChildren(host, note);
  let [grid, rows] = [null, []];

  function draw(values) {
    rows = masked.filter((task) => shown(data, values, task));
    if (!rows.length) {
      grid = null;
      host.replaceChildren(make("p", { class: "soft" }, masked.length ? "No task has this verdict." : "No masks were given."));
      return note.replaceChildren();
    }
    const share = (task, site) => data.tasks[task].counts[site] / data.sites[site].width;
    const most = Math.max(1e-9, ...masked.flatMap((task) => data.sites.map((_, site) => share(task, site))));
    const colours = sequential(data.head.palette);
    const many = data.sites.length > 16;
    grid = new Grid(host, {
      label: "Masks over depth: tasks by layers",
      corner: "layer",
      narrow: many,
      rows: rows.map((task) => ({ name: data.tasks[task].name, swatch: swatch(data, task) })),
      columns: data.sites.map((site) => ({ name: site.layer, title: `layer ${site.layer}: ${site.address}` })),
      cell: (row, site) => {
        const task = rows[row];
        const found = data.tasks[task].counts[site];
        return {
          colour: ramp(colours, share(task, site) / most),
          text: many ? "" : String(Math.round(100 * share(task, site))),
          title: `${data.tasks[task].name}, layer ${data.sites[site].layer}: ${whole(found)} of ${whole(data.sites[site].width)} neurons (${percent(share(task, site))})`,
        };
      },
      choose: (row, site) => {
        const [was, task] = [store.values, row === null ? store.values.task : rows[row]];
        store.change({ task, layer: site === null || (site === was.layer && task === was.task) ? null : site });
      },
    });
    note.replaceChildren(legend(colours, "0", percent(most), "of the layer's neurons are in the mask; choose a cell, a row or a column"));
    mark(values);
  }

  function mark(values) {
    const row = rows.indexOf(values.task);
    grid?.mark({ row, column: values.layer, cell: row >= 0 && values.layer !== null ? [row, values.layer] : null });
  }

  store.listen((values, changed) => (changed.has("verdict") || changed.has("theme") ? draw(values) : mark(values)));
  draw(store.values);
}
