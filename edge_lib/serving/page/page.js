// Starts the page: waits for the model, then shows the views that it has a use for.

import { startAsk } from "./ask.js";
import { call, callJson } from "./api.js";
import { startCompare } from "./compare.js";
import { byId } from "./dom.js";
import { startInputs } from "./inputs.js";
import { startSearch } from "./search.js";

const VIEWS = { ask: startAsk, search: startSearch, compare: startCompare };
const POLL = 1000; // milliseconds between looks whether the model is loaded

async function start() {
  await untilReady();
  const { data } = await callJson("v1/models");
  const card = data[0];
  byId("model").textContent = card.id;
  document.title = `${card.id} · Edge Glass`;
  startInputs(inputsOf(card.capabilities));
  const views = available(card.capabilities);
  views.forEach((name) => VIEWS[name](card));
  showViews(views);
  byId("notice").textContent = views.length ? "" : "The page has no use for this model; the API has.";
  document.querySelector("main").hidden = false;
}

async function untilReady() {
  for (;;) {
    try {
      await call("ready");
      return;
    } catch (error) {
      const down = error.code === "unreachable";
      byId("notice").textContent = down ? error.message : "The model is loading …";
    }
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}

function inputsOf({ generate, embed }) {
  const takes = new Set();
  if (generate?.includes("image") || embed.includes("vision")) takes.add("picture");
  if (generate?.includes("audio") || embed.includes("audio")) takes.add("clip");
  return takes;
}

function available({ generate, embed, search }) {
  const usable = {
    ask: generate !== null,
    search,
    compare: embed.includes("text") && embed.length > 1,
  };
  return Object.keys(VIEWS).filter((name) => usable[name]);
}

/** One view at a time, named by the fragment of the address. */
function showViews(views) {
  const links = [...document.querySelectorAll("nav a")];
  const show = () => {
    const name = location.hash.slice(1);
    const current = views.includes(name) ? name : views[0];
    for (const link of links) {
      const view = link.hash.slice(1);
      link.hidden = views.length < 2 || !views.includes(view);
      byId(view).hidden = view !== current;
      if (view === current) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("hashchange", show);
  show();
}

start().catch((error) => (byId("notice").textContent = error.message));
