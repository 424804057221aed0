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
  for (const child of children || []) if (child !== null) made.append(child);
  return made;
}

const el = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => put(document.createElementNS(SVG, tag), attributes, children);
const named = (text, more) => el("span", {class: `name ${more || ""}`, text});
const part = (id) => document.getElementById(id);

// Numbers in one form wherever the page is read.
const count = (number) => String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, ",");
const share = (some, all) => (all ? `${(100 * some / all).toFixed(1)} %` : "–");
const between = (low, high) => (count(low) === count(high) ? count(low) : `${count(low)} – ${count(high)}`);
const hex = (page) => "0x" + (BigInt(page) << 12n).toString(16);
const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many || one + "s"}`;

function duration(microseconds) {
  if (microseconds >= 1e6) return `${trim(microseconds / 1e6)} s`;
  return microseconds >= 1e3 ? `${trim(microseconds / 1e3)} ms` : `${trim(microseconds)} µs`;
}

function trim(number) {
  return number >= 100 ? count(number) : String(Number(number.toPrecision(3)));
}

// A short form for axes: 12 k, 3.4 M.
function brief(number) {
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e4 / 10]])
    if (number >= size) return `${Number((number / size).toPrecision(3))} ${unit}`;
  return String(Number(number.toPrecision(3)));
}

function bytes(pages) {
  for (const [unit, size] of [["TiB", 2 ** 28], ["GiB", 2 ** 18], ["MiB", 2 ** 8]])
    if (pages >= size) return `${Number((pages / size).toPrecision(3))} ${unit}`;
  return `${count(pages * 4)} KiB`;
}

const PERMISSIONS = ["---", "r--", "-w-", "rw-", "--x", "r-x", "-wx", "rwx"];

function choice(label, options, chosen, then) {
  const select = el("select", {onchange: () => then(select.value)},
    ...options.map(([value, text]) => el("option", {value, text, selected: value === chosen})));
  return el("label", {}, `${label} `, select);
}

function legend(entries) {
  return el("ul", {class: "legend"}, ...entries.map(([key, text]) => el("li", {}, el("i", {class: key, "aria-hidden": "true"}), text)));
}

// A plain table that says what a picture shows.
function asTable(summary, caption, heads, rows) {
  return el("details", {},
    el("summary", {text: summary}),
    el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": caption},
      el("table", {}, el("caption", {text: caption}),
        el("thead", {}, el("tr", {}, ...heads.map((head, place) => el("th", {scope: "col", class: place ? "number" : "", text: head})))),
        el("tbody", {}, ...rows.map((row) => el("tr", {},
          ...row.map((cell, place) => (place
            ? el("td", {class: "number", text: cell})
            : el("th", {scope: "row"}, named(cell))))))))));
}

// What is suppressed, and where that is left out.
function hiddenNote(...children) {
  const sum = (at) => data.hidden.reduce((all, each) => all + each[at], 0);
  return data.hidden.length ? el("p", {class: "soft"}, `${plural(sum(3), "redundant call")} of ${plural(sum(1), "suppressed site")} ${sum(3) === 1 ? "is" : "are"} left out here.`, ...children) : "";
}

// Draws again when there is another width, or other colours.
const drawn = [];
function redraw() {
  for (const draw of drawn) draw();
}
function draws(draw) {
  drawn.push(draw);
  draw();
}
const width = (element) => Math.max(Math.floor(element.getBoundingClientRect().width), 200);
