// The operator: a token for as long as this tab lives, and the requests that it allows.

import { byId, setText, show } from "./dom.js";

const KEPT_AS = "operator-token";
const GIVEN_UP_AFTER_MS = 10_000;

/** Dispatches "change" when somebody signs in or out. */
export class Operator extends EventTarget {
  #token = sessionStorage.getItem(KEPT_AS);
  #form = byId("sign-in");
  #field = byId("token");
  #message = byId("sign-in-message");

  constructor() {
    super();
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#signIn(this.#field.value.trim());
    });
    byId("sign-out").addEventListener("click", () => {
      this.#forget("Signed out.");
      this.#field.focus();
    });
    this.#draw();
  }

  get signedIn() {
    return this.#token !== null;
  }

  /** What a request carries: nothing, until somebody has signed in. */
  headers() {
    return this.#token === null ? {} : { Authorization: `Bearer ${this.#token}` };
  }

  /**
   * Asks as the operator. Never throws: `ok` says whether it was done, `detail` why not.
   * @returns {Promise<{ok: boolean, status: number, body: ?Object, detail: string}>}
   */
  async ask(method, path, body) {
    const answer = await request(method, path, this.headers(), body);
    if (answer.status === 401) {
      this.#forget("");
      this.#say("The token is no longer the operator's.", "error");
    }
    return answer;
  }

  async #signIn(token) {
    if (!/^[\x21-\x7e]+$/.test(token)) {
      this.#say("A token is letters, digits and signs, without spaces.", "error");
      this.#field.focus();
      return;
    }
    this.#say("Asking the service …", "good");
    const headers = { Authorization: `Bearer ${token}` };
    const { ok, status, detail } = await request("GET", "/v1/admin/flags", headers);
    if (!ok) {
      this.#say([401, 403].includes(status) ? "This is not the operator's token." : detail, "error");
      this.#field.select();
      this.#field.focus();
      return;
    }
    this.#token = token;
    sessionStorage.setItem(KEPT_AS, token);
    this.#changed("Signed in.");
    byId("sign-out").focus();
  }

  #forget(message) {
    this.#token = null;
    sessionStorage.removeItem(KEPT_AS);
    this.#changed(message);
  }

  #changed(message) {
    this.#field.value = "";
    this.#say(message, "good");
    this.#draw();
    this.dispatchEvent(new Event("change"));
  }

  #say(message, level) {
    this.#message.dataset.level = level;
    setText(this.#message, message);
  }

  #draw() {
    show(this.#form, !this.signedIn);
    show(byId("signed-in"), this.signedIn);
    for (const part of document.querySelectorAll("[data-for=operator]")) show(part, this.signedIn);
    for (const part of document.querySelectorAll("[data-for=anyone]")) show(part, !this.signedIn);
  }
}

async function request(method, path, headers, body) {
  const signal = AbortSignal.timeout(GIVEN_UP_AFTER_MS);
  const options = { method, headers: { ...headers }, credentials: "omit", signal };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  try {
    const answer = await fetch(path, options);
    const document = await answer.json().catch(() => null);
    const detail = answer.ok ? "" : (document?.detail ?? `The service answered ${answer.status}.`);
    return { ok: answer.ok, status: answer.status, body: document, detail };
  } catch {
    const detail = "The service did not answer; whether it was done is not known.";
    return { ok: false, status: 0, body: null, detail };
  }
}
