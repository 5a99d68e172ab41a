// Small tools for the document. Data becomes text or an attribute, never markup: nothing here takes HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * A new element. `settings`: `class`, `text`, `on` (listeners by event), anything else an attribute.
 * @param {string} tag
 * @param {Object} [settings]
 * @param {...Node} children
 * @returns {HTMLElement}
 */
export function el(tag, settings = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name === "on") Object.entries(value).forEach(([event, listener]) => made.addEventListener(event, listener));
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** An element of the page by its id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Sets a text only where it differs: a live region is read out, and a layout made anew, for each change. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute only where it differs; null takes it away. */
export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Shows or hides. */
export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

/**
 * A sign of the sheet of signs in the page, for the eye only: a word always stands beside it.
 * @param {string} name
 * @returns {SVGElement}
 */
export function sign(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "sign");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#sign-${name}`);
  svg.append(use);
  return svg;
}

/** Has a sign show another one. */
export function setSign(svg, name) {
  setAttribute(svg.firstChild, "href", `#sign-${name}`);
}

/**
 * Makes a parent's children those of `items`, in their order: one child a key is made once, kept, and updated.
 * @param {HTMLElement} parent
 * @param {Array} items
 * @param {function(*): string} key
 * @param {function(*): {node: HTMLElement, update: function(*): void}} make
 */
export function keep(parent, items, key, make) {
  const kept = (parent.keptByKey ??= new Map());
  const wanted = new Set(items.map(key));
  for (const [name, part] of kept) {
    if (!wanted.has(name)) {
      part.node.remove();
      kept.delete(name);
    }
  }
  items.forEach((item, index) => {
    let part = kept.get(key(item));
    if (part === undefined) {
      part = make(item);
      kept.set(key(item), part);
    }
    if (parent.children[index] !== part.node) parent.insertBefore(part.node, parent.children[index] ?? null);
    part.update(item);
  });
}

/**
 * A pair of a description list that keeps its place: what it is, and its value.
 * @param {HTMLElement} list
 * @param {string} name
 * @param {...Node} [more] behind the value
 * @returns {{set: function(string): void, name: HTMLElement, value: HTMLElement}}
 */
export function pair(list, name, ...more) {
  const term = el("dt", { text: name });
  const value = el("span", { class: "value", text: "–" });
  list.append(el("div", {}, term, el("dd", {}, value, ...more)));
  return { set: (text) => setText(value, text), name: term, value };
}

/** The options of a choice of shards; the one chosen stays so. */
export function offerShards(select, names) {
  const before = [...select.options].map((option) => option.value);
  if (before.join() === names.join()) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => el("option", { value: name, text: name })));
  if (names.includes(chosen)) select.value = chosen;
}
