// A marketplace's day, as the contract has it: seven kinds of request, 70 of 100 read, stores by Zipf's law, and the next
// request comes whether the last was answered or not (an open model: a server that slows down is not spared).
//
//   .venv/bin/k6 run k6/load.js                      1,000 requests a second for 30 s, after a warm-up
//   .venv/bin/k6 run -e SCENARIO=smoke k6/load.js    smoke, load, spike, soak or limit
//
//   BASE_URL         http://127.0.0.1:8000
//   STORES           a file of {"store_id", "api_key"} lines (flask seed --keys FILE); without it stores are made, for
//   OPERATOR_TOKEN   which the operator's token is needed, NEW_STORES (20) with NEW_PRODUCTS (50) each
//   RATE, DURATION   requests a second (1000), and for how long (30s)
//   WARM_UP          before that, at the same rate, and not counted (5s; 0s for none)
//   RANDOM_SEED      the same number asks for the same things in the same order (1)
//   SESSIONS         shoppers, each of one store (400)
//   SUMMARY          a file for the figures, as JSON
//   TRACE=1          a line for each request (trace.js)
//
// It speaks the contract only. Exits with 99 where a scenario's thresholds were crossed.

import exec from 'k6/execution';
import { draws, partOf } from './draw.js';
import { kindOf, MIX } from './mix.js';
import { KINDS } from './requests.js';
import { measured, scenarios, thresholds } from './scenarios.js';
import { asJson, asText } from './summary.js';
import { sending } from './trace.js';
import { prepare, readStores } from './world.js';

const SEED = Number(__ENV.RANDOM_SEED || 1);
const BASE = (__ENV.BASE_URL || 'http://127.0.0.1:8000').replace(/\/+$/, '');
const STORES = __ENV.STORES ? readStores(open(__ENV.STORES)) : [];

export const options = {
  scenarios,
  thresholds,
  setupTimeout: '5m',
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'p(99.9)', 'max', 'count'],
  discardResponseBodies: false,
};

export function setup() {
  return prepare({
    base: BASE,
    stores: STORES,
    newStores: Number(__ENV.NEW_STORES || 20),
    newProducts: Number(__ENV.NEW_PRODUCTS || 50),
    operatorToken: __ENV.OPERATOR_TOKEN,
    sessions: Number(__ENV.SESSIONS || 400),
  });
}

export default function shop(world) {
  const number = exec.scenario.iterationInTest;
  const draw = draws(SEED, number);
  const store = world.stores[partOf(world.ends, draw())];
  const kind = kindOf(number);
  sending(kind);
  KINDS[kind]({
    base: BASE,
    run: `${world.run}-${exec.scenario.name}`,
    number,
    store,
    // A virtual user keeps to one session of a store, so that it knows its last order.
    session: store.sessions[exec.vu.idInTest % store.sessions.length],
    draw,
  });
}

export function handleSummary(data) {
  const kinds = MIX.map(([kind]) => kind);
  const answers = { stdout: asText(data, measured, kinds) };
  if (__ENV.SUMMARY) answers[__ENV.SUMMARY] = JSON.stringify(asJson(data, measured, kinds), null, 2);
  return answers;
}
