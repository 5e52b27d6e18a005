// Which parts of the picture an answer depends on: those of nine that change it when hidden.

import { callJson } from "./api.js";
import { announce, element } from "./dom.js";
import { loaded } from "./media.js";

const ROWS = ["top", "middle", "bottom"];
const COLUMNS = ["left", "centre", "right"];
const PARTS = ROWS.flatMap((row) => COLUMNS.map((column) => `${row} ${column}`));
const MAX_SIDE = 768; // pixels: ten pictures are sent

/** A button that fills its place with the parts. conversation: the messages that were sent; the
 * first part of the first is the picture.
 */
export function partsButton(picture, conversation, model) {
  const button = element("button", { type: "button", className: "parts-button" });
  button.textContent = "Which parts matter?";
  button.onclick = async () => {
    if (button.ariaBusy) return;
    button.ariaBusy = "true";
    button.textContent = "Hiding nine parts in turn …";
    try {
      const shown = await partsFigure(picture, conversation, model);
      button.replaceWith(shown);
      shown.focus({ preventScroll: true });
      announce(shown.textContent);
    } catch (error) {
      button.ariaBusy = null;
      button.textContent = `${error.message} Try again?`;
    }
  };
  return button;
}

async function partsFigure(picture, conversation, model) {
  const image = await loaded(picture);
  const urls = [-1, ...PARTS.keys()].map((part) => hidden(image, part));
  const [whole, ...answers] = await Promise.all(
    urls.map((url) => answerTo(withPicture(conversation, url), model)),
  );
  const changed = answers.map((answer) => answer !== whole);
  const cells = changed.map((value) => element("span", { className: value ? "matters" : "" }));
  image.alt = "";
  const map = element("div", { className: "parts" }, image, element("div", {}, ...cells));
  const notes = answers.flatMap((answer, i) => (changed[i] ? [note(PARTS[i], answer)] : []));
  const list = element("ul", { className: "facts" }, ...notes);
  const same = element("p", { className: "facts" }, "Hiding any one of nine parts changes nothing.");
  const shown = notes.length ? [map, list] : [same];
  return element("div", { className: "row", tabIndex: -1 }, ...shown);
}

const note = (part, answer) => element("li", {}, `Without the ${part}: “${answer}” `);

async function answerTo(messages, model) {
  const reply = await callJson("v1/chat/completions", { json: { model, messages } });
  return reply.choices[0].message.content;
}

function withPicture([first, ...rest], url) {
  const [, ...others] = first.content;
  return [{ ...first, content: [{ type: "image_url", image_url: { url } }, ...others] }, ...rest];
}

/** The picture as a data URI, with a part painted in its mean colour; none for -1. */
function hidden(image, part) {
  const scale = Math.min(1, MAX_SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = element("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (part >= 0) {
    const [x, y] = [part % 3, Math.floor(part / 3)];
    const [width, height] = [canvas.width / 3, canvas.height / 3];
    context.fillStyle = meanColour(canvas);
    context.fillRect(x * width, y * height, width, height);
  }
  return canvas.toDataURL("image/png");
}

function meanColour(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const sums = [0, 0, 0];
  for (let i = 0; i < data.length; i++) if (i % 4 < 3) sums[i % 4] += data[i];
  return `rgb(${sums.map((sum) => (4 * sum) / data.length).join(" ")})`;
}
