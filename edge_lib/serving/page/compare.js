// Cosine similarities of texts to the picture or the recording, at any Matryoshka size.

import { callJson } from "./api.js";
import { byId, element, fillDims, score as decimals } from "./dom.js";
import { inputs } from "./inputs.js";
import { dataUri } from "./media.js";

let compared = null; // {texts, vectors, item}: sizes are cut here, without another request

/** card: of GET /v1/models. */
export function startCompare({ capabilities: { dims } }) {
  fillDims(byId("compare-dim"), dims);
  byId("compare-dim").onchange = () => compared && show();
  byId("compare-form").onsubmit = (event) => {
    event.preventDefault();
    compare();
  };
  inputs.addEventListener("change", () => compared && compare());
}

async function compare() {
  const texts = byId("lines").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!inputs.picture && !inputs.clip) return showStatus("Add a picture or a recording first.");
  if (!texts.length) return showStatus("Write at least one text.");
  showStatus("Comparing …");
  try {
    const item = inputs.picture ? "images" : "audio";
    const uri = await dataUri(inputs.picture ?? inputs.clip);
    const reply = await callJson("embed", { json: { texts, [item]: [uri] } });
    compared = { texts, vectors: reply.texts, item: reply[item][0] };
    show();
  } catch (error) {
    showStatus(error.message, true);
  }
}

function showStatus(text, failed = false) {
  byId("compare-status").textContent = text;
  byId("compare-status").classList.toggle("error", failed);
}

function show() {
  const dim = Number(byId("compare-dim").value);
  const scored = compared.texts
    .map((text, i) => ({ text, score: cosine(compared.vectors[i], compared.item, dim) }))
    .sort((a, b) => b.score - a.score);
  showStatus(`Cosine similarity of the first ${dim} dims. Best: “${scored[0].text}”.`);
  byId("scores").replaceChildren(...scored.map(scoreElement));
}

function scoreElement({ text, score }) {
  const bar = element("span", { className: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", Math.max(0, score));
  const number = element("span", { className: "number" }, decimals(score));
  return element("li", { className: "score" }, element("span", {}, text), number, bar);
}

function cosine(a, b, dim) {
  let [product, aa, bb] = [0, 0, 0];
  for (let i = 0; i < dim; i++) {
    product += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return product / Math.sqrt(aa * bb || 1);
}
