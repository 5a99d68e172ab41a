// Asks `GET /live` each second: one request at a time, none while nobody looks, seldom while nobody answers.

const EVERY_MS = 1000;
const GIVEN_UP_AFTER_MS = 4000;
const BACK_OFF_AT_MOST_MS = 5000;
// Older than this, figures are no longer "now": the connection counts as lost, whatever the request does that is out.
const LOST_AFTER_MS = 3000;
const FAILURES_ALLOWED = 1;
// Figures between two looks; latencies need more requests than one second may have, and take the look before these.
const KEPT_LOOKS = 4;
// Looks this far apart are no neighbours: the page was hidden, or the connection lost.
const GAP_SECONDS = 5;
// Nor are looks so near to each other, as after a hurry: rates over a moment leap.
const APART_SECONDS = 0.5;

/**
 * @typedef {Object} Frame what the parts of the page are updated with
 * @property {Object} live the newest answer
 * @property {?Object} before the answer half a second before it or more; null where there is none to compare with
 * @property {?Object} earlier one of some 3 s ago, or as near to it as there is
 * @property {boolean} gap whether lines should be broken here
 */

/** Dispatches "frame" (a `Frame` in `detail`) and "connection" (`{lost, since, reason}`). */
export class Live extends EventTarget {
  #looks = [];
  #after = 0;
  #failures = 0;
  #timer = 0;
  #asking = false;
  #heardAt = performance.now();
  #saidLost = false;
  #reason = "";
  #headers;

  /** @param {function(): Object} headers for each request: the operator's, once there is one */
  constructor(headers) {
    super();
    this.#headers = headers;
    /** Polls answered, for who waits for the next one. */
    this.polls = 0;
  }

  start() {
    document.addEventListener("visibilitychange", () => this.#visibility());
    setInterval(() => this.#watch(), 500);
    this.#ask();
  }

  /** Asks now instead of in up to a second: something has just been changed. */
  hurry() {
    this.#schedule(0);
  }

  /** How old the figures are. */
  get ageSeconds() {
    return (performance.now() - this.#heardAt) / 1000;
  }

  #visibility() {
    if (document.visibilityState === "hidden") {
      clearTimeout(this.#timer);
      return;
    }
    this.#heardAt = performance.now(); // not asked is not lost
    this.hurry();
  }

  #schedule(milliseconds) {
    clearTimeout(this.#timer);
    if (document.visibilityState !== "hidden") this.#timer = setTimeout(() => this.#ask(), milliseconds);
  }

  async #ask() {
    if (this.#asking) return; // its end schedules the next one
    this.#asking = true;
    const began = performance.now();
    try {
      const answer = await fetch(`/live?after=${this.#after}`, {
        headers: this.#headers(),
        credentials: "omit",
        cache: "no-store",
        signal: AbortSignal.timeout(GIVEN_UP_AFTER_MS),
      });
      if (!answer.ok) throw new Error(`the service answers with ${answer.status}`);
      this.#heard(await answer.json());
      this.#schedule(Math.max(0, EVERY_MS - (performance.now() - began)));
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#asking = false;
    }
  }

  #failed(error) {
    this.#failures += 1;
    this.#reason = error.message.startsWith("the service") ? error.message : "the service cannot be reached";
    this.#watch();
    this.#schedule(Math.min(EVERY_MS * 2 ** Math.max(0, this.#failures - 2), BACK_OFF_AT_MOST_MS));
  }

  #heard(live) {
    this.#failures = 0;
    this.#heardAt = performance.now();
    this.polls += 1;
    let before = this.#looks.at(-1) ?? null;
    const anew = before !== null && before.started_at !== live.started_at;
    if (anew) {
      // Totals and the numbers of events began anew with the service: nothing to compare with.
      this.#looks = [];
      before = null;
    }
    const gap = anew || (before !== null && live.at - before.at > GAP_SECONDS);
    if (gap) this.#looks = before === null ? [] : [before];
    const apart = this.#looks.filter(({ at }) => live.at - at >= APART_SECONDS);
    const [earlier = null] = apart;
    before = apart.at(-1) ?? null;
    this.#looks = [...this.#looks, live].slice(-KEPT_LOOKS);
    // This answer left out what the old service had numbered as high: the next one has all.
    this.#after = anew ? 0 : live.events.reduce((last, event) => Math.max(last, event.id), this.#after);
    this.#watch();
    this.dispatchEvent(new CustomEvent("frame", { detail: { live, before, earlier, gap, anew } }));
  }

  #watch() {
    const old = performance.now() - this.#heardAt > LOST_AFTER_MS;
    const lost = (old || this.#failures > FAILURES_ALLOWED) && document.visibilityState !== "hidden";
    if (!lost && !this.#saidLost) return;
    this.#saidLost = lost;
    const reason = this.#failures > 0 ? this.#reason : "no answer for seconds";
    this.dispatchEvent(new CustomEvent("connection", { detail: { lost, reason, never: this.polls === 0 } }));
  }
}
