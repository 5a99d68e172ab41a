// What the load draws: from a seed and the number of the request alone, so that two runs ask for the same things in the
// same order, whichever virtual user sends them.

// Numbers in [0, 1) for one request: Marsaglia's xorshift32 ("Xorshift RNGs", 2003), begun at a hash of seed and number.
export function draws(seed, number) {
  let state = scramble(seed ^ scramble(number + 1)) || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };
}

// MurmurHash3's last step for 32 bits: neighbouring numbers become unlike ones.
function scramble(value) {
  let mixed = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

// Zipf's law: of `count` things the k-th gets a part of 1 / k^s. Where each one's part ends, in [0, 1].
export function zipf(count, s = 1) {
  const weights = Array.from({ length: count }, (_, k) => 1 / Math.pow(k + 1, s));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let end = 0;
  return weights.map((weight) => (end += weight / total));
}

// The index of the part that a number in [0, 1) falls into.
export function partOf(ends, drawn) {
  let low = 0;
  let high = ends.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (drawn < ends[middle]) high = middle;
    else low = middle + 1;
  }
  return low;
}

export function oneOf(items, drawn) {
  return items[Math.floor(drawn * items.length)];
}
