// One neuron: its score and rank in every task, and whatever parts its card has.
import { body, copied, counted, make, number, percent, said, tell, whole } from "./dom.js";
import { colourOf, swatch } from "./tasks.js";
import { heat } from "./texts.js";

const TEXTS = 5; // shown of each sign before the fold
const SEEN = 200; // pixels of a card in the window with which it counts as seen
const GAP = 8; // above a card that the page went to

const part = (title, ...content) => make("section", { class: "part" }, make("h3", {}, title), ...content);
const table = (head, rows) =>
  make(
    "div",
    { class: "scroll" },
    make(
      "table",
      { class: "numbers" },
      make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, i) => (i ? make("td", {}, cell) : make("th", { scope: "row" }, cell)))))),
    ),
  );

function bar(share, negative) {
  const found = make("span", { class: `bar${negative ? " negative" : ""}`, "aria-hidden": "true" }, make("i"));
  found.firstChild.style.width = `${100 * Math.min(share, 1)}%`;
  return found;
}

/** From a low to a high number on a line of its own, with a point, and a ring that it is to be compared with. */
function interval({ low, effect: value, high, random: beside, random_low: least, random_high: most }, from, to) {
  const at = (number) => `${(100 * (Math.min(Math.max(number, from), to) - from)) / (to - from || 1)}%`;
  const [line, point, zero] = [make("i", { class: "line" }), make("i", { class: "point" }), make("i", { class: "zero" })];
  const words = `${number(low)} to ${number(high)}${beside === undefined ? "" : `; random neurons ${number(beside)}`}`;
  const found = make("span", { class: "interval", role: "img", title: words, "aria-label": words }, zero);
  zero.style.left = at(0);
  [line.style.left, line.style.width] = [at(low ?? value), `calc(${at(high ?? value)} - ${at(low ?? value)})`];
  point.style.left = at(value);
  if (beside !== null && beside !== undefined) {
    const random = make("i", { class: "random" });
    random.style.left = at(beside);
    const spread = make("i", { class: "spread" });
    [spread.style.left, spread.style.width] = [at(least ?? beside), `calc(${at(most ?? beside)} - ${at(least ?? beside)})`];
    found.append(spread, random);
  }
  found.append(line, point);
  return found;
}

export function cardPanel(store, step) {
  const { data } = store;
  const { palette } = data.head;
  const host = body("card");
  const heading = document.getElementById("h-card");
  const index = new Map(data.tasks.map((task, i) => [task.name, i]));
  const task = (name) => {
    const i = index.get(name);
    return i === undefined ? said(name) : make("button", { type: "button", class: "plain", onclick: () => store.change({ task: i }) }, swatch(data, i), said(name));
  };

  function scores(neuron, card) {
    const known = new Map((card?.tasks ?? []).map((line) => [line.task, line]));
    const rows = data.tasks
      .map((one, i) => ({ i, line: known.get(one.name), score: data.scores[i]?.[neuron] ?? known.get(one.name)?.score ?? null }))
      .filter(({ i, line, score }) => score !== null || line || data.masks[i]);
    if (!rows.length) return null;
    const rank = ({ i, line }) => data.rank(i, neuron) ?? line?.rank ?? null;
    const sign = ({ i }) => data.sign(i, neuron);
    const signs = rows.some((row) => sign(row));
    const cells = rows.map((row) => {
      const found = rank(row);
      const strong = found === null ? 0 : 1 - Math.log(found) / Math.log(data.total + 1);
      return [
        task(data.tasks[row.i].name),
        number(row.score),
        ...(signs ? [{ 1: "+", "-1": "−" }[sign(row)] ?? ""] : []),
        make("span", { class: "ranked" }, found === null ? "–" : whole(found), bar(strong, false)),
        data.masks[row.i] ? (data.inMask(row.i, neuron) ? "✓" : "") : "",
      ];
    });
    const all = make("details", { open: rows.length <= 14 }, make("summary", {}, counted(rows.length, "task")), table(["task", "score", ...(signs ? ["sign"] : []), `rank of ${whole(data.total)}`, "in mask"], cells));
    return part("Score by task", all);
  }

  /** In a few words, of the task that is looked at. */
  function rank(neuron, { task: i }) {
    const found = data.rank(i, neuron);
    return found === null ? [] : [`; rank ${whole(found)} for `, said(data.tasks[i].name)];
  }

  function texts(card) {
    if (!card.texts?.length) return null;
    const largest = Math.max(...card.texts.flatMap((text) => text.activations.map((value) => Math.abs(value ?? 0))));
    const group = (title, found) => {
      if (!found.length) return null;
      const list = (some) => make("ul", { class: "texts" }, ...some.map((text) => heat(palette, text, largest)));
      const rest = found.length > TEXTS ? make("details", {}, make("summary", {}, `${found.length - TEXTS} more`), list(found.slice(TEXTS))) : null;
      return make("div", {}, make("h4", {}, title), list(found.slice(0, TEXTS)), rest);
    };
    const high = card.texts.filter((text) => (text.sign ?? 1) >= 0);
    const low = card.texts.filter((text) => (text.sign ?? 1) < 0);
    return part("Texts", group("Highest activations", high), group("Lowest activations", low));
  }

  function tokens(title, found, [high, low] = ["toward", "away"]) {
    if (!found) return null;
    const side = (name, pairs) =>
      pairs?.length ? make("div", {}, make("h4", {}, name), make("ol", { class: "tokens" }, ...pairs.map(([token, value]) => make("li", {}, make("bdi", { class: "token" }, token), make("span", { class: "soft" }, number(value)))))) : null;
    const note = found.note ? make("p", { class: "soft hint" }, found.note) : null;
    return part(title, make("div", { class: "sides" }, side(high, found.toward), side(low, found.away)), note);
  }

  function histogram({ edges, counts }) {
    const rows = Object.entries(counts).map(([name, bars]) => {
      const most = Math.max(...bars, 1e-12);
      const cells = bars.map((count, i) => {
        const column = make("i", { title: `${number(edges[i])} to ${number(edges[i + 1])}: ${number(count)}` });
        column.style.height = `${(100 * count) / most}%`;
        if (index.has(name)) column.style.backgroundColor = colourOf(data, index.get(name));
        return column;
      });
      return make("div", { class: "histogram" }, make("span", { class: "name" }, task(name)), make("span", { class: "columns", role: "img", "aria-label": `activations on ${name}` }, ...cells));
    });
    const scale = make("div", { class: "histogram" }, make("span"), make("span", { class: "soft ends" }, make("span", {}, number(edges[0])), make("span", {}, number(edges.at(-1)))));
    return part("Activation by task", ...rows, scale);
  }

  function breaks(lines) {
    const every = lines.flatMap((line) => [line.low, line.high, line.effect, line.random, line.random_low, line.random_high, 0]).filter((value) => Number.isFinite(value));
    const [from, to] = [Math.min(...every), Math.max(...every)];
    const { unit } = lines[0];
    const ofMask = lines.some((line) => known(line.share) || known(line.mask_effect));
    const rows = lines.map((line) => [
      task(line.task),
      number(line.effect),
      line.effect === null ? "" : interval(line, from, to),
      line.q === undefined ? "" : number(line.q),
      ...(ofMask ? [percent(line.share)] : []),
    ]);
    const without = lines.filter((line) => known(line.mask_effect) && !known(line.share));
    const reason = without.flatMap((line, i) => [i ? "; " : "", said(line.task), ` (${number(line.mask_effect)})`]);
    return part("What breaks without it", table(["task", unit ?? "nats lost", "", "q", ...(ofMask ? ["of the mask's"] : [])], rows), make("p", { class: "soft hint" }, unit ? "" : "By how much the loss on the task's answers rises. ", "The point is this neuron alone switched off, the line its interval; the ring is random neurons of the same layer.", ofMask ? " Of the mask's: its share of what the task loses without the whole mask; shares need not add up to 1." : "", ...(without.length ? [" No share where the mask's effect is not shown to be above 0: ", ...reason, "."] : [])));
  }

  const known = (value) => value !== null && value !== undefined;
  /** An interval's ends lie between ranks. */
  const ranks = ({ low, high }) => (known(low) && known(high) ? `${whole(Math.round(low))} to ${whole(Math.round(high))}` : "–");
  const stability = (lines) =>
    part(
      "Does its rank last",
      table(["task", "rank on other examples", "in the mask"], lines.map((line) => [task(line.task), ranks(line), percent(line.share)])),
    );

  const nearest = (lines) =>
    part(
      "Nearest neurons",
      make(
        "ul",
        { class: "near" },
        ...lines.map((line) => {
          const neuron = data.find(line.neuron);
          const name = typeof neuron === "number" ? make("button", { type: "button", class: "plain", onclick: () => store.change({ neuron }) }, line.neuron) : said(line.neuron);
          return make("li", {}, name, make("span", { class: "soft" }, ` ${number(line.similarity)}${line.by ? ` by ${line.by}` : ""}`));
        }),
      ),
    );

  function code(neuron, card) {
    const site = data.siteOf(neuron);
    const { address } = data.sites[site];
    const at = neuron - data.offsets[site];
    const model = JSON.stringify(data.head.about.model ?? "the model that these are of");
    const unit = data.head.unit === "hidden" ? "" : `, unit="${data.head.unit}"`;
    const lines = { neuroscope: `import neuroscope as ns\n\nmodel = ns.load(${model})\nneuron = ns.NeuronMask.of({${JSON.stringify(address)}: [${at}]}, model${unit})\nwith ns.ablate(model, neuron):\n    ...` };
    if (data.head.unit === "hidden" && address.startsWith("blocks.")) {
      lines.TransformerLens = `def off(activation, hook):\n    activation[..., ${at}] = 0\n    return activation\n\nbridge.run_with_hooks(text, fwd_hooks=[(${JSON.stringify(address)}, off)])`;
    }
    const blocks = Object.entries({ ...lines, ...card?.code }).map(([name, text]) =>
      make("div", {}, make("h4", {}, said(name), make("button", { type: "button", class: "small", onclick: async () => tell((await copied(text)) ? "Copied" : "This browser does not let the page copy") }, "Copy")), make("pre", {}, text)),
    );
    return part("Code to paste", make("details", {}, make("summary", {}, Object.keys({ ...lines, ...card?.code }).join(", ")), ...blocks));
  }

  function draw(values) {
    const { neuron } = values;
    heading.textContent = neuron === null ? "Neuron" : `Neuron ${data.name(neuron)}`;
    if (neuron === null) {
      host.replaceChildren(make("p", { class: "soft" }, "Choose a neuron: in the list, among the scores, or by its address in the search field."));
      return;
    }
    const card = data.cards.get(neuron);
    const site = data.siteOf(neuron);
    const chosen = values.set.includes(neuron);
    const others = data.tasks.map((_, i) => i).filter((i) => data.inMask(i, neuron));
    const masks = card?.masks?.filter((name) => !index.has(name)) ?? [];
    const member = others.length + masks.length;
    const toggle = () => store.change({ set: chosen ? values.set.filter((one) => one !== neuron) : [...values.set, neuron].sort((a, b) => a - b) });
    host.replaceChildren(
      make(
        "div",
        { class: "buttons" },
        make("button", { type: "button", onclick: () => step(-1), "aria-label": "Previous neuron" }, "‹ Previous"),
        make("button", { type: "button", onclick: () => step(1), "aria-label": "Next neuron" }, "Next ›"),
        make("button", { type: "button", "aria-pressed": String(chosen), onclick: toggle }, chosen ? "Take out of the set" : "Put into the set"),
      ),
      make("p", {}, make("code", {}, data.sites[site].address), `, neuron ${neuron - data.offsets[site]} of ${whole(data.sites[site].width)}`, data.masks.some(Boolean) || member ? `; in ${member || "no"} ${member === 1 ? "mask" : "masks"}` : "", ...rank(neuron, values), "."),
      ...(masks.length ? [make("p", { class: "soft" }, "Also in: ", said(masks.join(", ")))] : []),
      ...(card?.notes ?? []).map((note) => make("p", { class: "note" }, said(note))),
      ...[
        card && texts(card),
        card && tokens("Tokens it fires at", card.tokens, ["highest", "lowest"]),
        scores(neuron, card),
        card?.breaks?.length ? breaks(card.breaks) : null,
        card && tokens("What it writes", card.writes),
        card && tokens("What it reads", card.reads),
        card?.histogram ? histogram(card.histogram) : null,
        card?.stability?.length ? stability(card.stability) : null,
        card?.nearest?.length ? nearest(card.nearest) : null,
        code(neuron, card),
      ].filter(Boolean),
    );
  }

  /** A card begins at its top; where it is not beside what was clicked, the page goes to it, but not from under keys. */
  function begin() {
    const section = host.parentElement;
    section.scrollTop = 0;
    if (document.querySelector("main :focus-visible")) return;
    const [{ top }, header] = [section.getBoundingClientRect(), document.querySelector("header")];
    const covered = getComputedStyle(header).position === "sticky" ? header.offsetHeight : 0;
    if (top < covered || top > innerHeight - SEEN) scrollBy(0, top - covered - GAP);
  }

  store.listen((values, changed) => {
    if (["neuron", "set", "task", "theme", "data"].some((name) => changed.has(name))) draw(values);
    if (changed.has("neuron") && values.neuron !== null) begin();
  });
  draw(store.values);
}
