// What is wrong, worst first, in sentences; the first of them is the headline.

import { byId, el, keep, setSign, setText, sign } from "./dom.js";
import { duration } from "./numbers.js";
import { primaryOf, stateOf } from "./states.js";

// What comes and goes within a second or two on a busy machine is said only once it lasts.
const PATIENCE_SECONDS = 3;
const PATIENT = new Set(["lagging", "unknown", "waiting", "errors", "refused"]);
// A move that failed is news for this long; it stays in the list of moves.
const FAILED_MOVE_SECONDS = 300;
const REFUSED_SHARE = 0.01;
const RANK = { error: 0, warning: 1, info: 2 };

/**
 * Everything that is not well, worst first.
 * @param {Object} live an answer of `/live`
 * @param {?Object} rates of `traffic()`, where there are some
 * @returns {Array<{key: string, kind: string, level: string, text: string}>}
 */
export function troubles(live, rates) {
  const found = [...live.shards.flatMap(ofShard), ...ofServers(live.servers)];
  if (rates !== null && rates.errors > 0) {
    found.push(trouble("errors", "errors", "error", "Requests fail with a server error"));
  }
  if (rates !== null && rates.refused > REFUSED_SHARE * rates.perSecond) {
    found.push(trouble("refused", "refused", "info", "The rate limiter refuses requests"));
  }
  for (const move of live.moves) {
    if (move.state === "failed" && live.at - (move.finished_at ?? live.at) < FAILED_MOVE_SECONDS) {
      const text = `A move from ${move.from_shard} to ${move.to_shard} failed`;
      found.push(trouble(`move ${move.id ?? move.started_at}`, "move", "warning", text));
    }
  }
  return found.sort((one, other) => RANK[one.level] - RANK[other.level]);
}

function ofShard(shard) {
  const found = [];
  if (shard.nodes.length > 0 && shard.nodes.every((node) => ["silent", "down"].includes(node.state))) {
    found.push(trouble(shard.name, "shard", "error", `${shard.name} does not answer: none of its nodes does`));
  } else if (primaryOf(shard) === undefined) {
    const kind = shard.nodes.every((node) => node.state === "unknown") ? "unknown" : "shard";
    found.push(trouble(shard.name, kind, "error", `${shard.name} has no primary: writes wait or are refused`));
  }
  for (const node of shard.nodes) {
    const { level, trouble: says } = stateOf(node);
    if (says) found.push(trouble(`${node.name} ${node.state}`, node.state, level, says(node)));
    if (node.connections.waiting > 0) {
      const text = `Requests wait for a connection to ${node.name}`;
      found.push(trouble(`${node.name} waiting`, "waiting", "warning", text));
    }
  }
  return found;
}

function ofServers(servers) {
  const away = servers.filter((server) => server.away).map((server) => server.name);
  const locks = servers.filter((server) => server.name.startsWith("lock"));
  const lost = locks.filter((server) => server.away);
  const found = away
    .filter((name) => !name.startsWith("lock"))
    .map((name) => trouble(name, "server", "error", `${name} is away: carts answer 503, the rest goes on`));
  if (lost.length * 2 > locks.length) {
    const text = `The lock servers have no quorum: ${lost.length} of ${locks.length} are away`;
    found.push(trouble("locks", "server", "error", text));
  } else {
    for (const { name } of lost) {
      found.push(trouble(name, "server", "warning", `${name} is away: the other lock servers are a quorum`));
    }
  }
  return found;
}

/** `key` stays the same while the trouble lasts. */
function trouble(key, kind, level, text) {
  return { key, kind, level, text };
}

/** The headline and the list beneath it. */
export class Headline {
  #banner = byId("banner");
  #status = byId("headline");
  #note = byId("headline-note");
  #more = byId("troubles");
  #sign = sign("good");
  #since = new Map();
  #connection = { lost: false, reason: "", never: true };
  #live;
  #found = [];

  /** @param {import("./live.js").Live} live */
  constructor(live) {
    this.#live = live;
    byId("headline-sign").append(this.#sign);
  }

  /** @param {import("./live.js").Frame} frame @param {?Object} rates of `traffic()` */
  update({ live }, rates) {
    const now = troubles(live, rates);
    const keys = new Set(now.map(({ key }) => key));
    for (const key of this.#since.keys()) if (!keys.has(key)) this.#since.delete(key);
    for (const { key } of now) if (!this.#since.has(key)) this.#since.set(key, live.at);
    const lasts = ({ key }) => live.at - this.#since.get(key) >= PATIENCE_SECONDS;
    this.#found = now.filter((each) => !PATIENT.has(each.kind) || lasts(each));
    this.#draw();
  }

  /** @param {{lost: boolean, reason: string, never: boolean}} connection */
  connection(connection) {
    this.#connection = connection;
    this.#draw();
  }

  #draw() {
    const { lost, reason, never } = this.#connection;
    document.body.classList.toggle("lost", lost);
    if (lost) {
      // The seconds stand outside the live region: they are not to be read out one by one.
      this.#say("error", "Connection to the service lost");
      const age = never ? "" : `; figures are from ${duration(this.#live.ageSeconds)} ago`;
      setText(this.#note, `· ${reason}${age}`);
      return;
    }
    // What is only worth knowing is no trouble: it stands beneath, and all is well.
    const [worst] = this.#found.filter(({ level }) => level !== "info");
    this.#say(worst?.level ?? "good", worst?.text ?? "All is well");
    const others = this.#found.filter(({ level }) => level !== "info").length - 1;
    setText(this.#note, others > 0 ? `· and ${others} more` : "");
    keep(this.#more, this.#found.filter((each) => each !== worst), ({ key }) => key, makeTrouble);
  }

  #say(level, text) {
    this.#banner.dataset.level = level;
    setSign(this.#sign, level);
    setText(this.#status, text);
    const title = `${text} · Control room`;
    if (document.title !== title) document.title = title;
  }
}

function makeTrouble(trouble) {
  const mark = sign(trouble.level);
  const text = el("span", { text: trouble.text });
  return {
    node: el("li", { "data-level": trouble.level }, mark, text),
    update: (now) => setText(text, now.text),
  };
}
