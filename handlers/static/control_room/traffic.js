// Requests by kind, latencies, answers that failed or were refused, where reads went, cache, limiter, locks.

import { beginCharts, TimeChart } from "./charts.js";
import { byId, el, keep, pair, setText } from "./dom.js";
import { hitRate, quantile, rates, reads, traffic } from "./figures.js";
import { milliseconds, percent, rate } from "./numbers.js";

// Reads in one family of colours, writes in another; the order is that of the stack, from the bottom.
const KINDS = [
  "list products", "read product", "read order", "read cart", "place order", "write product", "write cart", "other",
];
const QUANTILES = [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]];

/** The section of the traffic, and the figures on top of the page. */
export class Traffic {
  #requests;
  #latencies;
  #failures;
  #legends = {};
  #tiles = {};
  #reads = byId("reads");

  constructor() {
    beginCharts();
    const kinds = KINDS.map((name, index) => ({ name, colour: `kind-${index}` }));
    const quantiles = QUANTILES.map(([name], index) => ({ name, colour: `quantile-${index}` }));
    const answers = [{ name: "errors", colour: "bad" }, { name: "refused", colour: "warn-line" }];
    this.#requests = new TimeChart(byId("chart-requests"), kinds, { stacked: true, format: rate, reaches: 10 });
    this.#latencies = new TimeChart(byId("chart-latencies"), quantiles, {
      stacked: false, format: milliseconds, reaches: 0.01,
    });
    this.#failures = new TimeChart(byId("chart-failures"), answers, { stacked: false, format: rate, reaches: 1 });
    for (const [list, series] of [["requests", kinds], ["latencies", quantiles], ["failures", answers]]) {
      for (const each of series) {
        const line = pair(byId(`legend-${list}`), each.name);
        line.name.prepend(el("span", { class: "swatch", "data-series": each.colour }));
        this.#legends[each.name] = line;
      }
    }
    for (const [part, name] of [
      ["cache", "hit rate"], ["cache", "hits"], ["cache", "misses"], ["cache", "passed by"],
      ["limiter", "allowed"], ["limiter", "limited"], ["limiter", "without its server"],
      ["locks", "held"], ["locks", "taken by another"], ["locks", "no quorum or lost"], ["locks", "wait"],
    ]) {
      this.#tiles[`${part} ${name}`] = pair(byId(`figures-${part}`), name);
    }
  }

  /**
   * @param {import("./live.js").Frame} frame
   * @returns {?Object} the rates of `traffic()`; null where there is nothing to compare with
   */
  update({ live, before, earlier, gap }) {
    if (before === null) return null;
    const now = traffic(live, before);
    const { counts } = traffic(live, earlier ?? before);
    const found = QUANTILES.map(([, q]) => quantile(q, live.traffic.le, counts));
    this.#requests.add(live.at, KINDS.map((kind) => now.kinds.get(kind) ?? 0), gap);
    this.#latencies.add(live.at, found, gap);
    this.#failures.add(live.at, [now.errors, now.refused], gap);
    this.#drawLegends(now, found);
    this.#drawTop(now, found, hitRate(rates(live, before, "cache")));
    this.#drawReads(reads(live, before), live.flags.read_replicas);
    this.#drawLayers(live, before);
    return now;
  }

  #drawLegends(now, found) {
    for (const kind of KINDS) this.#legends[kind].set(`${rate(now.kinds.get(kind) ?? 0)}/s`);
    QUANTILES.forEach(([name], index) => this.#legends[name].set(milliseconds(found[index])));
    this.#legends.errors.set(`${rate(now.errors)}/s`);
    this.#legends.refused.set(`${rate(now.refused)}/s`);
  }

  #drawTop(now, [p50, p95, p99], hits) {
    setText(byId("top-requests"), rate(now.perSecond));
    setText(byId("top-p50"), milliseconds(p50));
    setText(byId("top-p95"), milliseconds(p95));
    setText(byId("top-p99"), milliseconds(p99));
    setText(byId("top-errors"), rate(now.errors));
    setText(byId("top-refused"), rate(now.refused));
    setText(byId("top-hits"), percent(hits));
    byId("top-errors").parentElement.classList.toggle("bad", now.errors > 0);
  }

  #drawReads(found, replicasRead) {
    const all = found.reduce((sum, each) => sum + each.perSecond, 0);
    const rows = found.map((each) => ({ ...each, share: all > 0 ? each.perSecond / all : 0 }));
    keep(this.#reads, rows, ({ name }) => name, makeBar);
    setText(byId("reads-note"), replicasRead ? "" : "Read replicas are switched off: primaries take every read.");
  }

  #drawLayers(live, before) {
    const [cache, limiter, locks] = ["cache", "limiter", "locks"].map((part) => rates(live, before, part));
    const set = (name, value) => this.#tiles[name].set(value);
    const each = (value) => `${rate(value)}/s`;
    set("cache hit rate", percent(hitRate(cache)));
    set("cache hits", each(cache.hit_total));
    set("cache misses", each(cache.miss_total));
    set("cache passed by", each(cache.bypass_total));
    set("limiter allowed", each(limiter.allowed_total));
    set("limiter limited", each(limiter.limited_total));
    set("limiter without its server", each(limiter.unavailable_total));
    set("locks held", each(locks.held_total));
    set("locks taken by another", each(locks.taken_total + locks.split_total));
    set("locks no quorum or lost", each(locks.unavailable_total + locks.lost_total));
    set("locks wait", locks.waits_total > 0 ? milliseconds(locks.wait_seconds_total / locks.waits_total) : "–");
  }
}

function makeBar({ name, shard }) {
  const bar = el("span", { class: "bar" });
  const value = el("span", { class: "value" });
  const role = el("span", { class: "faint" });
  const row = el("li", shard === null ? {} : { "data-owner": shard },
    el("span", { class: "name" }, document.createTextNode(`${name} `), role),
    el("span", { class: "track", "aria-hidden": "true" }, bar), value);
  return {
    node: row,
    update({ role: now, perSecond, share }) {
      setText(role, now === "unknown" ? "" : now);
      row.dataset.role = now;
      bar.style.inlineSize = `${(100 * share).toFixed(1)}%`;
      setText(value, `${rate(perSecond)}/s · ${percent(share)}`);
    },
  };
}
