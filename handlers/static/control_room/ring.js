// The ring: 4,096 partitions, coloured by shard, wound up as a spiral from 12 o'clock outside to the inside.

import { byId, el, keep, setAttribute, setText } from "./dom.js";
import { count, percent, plural } from "./numbers.js";
import { colour, onTheme } from "./theme.js";

// Cells of one turn. Odd, so that shards that take turns make a chequered band instead of circles; 17 turns of 241
// are one cell more than there are partitions.
const CELLS_A_TURN = 241;
const HOLE = 0.45; // the inner radius, of the outer one
const CELL_GAP = 0.2; // of a cell's width
const MARK_RADIUS = 4;

/** The canvas of the ring, its legend and its text. */
export class Ring {
  #canvas = byId("ring-canvas");
  #legend = byId("ring-legend");
  #text = byId("ring-text");
  #ring = null;
  #asked = null;
  #marked = null;
  #order = [];

  /** How many partitions there are; those of the first version, until the ring is loaded. */
  get partitions() {
    return this.#ring?.partitions ?? 4096;
  }

  constructor() {
    onTheme(() => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
  }

  /** Loads the ring anew where the epoch has changed. @param {import("./live.js").Frame} frame */
  update({ live }) {
    this.#order = live.shards.map((shard) => shard.name);
    const rows = live.shards.map((shard, index) => ({ shard, index }));
    keep(this.#legend, rows, ({ shard }) => shard.name, makeRow);
    if (this.#asked !== live.epoch) this.#load(live.epoch);
  }

  /** Marks a partition; null: none. */
  mark(partition) {
    this.#marked = partition;
    this.#draw();
  }

  async #load(epoch) {
    this.#asked = epoch;
    try {
      const answer = await fetch("/live/ring", { credentials: "omit", signal: AbortSignal.timeout(4000) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const { epoch: answered, partitions, shards, runs } = await answer.json();
      if (answered < epoch) this.#asked = null; // by a worker that has not heard of the new map yet
      this.#ring = { partitions, shards, owners: runs.flatMap(([shard, length]) => Array(length).fill(shard)) };
    } catch {
      this.#asked = null; // asked again with the next figures
      return;
    }
    this.#describe(epoch);
    this.#draw();
  }

  #describe(epoch) {
    const { partitions, shards, owners } = this.#ring;
    const owned = shards.map((name, index) => `${name} ${count(owners.filter((owner) => owner === index).length)}`);
    setText(this.#text, `Epoch ${count(epoch)}: ${count(partitions)} partitions, of them ${owned.join(", ")}.`);
    setAttribute(this.#canvas, "aria-label", `The ring. ${this.#text.textContent}`);
  }

  #draw() {
    if (this.#ring === null) return;
    const canvas = this.#canvas;
    const size = Math.round(canvas.clientWidth * devicePixelRatio);
    if (size === 0) return;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    const { owners, shards } = this.#ring;
    const place = places(size, owners.length);
    shards.forEach((name, shard) => {
      context.fillStyle = colour(`shard-${Math.max(0, this.#order.indexOf(name)) % 8}`);
      context.beginPath();
      owners.forEach((owner, partition) => {
        if (owner !== shard) return;
        const { inner, outer, from, to } = place(partition);
        context.moveTo(Math.cos(from) * outer + size / 2, Math.sin(from) * outer + size / 2);
        context.arc(size / 2, size / 2, outer, from, to);
        context.arc(size / 2, size / 2, inner, to, from, true);
        context.closePath();
      });
      context.fill();
    });
    if (this.#marked !== null) drawMark(context, size, place(this.#marked));
  }
}

/** Where each partition lies on a canvas of this size. */
function places(size, partitions) {
  const radius = size / 2 - MARK_RADIUS * devicePixelRatio - 1;
  const turns = Math.ceil(partitions / CELLS_A_TURN);
  const depth = (radius * (1 - HOLE)) / turns;
  const angle = (2 * Math.PI) / CELLS_A_TURN;
  return (partition) => {
    const outer = radius - depth * Math.floor(partition / CELLS_A_TURN);
    const from = angle * (partition % CELLS_A_TURN) - Math.PI / 2;
    return { outer, inner: outer - depth * (1 - CELL_GAP), from, to: from + angle * (1 - CELL_GAP) };
  };
}

/** A line from the middle and a ring around the cell: seen whatever colours lie beneath. */
function drawMark(context, size, { inner, outer, from, to }) {
  const [angle, radius] = [(from + to) / 2, (inner + outer) / 2];
  const [x, y] = [size / 2 + Math.cos(angle) * radius, size / 2 + Math.sin(angle) * radius];
  for (const [stroke, width] of [[colour("card"), 5], [colour("ink"), 2]]) {
    context.strokeStyle = stroke;
    context.lineWidth = width * devicePixelRatio;
    context.beginPath();
    context.moveTo(size / 2, size / 2);
    context.lineTo(size / 2 + Math.cos(angle) * (radius - MARK_RADIUS * 1.6 * devicePixelRatio),
      size / 2 + Math.sin(angle) * (radius - MARK_RADIUS * 1.6 * devicePixelRatio));
    context.moveTo(x + MARK_RADIUS * 1.6 * devicePixelRatio, y);
    context.arc(x, y, MARK_RADIUS * 1.6 * devicePixelRatio, 0, 2 * Math.PI);
    context.stroke();
  }
}

function makeRow({ shard, index }) {
  const facts = el("span", { class: "faint" });
  return {
    node: el("li", {},
      el("span", { class: "swatch", "data-shard": index % 8 }), el("span", { text: shard.name }), facts),
    update({ shard: now }) {
      const stores = now.stores === null ? "" : ` · ${plural(now.stores, "store")}`;
      setText(facts, `${percent(now.share)}${stores}`);
    },
  };
}
