// A matrix of coloured cells that is gone through by mouse and by arrows: masks over depth, overlap, cross-ablation.
import { cut, ink, make } from "./dom.js";

export class Grid {
  /**
   * `rows` and `columns` are lists of { name, title?, swatch? } (an element); `cell(row, column)` gives { colour, text, title }, or null
   * where there is nothing; `choose(row, column)` is called with what is chosen, null for a whole row or column.
   */
  constructor(host, { label, corner, rows, columns, cell, choose, narrow = false, slanted = false }) {
    this.choose = choose;
    this.rows = rows.length;
    this.columns = columns.length;
    this.at = [0, 0];
    const head = columns.map((column, j) =>
      make("th", { scope: "col", "data-row": "", "data-column": j, title: column.title ?? column.name }, make("span", {}, cut(column.name))),
    );
    const lines = rows.map((row, i) => {
      const name = make("th", { scope: "row", "data-row": i, "data-column": "", title: row.title ?? row.name }, make("span", {}, cut(row.name)));
      if (row.swatch) name.firstChild.prepend(row.swatch);
      const cells = columns.map((_, j) => {
        const found = cell(i, j);
        const attributes = { role: "gridcell", "data-row": i, "data-column": j, tabindex: -1 };
        if (!found) return make("td", { ...attributes, class: "none", "aria-label": "nothing here" });
        const element = make("td", { ...attributes, title: found.title, "aria-label": found.title }, found.text ?? "");
        element.style.backgroundColor = found.colour;
        element.style.color = ink(found.colour);
        return element;
      });
      return make("tr", { role: "row" }, name, ...cells);
    });
    this.table = make(
      "table",
      { class: `grid${narrow ? " narrow" : ""}${slanted ? " slanted" : ""}`, role: "grid", "aria-label": label },
      make("thead", {}, make("tr", { role: "row" }, make("td", { class: "corner" }, corner ?? ""), ...head)),
      make("tbody", {}, ...lines),
    );
    this.table.addEventListener("click", (event) => this.take(event.target.closest("[data-row]")));
    this.table.addEventListener("keydown", (event) => this.key(event));
    host.replaceChildren(make("div", { class: "scroll" }, this.table));
    this.reachable();
  }

  cell(row, column) {
    return this.table.tBodies[0].rows[row]?.cells[column + 1];
  }

  take(element) {
    if (!element) return;
    const [row, column] = ["row", "column"].map((name) => (element.dataset[name] === "" ? null : Number(element.dataset[name])));
    if (row !== null && column !== null) this.move(row, column);
    this.choose(row, column);
  }

  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (step) {
      const [row, column] = this.at;
      this.move(Math.min(Math.max(row + step[0], 0), this.rows - 1), Math.min(Math.max(column + step[1], 0), this.columns - 1), true);
    } else if (event.key === "Enter" || event.key === " ") {
      this.choose(...this.at);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  move(row, column, focus = false) {
    this.at = [row, column];
    this.reachable();
    if (focus) this.cell(row, column)?.focus();
  }

  /** One cell is reached by the tab key, the others from it by arrows. */
  reachable() {
    for (const cell of this.table.querySelectorAll("td[tabindex='0']")) cell.tabIndex = -1;
    const cell = this.cell(...this.at);
    if (cell) cell.tabIndex = 0;
  }

  /** Marks a row, a column and a cell. */
  mark({ row = null, column = null, cell = null, faint = () => false }) {
    const is = (element, name, on) => element.classList.toggle(name, on);
    [...this.table.tHead.rows[0].cells].slice(1).forEach((head, j) => is(head, "on", j === column));
    [...this.table.tBodies[0].rows].forEach((line, i) => {
      is(line, "on", i === row);
      is(line, "faint", faint(i));
      [...line.cells].slice(1).forEach((element, j) => {
        is(element, "on", cell !== null && cell[0] === i && cell[1] === j);
        is(element, "column", j === column);
        element.setAttribute("aria-selected", String(cell !== null && cell[0] === i && cell[1] === j));
      });
    });
    if (cell) this.move(...cell);
    this.show(column);
  }

  /** Scrolls sideways until a column is seen beside the names, which stay. */
  show(column) {
    const head = this.table.tHead.rows[0].cells[column === null ? 0 : column + 1];
    const [frame, names] = [this.table.parentElement, this.table.tHead.rows[0].cells[0].offsetWidth];
    if (column === null || frame.scrollWidth <= frame.clientWidth) return;
    const [left, right] = [head.offsetLeft - names, head.offsetLeft + head.offsetWidth - frame.clientWidth];
    frame.scrollLeft = Math.min(Math.max(frame.scrollLeft, right), left);
  }
}

/** What the colours of a matrix mean: a bar from one number to another. */
export function legend(colours, from, to, words) {
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  bar.style.backgroundImage = `linear-gradient(to right, ${colours.join(",")})`;
  return make("p", { class: "legend" }, from, bar, to, make("span", { class: "soft" }, ` ${words}`));
}
