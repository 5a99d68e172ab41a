// What the state of a node is called, whether it is trouble, and why it is not read.

/**
 * `level`: good, warning or error. `word`: short, on the node. `means`: beneath it. `trouble`: the sentence on top.
 * @type {Object<string, {level: string, word: string, means: string, trouble?: function(Object): string}>}
 */
export const STATES = {
  primary: { level: "good", word: "primary", means: "takes every write" },
  replica: { level: "good", word: "replica", means: "in step: may be read" },
  lagging: {
    level: "warning",
    word: "lagging",
    means: "ejected: too far behind to be read",
    trouble: (node) => `${node.name} is too far behind to be read`,
  },
  "other-history": {
    level: "error",
    word: "other history",
    means: "ejected: left behind by a promotion",
    trouble: (node) => `${node.name} follows another history than its shard`,
  },
  silent: {
    level: "error",
    word: "frozen",
    means: "ejected: connected, does not answer",
    trouble: (node) => `${node.name} does not answer`,
  },
  down: {
    level: "error",
    word: "down",
    means: "ejected: no connection",
    trouble: (node) => `${node.name} is down`,
  },
  rewinding: {
    level: "warning",
    word: "rewinding",
    means: "ejected: made to follow the new primary",
    trouble: (node) => `${node.name} is being made to follow the new primary`,
  },
  unknown: {
    level: "warning",
    word: "unknown",
    means: "not heard of yet",
    trouble: (node) => `${node.name} has not been heard of yet`,
  },
};

/** The state of a node; a word that this page does not know is shown as it is. */
export function stateOf(node) {
  return STATES[node.state] ?? { ...STATES.unknown, word: node.state };
}

/** The node that takes a shard's writes, or undefined. */
export function primaryOf(shard) {
  return shard.nodes.find((node) => node.state === "primary");
}
