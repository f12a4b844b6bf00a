// What the page holds: a head in JSON and packed arrays, unpacked when they are needed. `packing.py` writes them.

export const FORMAT = 1;

const text = (id) => document.getElementById(id)?.textContent ?? null;

async function unpacked(name) {
  const base64 = text(`pack-${name}`);
  if (base64 === null) return null;
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The numbers of all 65,536 halves. */
function halves() {
  const table = new Float32Array(65536);
  for (let half = 0; half < 65536; half++) {
    const [exponent, fraction] = [(half >> 10) & 31, half & 1023];
    const size = exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? NaN : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[half] = half >> 15 ? -size : size;
  }
  return table;
}

export class Data {
  /** @throws {Error} where the data are of another version than this script. */
  constructor() {
    const head = JSON.parse(text("head") ?? "null");
    if (head?.kind !== "neuroscope explorer" || head.format !== FORMAT) {
      const found = head?.kind ? `format ${head.format} of neuroscope ${head.version}` : "no data of an explorer";
      throw new Error(`This page shows format ${FORMAT}, and holds ${found}. Make it again: neuroscope explore FOLDER`);
    }
    this.head = head;
    this.tasks = head.tasks;
    this.sites = head.sites;
    this.offsets = [0];
    for (const site of head.sites) this.offsets.push(this.offsets.at(-1) + site.width);
    this.total = this.offsets.at(-1);
    this.halves = halves();
    this.scores = this.tasks.map(() => null); // Float32Array of every neuron, by task
    this.masks = this.tasks.map(() => null); // bits
    this.tops = this.tasks.map(() => null); // the exact order of the most relevant
    this.orders = this.tasks.map(() => null);
    this.ranges = this.tasks.map(() => null);
    this.cards = new Map(); // neuron -> card
    this.families = [...new Set(this.tasks.map((task) => task.family || task.name))];
    this.signed = false; // whether scores have signs
    this.signs = false; // whether cards do
    this.isWhole = false; // whether all of it is unpacked
  }

  get hasSigns() {
    return this.signed || this.signs;
  }

  /** Unpacks what there is of one task. */
  async load(task) {
    if (this.tasks[task].loaded) return;
    const [score, order, mask] = await Promise.all([`score-${task}`, `order-${task}`, `mask-${task}`].map(unpacked));
    if (score) {
      const values = new Float32Array(this.total);
      const scale = this.tasks[task].scale;
      for (let i = 0; i < this.total; i++) values[i] = this.halves[(score[i] << 8) | score[this.total + i]] * scale;
      this.scores[task] = values;
      this.tops[task] = new Uint32Array(order.buffer);
      let [low, high] = [0, 0];
      for (let i = 0; i < this.total; i++) {
        if (values[i] < low) low = values[i];
        if (values[i] > high) high = values[i];
      }
      this.ranges[task] = [low, high]; // with 0 in it
      if (low < 0) this.signed = true;
    }
    this.masks[task] = mask;
    this.tasks[task].loaded = true;
  }

  async loadCards() {
    const bytes = await unpacked("cards");
    if (!bytes) return;
    const sites = new Map(this.sites.map((site, i) => [site.address, i]));
    for (const card of JSON.parse(new TextDecoder().decode(bytes))) {
      this.cards.set(this.offsets[sites.get(card.site)] + card.neuron, card);
      if (card.tasks?.some((line) => line.sign)) this.signs = true;
    }
  }

  inMask(task, neuron) {
    const bits = this.masks[task];
    return bits !== null && ((bits[neuron >> 3] >> (neuron & 7)) & 1) === 1;
  }

  /** 1 or -1 where it is known that a neuron acts for a task or against it: by its score, or by its card. */
  sign(task, neuron) {
    if (this.signed && this.scores[task]) return Math.sign(this.scores[task][neuron]);
    const { name } = this.tasks[task] ?? {};
    return this.cards.get(neuron)?.tasks?.find((line) => line.task === name)?.sign ?? 0;
  }

  size(task) {
    return this.tasks[task].counts?.reduce((sum, count) => sum + count, 0) ?? 0;
  }

  /** All neurons, the most relevant first: exactly so among the first, and by the packed scores behind them. */
  order(task) {
    if (this.orders[task]) return this.orders[task];
    const [scores, tops] = [this.scores[task], this.tops[task]];
    if (!scores) return null;
    const keys = new Float64Array(this.total); // a score as a whole number that grows with it, then the neuron
    const bits = new Int32Array(scores.buffer);
    for (let i = 0; i < this.total; i++) {
      const rising = Number.isNaN(scores[i]) ? -(2 ** 31) : bits[i] < 0 ? -(bits[i] & 0x7fffffff) : bits[i];
      keys[i] = -Math.floor(rising / 2 ** 11) * 2 ** 30 + i; // 21 bits, more than half precision has
    }
    keys.sort();
    const order = new Uint32Array(this.total);
    const first = new Uint8Array(this.total);
    order.set(tops);
    for (const neuron of tops) first[neuron] = 1;
    let at = tops.length;
    for (const key of keys) {
      const neuron = ((key % 2 ** 30) + 2 ** 30) % 2 ** 30;
      if (!first[neuron]) order[at++] = neuron;
    }
    return (this.orders[task] = order);
  }

  /** 1 is the most relevant. */
  rank(task, neuron) {
    const scores = this.scores[task] ?? null;
    if (!scores || Number.isNaN(scores[neuron])) return null;
    const exact = this.tops[task].indexOf(neuron);
    if (exact >= 0) return exact + 1;
    let above = 0;
    for (let i = 0; i < this.total; i++) if (scores[i] > scores[neuron]) above++;
    return Math.max(above, this.tops[task].length) + 1;
  }

  siteOf(neuron) {
    let [low, high] = [0, this.sites.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.offsets[middle] <= neuron) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** "9.431": the layer, or what tells the site, and the index. */
  name(neuron) {
    const site = this.siteOf(neuron);
    return `${this.sites[site].layer}.${neuron - this.offsets[site]}`;
  }

  /** The site of a layer: "29", "29.", "L29", "layer 29", or its address; -1 where there is none. */
  findSite(name) {
    const asked = name.trim().toLowerCase().replace(/\.$/, "");
    const called = (word) => this.sites.findIndex(({ layer, address }) => layer.toLowerCase() === word || address.toLowerCase() === word);
    const exact = called(asked);
    return exact >= 0 ? exact : called(asked.replace(/^(layer|l)\s*/, ""));
  }

  noLayer(layer) {
    return `There is no layer ${layer}: there are ${this.sites[0].layer} to ${this.sites.at(-1).layer}.`;
  }

  /** The neuron that is called so; a text that says why there is none; null for what is no name of one. */
  find(name) {
    const siteOf = (layer) => this.sites.findIndex((one) => one.layer === layer || one.address === layer);
    let [, layer, index] = name.trim().match(/^(.+)\.(\d+)$/) ?? [];
    if (layer === undefined || siteOf(layer) < 0) {
      [, layer, index] = name.trim().match(/^(?:L|layer)?\s*(\d+)(?:[\s.:,]|neuron|n)+(\d+)$/i) ?? [];
      if (layer === undefined) return null;
    }
    const site = siteOf(layer);
    if (site < 0) return this.noLayer(layer);
    if (Number(index) < this.sites[site].width) return this.offsets[site] + Number(index);
    return `There is no neuron ${layer}.${index}: layer ${layer} has ${layer}.0 to ${layer}.${this.sites[site].width - 1}.`;
  }
}
