// Small helpers: elements, numbers, colours. Whatever a user wrote becomes a text node, never markup.

/** An element with attributes (`on...` are listeners, null is left out) and children (texts or elements). */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A user's text, in its own direction, so that right-to-left text does not turn what stands around it. */
export const said = (text) => make("bdi", {}, String(text));

/** A name that is cut in its middle where there is no room: names of a kind differ at their ends. */
export function cut(name) {
  const letters = [...String(name)];
  const last = letters.findLastIndex((letter) => "-_ /.:".includes(letter));
  const tail = letters.length - last <= 12 && last > 0 ? last : Math.max(letters.length - 6, 0);
  const [start, end] = [letters.slice(0, tail), letters.slice(tail)].map((part) => make("span", {}, part.join("")));
  return make("bdi", { class: "cut" }, start, end);
}

/** The element that holds what a panel shows. */
export const body = (panel) => document.querySelector(`#panel-${panel} .body`);

/** A number with three digits that count. */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace("-", "−").replace("e−", "e-");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

/** The same without zeros at its end, as an axis has it. */
export const round = (value) => number(value).replace(/\.?0+(?=e)/, "");

export const whole = (value) => value.toLocaleString("en");
export const counted = (value, thing) => `${whole(value)} ${thing}${value === 1 ? "" : "s"}`;
export const percent = (share) => (share === null || share === undefined ? "–" : `${number(100 * share)}\u00a0%`);
/** A difference of two shares, in points of a hundred. */
export const points = (value) => (value === null || value === undefined ? "–" : String(Math.round(100 * value)).replace("-", "−"));

const channels = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

/** The colour at a share of a ramp of hexadecimal colours. */
export function ramp(colours, share) {
  const at = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
  const low = Math.min(Math.floor(at), colours.length - 2);
  const [from, to] = [channels(colours[low]), channels(colours[low + 1])];
  return `rgb(${from.map((value, i) => Math.round(value + (to[i] - value) * (at - low))).join(",")})`;
}

/** Black or white, whichever is read better on a colour of `ramp`. */
export function ink(colour) {
  const [red, green, blue] = colour.match(/\d+/g).map((value) => (Number(value) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.2 ? "#14202b" : "#ffffff";
}

/** Scrolls the nearest box that scrolls, never the page, until an element is seen in it. */
export function reveal(element) {
  const scrolls = (box) => box.scrollHeight > box.clientHeight && ["auto", "scroll"].includes(getComputedStyle(box).overflowY);
  let box = element?.parentElement;
  while (box && box !== document.body && !scrolls(box)) box = box.parentElement;
  if (!box || box === document.body) return;
  const [inner, outer] = [element.getBoundingClientRect(), box.getBoundingClientRect()];
  const [above, below] = [inner.top - outer.top - box.clientTop, inner.bottom - outer.top - box.clientTop - box.clientHeight];
  if (above < 0) box.scrollTop += above;
  else if (below > 0) box.scrollTop += below;
}

/** Puts text on the clipboard; false where the browser does not let it. */
export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", { "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Says in words, also to screen readers, what has just been done; `more`: after what is still shown. */
export function tell(text, more = false) {
  const message = document.getElementById("message");
  message.textContent = more && message.textContent ? `${message.textContent} ${text}` : text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => (message.textContent = ""), Math.max(6000, 80 * message.textContent.length));
}
