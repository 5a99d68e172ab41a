// Of a hundred requests, how many of each kind. Reads 70, writes 30.
export const MIX = [
  ['list products', 35],
  ['read product', 20],
  ['read order', 10],
  ['read cart', 5],
  ['place order', 15],
  ['put cart item', 10],
  ['change price', 5],
];

const DECK = MIX.flatMap(([kind, share]) => Array(share).fill(kind));
// Has no factor in common with a hundred: so every hundred requests in a row has each kind exactly as often as it should,
// with the kinds well mixed.
const STRIDE = 37;

export function kindOf(number) {
  return DECK[(number * STRIDE) % DECK.length];
}
