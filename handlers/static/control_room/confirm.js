// The step between asking for something and doing it.

import { byId, setText } from "./dom.js";

/**
 * Asks in a dialogue. Escape and "Cancel" are no.
 * @param {string} question
 * @param {string} consequence what will happen
 * @param {string} action what the button says
 * @returns {Promise<boolean>}
 */
export function confirmed(question, consequence, action) {
  const dialog = byId("confirm");
  setText(byId("confirm-question"), question);
  setText(byId("confirm-consequence"), consequence);
  setText(byId("confirm-yes"), action);
  return new Promise((resolve) => {
    const answer = new AbortController();
    const on = (node, event, value) => node.addEventListener(event, () => {
      answer.abort();
      dialog.close();
      resolve(value);
    }, { signal: answer.signal });
    on(byId("confirm-yes"), "click", true);
    on(byId("confirm-no"), "click", false);
    on(dialog, "close", false);
    dialog.showModal();
  });
}
