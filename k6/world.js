// Whom the load plays: stores, their products, and shoppers with an order each. All of it through the HTTP API.
//
// Stores come from a file of JSON lines {"store_id", "api_key"}, as `flask seed --keys` writes it, or are made.

import http from 'k6/http';
import { fail, sleep } from 'k6';
import { zipf } from './draw.js';
import { trace, tracePrepared } from './trace.js';

const JSON_BODY = { 'Content-Type': 'application/json' };
const AT_ONCE = 20;
// As many as the load draws from; every virtual user has a copy.
const PRODUCTS_OF_A_STORE = 50;

export function readStores(text) {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => JSON.parse(line))
    .map(({ store_id, api_key }) => ({ id: store_id, key: api_key }));
}

// { run, stores: [{ id, key, products: [id], sessions: [{ token, order: { id, total } }] }], ends }
export function prepare({ base, stores, newStores, newProducts, operatorToken, sessions }) {
  const run = `${Date.now().toString(36)}-${Math.floor(Math.random() * 0xffffffff).toString(36)}`;
  const known = stores.length > 0 ? stores : makeStores(base, operatorToken, newStores, newProducts, run);
  const lists = send(known.map((store) => ['GET', `${base}/v1/stores/${store.id}/products?limit=${PRODUCTS_OF_A_STORE}`]));
  const ends = zipf(known.length);
  known.forEach((store, index) => {
    const listed = lists[index].json('data');
    store.products = listed.map((product) => product.id);
    if (store.products.length < 3) fail(`store ${store.id} has fewer than three products: an order takes up to three`);
    const part = ends[index] - (index > 0 ? ends[index - 1] : 0);
    const shoppers = Math.max(1, Math.round(part * sessions));
    const enough = listed.filter((product) => product.stock >= shoppers).map((product) => product.id);
    if (enough.length === 0) fail(`store ${store.id} has no product of which every shopper can have one`);
    store.sessions = openSessions(base, store, shoppers, enough, run);
  });
  tracePrepared();
  return { run, stores: known, ends };
}

function makeStores(base, token, count, products, run) {
  if (!token) fail('OPERATOR_TOKEN is needed to make stores; or name a file of STORES');
  const operator = { ...JSON_BODY, Authorization: `Bearer ${token}` };
  const bodies = Array.from({ length: count }, (_, n) => ({ name: `Load ${run} ${n + 1}`, currency: 'EUR' }));
  const made = send(bodies.map((body) => ['POST', `${base}/v1/stores`, body, operator]));
  return made.map((answer) => {
    const store = { id: answer.json('id'), key: answer.json('api_key') };
    const merchant = { ...JSON_BODY, Authorization: `Bearer ${store.key}` };
    const goods = Array.from({ length: products }, (_, n) => ({ title: `Mug ${n + 1}`, price: 500 + n, stock: 1000000 }));
    send(goods.map((product) => ['POST', `${base}/v1/stores/${store.id}/products`, product, merchant]));
    return store;
  });
}

// `goods` are ids of products for each shopper's first order.
function openSessions(base, store, count, goods, run) {
  const at = `${base}/v1/stores/${store.id}`;
  const opened = send(Array.from({ length: count }, () => ['POST', `${at}/sessions`, {}, JSON_BODY]));
  const tokens = opened.map((answer) => answer.json('token'));
  const placed = send(
    tokens.map((token, n) => [
      'POST',
      `${at}/orders`,
      { items: [{ product_id: goods[n % goods.length], quantity: 1 }] },
      { ...JSON_BODY, Authorization: `Bearer ${token}`, 'Idempotency-Key': `${run}-first-${n}` },
    ]),
  );
  placed.forEach((answer) => trace('placed', answer.json('id')));
  return tokens.map((token, n) => ({ token, order: { id: placed[n].json('id'), total: placed[n].json('total') } }));
}

// All of them, some at a time; what is over a quota is asked again when its time has come.
function send(requests) {
  const answers = [];
  for (let from = 0; from < requests.length; from += AT_ONCE) {
    let left = requests.slice(from, from + AT_ONCE).map((request, n) => [from + n, request]);
    while (left.length > 0) {
      const answered = http.batch(left.map(([, [method, url, body, headers]]) => ({
        method, url, body: body && JSON.stringify(body), params: { headers, tags: { name: 'prepare' } },
      })));
      const refused = [];
      answered.forEach((answer, n) => {
        if (answer.status === 429) refused.push([left[n], Number(answer.headers['Retry-After']) || 1]);
        else if (answer.status >= 300 || answer.status < 200) {
          fail(`${answer.request.method} ${answer.request.url}: ${answer.status} ${answer.error || answer.body}`);
        } else answers[left[n][0]] = answer;
      });
      if (refused.length > 0) sleep(Math.max(...refused.map(([, seconds]) => seconds)));
      left = refused.map(([request]) => request);
    }
  }
  return answers;
}
