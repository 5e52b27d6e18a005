// Questions about the picture and the recording; answers are shown as they are generated.

import { call, callJson, events } from "./api.js";
import { announce, byId, element } from "./dom.js";
import { inputs } from "./inputs.js";
import { dataUri } from "./media.js";
import { partsButton } from "./parts.js";

const DESCRIBE = "Describe the image.";
let messages = []; // the conversation so far, about one picture and recording
let running = null; // AbortController of the answer that is being generated
let model = null;

/** card: of GET /v1/models. */
export function startAsk(card) {
  model = card;
  byId("question-form").onsubmit = (event) => {
    event.preventDefault();
    ask(byId("question").value.trim());
  };
  byId("question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("question-form").requestSubmit();
  };
  const settings = byId("settings"); // a wrong value of it stops the form, and has to be seen
  settings.addEventListener("invalid", () => (settings.open = true), true);
  byId("describe").hidden = !card.capabilities.caption;
  byId("describe").onclick = describe;
  byId("stop").onclick = () => running?.abort();
  byId("restart").onclick = restart;
  inputs.addEventListener("change", () => {
    messages = [];
    showState();
  });
  showState();
}

const takes = (kind) => model.capabilities.generate.includes(kind);
const picture = () => (takes("image") ? inputs.picture : null);
const clip = () => (takes("audio") ? inputs.clip : null);
const given = () => ({ picture: picture(), clip: clip() });

const number = (id) => byId(id).valueAsNumber; // NaN, null in JSON, is the server's default
const sampling = () => ({ temperature: number("temperature"), max_tokens: number("max-tokens") });

async function ask(text) {
  const spoken = clip() && !messages.length; // a recording is sent with the first question
  if (running || (!text && !spoken)) return;
  byId("question").value = "";
  const [earlier, items] = [messages, given()];
  const turn = addTurn(text, items);
  const done = await answer(turn, async (signal) => {
    const content = earlier.length ? text : await contentParts(text, items);
    const conversation = [...earlier, { role: "user", content }];
    const reply = await streamed(turn, conversation, signal);
    if (items.picture) turn.node.append(partsButton(items.picture, conversation, model.id));
    remember(earlier, conversation, reply);
  });
  if (!done) byId("question").value ||= text;
}

async function contentParts(text, { picture, clip }) {
  const parts = [];
  if (picture) parts.push({ type: "image_url", image_url: { url: await dataUri(picture) } });
  if (clip) {
    const data = (await dataUri(clip)).split(",")[1];
    parts.push({ type: "input_audio", input_audio: { data, format: "wav" } });
  }
  if (text) parts.push({ type: "text", text });
  return parts;
}

/** Show the answer to a conversation in a turn as it comes; returns it. */
async function streamed(turn, conversation, signal) {
  const start = performance.now();
  const options = { stream: true, stream_options: { include_usage: true } };
  const json = { model: model.id, messages: conversation, ...sampling(), ...options };
  const response = await call("v1/chat/completions", { json, signal });
  let first = 0;
  let reply = "";
  const facts = {};
  for await (const event of events(response)) {
    const choice = event.choices[0];
    reply += choice?.delta?.content ?? "";
    if (reply) first ||= performance.now() - start;
    turn.answer.textContent = reply;
    facts.reason = choice?.finish_reason ?? facts.reason;
    facts.tokens = event.usage?.completion_tokens ?? facts.tokens;
  }
  turn.facts.textContent = summary(facts, first, performance.now() - start);
  return reply;
}

function summary({ tokens, reason }, first, total) {
  const cut = reason === "length" ? " · cut at the limit of tokens" : "";
  const count = tokens === 1 ? "1 token" : `${tokens} tokens`;
  const start = first && first < total ? `, the first after ${seconds(first)}` : "";
  return `${count} in ${seconds(total)}${start}${cut}`;
}

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;

async function describe() {
  if (running || !picture() || !byId("question-form").reportValidity()) return;
  const [earlier, items] = [(messages = []), { picture: picture() }];
  const turn = addTurn(DESCRIBE, items);
  await answer(turn, async (signal) => {
    const start = performance.now();
    const image = await dataUri(items.picture);
    const json = { image, prompt: DESCRIBE, ...sampling() };
    const reply = await callJson("caption", { json, signal });
    const [{ text, finish_reason }] = reply.choices;
    turn.answer.textContent = text;
    const time = performance.now() - start;
    const facts = { tokens: reply.usage.completion_tokens, reason: finish_reason };
    turn.facts.textContent = summary(facts, time, time);
    const content = await contentParts(DESCRIBE, items);
    remember(earlier, [{ role: "user", content }], text);
  });
}

/** Let the next question continue from here, if the model can and the picture is still the same. */
function remember(earlier, conversation, reply) {
  if (messages !== earlier || model.capabilities.multi_turn === false) return;
  messages = [...conversation, { role: "assistant", content: reply }];
}

/** Run what fills in a turn. Shows its error; announces the answer once it is whole. Resolves to
 * whether there is one.
 */
async function answer(turn, fill) {
  running = new AbortController();
  turn.answer.setAttribute("aria-busy", "true");
  showState();
  let done = false;
  try {
    await fill(running.signal);
    done = true;
    turn.answer.textContent ||= "(an empty answer)";
    announce(turn.answer.textContent);
  } catch (error) {
    const stopped = error.name === "AbortError";
    const full = messages.length && error.code === "context_length_exceeded";
    const hint = full ? " Start over to ask more." : "";
    turn.facts.textContent = stopped ? "Stopped." : error.message + hint;
    turn.facts.classList.toggle("error", !stopped);
    announce(turn.facts.textContent);
  }
  turn.answer.setAttribute("aria-busy", "false");
  turn.node.scrollIntoView({ block: "nearest" });
  running = null;
  showState();
  return done;
}

function addTurn(text, { picture, clip }) {
  const first = messages.length === 0;
  const question = element("p", { className: "question" });
  if (first && picture) question.append(thumbnail(picture));
  question.append(element("span", {}, text));
  if (first && clip) question.append(element("span", { className: "facts" }, "with the recording"));
  const answer = element("p", { className: "answer" });
  const facts = element("p", { className: "facts" });
  const className = first ? "turn first" : "turn";
  const node = element("li", { className }, question, answer, facts);
  byId("turns").append(node);
  node.scrollIntoView({ block: "nearest" });
  return { node, answer, facts };
}

function thumbnail(blob) {
  const image = element("img", { src: URL.createObjectURL(blob), alt: "About the picture:" });
  image.onload = () => URL.revokeObjectURL(image.src);
  return image;
}

function restart() {
  running?.abort();
  messages = [];
  byId("turns").replaceChildren();
  showState();
  byId("question").focus();
}

function showState() {
  const focused = ["send", "stop"].includes(document.activeElement.id);
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  if (focused) byId(running ? "stop" : "send").focus(); // that of a hidden button would be lost
  byId("describe").disabled = !picture();
  byId("restart").hidden = byId("turns").children.length === 0;
  byId("question-hint").textContent = hint();
}

function hint() {
  if (messages.length) return "The next question continues this conversation.";
  const sent = [picture() && "the picture", clip() && "the recording"].filter(Boolean);
  if (sent.length) return `Sent with the question: ${sent.join(" and ")}.`;
  return takes("image") ? "Without a picture, the model answers from the question alone." : "";
}
