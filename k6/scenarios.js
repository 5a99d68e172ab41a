// How the load comes: each scenario is one answer to "what are we looking for?".

import { MIX } from './mix.js';

const RATE = Number(__ENV.RATE || 1000);
const DURATION = __ENV.DURATION || '30s';
const WARM_UP = __ENV.WARM_UP || '5s';
const NAME = __ENV.SCENARIO || 'load';

// A virtual user is busy until its request is answered: at RATE a second they bear an answer of half a second. Where even
// they are not enough, iterations are dropped, and counted.
const VIRTUAL_USERS = Number(__ENV.VIRTUAL_USERS || 0);

function usersFor(rate) {
  const users = VIRTUAL_USERS || Math.max(10, Math.ceil(rate / 2));
  return { preAllocatedVUs: users, maxVUs: users };
}

function constant(rate, duration, startTime = '0s') {
  return {
    executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration, startTime, gracefulStop: '15s', ...usersFor(rate),
  };
}

function ramping(stages, startRate) {
  const highest = Math.max(startRate, ...stages.map(({ target }) => target));
  return { executor: 'ramping-arrival-rate', startRate, timeUnit: '1s', stages, gracefulStop: '15s', ...usersFor(highest) };
}

function seconds(text) {
  const units = { ms: 0.001, s: 1, m: 60, h: 3600 };
  const parts = [...text.matchAll(/([\d.]+)(ms|s|m|h)/g)];
  if (parts.length === 0) throw new Error(`${text} is no duration such as 30s or 1m30s`);
  return parts.reduce((sum, [, count, unit]) => sum + Number(count) * units[unit], 0);
}

// Steps of the search for the highest rate: from RATE on, each a tenth of it higher.
const STEPS = 10;

const ALL = {
  // Does it work at all?
  smoke: () => ({ smoke: constant(Math.min(RATE, 20), __ENV.DURATION || '5s') }),
  // What is it like under the load it is made for?
  load: () => {
    const warm = seconds(WARM_UP);
    const load = constant(RATE, DURATION, `${warm}s`);
    return warm > 0 ? { warm_up: { ...constant(RATE, WARM_UP), gracefulStop: '0s' }, load } : { load };
  },
  // Ten times as many from one second to the next; and afterwards?
  spike: () => ({
    spike: ramping([
      { target: Math.ceil(RATE / 5), duration: '10s' },
      { target: RATE * 2, duration: '1s' },
      { target: RATE * 2, duration: '10s' },
      { target: Math.ceil(RATE / 5), duration: '1s' },
      { target: Math.ceil(RATE / 5), duration: '20s' },
    ], Math.ceil(RATE / 5)),
  }),
  // Does anything grow, leak or run out?
  soak: () => ({ soak: constant(RATE, __ENV.DURATION || '30m') }),
  // How much does it bear? One step after another, until one is too slow.
  limit: () => Object.fromEntries(Array.from({ length: STEPS }, (_, n) => {
    const rate = Math.round(RATE * (1 + n / 10));
    return [`limit_${rate}`, constant(rate, DURATION, `${n * seconds(DURATION)}s`)];
  })),
};

if (!(NAME in ALL)) throw new Error(`there is no scenario ${NAME}: ${Object.keys(ALL).join(', ')}`);

export const scenarios = ALL[NAME]();

// Those whose figures count, and how long each lasts, in seconds.
export const measured = Object.fromEntries(
  Object.entries(scenarios).filter(([name]) => name !== 'warm_up').map(([name, { duration, stages }]) => [
    name, stages ? stages.reduce((sum, stage) => sum + seconds(stage.duration), 0) : seconds(duration),
  ]),
);

const SLOWEST_MS = 100;
const STRICT = {
  smoke: ['rate==0'],
  load: ['rate<0.01'],
  spike: ['rate<0.05'],
  soak: ['rate<0.001'],
  limit: [{ threshold: 'rate<0.001', abortOnFail: true }],
}[NAME];

// A threshold that always holds makes k6 keep the figures of that part by themselves.
const KEPT = {
  http_req_duration: ['max>=0'], errors: STRICT, dropped_iterations: ['count>=0'], wrong_answers: ['count==0'],
  insufficient_stock: ['count>=0'],
};

export const thresholds = Object.fromEntries(Object.keys(measured).flatMap((scenario) => [
  ...Object.entries(KEPT).map(([metric, held]) => [`${metric}{scenario:${scenario}}`, held]),
  ...MIX.map(([kind]) => [`http_req_duration{scenario:${scenario},name:${kind}}`, ['max>=0']]),
  ...(NAME === 'limit'
    ? [[`http_req_duration{scenario:${scenario}}`, [{ threshold: `p(99)<${SLOWEST_MS}`, abortOnFail: true, delayAbortEval: '3s' }]]]
    : []),
]));
