// The log: what happened, newest first; the last of it also as lines in the charts.

import { setMarks } from "./charts.js";
import { byId, el, setText, show, sign } from "./dom.js";
import { clock } from "./numbers.js";

const KEPT = 200;
const MARKED = new Set(["flag", "failover", "move"]);
const MARKED_SECONDS = 130;
const BEGUN_ANEW = {
  id: null, kind: "worker", level: "warning", subject: "service", text: "has begun anew; totals count from here",
};

/** The section of the log. */
export class Events {
  #list = byId("event-list");
  #filter = byId("event-filter");
  #kept = [];

  constructor() {
    this.#filter.addEventListener("change", () => {
      for (const { node, event } of this.#kept) show(node, this.#isShown(event));
      this.#say();
    });
  }

  /** @param {import("./live.js").Frame} frame */
  update({ live, anew }) {
    if (anew) this.#add({ ...BEGUN_ANEW, at: live.started_at });
    for (const event of live.events) this.#add(event);
    for (const { node } of this.#kept.splice(KEPT)) node.remove();
    setMarks(this.#kept.filter(({ event }) => MARKED.has(event.kind) && live.at - event.at < MARKED_SECONDS)
      .map(({ event: { at, kind, subject, text } }) => ({ at, text: kind === "flag" ? `${subject} ${text}` : subject })));
    this.#list.setAttribute("aria-busy", "false");
    this.#say();
  }

  #add(event) {
    const known = this.#kept.some((each) => each.event.id === event.id && each.event.at === event.at);
    if (known) return;
    const node = makeEvent(event);
    show(node, this.#isShown(event));
    this.#list.prepend(node);
    this.#kept.unshift({ event, node });
  }

  #isShown(event) {
    return this.#filter.value === "all" || this.#filter.value === event.kind;
  }

  #say() {
    const shown = this.#kept.filter(({ node }) => !node.hidden).length;
    const none = this.#kept.length > 0 ? "Nothing of this kind." : "Nothing has happened yet.";
    setText(byId("event-none"), shown > 0 ? "" : none);
  }
}

function makeEvent({ at, level, kind, subject, text }) {
  const time = el("time", { datetime: new Date(at * 1000).toISOString(), text: clock(at) });
  const what = el("p", {}, el("strong", { text: subject }), document.createTextNode(` ${text}`));
  return el("div", { class: "event", "data-level": level, "data-kind": kind },
    sign(level), time, what, el("span", { class: "faint", text: level === "info" ? kind : `${level} · ${kind}` }));
}
