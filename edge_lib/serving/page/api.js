// Calls to the server: JSON, events of a stream, the API key, errors.

import { byId } from "./dom.js";

const KEY = "edge-glass-api-key"; // kept until the tab is closed
let dialog = null; // the promise of the open key dialog: parallel calls share it

export class ServerError extends Error {
  constructor(message, code, requestId, hint) {
    const request = requestId && `(Request ${requestId}.)`;
    super([sentence(message), hint, request].filter(Boolean).join(" "));
    this.code = code;
  }
}

function sentence(text) {
  const whole = /[.!?]$/.test(text) ? text : `${text}.`;
  return whole[0].toUpperCase() + whole.slice(1);
}

/** Fetch a path of the server, with `json` as its body if given. Asks for the key when one is
 * needed. Throws ServerError, or AbortError when `signal` fires.
 */
export async function call(path, { json, signal } = {}) {
  const key = sessionStorage.getItem(KEY);
  const response = await send(path, json, signal, key);
  if (response.ok) return response;
  const error = await errorOf(response);
  if (response.status !== 401 || !(await askForKey(key))) throw error;
  return call(path, { json, signal });
}

export async function callJson(path, options) {
  return (await call(path, options)).json();
}

async function send(path, json, signal, key) {
  const headers = key ? { Authorization: `Bearer ${utf8(key)}` } : {};
  const options = { headers, signal };
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(json) });
  }
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached.", "unreachable");
  }
}

/** The bytes of a text as characters, which is how headers hold them. */
const utf8 = (text) => String.fromCharCode(...new TextEncoder().encode(text));

async function errorOf(response) {
  const body = await response.json().catch(() => ({}));
  const { message, code, request_id } = body.error ?? {};
  const wait = response.headers.get("Retry-After");
  const hint = response.status === 429 && wait ? `Try again in ${wait} s.` : "";
  return new ServerError(message ?? `Error ${response.status}`, code, request_id, hint);
}

/** Resolves to whether a key was entered. refused: the key that the server did not take, if any. */
function askForKey(refused) {
  dialog ??= openKeyDialog(refused).finally(() => (dialog = null));
  return dialog;
}

function openKeyDialog(refused) {
  const box = byId("key-dialog");
  byId("key-error").textContent = refused ? "The server refused this key." : "";
  byId("key").value = "";
  box.returnValue = "";
  box.showModal();
  return new Promise((resolve) => {
    box.addEventListener(
      "close",
      () => {
        if (box.returnValue) sessionStorage.setItem(KEY, byId("key").value.trim());
        resolve(Boolean(box.returnValue));
      },
      { once: true },
    );
  });
}

/** The JSON of each `data:` line of a stream of server-sent events, until `[DONE]`. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ServerError("The connection ended before the answer did.", "incomplete");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield checked(JSON.parse(data));
    }
  }
}

function checked(event) {
  if (!event.error) return event;
  throw new ServerError(event.error.message, event.error.code, event.error.request_id);
}
