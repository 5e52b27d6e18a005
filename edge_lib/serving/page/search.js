// Rows of the index that are nearest to a text, the picture or the recording.

import { call, callJson } from "./api.js";
import { announce, byId, element, fillDims, fillSelect, score } from "./dom.js";
import { inputs } from "./inputs.js";
import { dataUri } from "./media.js";

const PAGE = 12; // results
const KINDS = { vision: "pictures", audio: "sounds", text: "texts" };
const MAX_HITS = 96; // the server's limit is 100
let query = null; // {label, text | image | audio}
let count = PAGE;
let latest = 0; // number of the last search: results of earlier ones are dropped

/** card: of GET /v1/models. */
export function startSearch({ capabilities: { embed, search_dims, search_modalities } }) {
  fillDims(byId("search-dim"), search_dims);
  fillSelect(byId("search-modality"), kindsOf(search_modalities));
  for (const id of ["search-dim", "search-modality"]) byId(id).onchange = () => query && search();
  byId("query").hidden = !embed.includes("text");
  byId("search-form").onsubmit = (event) => {
    event.preventDefault();
    const text = byId("query").value.trim();
    if (text) begin({ label: `“${text}”`, text });
  };
  startButton("by-picture", embed.includes("vision"), "picture", "images");
  startButton("by-clip", embed.includes("audio"), "clip", "audio");
  byId("more").onclick = () => {
    count += PAGE;
    search({ more: true });
  };
}

/** Pictures first, everything last: a picture and its caption are two rows. */
function kindsOf(modalities) {
  const names = Object.keys(KINDS).filter((name) => modalities.includes(name));
  const all = names.length > 1 ? [["all rows", ""]] : [];
  return [...names.map((name) => [KINDS[name], name]), ...all];
}

function startButton(id, available, name, field) {
  const button = byId(id);
  button.hidden = !available;
  inputs.addEventListener("change", () => (button.disabled = !inputs[name]));
  const label = name === "picture" ? "the picture" : "the recording";
  button.onclick = async () => begin({ label, [field]: [await dataUri(inputs[name])] });
}

function begin(what) {
  query = what;
  count = PAGE;
  byId("hits").replaceChildren();
  return search();
}

async function search({ more = false } = {}) {
  const number = ++latest;
  const status = byId("search-status");
  status.classList.remove("error");
  status.textContent = "Searching …";
  const [dim, modality] = [Number(byId("search-dim").value), byId("search-modality").value];
  try {
    const start = performance.now();
    const { hits } = await request(dim, modality);
    if (number !== latest) return;
    const time = Math.round(performance.now() - start);
    const kind = KINDS[modality] ?? "rows";
    const facts = `${hits.length} (${dim} dims, ${time} ms)`;
    status.textContent = `Nearest ${kind} to ${query.label}: ${facts}.`;
    showHits(hits, more, !modality);
    byId("more").hidden = hits.length < count || count >= MAX_HITS;
  } catch (error) {
    if (number !== latest) return;
    status.classList.add("error");
    status.textContent = error.message;
    byId("more").hidden = true;
  }
}

function request(dim, modality) {
  const { label, text, ...media } = query;
  const options = { k: count, dim, ...(modality && { modality }) };
  if (text === undefined) return callJson("search", { json: { ...media, ...options } });
  return callJson(`search?${new URLSearchParams({ q: text, ...options })}`);
}

/** more: whether to keep those that are shown, among which the focus may be. mixed: whether to name
 * the modality of each.
 */
function showHits(hits, more, mixed) {
  const list = byId("hits");
  if (!more) list.replaceChildren();
  const added = hits.slice(list.children.length);
  list.append(...added.map((hit) => hitElement(hit, mixed)));
}

function hitElement(hit, mixed) {
  const text = hit.text ?? hit.id ?? `row ${hit.row}`;
  const node = element("li", { className: hit.picture ? "hit" : "hit words" });
  if (hit.picture) node.append(thumbnail(hit, text));
  const facts = score(hit.score) + (mixed ? ` · ${hit.modality}` : "");
  node.append(element("span", {}, text), element("span", { className: "facts number" }, facts));
  return node;
}

/** The picture of a row, as a button that makes it the input. Fetched, because the API key is sent
 * in a header, which `src` cannot do.
 */
function thumbnail(hit, text) {
  const image = element("img", { alt: `Use this picture: ${text}` });
  image.onload = () => URL.revokeObjectURL(image.src);
  const button = element("button", { type: "button", className: "thumb" }, image);
  call(hit.picture.replace(/^\//, ""))
    .then((response) => response.blob())
    .then((blob) => {
      image.src = URL.createObjectURL(blob);
      button.onclick = () => use(blob);
    })
    .catch(() => button.remove());
  return button;
}

async function use(blob) {
  await inputs.setPicture(blob);
  announce("This picture is now your picture.");
  byId("inputs").scrollIntoView({ block: "nearest" });
}
