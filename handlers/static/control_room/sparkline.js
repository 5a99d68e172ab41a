// A line of the last minute, for the eye: its newest value stands beside it as text.

import { setAttribute } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 60;
const WIDTH = 60;
const HEIGHT = 16;

/** A small line in an SVG, `node`. */
export class Sparkline {
  #values = [];
  #line = document.createElementNS(SVG, "polyline");

  constructor() {
    this.node = document.createElementNS(SVG, "svg");
    this.node.setAttribute("class", "sparkline");
    this.node.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.node.setAttribute("preserveAspectRatio", "none");
    this.node.setAttribute("aria-hidden", "true");
    this.#line.setAttribute("vector-effect", "non-scaling-stroke");
    this.node.append(this.#line);
  }

  /** A value more; null, which is not known, is drawn as the one before. */
  add(value) {
    if (value === null && this.#values.length === 0) return;
    this.#values.push(value ?? this.#values.at(-1));
    if (this.#values.length > POINTS) this.#values.shift();
    const most = Math.max(...this.#values, 1);
    const first = POINTS - this.#values.length;
    const points = this.#values.map((each, index) =>
      `${((first + index) * WIDTH) / (POINTS - 1)},${(HEIGHT - 1 - (each / most) * (HEIGHT - 2)).toFixed(1)}`);
    setAttribute(this.#line, "points", points.join(" "));
  }

  clear() {
    this.#values = [];
    setAttribute(this.#line, "points", "");
  }
}
