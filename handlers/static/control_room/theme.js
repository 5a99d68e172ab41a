// The page's colours, for what is drawn on a canvas: the style sheet has them, in light and in dark.

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** A colour of the style sheet, such as `ink` or `shard-0`. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Calls back whenever the theme changes. */
export function onTheme(listener) {
  DARK.addEventListener("change", listener);
}
