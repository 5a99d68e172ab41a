// The seven requests. Each answer is looked at: a wrong one is an error, however fast it came.

import http from 'k6/http';
import { Counter, Rate } from 'k6/metrics';
import { oneOf } from './draw.js';
import { trace, traceAnswer } from './trace.js';

export const errors = new Rate('errors');
export const wrongAnswers = new Counter('wrong_answers');
export const insufficientStock = new Counter('insufficient_stock');

const PAGE = 20;
const TIMEOUT = '10s';
const ORDERED = http.expectedStatuses(201, 409);
const MOST_LINES = 3;
const MOST_OF_A_LINE = 3;

// What this virtual user's sessions have ordered last, by token.
const lastOrders = {};

// One request. `shop` is { base, run, number, store, session, draw }.
export const KINDS = {
  'list products'(shop) {
    const answer = http.get(`${at(shop)}/products?limit=${PAGE}`, told('list products'));
    judge(answer, 200, ({ data }) =>
      data.length === Math.min(PAGE, shop.store.products.length) && data.every((product) => product.store_id === shop.store.id));
  },

  'read product'(shop) {
    const id = oneOf(shop.store.products, shop.draw());
    const answer = http.get(`${at(shop)}/products/${id}`, told('read product'));
    judge(answer, 200, (product) => product.id === id && product.store_id === shop.store.id && product.stock >= 0);
  },

  'read order'(shop) {
    const last = lastOrders[shop.session.token] || shop.session.order;
    const answer = http.get(`${at(shop)}/orders/${last.id}`, told('read order', bearer(shop.session.token)));
    judge(answer, 200, (order) => order.id === last.id && order.total === last.total && order.status === 'pending');
  },

  'read cart'(shop) {
    const answer = http.get(`${at(shop)}/cart`, told('read cart', bearer(shop.session.token)));
    judge(answer, 200, ({ items }) => items.every((item) => shop.store.products.includes(item.product_id) && item.quantity > 0));
  },

  'place order'(shop) {
    const items = lines(shop);
    const headers = { ...bearer(shop.session.token), ...JSON_BODY, 'Idempotency-Key': `${shop.run}-${shop.number}` };
    const parameters = { ...told('place order', headers), responseCallback: ORDERED };
    trace('begun', headers['Idempotency-Key']);
    const answer = http.post(`${at(shop)}/orders`, JSON.stringify({ items }), parameters);
    if (answer.status === 409 && answer.body.includes('insufficient-stock')) {
      insufficientStock.add(1);
      errors.add(false);
      traceAnswer(answer, 'short');
      return;
    }
    const order = judge(answer, 201, (placed) =>
      placed.items.length === items.length
      && items.every((item) => placed.items.some((line) => line.product_id === item.product_id && line.quantity === item.quantity))
      && placed.total === placed.items.reduce((sum, line) => sum + line.unit_price * line.quantity, 0));
    if (order) lastOrders[shop.session.token] = { id: order.id, total: order.total };
  },

  'put cart item'(shop) {
    const id = oneOf(shop.store.products, shop.draw());
    const quantity = 1 + Math.floor(shop.draw() * MOST_OF_A_LINE);
    const headers = { ...bearer(shop.session.token), ...JSON_BODY };
    const answer = http.put(`${at(shop)}/cart/items/${id}`, JSON.stringify({ quantity }), told('put cart item', headers));
    judge(answer, 200, ({ items }) => items.some((item) => item.product_id === id && item.quantity === quantity));
  },

  'change price'(shop) {
    const id = oneOf(shop.store.products, shop.draw());
    const price = 100 + Math.floor(shop.draw() * 9900);
    const headers = { ...bearer(shop.store.key), ...JSON_BODY };
    const answer = http.patch(`${at(shop)}/products/${id}`, JSON.stringify({ price }), told('change price', headers));
    judge(answer, 200, (product) => product.id === id && product.price === price);
  },
};

const JSON_BODY = { 'Content-Type': 'application/json' };

function at(shop) {
  return `${shop.base}/v1/stores/${shop.store.id}`;
}

function bearer(token) {
  return { Authorization: `Bearer ${token}` };
}

function told(name, headers = {}) {
  return { headers, timeout: TIMEOUT, tags: { name } };
}

// Different products, so that no line adds to another.
function lines(shop) {
  const count = 1 + Math.floor(shop.draw() * MOST_LINES);
  const first = Math.floor(shop.draw() * shop.store.products.length);
  return Array.from({ length: count }, (_, n) => ({
    product_id: shop.store.products[(first + n) % shop.store.products.length],
    quantity: 1 + Math.floor(shop.draw() * MOST_OF_A_LINE),
  }));
}

// The body, where the answer is what it should be; undefined otherwise.
function judge(answer, status, isRight) {
  let body;
  let right = false;
  if (answer.status === status) {
    try {
      body = answer.json();
      right = isRight(body);
    } catch (error) {
      right = false;
    }
    if (!right) {
      wrongAnswers.add(1);
      console.error(`a wrong answer: ${answer.request.method} ${answer.request.url}: ${String(answer.body).slice(0, 300)}`);
    }
  }
  errors.add(!right);
  // Only what was made is answered with 201.
  traceAnswer(answer, right ? 'right' : 'wrong', answer.status === 201 && body ? body.id : undefined);
  return right ? body : undefined;
}
