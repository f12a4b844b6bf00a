// Colours for the theme that is on: the house's palette (Okabe & Ito), with ramps that begin at the ground they lie on.

export const isDark = () =>
  (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

export function sequential(palette) {
  if (!isDark()) return palette.sequential;
  return ["#1d2833", ...palette.sequential.slice(1, -1).reverse(), "#eaf4fb"];
}

/** From orange through the ground to blue. */
export function diverging(palette) {
  if (!isDark()) return palette.diverging;
  return ["#ffb27d", "#e8751f", "#7d3f12", "#1d2833", "#1f5f8f", "#4aa3dc", "#b5dcf5"];
}

/** Of a family, by its number; black would be lost on a dark ground. */
export function category(palette, number) {
  const colour = palette.categories[number % palette.categories.length];
  return isDark() && colour === "#000000" ? "#f2f2f2" : isDark() && colour === "#0072B2" ? "#3d9be0" : colour;
}

/** A colour that the style sheet names, as it is now. */
export const styled = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
