// Where a store lies and why; for the operator, the buttons that change it.

import { confirmed } from "./confirm.js";
import { byId, offerShards, setText, show } from "./dom.js";
import { count } from "./numbers.js";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/**
 * A route in words.
 * @param {Object} route an answer of `/live/route/{store_id}`
 * @param {number} partitions how many the ring has
 * @param {boolean} signedIn whether the operator asked: only then whether the store exists is told
 * @returns {Array<string>} sentences
 */
export function routeInWords({ partition, shard, reason, epoch, exists, owner }, partitions, signedIn) {
  const where = `Partition ${count(partition)} of ${count(partitions)}`;
  const would = owner === shard ? "the ring would give it there as well" : `the ring would give it to ${owner}`;
  const why = {
    ring: `${where}; the ring gives it to ${shard}.`,
    pin: `Pinned to ${shard}. ${where}: ${would}.`,
    range: `A range of ids gives it to ${shard}. ${where}: ${would}.`,
    "sharding-off": `Sharding is off, so it lives on ${shard}, as every store. ${where}: with sharding, ${would}.`,
  };
  const known = {
    true: "The store exists.",
    false: "No store has this id; one that had it would live there.",
    null: signedIn
      ? `Whether the store exists is not known: ${shard} does not answer.`
      : "Whether there is such a store is told to the operator.",
  };
  return [why[reason] ?? `On ${shard} (${reason}). ${where}: ${would}.`, `${known[exists]} Epoch ${count(epoch)}.`];
}

/** The form beneath the ring. */
export class Route {
  #field = byId("store-id");
  #answer = byId("route-answer");
  #actions = byId("route-actions");
  #outcome = byId("route-outcome");
  #shard = byId("route-shard");
  #ring;
  #operator;
  #done;
  #route = null;
  #sharding = null;

  /**
   * @param {import("./ring.js").Ring} ring
   * @param {import("./operator.js").Operator} operator
   * @param {function(): void} done after a change
   */
  constructor(ring, operator, done) {
    this.#ring = ring;
    this.#operator = operator;
    this.#done = done;
    byId("route-form").addEventListener("submit", (event) => {
      event.preventDefault();
      setText(this.#outcome, "");
      this.#find(this.#field.value.trim());
    });
    byId("route-pin").addEventListener("click", () => this.#pin());
    byId("route-unpin").addEventListener("click", () => this.#unpin());
    byId("route-move").addEventListener("click", () => this.#move());
    operator.addEventListener("change", () => (this.#route === null ? this.#draw() : this.#find(this.#route.store_id)));
  }

  /** Asks again where the map has changed. @param {import("./live.js").Frame} frame */
  update({ live }) {
    offerShards(this.#shard, live.shards.map((shard) => shard.name));
    // A worker that had not heard of the newest map may have answered; the flag needs no new map.
    const old = this.#route !== null && (this.#route.epoch < live.epoch || this.#sharding !== live.flags.sharding);
    this.#sharding = live.flags.sharding;
    if (old) this.#find(this.#route.store_id);
  }

  async #find(id) {
    this.#field.setAttribute("aria-invalid", String(!UUID.test(id)));
    if (!UUID.test(id)) {
      this.#route = null;
      this.#draw("A store id looks like 0198e0de-0000-7000-8000-000000000000.");
      return;
    }
    const answer = await this.#operator.ask("GET", `/live/route/${id}`);
    this.#route = answer.ok ? answer.body : null;
    this.#draw(answer.detail);
  }

  #draw(problem = "") {
    const route = this.#route;
    const { signedIn } = this.#operator;
    setText(this.#answer, route === null ? problem : routeInWords(route, this.#ring.partitions, signedIn).join(" "));
    show(this.#actions, route !== null && route.exists !== false && signedIn);
    this.#ring.mark(route === null ? null : route.partition);
    if (route === null) return;
    show(byId("route-unpin"), route.reason === "pin");
  }

  #pin() {
    const shard = this.#shard.value;
    const stays = shard === this.#route.shard;
    const moves = stays ? "It stays where it is." : "It moves there, while it is read and written.";
    return this.#do({
      question: `Pin the store to ${shard}?`,
      consequence: `${moves} Ring and ranges no longer say where it lives.`,
      action: "Pin",
      request: ["PUT", `/v1/admin/stores/${this.#route.store_id}/pin`, { shard }],
    });
  }

  #unpin() {
    return this.#do({
      question: "Unpin the store?",
      consequence: "Ring and ranges say where it lives; it moves where they say elsewhere.",
      action: "Unpin",
      request: ["DELETE", `/v1/admin/stores/${this.#route.store_id}/pin`],
    });
  }

  #move() {
    const shard = this.#shard.value;
    return this.#do({
      question: `Move the store to ${shard}?`,
      consequence: "It moves while it is read and written; its writers wait once, shortly.",
      action: "Move",
      request: ["POST", "/v1/admin/moves", { store_id: this.#route.store_id, to_shard: shard }],
    });
  }

  async #do({ question, consequence, action, request }) {
    const { store_id: id } = this.#route;
    if (!(await confirmed(question, `Store ${id}. ${consequence}`, action))) return;
    this.#outcome.dataset.level = "good";
    setText(this.#outcome, "Asking the service …");
    const answer = await this.#operator.ask(...request);
    this.#outcome.dataset.level = answer.ok ? "good" : "error";
    const done = answer.status === 202 ? "A move has begun: see Moves." : "Done.";
    setText(this.#outcome, answer.ok ? done : answer.detail);
    if (answer.ok) {
      this.#done();
      await this.#find(id);
    }
  }
}
