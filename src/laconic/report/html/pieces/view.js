// What the page shows now: which processes, and which window of time. Every part follows it.
const CALLS = 0, REDUNDANT = 1, HOST_CALLS = 2, FAILED = 3, PAGES = 4, TOUCHED = 5, TODAY = 6, LACONIC = 8,
  REDUNDANT_PAGES = 10, REDUNDANT_CYCLES = 11, TALLIED = 12;
// Before the numbers of a site: its call, stack, program, first event, and how many wrappers its stack begins with.
const HEAD = 5;
const NO_STACK = -1, OTHERS = -2, SUPPRESSED = -3, AROUND = -4;
const middle = (tally, at) => (tally[at] + tally[at + 1]) / 2;

const total = data.summary.calls;
const timed = data.time.unit === "nanoseconds";
// A position on the axis of time is in microseconds, or the number of a call if the trace has no times.
const UNIT = timed ? 1000 : 1;
const CELL = data.time.cell_width / UNIT;
const axisEnd = Math.max(timed ? data.moments.last : total, 1);
const positionText = (at) => (timed ? (at ? duration(at) : "0") : `call ${count(at)}`);

// The time of a call in microseconds, by its number; between the moments that are known, on a straight line.
function timeOf(call) {
  const {step, microseconds, last} = data.moments;
  const place = call / step, low = Math.floor(place);
  if (low >= microseconds.length - 1) {
    const known = microseconds.length - 1, end = Math.max(total - 1, known * step + 1);
    const share = Math.min(Math.max((call - known * step) / (end - known * step), 0), 1);
    return microseconds.length ? microseconds[known] + (last - microseconds[known]) * share : 0;
  }
  return microseconds[low] + (microseconds[low + 1] - microseconds[low]) * (place - low);
}

const positionOf = (call) => (timed ? timeOf(call) : call);

function ticks(low, high, most) {
  const rough = (high - low) / Math.max(most, 1);
  if (!(rough > 0)) return [];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}

const cells = [];
for (let at = 0; at < data.time.cells.length; at += 3 + TALLIED) {
  const [process, row, bin] = data.time.cells.slice(at, at + 3);
  cells.push({process, row, bin, tally: data.time.cells.slice(at + 3, at + 3 + TALLIED)});
}

// Before the first call there is nothing to see.
const axisStart = Math.min(cells.reduce((first, cell) => Math.min(first, cell.bin * CELL), axisEnd), axisEnd - (timed ? 1e-3 : 1));

// `chosen`: empty for all processes, or the key of an option; `span`: null, or the first bin of cells and the bin after the last.
const view = {chosen: "", processes: null, span: null, followers: []};
let tallies = data.sites.map((site) => site.slice(HEAD));

const isWhole = () => !view.processes && !view.span;
const inView = (process) => !view.processes || view.processes.has(process);
const windowOf = () => (view.span ? [view.span[0] * CELL, Math.min(view.span[1] * CELL, axisEnd)] : [axisStart, axisEnd]);

function tally() {
  if (isWhole()) {
    tallies = data.sites.map((site) => site.slice(HEAD));
    return;
  }
  tallies = data.sites.map(() => new Array(TALLIED).fill(0));
  for (const cell of cells) {
    if (!inView(cell.process) || (view.span && (cell.bin < view.span[0] || cell.bin >= view.span[1]))) continue;
    const sums = tallies[cell.row];
    cell.tally.forEach((number, at) => { sums[at] += number; });
  }
}

const sumOf = (at) => tallies.reduce((sum, each) => sum + each[at], 0);

// The cost of all that is in view: of the whole page, what is in no site too.
const wholeCost = () => (sumOf(TODAY) + sumOf(TODAY + 1)) / 2;

function follow(draw) {
  view.followers.push(draw);
}

function show(change) {
  Object.assign(view, change);
  tally();
  for (const draw of view.followers) draw();
  remember();
}

// Sites by name

// The places of a stack, innermost first; ~n is place n where the frame was guessed.
const stacks = data.stacks.map((innermost) => {
  const found = [];
  for (let frame = innermost; frame >= 0; frame = data.frames[2 * frame]) found.push(data.frames[2 * frame + 1]);
  return found;
});
const placeAt = (number) => data.places[number < 0 ? ~number : number];
// The frames of a site's stack, innermost first, without the wrappers of the system call.
const framesOf = (site) => (site[1] < 0 ? [] : stacks[site[1]].slice(site[4]));

// What a row of a list shows of a site.
function siteWords(site) {
  const call = name(site[0]);
  if (site[1] === OTHERS) return {call, title: "other sites", full: "other sites", module: "", line: ""};
  if (site[1] === AROUND) return {call: "", title: name(site[2]), full: name(site[2]), module: "no call", line: ""};
  if (site[1] === SUPPRESSED) {
    const reason = data.hidden[site[4]][0];
    return {call, title: reason, full: reason, module: "suppressed", line: ""};
  }
  const frames = framesOf(site);
  if (!frames.length) {
    const program = name(site[2]).split("/").pop() || "a program that is not known";
    return {call, title: program, full: name(site[2]), module: "no stack", line: ""};
  }
  const [full, , where, , short, module] = placeAt(frames[0]);
  return {call, title: name(short), full: name(full), module: name(module), line: name(where).split("/").pop()};
}

const words = data.sites.map(siteWords);
const siteText = (row) => {
  const {call, title, module, line} = words[row];
  if (data.sites[row][1] === AROUND) return title;
  return `${call} from ${title}${module || line ? ` (${[module, line].filter(Boolean).join(", ")})` : ""}`;
};

// Which processes: one, all of one program, or all

const programName = (each) => name(each.program).split("/").pop() || "?";

function processOptions() {
  const {processes} = data, programs = new Map();
  for (const each of processes) {
    const title = programName(each);
    programs.set(title, [...(programs.get(title) || []), each]);
  }
  const options = [];
  for (const [title, members] of programs) {
    if (members.length > 1 && programs.size > 1) options.push({key: `program-${title}`, text: `${title}, ${count(members.length)} times`, members});
  }
  for (const each of processes) options.push({key: `process-${each.process}`, text: `${programName(each)} ${each.pid} (${plural(each.calls, "call")})`, members: [each]});
  return options;
}

const options = processOptions();

function showChooser() {
  const place = part("chosen"), clear = el("button", {type: "button", id: "span-clear", class: "chip", onclick: () => show({span: null})});
  const select = el("select", {id: "process", "aria-label": "Processes", onchange: () => choose(select.value)},
    el("option", {value: "", text: `All ${plural(data.summary.processes, "process", "processes")}`}),
    ...options.map(({key, text}) => el("option", {value: key, text})));
  if (data.processes.length > 1) place.append(select);
  place.append(clear);
  follow(() => {
    select.value = view.chosen;
    clear.hidden = !view.span;
    if (view.span) clear.textContent = `${windowOf().map(positionText).join(" to ")} ✕`;
    clear.setAttribute("aria-label", `Show all times; now ${clear.textContent}`);
  });
}

function choose(key) {
  const option = options.find((each) => each.key === key);
  show({chosen: option ? key : "", processes: option ? new Set(option.members.map((each) => each.process)) : null});
}

// The view is in the address, so that a link leads to it.

function remember() {
  const parameters = new URLSearchParams();
  if (view.chosen) parameters.set("show", view.chosen);
  if (view.span) parameters.set("span", view.span.join("-"));
  const before = location.hash.split("?")[0];
  const hash = `${before || "#top"}${String(parameters) ? `?${parameters}` : ""}`;
  if (hash === location.hash || (!location.hash && hash === "#top")) return;
  try {
    history.replaceState(null, "", hash);
  } catch {
    // A page in a frame without an address of its own has none to keep it in.
  }
}

function recall() {
  const parameters = new URLSearchParams(location.hash.split("?")[1] || "");
  const span = (parameters.get("span") || "").split("-").map(Number);
  const change = {span: null, chosen: "", processes: null};
  if (span.length === 2 && span.every(Number.isInteger) && span[0] >= 0 && span[0] < span[1]) change.span = span;
  const option = options.find((each) => each.key === parameters.get("show"));
  if (option) Object.assign(change, {chosen: option.key, processes: new Set(option.members.map((each) => each.process))});
  show(change);
}
