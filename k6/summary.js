// The figures of a run: of each measured scenario, and of each kind of request in it.

const PERCENTILES = { p50_ms: 'med', p95_ms: 'p(95)', p99_ms: 'p(99)', 'p99.9_ms': 'p(99.9)', max_ms: 'max' };

function values(data, metric, ...tags) {
  const key = `${metric}{${tags.join(',')}}`;
  return data.metrics[key] ? data.metrics[key].values : {};
}

function figures(data, scenario, kind) {
  const tags = [`scenario:${scenario}`, ...(kind ? [`name:${kind}`] : [])];
  const took = values(data, 'http_req_duration', ...tags);
  return {
    requests: took.count || 0,
    ...Object.fromEntries(Object.entries(PERCENTILES).map(([name, statistic]) => [name, took[statistic] ?? null])),
  };
}

// `scenarios`: seconds by name. Of what k6 itself divides by it, the whole run, there is more than the scenario.
export function asJson(data, scenarios, kinds) {
  return Object.entries(scenarios).map(([scenario, seconds]) => {
    const found = figures(data, scenario);
    return {
      scenario,
      ...found,
      requests_per_second: found.requests / seconds,
      error_rate: values(data, 'errors', `scenario:${scenario}`).rate || 0,
      wrong_answers: values(data, 'wrong_answers', `scenario:${scenario}`).count || 0,
      insufficient_stock: values(data, 'insufficient_stock', `scenario:${scenario}`).count || 0,
      dropped_iterations: values(data, 'dropped_iterations', `scenario:${scenario}`).count || 0,
      kinds: Object.fromEntries(kinds.map((kind) => [kind, figures(data, scenario, kind)])),
    };
  });
}

export function asText(data, scenarios, kinds) {
  const begun = asJson(data, scenarios, kinds).filter(({ requests }) => requests > 0);
  const lines = begun.flatMap((found) => [
    '',
    `${found.scenario}: ${found.requests} requests, ${percent(found.error_rate)} errors, ${found.wrong_answers} wrong answers,`
      + ` ${found.insufficient_stock} without enough stock, ${found.dropped_iterations} not sent`,
    row('', 'requests', 'p50 ms', 'p95 ms', 'p99 ms', 'max ms'),
    ...[['all', found], ...Object.entries(found.kinds)].map(([name, of]) =>
      row(name, of.requests, ...[of.p50_ms, of.p95_ms, of.p99_ms, of.max_ms].map(milliseconds))),
  ]);
  const crossed = Object.entries(data.metrics).flatMap(([name, metric]) =>
    Object.entries(metric.thresholds || {}).filter(([, { ok }]) => !ok).map(([held]) => `not held: ${name} ${held}`));
  return `${[...lines, '', ...crossed].join('\n')}\n`;
}

function row(name, ...cells) {
  return `  ${name.padEnd(16)}${cells.map((cell) => String(cell).padStart(10)).join('')}`;
}

function percent(part) {
  return `${(part * 100).toFixed(2)} %`;
}

function milliseconds(value) {
  return value === null ? '-' : value.toFixed(1);
}
