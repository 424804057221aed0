// Address spaces: what the map is drawn from. The address axis has only what was used, and gives each run of pages room
// by the logarithm of its size.
const GAP = 2;

function space(from) {
  let page = 0;
  const edges = from.edges.map((step) => (page += step));
  const areas = [], covered = new Int32Array(edges.length + 1);
  let since = Infinity, until = 0;
  for (let at = 0; at < from.areas.length; at += 8) {
    const [low, high, prot, file, begin, end, site, tenths] = from.areas.slice(at, at + 8);
    areas.push({low, high, prot, file, since: begin, until: end, site, tenths});
    covered[low] += 1;
    covered[high] -= 1;
    since = Math.min(since, begin);
    until = Math.max(until, end);
  }
  const places = [0];
  let layers = 0;
  for (let edge = 0; edge + 1 < edges.length; edge += 1) {
    layers += covered[edge];
    places.push(places[edge] + (layers ? 1 + Math.log2(edges[edge + 1] - edges[edge]) : GAP));
  }
  const height = places[places.length - 1] || 1;
  for (let edge = 0; edge < places.length; edge += 1) places[edge] /= height;
  const marks = [];
  for (let at = 0; at < from.marks.length; at += 4) {
    const [call, start, pages, site] = from.marks.slice(at, at + 4);
    marks.push({call, start, pages, site});
  }
  if (!(since < until)) [since, until] = [0, Math.max(total, 1)];
  let changed = since;
  for (const area of areas) changed = Math.max(changed, area.since, area.until < until ? area.until : since);
  for (const mark of marks) changed = Math.max(changed, mark.call);
  return {...from, edges, areas, places, marks, since, until, changed};
}

// The last place in a sorted list that is not above a value; -1 for none.
function lastUpTo(list, value) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// Where a page lies on the axis, from 0 (lowest) to 1; and back.
function placeOf(shown, page) {
  const {edges, places} = shown, at = lastUpTo(edges, page);
  if (at < 0) return 0;
  if (at + 1 >= edges.length) return 1;
  return places[at] + (places[at + 1] - places[at]) * (page - edges[at]) / (edges[at + 1] - edges[at]);
}

function pageAt(shown, place) {
  const {edges, places} = shown, at = Math.min(Math.max(lastUpTo(places, place), 0), edges.length - 2);
  if (at < 0) return 0;
  const part = (place - places[at]) / (places[at + 1] - places[at] || 1);
  return Math.floor(edges[at] + (edges[at + 1] - edges[at]) * Math.min(Math.max(part, 0), 1));
}

const processName = (shown) => `${programName(shown)} ${shown.pid}`;

// A file without its directory, version, Python tag and wheel hash.
function shortFile(path) {
  const base = path.split("/").pop();
  if (/^ld-(linux|musl)/.test(base)) return "ld.so";
  return base.replace(/\.(cpython|pypy\d*|abi3)[\w-]*\.so$/, "").replace(/\.so(\.[\d.]+)?$/, "").replace(/(-[0-9a-f]{8})+$/, "") || path;
}

// Anonymous memory is named by the function that mapped it.
function areaName(area) {
  const file = name(area.file);
  if (file === "anonymous" && area.site >= 0 && words[area.site].module !== "no stack") return words[area.site].title;
  return file === "anonymous" ? "anonymous" : shortFile(file);
}

const TOUCHED_WORDS = ["not touched", "under 20 % touched", "20 % touched", "30 % touched", "40 % touched", "half of it touched",
  "60 % touched", "70 % touched", "80 % touched", "90 % touched", "all of it touched"];
const touchedText = (area) => (area.tenths < 0 ? "" : TOUCHED_WORDS[area.tenths]);

function spaceTable(shown) {
  const titles = new Map();
  for (const area of shown.areas) {
    const title = areaName(area);
    const found = titles.get(title) || {low: Infinity, high: 0, prots: new Set(), areas: 0, touched: new Set()};
    found.low = Math.min(found.low, shown.edges[area.low]);
    found.high = Math.max(found.high, shown.edges[area.high]);
    found.prots.add(PERMISSIONS[area.prot]);
    if (area.tenths >= 0) found.touched.add(area.tenths);
    found.areas += 1;
    titles.set(title, found);
  }
  const ends = (tenths) => [...new Set([Math.min(...tenths), Math.max(...tenths)])].map((each) => TOUCHED_WORDS[each]).join(" to ");
  const rows = [...titles].sort((one, other) => one[1].low - other[1].low).slice(0, 200).map(([title, found]) => [
    title, hex(found.low), hex(found.high), [...found.prots].sort().join("; "), found.touched.size ? ends([...found.touched]) : "unknown", count(found.areas)]);
  return asTable("The same as text", `What was mapped in process ${processName(shown)}`,
    ["what", "from", "to", "permissions", "touched", "areas"], rows);
}
