// Each shard a card, each node of it a tile: role, state, position, lag, connections, statements.

import { byId, el, keep, pair, setSign, setText, show, sign } from "./dom.js";
import { growth, nodesByName, secondsBetween } from "./figures.js";
import { bytes, clock, count, duration, percent, plural, rate, seconds } from "./numbers.js";
import { Sparkline } from "./sparkline.js";
import { primaryOf, stateOf } from "./states.js";

// A node that became primary this short a time ago is shown as promoted.
const PROMOTED_SECONDS = 60;

/** The section of the shards. */
export class Shards {
  #list = byId("shard-list");

  /** @param {import("./live.js").Frame} frame */
  update({ live, before, gap }) {
    const earlier = before === null ? new Map() : nodesByName(before);
    const elapsed = before === null ? 0 : secondsBetween(live, before);
    const context = { at: live.at, startedAt: live.started_at, flags: live.flags, earlier, elapsed, gap };
    const shards = live.shards.map((shard, index) => ({ shard, index, context }));
    keep(this.#list, shards, ({ shard }) => shard.name, makeShard);
  }
}

function makeShard({ shard, index }) {
  const facts = el("p", { class: "facts" });
  const alarm = el("p", { class: "alarm", hidden: "" },
    sign("error"), el("span", { text: "No primary: writes wait or are refused" }));
  const nodes = el("ul", { class: "nodes" });
  const swatch = el("span", { class: "swatch", "data-shard": index % 8 });
  const heading = el("h3", {}, swatch, document.createTextNode(shard.name));
  const card = el("article", { class: "shard", "data-shard": index % 8, "aria-label": shard.name },
    el("header", {}, heading, facts), alarm, nodes);
  return {
    node: card,
    update({ shard: now, context }) {
      const parts = [`${percent(now.share)} of the ring`];
      if (now.stores !== null) parts.push(plural(now.stores, "store"));
      if (now.timeline !== null) parts.push(`timeline ${now.timeline}`);
      setText(facts, parts.join(" · "));
      show(alarm, primaryOf(now) === undefined);
      keep(nodes, now.nodes.map((node) => ({ node, shard: now, context })), ({ node }) => node.name, makeNode);
    },
  };
}

function makeNode({ node }) {
  const mark = sign("unknown");
  const word = el("strong", { class: "state" });
  const role = el("span", { class: "role" });
  const means = el("p", { class: "means" });
  const list = el("dl", { class: "figures" });
  const line = new Sparkline();
  const position = pair(list, "LSN");
  const lag = pair(list, "Behind", line.node);
  const use = el("span", { class: "use", "aria-hidden": "true" }, el("span"), el("span"));
  const connections = pair(list, "Connections", use);
  const statements = pair(list, "Statements");
  const reads = pair(list, "Reads");
  const tile = el("li", { class: "node", "data-node": node.name },
    el("div", { class: "plate" }, mark, el("div", {}, el("h4", {}, document.createTextNode(node.name)), role), word),
    means, list);

  function drawState(now, shard, context) {
    const { level, word: name } = stateOf(now);
    tile.dataset.state = now.state;
    tile.dataset.level = level;
    setSign(mark, now.state);
    setText(word, name);
    // Where the state says it already, the role beside it would only be said twice.
    const known = now.role === now.state ? "" : now.role === "unknown" ? "role unknown" : `role: ${now.role}`;
    setText(role, [known, held(now, context.at)].filter(Boolean).join(" · "));
    const promoted = isPromoted(now, context);
    tile.classList.toggle("promoted", promoted);
    setText(means, meaning(now, shard, context, promoted));
  }

  function drawLag(now, growthPerSecond, context) {
    const primary = now.state === "primary";
    setText(lag.name, primary ? "WAL" : "Behind");
    lag.set(primary
      ? growthPerSecond === null ? "–" : `${bytes(growthPerSecond)}/s`
      : now.replay_lag_bytes === null ? "–" : `${bytes(now.replay_lag_bytes)} · ${seconds(now.replay_lag_seconds)}`);
    if (context.gap) line.clear();
    line.add(primary ? growthPerSecond : now.replay_lag_bytes);
  }

  function drawConnections({ in_use: inUse, available, waiting }) {
    connections.set(`${count(inUse)} in use · ${count(available)} free · ${count(waiting)} waiting`);
    connections.value.classList.toggle("warn", waiting > 0);
    const all = Math.max(inUse + available, 1);
    use.firstChild.style.inlineSize = `${(100 * inUse) / all}%`;
    show(use.lastChild, waiting > 0);
  }

  return {
    node: tile,
    update({ node: now, shard, context }) {
      const old = context.earlier.get(now.name);
      const perSecond = (name) => (old ? growth(now[name], old[name]) / context.elapsed : null);
      drawState(now, shard, context);
      position.set(now.lsn === null ? "–" : `${now.lsn} · timeline ${now.timeline}`);
      drawLag(now, old && now.lsn_bytes !== null && old.lsn_bytes !== null
        ? Math.max(0, now.lsn_bytes - old.lsn_bytes) / context.elapsed : null, context);
      drawConnections(now.connections);
      statements.set(`${rate(perSecond("statements_total"))}/s`);
      reads.set(`${rate(perSecond("reads_total"))}/s`);
    },
  };
}

function isPromoted(node, { at, startedAt }) {
  // At the service's start every node is new to it; that is no promotion.
  return node.state === "primary" && node.since !== null && at - node.since < PROMOTED_SECONDS
    && node.since - startedAt > 5 && node.timeline > 1;
}

function meaning(node, shard, { at, flags }, promoted) {
  if (promoted) return `promoted ${duration(at - node.since)} ago: takes every write`;
  if (node.state === "replica" && !flags.read_replicas) return `in step; reads are off by the flag`;
  const known = node.timeline !== null && shard.timeline !== null;
  if (node.state === "other-history" && known && node.timeline !== shard.timeline) {
    return `ejected: on timeline ${node.timeline}, its shard on ${shard.timeline}`;
  }
  return stateOf(node).means;
}

/** Since when a node has been as it is. */
function held({ since }, at) {
  if (since === null) return "";
  return at - since < 3600 ? `for ${duration(at - since)}` : `since ${clock(since)}`;
}
