// The picture and the recording that the three views work on.

import { announce, byId } from "./dom.js";
import { pictureFor, soundFor } from "./media.js";
import { startRecording } from "./recorder.js";

const MAX_SECONDS = 59; // the server takes 60

/** picture, clip: a Blob as the server takes it, or null. Fires "change". */
class Inputs extends EventTarget {
  picture = null;
  clip = null;

  async setPicture(blob) {
    await this.#set("picture", blob, blob && pictureFor, byId("picture"));
    byId("no-picture").hidden = Boolean(this.picture);
    byId("remove-picture").hidden = !this.picture;
  }

  async setClip(blob) {
    await this.#set("clip", blob, blob && soundFor, byId("clip-player"));
    byId("clip").hidden = !this.clip;
  }

  async #set(name, blob, convert, shown) {
    byId("inputs-error").textContent = "";
    try {
      this[name] = blob && (await convert(blob));
    } catch (error) {
      byId("inputs-error").textContent = error.message;
      return;
    }
    URL.revokeObjectURL(shown.src);
    shown.hidden = !blob;
    if (blob) shown.src = URL.createObjectURL(this[name]);
    else shown.removeAttribute("src");
    announce(`${name === "picture" ? "Picture" : "Sound"} ${blob ? "added" : "removed"}.`);
    this.dispatchEvent(new Event("change"));
  }
}

export const inputs = new Inputs();

/** takes: which of "picture" and "clip" the model can use. */
export function startInputs(takes) {
  for (const node of document.querySelectorAll("[data-takes]")) {
    if (!takes.has(node.dataset.takes)) node.remove();
  }
  byId("inputs").hidden = takes.size === 0;
  if (takes.has("picture")) startPicture();
  if (takes.has("clip")) startClip();
  startDrops(takes);
}

function startPicture() {
  onFile(byId("picture-file"), (file) => inputs.setPicture(file));
  byId("remove-picture").onclick = () => {
    inputs.setPicture(null);
    byId("picture-file").focus();
  };
}

function startClip() {
  onFile(byId("clip-file"), (file) => inputs.setClip(file));
  byId("remove-clip").onclick = () => {
    inputs.setClip(null);
    byId("record").focus();
  };
  byId("record").onclick = toggleRecording;
}

function onFile(input, use) {
  input.onchange = () => {
    if (input.files.length) use(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  };
}

let stopRecording = null;
let timer = 0;

async function toggleRecording() {
  if (stopRecording) return endRecording();
  const button = byId("record");
  button.disabled = true; // until the browser has asked for the microphone
  byId("inputs-error").textContent = "";
  try {
    const level = (value) => button.style.setProperty("--level", value);
    stopRecording = await startRecording(level);
    showRecording(true);
  } catch (error) {
    byId("inputs-error").textContent = error.message;
  }
  button.disabled = false;
  button.focus();
}

async function endRecording() {
  const stop = stopRecording;
  stopRecording = null;
  showRecording(false);
  await inputs.setClip(await stop());
}

function showRecording(active) {
  const label = byId("record-label");
  byId("record").setAttribute("aria-pressed", active);
  label.textContent = active ? "Stop, 0 s" : "Record";
  announce(active ? "Recording." : "");
  clearInterval(timer);
  if (!active) return;
  const start = Date.now();
  timer = setInterval(() => {
    const seconds = Math.floor((Date.now() - start) / 1000);
    label.textContent = `Stop, ${seconds} s`;
    if (seconds >= MAX_SECONDS) endRecording();
  }, 250);
}

function startDrops(takes) {
  const body = document.body;
  const use = (files) => [...files].forEach((file) => useFile(file, takes));
  body.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return; // text may be dropped into fields
    event.preventDefault();
    body.classList.add("dragging");
  });
  body.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) body.classList.remove("dragging");
  });
  body.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    body.classList.remove("dragging");
    use(event.dataTransfer.files);
  });
  body.addEventListener("paste", (event) => use(event.clipboardData.files));
}

function useFile(file, takes) {
  const sound = /^(audio|video)\//.test(file.type); // recorders write sound as video/mp4, too
  if (takes.has(sound ? "clip" : "picture")) {
    sound ? inputs.setClip(file) : inputs.setPicture(file);
  } else {
    byId("inputs-error").textContent = `This model takes no ${sound ? "sound" : "pictures"}.`;
  }
}
