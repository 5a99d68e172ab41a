// The five flags as switches: shown to all, turned by the operator.

import { byId, el, keep, setAttribute, setText } from "./dom.js";

const MEANS = {
  sharding: "Stores live on several shards; off: all on the first.",
  read_replicas: "Replicas that are fresh enough take reads.",
  redis_cache: "Products are read from Redis where it has them.",
  rate_limit: "Who asks too often is refused with 429.",
  distributed_locks: "One quorum of lock servers orders checkouts.",
};
const ORDER = Object.keys(MEANS);
const place = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
// Workers hear of a change within a second of each other: until then, an answer of the old state is an old answer.
const HELD_MS = 2500;

/** The section of the flags. */
export class Flags {
  #list = byId("flag-list");
  #operator;
  #done;
  #held = new Map();
  #busy = new Set();
  #messages = new Map();
  #shown = {};

  /** @param {import("./operator.js").Operator} operator @param {function(): void} done after a change */
  constructor(operator, done) {
    this.#operator = operator;
    this.#done = done;
    operator.addEventListener("change", () => {
      this.#messages.clear();
      this.#draw();
    });
  }

  /** @param {import("./live.js").Frame} frame */
  update({ live }) {
    this.#shown = { ...live.flags };
    for (const [name, { enabled, until }] of this.#held) {
      if (live.flags[name] === enabled && performance.now() > until - HELD_MS + 1000) this.#held.delete(name);
      else if (performance.now() > until) this.#held.delete(name);
      else this.#shown[name] = enabled;
    }
    this.#draw();
  }

  #draw() {
    // In the order of the request's path, then those that this page does not know.
    const names = Object.keys(this.#shown).sort((one, other) => place(one) - place(other));
    const rows = names.map((name) => ({
      name,
      enabled: this.#shown[name],
      allowed: this.#operator.signedIn,
      busy: this.#busy.has(name),
      message: this.#messages.get(name) ?? "",
    }));
    keep(this.#list, rows, ({ name }) => name, (row) => makeFlag(row, () => this.#toggle(row.name)));
  }

  async #toggle(name) {
    if (this.#busy.has(name)) return;
    if (!this.#operator.signedIn) {
      this.#messages.set(name, "Sign in with the operator token first.");
      this.#draw();
      return;
    }
    const enabled = !this.#shown[name];
    this.#busy.add(name);
    this.#messages.delete(name);
    this.#draw();
    const answer = await this.#operator.ask("PUT", `/v1/admin/flags/${encodeURIComponent(name)}`, { enabled });
    this.#busy.delete(name);
    if (answer.ok) {
      this.#held.set(name, { enabled: answer.body[name], until: performance.now() + HELD_MS });
      this.#shown = { ...this.#shown, ...answer.body };
      this.#done();
    } else {
      this.#messages.set(name, answer.detail);
    }
    this.#draw();
  }
}

function makeFlag({ name }, toggle) {
  const word = el("span", { class: "word" });
  const message = el("p", { class: "message", role: "status" });
  const ids = { label: `flag-${name}`, means: `flag-${name}-means` };
  const button = el("button", {
    type: "button", role: "switch", class: "switch", "aria-labelledby": ids.label, on: { click: toggle },
  }, el("span", { class: "knob", "aria-hidden": "true" }));
  const row = el("li", { "data-flag": name },
    el("div", { class: "what" },
      el("code", { id: ids.label, text: name }), el("span", { id: ids.means, class: "faint", text: MEANS[name] ?? "" })),
    word, button, message);
  return {
    node: row,
    update({ enabled, allowed, busy, message: said }) {
      setAttribute(button, "aria-checked", enabled);
      setAttribute(button, "aria-disabled", allowed && !busy ? null : "true");
      setAttribute(button, "aria-describedby", allowed ? ids.means : `${ids.means} flags-why`);
      setText(word, busy ? "…" : enabled ? "on" : "off");
      setText(message, said);
    },
  };
}
