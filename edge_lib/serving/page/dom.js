// Elements by id and by description, and messages for screen readers.

export const byId = (id) => document.getElementById(id);

/** A new element with properties, among them `data-*` and `aria-*` attributes, and children. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Read aloud by screen readers; an answer is announced once it is whole, not word by word. */
export function announce(text) {
  byId("announcement").textContent = text;
}

/** A label with a select, hidden unless there is a choice. options: pairs of text and value. */
export function fillSelect(select, options) {
  select.replaceChildren(...options.map(([text, value]) => new Option(text, value)));
  select.parentElement.hidden = options.length < 2;
}

export function fillDims(select, dims) {
  const sorted = [...dims].sort((a, b) => b - a);
  fillSelect(select, sorted.map((dim) => [dim, dim]));
}

/** Three decimals. */
export const score = (value) => value.toFixed(3).replace("-", "−");
