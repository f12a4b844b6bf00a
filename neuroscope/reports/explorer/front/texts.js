// Texts in which a neuron is active: every token on a ground as strong as its activation.
import { diverging, isDark } from "./colours.js";
import { ink, make, number, ramp } from "./dom.js";

const AROUND = 6; // tokens shown on either side of the strongest, where there is little room

/** Where the activation is the highest; in a text that is among the lowest, where it is that. */
const strongest = (text) => {
  const sign = text.sign < 0 ? -1 : 1;
  let best = 0;
  text.activations.forEach((value, i) => {
    if (value !== null && sign * value > sign * (text.activations[best] ?? -sign * Infinity)) best = i;
  });
  return best;
};

/** The words around the strongest token. */
export function peak(text) {
  const at = strongest(text);
  const [from, to] = [Math.max(0, at - AROUND), at + AROUND];
  const bold = make("b", {}, text.tokens[at]);
  return make("bdi", {}, from > 0 ? "… " : "", text.tokens.slice(from, at).join(""), bold, text.tokens.slice(at + 1, to).join(""));
}

/** A text with its heat; `largest` is the activation of the strongest colour. */
export function heat(palette, text, largest) {
  const colours = diverging(palette);
  const marks = text.tokens.map((token, i) => {
    const value = text.activations[i];
    const mark = make("span", { class: "token", title: `${token.trim()}: ${number(value)}` }, token);
    const share = (value ?? 0) / (largest || 1);
    if (Math.abs(share) > 0.04) {
      const colour = ramp(colours, 0.5 + share / 2);
      mark.style.backgroundColor = colour;
      mark.style.color = ink(colour);
    }
    return mark;
  });
  const top = text.activations[strongest(text)];
  const about = make("span", { class: "soft facts" }, number(top), text.where ? ` · ${text.where}` : "");
  return make("li", {}, make("bdi", { class: `heat${isDark() ? " dark" : ""}` }, ...marks), about);
}
