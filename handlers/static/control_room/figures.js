// From totals to figures: differences, rates, quantiles. Pure functions of what `/live` answered.

/**
 * How much a total grew. A total that fell has begun anew, as Prometheus' `increase` takes it too.
 * @returns {number} never negative
 */
export function growth(now, before) {
  if (typeof now !== "number" || typeof before !== "number") return 0;
  return now >= before ? now - before : now;
}

/**
 * A quantile of a histogram, as Prometheus' `histogram_quantile` interpolates it: evenly within a bucket, from 0 in
 * the first; in the last, which has no upper bound, the highest bound there is.
 * @param {number} q 0 to 1
 * @param {Array<number|string>} bounds upper bounds, the last "+Inf"
 * @param {Array<number>} counts of each bucket alone
 * @returns {?number} null where nothing was counted
 */
export function quantile(q, bounds, counts) {
  const total = counts.reduce((sum, each) => sum + each, 0);
  if (total === 0 || bounds.length < 2) return null;
  const rank = q * total;
  let below = 0;
  for (let index = 0; index < counts.length; index += 1) {
    if (below + counts[index] >= rank && counts[index] > 0) {
      if (index >= bounds.length - 1) break;
      const lower = index === 0 ? 0 : Number(bounds[index - 1]);
      return lower + ((Number(bounds[index]) - lower) * (rank - below)) / counts[index];
    }
    below += counts[index];
  }
  return Number(bounds[bounds.length - 2]);
}

/**
 * What was answered between two looks.
 * @param {Object} now, before: answers of `/live`
 * @returns {{perSecond: number, errors: number, refused: number, kinds: Map<string, number>, counts: Array<number>}}
 *   rates a second; `counts` of each bucket between the two
 */
export function traffic(now, before) {
  const elapsed = secondsBetween(now, before);
  const earlier = new Map(before.traffic.kinds.map((kind) => [kind.kind, kind]));
  const counts = now.traffic.le.map(() => 0);
  const found = { perSecond: 0, errors: 0, refused: 0, kinds: new Map(), counts };
  for (const kind of now.traffic.kinds) {
    const old = earlier.get(kind.kind) ?? { answered_total: 0, errors_total: 0, refused_total: 0, buckets_total: [] };
    const perSecond = growth(kind.answered_total, old.answered_total) / elapsed;
    found.kinds.set(kind.kind, perSecond);
    found.perSecond += perSecond;
    found.errors += growth(kind.errors_total, old.errors_total) / elapsed;
    found.refused += growth(kind.refused_total, old.refused_total) / elapsed;
    kind.buckets_total.forEach((total, index) => {
      counts[index] += growth(total, old.buckets_total[index] ?? 0);
    });
  }
  return found;
}

/**
 * Where reads went: a rate for each node, in the order of the shards, and one for the cache.
 * @returns {Array<{name: string, role: string, shard: ?string, perSecond: number}>}
 */
export function reads(now, before) {
  const elapsed = secondsBetween(now, before);
  const earlier = nodesByName(before);
  const found = [];
  for (const shard of now.shards) {
    for (const node of shard.nodes) {
      const old = earlier.get(node.name);
      const perSecond = old ? growth(node.reads_total, old.reads_total) / elapsed : 0;
      found.push({ name: node.name, role: node.role, shard: shard.name, perSecond });
    }
  }
  const cached = growth(now.cache.reads_total, before.cache.reads_total) / elapsed;
  found.push({ name: "cache", role: "", shard: null, perSecond: cached });
  return found;
}

/**
 * The growth a second of each total in a part such as `cache`, `limiter` or `locks`.
 * @returns {Object<string, number>}
 */
export function rates(now, before, part) {
  const elapsed = secondsBetween(now, before);
  return Object.fromEntries(
    Object.keys(now[part]).map((name) => [name, growth(now[part][name], before[part][name] ?? 0) / elapsed]),
  );
}

/** The share of reads of the cache that it could answer; null where nobody asked it. */
export function hitRate(cache) {
  const asked = cache.hit_total + cache.miss_total;
  return asked > 0 ? cache.hit_total / asked : null;
}

/** Every node of an answer by its name. */
export function nodesByName(live) {
  return new Map(live.shards.flatMap((shard) => shard.nodes.map((node) => [node.name, node])));
}

/** Seconds from one look to the next; never 0, which nothing can be divided by. */
export function secondsBetween(now, before) {
  return Math.max(now.at - before.at, 0.001);
}
