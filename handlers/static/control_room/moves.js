// Stores on their way from one shard to another: each move's phases, and the form that starts one.

import { confirmed } from "./confirm.js";
import { byId, el, keep, offerShards, pair, setAttribute, setSign, setText, show, sign } from "./dom.js";
import { bytes, clock, count, duration, milliseconds } from "./numbers.js";

const STEPS = [
  ["copying", "copying"], ["catching_up", "catching up"], ["verifying", "verifying"], ["switching", "switching"],
  ["done", "done"],
];
const ENDED = { failed: "failed", rolled_back: "rolled back" };

/** The section of the moves. */
export class Moves {
  #list = byId("move-list");
  #outcome = byId("move-outcome");
  #operator;
  #done;

  /** @param {import("./operator.js").Operator} operator @param {function(): void} done after a change */
  constructor(operator, done) {
    this.#operator = operator;
    this.#done = done;
    byId("move-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#begin(byId("move-store").value.trim(), byId("move-shard").value);
    });
  }

  /** @param {import("./live.js").Frame} frame */
  update({ live }) {
    offerShards(byId("move-shard"), live.shards.map((shard) => shard.name));
    show(byId("move-none"), live.moves.length === 0);
    const { signedIn } = this.#operator;
    const rows = live.moves.map((move) => ({
      ...move, at: live.at, undo: move.can_be_undone && move.id !== null && signedIn,
    }));
    keep(this.#list, rows, (move) => move.id ?? `${move.from_shard} ${move.to_shard} ${move.started_at}`,
      (move) => makeMove(move, () => this.#undo(move)));
  }

  async #begin(storeId, shard) {
    if (!(await confirmed(`Move the store to ${shard}?`,
      `Store ${storeId}. It moves while it is read and written; its writers wait once, shortly.`, "Move"))) return;
    const body = { store_id: storeId, to_shard: shard };
    this.#tell(await this.#operator.ask("POST", "/v1/admin/moves", body), "The move has begun.");
  }

  async #undo({ id, from_shard: home }) {
    const consequence = `The store lives on ${home} again; no write is lost.`;
    if (!(await confirmed("Take the move back?", consequence, "Take it back"))) return;
    const path = `/v1/admin/moves/${encodeURIComponent(id)}`;
    this.#tell(await this.#operator.ask("DELETE", path), "The move is being taken back.");
  }

  #tell(answer, done) {
    this.#outcome.dataset.level = answer.ok ? "good" : "error";
    setText(this.#outcome, answer.ok ? done : answer.detail);
    if (answer.ok) this.#done();
  }
}

function makeMove(move, undo) {
  const store = el("code", { class: "faint" });
  const steps = el("ol", { class: "steps" }, ...STEPS.map(([state, name]) =>
    el("li", { "data-step": state }, sign("step"), el("span", { text: name }))));
  const bar = el("progress", { max: "1", "aria-label": "rows copied" });
  const list = el("dl", { class: "figures wide" });
  const rows = pair(list, "Rows copied");
  const behind = pair(list, "Copy behind");
  const pause = pair(list, "Writers waited");
  const when = pair(list, "When");
  const now = el("p", { class: "means" });
  const error = el("p", { class: "message" });
  const button = el("button", { type: "button", text: "Take it back", on: { click: undo } });
  const node = el("li", { class: "move" },
    el("h3", { text: `${move.from_shard} → ${move.to_shard}` }), store, steps, bar, now, list, error, button);
  return {
    node,
    update(current) {
      node.dataset.state = current.state;
      setText(store, current.store_id === null ? "store shown to the operator" : current.store_id);
      drawSteps(steps, current.state);
      show(bar, current.state === "copying");
      const copied = current.rows_total > 0 ? Math.min(1, current.rows_copied / current.rows_total) : null;
      setAttribute(bar, "value", copied?.toFixed(3) ?? null);
      setText(now, ENDED[current.state] ? `${ENDED[current.state]}: ${current.step ?? ""}` : (current.step ?? ""));
      rows.set(`${count(current.rows_copied)} of ${count(current.rows_total)}`);
      behind.set(bytes(current.lag_bytes));
      pause.set(current.write_pause_ms === null ? "–" : milliseconds(current.write_pause_ms / 1000));
      when.set(current.finished_at === null
        ? `since ${clock(current.started_at)} · ${duration(current.at - current.started_at)}`
        : `${clock(current.started_at)} · took ${duration(current.finished_at - current.started_at)}`);
      setText(error, current.error ?? "");
      show(button, current.undo);
    },
  };
}

function drawSteps(steps, state) {
  const reached = STEPS.findIndex(([name]) => name === state);
  [...steps.children].forEach((step, index) => {
    const done = index < reached || state === "done";
    step.dataset.progress = done ? "done" : index === reached ? "now" : "ahead";
    setAttribute(step, "aria-current", index === reached && state !== "done" ? "step" : null);
    setSign(step.firstChild, done ? "good" : "step");
  });
}
