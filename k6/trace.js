// A line for each request, for whoever wants more than k6 sums up: TRACE=1, with --log-output=file=… --log-format=raw.
// Fields are parted by tabs; the first says what the line is.
//
//   prepared  ms, blanks                 the shops are open: from this moment of the wall clock on scenarios run
//   placed    order id                   an order of a shopper's, placed before
//   begun     idempotency key            an order is about to be sent
//   request   scenario, kind, ms, status, took ms, error code, verdict, X-Cache, X-Served-By, pool wait ms, order id
//
// `ms` is when the request was sent, on the wall clock; `verdict` is right, short (of stock) or wrong. What there is not is a
// `-`. A request without its line was broken off with the scenario.

import exec from 'k6/execution';

const TRACED = __ENV.TRACE === '1';

export function trace(...fields) {
  if (TRACED) console.log(fields.join('\t'));
}

// k6 writes its log when so much of it has gathered: a line as long as that is there at once.
const BUFFER = 8192;

export function tracePrepared() {
  trace('prepared', Date.now(), ' '.repeat(BUFFER));
}

// What is being sent; a virtual user sends one request at a time.
let current;

export function sending(kind) {
  current = { kind, at: Date.now() };
}

// `verdict` as above; `order` is the id of the order that was placed.
export function traceAnswer(answer, verdict, order) {
  if (!TRACED) return;
  const { 'X-Cache': cache, 'X-Served-By': node, 'Server-Timing': timing } = answer.headers || {};
  const wait = /(?:^|,)\s*pool;[^,]*?dur=([\d.]+)/.exec(timing || '');
  trace(
    'request', exec.scenario.name, current.kind, current.at, answer.status, answer.timings.duration.toFixed(2),
    answer.error_code || '-', verdict, cache || '-', node || '-', wait ? wait[1] : '-', order || '-',
  );
}
