// The first screen and the strategies, if a part of the trace is selected; otherwise they stay as they came.
const FIRST = 5;

// The cycles of a strategy in the chosen processes; null if they are not known.
function programCycles(strategy) {
  const chosen = data.processes.filter((each) => inView(each.process)).map((each) => each.cycles[strategy]).filter(Boolean);
  return chosen.length ? chosen.reduce(([low, high], each) => [low + each[0], high + each[1]], [0, 0]) : null;
}

function firstGroups() {
  const groups = new Map();
  data.sites.forEach((site, row) => {
    const {call, full, module, line} = words[row], short = site[1] >= 0 ? moduleOf(site) : "";
    if (site[1] === SUPPRESSED || site[1] === OTHERS || !tallies[row][TODAY + 1]) return;
    const loader = short === "ld.so", key = loader ? "ld.so" : JSON.stringify([call, full, module, line]);
    const group = groups.get(key) || {row, loader, sums: new Array(TALLIED).fill(0)};
    tallies[row].forEach((number, at) => { group.sums[at] += number; });
    groups.set(key, group);
  });
  return [...groups.values()].sort((one, other) => middle(other.sums, TODAY) - middle(one.sums, TODAY)).slice(0, FIRST);
}

function moduleOf(site) {
  const frames = framesOf(site);
  return frames.length ? name(placeAt(frames[0])[5]) : "";
}

function firstRow({row, loader, sums}, place, most, unit) {
  const {call, title, full, module, line} = words[row], whole = wholeCost(), today = middle(sums, TODAY), left = middle(sums, LACONIC);
  const calls = plural(sums[CALLS], "call"), where = loader ? `the loader, ${calls}` : [module, line, `${count(sums[CALLS])} ${call}`].filter(Boolean).join(" · ");
  const saved = today >= left ? `saves ${share(today - left, today)}` : `costs ${share(left - today, today)} more`;
  return el("li", {}, el("a", {href: "#sites", onclick: () => table.show(loader ? "module" : "site", row)},
    el("span", {class: "rk", text: String(place + 1)}),
    el("span", {class: "who"}, el("span", {class: "fn", title: full, text: loader ? "ld.so" : title}), soft(where)),
    bars(sums, most),
    el("span", {class: "num"}, el("b", {text: cycles(sums[TODAY], sums[TODAY + 1], unit)}), soft(share(today, whole))),
    el("span", {class: `num sv${today >= left ? "" : " worse"}`}, el("b", {text: saved}), soft(`${cycles(sums[LACONIC], sums[LACONIC + 1], unit)} left`))));
}

function showSummary() {
  const list = document.querySelector(".five ol"), figures = new Map(all("[data-figure]").map((each) => [each.dataset.figure, each]));
  if (!list) return;
  const before = new Map([list, ...figures.values()].map((each) => [each, [...each.childNodes]]));
  const part = el("p", {class: "lede", role: "status", id: "part"});
  document.querySelector(".fig").before(part);

  follow(() => {
    part.hidden = isWhole();
    for (const [each, children] of before) each.replaceChildren(...children);
    if (isWhole()) return;
    const selected = [view.processes ? options.find((each) => each.key === view.chosen).text : "", view.span ? windowOf().map(positionText).join(" to ") : ""];
    part.textContent = `The headline is about the whole trace; below is a part of it: ${selected.filter(Boolean).join(", ")}.`;
    const calls = sumOf(CALLS), today = [sumOf(TODAY), sumOf(TODAY + 1)], laconic = [sumOf(LACONIC), sumOf(LACONIC + 1)];
    const floor = view.span ? null : programCycles("bound"), unit = unitOf(today[1]);
    const write = {
      calls: count(calls), redundant: count(sumOf(REDUNDANT)), "redundant-share": share(sumOf(REDUNDANT), calls),
      "host-calls": count(sumOf(HOST_CALLS)), elided: count(calls - sumOf(HOST_CALLS)),
      today: cycles(...today, unit), "today-seconds": seconds(...today), lac: cycles(...laconic, unit), "lac-seconds": seconds(...laconic),
      flr: floor ? cycles(...floor, unit) : "–", "flr-seconds": floor ? seconds(...floor) : "not known by time",
    };
    for (const [title, text] of Object.entries(write)) figures.get(title).replaceChildren(text);
    const groups = firstGroups(), most = Math.max(...groups.map(({sums}) => sums[TODAY + 1]), 1);
    list.replaceChildren(...groups.map((group, place) => firstRow(group, place, most, unit)));
  });
}

function showStrategies() {
  const rows = all("#strategies [data-strategy]"), before = new Map(rows.map((row) => [row, [...row.childNodes]]));
  if (!rows.length) return;
  const note = el("p", {class: "wh", id: "strategies-part"});
  rows[0].parentNode.before(note);
  const axes = all("#strategies .ax");

  follow(() => {
    for (const [row, children] of before) row.replaceChildren(...children);
    const floor = view.processes && programCycles("bound");
    note.hidden = isWhole();
    note.textContent = floor ? "The bars are of the selected processes, at all times; the table is of all processes." : "Strategies are of the whole trace.";
    for (const axis of axes) axis.hidden = Boolean(floor);
    if (!floor) return;
    const found = rows.map((row) => programCycles(row.dataset.strategy) || [0, 0]);
    const most = Math.max(...found.map(([, high]) => high), 1), unit = unitOf(most);
    const place = (value) => `${(100 * value / most).toFixed(2)}%`;
    rows.forEach((row, at) => {
      const [low, high] = found[at], title = row.querySelector(".sn").textContent;
      const rect = (kind, from, to, y, height) => svg("rect", {class: kind, x: place(from), width: place(Math.max(to - from, 0)), y, height});
      const line = (kind, value, y1, y2) => svg("line", {class: kind, x1: place(value), x2: place(value), y1, y2});
      row.replaceChildren(before.get(row)[0],
        svg("svg", {class: "sbar", width: "100%", height: 50, role: "img", "aria-label": `${title}: ${cycles(low, high, unit)} cycles`},
          rect("c1", 0, low, 14, 22), rect("hi", low, high, 21, 8), line("cap", high, 16, 34),
          rect("flo", floor[0], floor[1], 0, "100%"), line("flw", floor[0], 0, "100%"), line("fl", floor[0], 0, "100%")),
        el("span", {class: "num"}, el("b", {text: cycles(low, high, unit)}), soft(seconds(low, high))),
        el("span", {class: "num"}, floor[1] ? el("b", {text: times(...[low / floor[0], high / floor[1]].sort((one, other) => one - other))}) : "", soft("the floor")));
    });
  });
}
