// Which neurons pass the filters, and in which order.

/** A test of one neuron, of all filters but the task's order. */
export function passes(data, values) {
  const { task, other, layer, sign, inside } = values;
  const [low, high] = layer === null ? [0, data.total] : [data.offsets[layer], data.offsets[layer + 1]];
  const set = inside === "set" ? new Set(values.set) : null;
  const others = data.tasks.map((_, i) => i).filter((i) => i !== task && data.masks[i]);
  const tests = [];
  if (sign) tests.push(sign === "+" ? (i) => data.sign(task, i) > 0 : (i) => data.sign(task, i) < 0);
  if (inside === "mask" || inside === "alone" || inside === "both") tests.push((i) => data.inMask(task, i));
  if (inside === "alone") tests.push((i) => !others.some((one) => data.inMask(one, i)));
  if (inside === "both" && other !== null) tests.push((i) => data.inMask(other, i));
  if (inside === "card") tests.push((i) => data.cards.has(i));
  if (set) tests.push((i) => set.has(i));
  return { low, high, test: (i) => i >= low && i < high && tests.every((one) => one(i)), all: tests.length === 0 };
}

/** The first `most` neurons that pass, the most relevant first; without scores, those with a card first. */
export function listed(data, values, most) {
  const { test } = passes(data, values);
  const found = [];
  const gather = (order) => {
    found.length = 0;
    for (let at = 0; at < order.length && found.length < most; at++) if (test(order[at])) found.push(order[at]);
    return found;
  };
  if (data.tops[values.task]) {
    if (values.sign === "-" && data.signed) return gather(data.order(values.task).toReversed());
    return gather(data.tops[values.task]).length < most ? gather(data.order(values.task)) : found;
  }
  for (const neuron of data.cards.keys()) if (test(neuron) && found.length < most) found.push(neuron);
  for (let i = 0; i < data.total && found.length < most; i++) if (!data.cards.has(i) && test(i)) found.push(i);
  return found;
}

/** All that pass, in the order of the model. */
export function all(data, values) {
  const { low, high, test } = passes(data, values);
  const found = [];
  for (let i = low; i < high; i++) if (test(i)) found.push(i);
  return found;
}

/** Whether a task has the verdict that is asked for. */
export const shown = (data, values, task) => !values.verdict || data.head.verdicts?.[task]?.verdict === values.verdict;
