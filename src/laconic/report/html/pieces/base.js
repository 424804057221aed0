// What all parts use. Every name goes into the page as text: nothing here parses markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const name = (number) => data.names[number];

function put(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children || []) if (child !== null && child !== "") made.append(child);
  return made;
}

const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => put(document.createElementNS(SVG, tag), attributes, children);
const named = (text, more) => el("span", {class: `name ${more || ""}`, text});
const part = (id) => document.getElementById(id);
const all = (selector, from) => [...(from || document).querySelectorAll(selector)];
const soft = (text) => el("span", {class: "wh", text});

// A row of buttons of which one is pressed.
function segments(label, options, chosen, then) {
  const buttons = options.map(([value, text]) => el("button", {
    type: "button", "aria-pressed": String(value === chosen), "data-value": value, text,
    onclick: () => press(value),
  }));
  function press(value) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.value === value));
    then(value);
  }
  const made = el("span", {class: "seg", role: "group", "aria-label": label}, ...buttons);
  made.press = press;
  return made;
}

function searchField(id, label, placeholder, then) {
  const field = el("input", {type: "search", id, placeholder, oninput: () => then(field.value.trim().toLowerCase())});
  return el("label", {class: "grow"}, el("span", {class: "vh", text: label}), field);
}

// A plain table, folded, that says what a picture shows.
function asTable(summary, caption, heads, rows) {
  return el("details", {class: "astext"},
    el("summary", {text: summary}),
    el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": caption},
      el("table", {class: "plain"}, el("caption", {text: caption}),
        el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", {scope: "col", text: head})))),
        el("tbody", {}, ...rows.map((row) => el("tr", {},
          ...row.map((cell, place) => (place ? el("td", {text: cell}) : el("th", {scope: "row"}, named(cell))))))))));
}

// What is drawn again when the page has another width, other colours, or another selection.
const drawn = [];
function redraw() {
  for (const draw of drawn) draw();
}
const width = (element) => Math.max(Math.floor(element.getBoundingClientRect().width), 200);
