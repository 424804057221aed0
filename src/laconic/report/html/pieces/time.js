// Calls over time: how many, and what they cost; a span that is dragged here is shown by the whole page.
const LANE = 92, BETWEEN = 40, HEADROOM = 26, FOOT = 28;

// A round number that is not less.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 3, 4, 6, 8, 10].map((times) => times * power).find((each) => each >= value) || 10 * power;
}

// What is drawn: bins of calls and of cost, of the processes in view. Without a choice of processes calls are in finer bins.
function timeBins(most) {
  const finest = view.processes ? CELL : data.time.width / UNIT;
  let step = finest;
  while (axisEnd / step > Math.max(most, 8)) step *= 2;
  const bins = (wide) => new Array(Math.max(Math.ceil(axisEnd / wide), 1)).fill(0);
  const made = {step, calls: bins(step), redundant: bins(step), hostCalls: bins(step), cost: bins(step)};
  const at = (place, wide, list) => Math.min(Math.floor(place / wide), list.length - 1);
  if (!view.processes) {
    data.time.calls.forEach((calls, bin) => {
      const place = at(bin * finest, step, made.calls);
      made.calls[place] += calls;
      made.redundant[place] += data.time.redundant[bin];
      made.hostCalls[place] += data.time.host_calls[bin];
      made.cost[place] += data.time.cycles[bin];
    });
  } else {
    for (const cell of cells) {
      if (!inView(cell.process)) continue;
      const begin = cell.bin * CELL;
      const place = at(begin, step, made.calls);
      made.calls[place] += cell.tally[CALLS];
      made.redundant[place] += cell.tally[REDUNDANT];
      made.hostCalls[place] += cell.tally[HOST_CALLS];
      made.cost[place] += middle(cell.tally, TODAY);
    }
  }
  return made;
}

function showTime() {
  const section = part("time");
  if (total < 3) {
    section.append(el("p", {text: total ? "There are too few calls to draw." : "There is no call to show."}));
    return;
  }
  const picture = el("div", {class: "pic", id: "time-picture", tabindex: "0", role: "application", "aria-describedby": "time-keys",
    "aria-label": "Calls over time"});
  const told = el("p", {class: "say", role: "status", id: "time-readout"}), more = el("div", {});
  const left = 64;
  let bins = null, from = null;
  section.append(picture,
    el("ul", {class: "legend"}, el("li", {}, el("i", {class: "k b-h", "aria-hidden": "true"}), "calls that change something"),
      el("li", {}, el("i", {class: "k b-r", "aria-hidden": "true"}), "redundant calls"),
      el("li", {}, el("i", {class: "k b-c", "aria-hidden": "true"}), "cycles under Gramine today, the middle of the range")),
    told, el("p", {class: "wh", id: "time-keys", text: "Drag, or press an arrow, to select a span; arrows move it, with Shift they resize it; Escape or a double click shows all."}),
    more);

  const wide = () => width(picture) - 2;
  const x = (at) => left + (wide() - left - 10) * (Math.min(at, axisEnd) - axisStart) / (axisEnd - axisStart);
  const placeAtX = (across) => axisStart + Math.min(Math.max((across - left) / (wide() - left - 10), 0), 1) * (axisEnd - axisStart);

  function lane(image, base, most, title, text, series, step, kinds) {
    image.append(svg("text", {x: 10, y: base - LANE - 12, class: "lane", text: title}));
    for (const part of [0, 0.5, 1]) {
      const value = most * part, y = base - LANE * part;
      if (kinds === "calls" && value % 1) continue;
      image.append(svg("line", {class: "grid", x1: left, x2: wide() - 10, y1: y, y2: y}), svg("text", {x: left - 6, y: y + 4, "text-anchor": "end", text: text(value)}));
    }
    const bar = (bin) => Math.max(x((bin + 1) * step) - x(Math.max(bin * step, axisStart)) - 1, 1);
    series.forEach(([kind, values, under]) => values.forEach((value, bin) => {
      if (!value || (bin + 1) * step <= axisStart) return;
      const tall = LANE * value / most, floor = under ? LANE * under[bin] / most : 0;
      image.append(svg("rect", {class: kind, x: x(Math.max(bin * step, axisStart)).toFixed(1), y: (base - floor - tall).toFixed(1), width: bar(bin).toFixed(1), height: Math.max(tall, 0.5).toFixed(1)}));
    }));
  }

  function draw() {
    bins = timeBins((wide() - left - 10) / (wide() < 500 ? 4 : 6));
    const first = HEADROOM + LANE, second = first + BETWEEN + LANE, high = second + FOOT;
    const image = svg("svg", {viewBox: `0 0 ${wide()} ${high}`, width: wide(), height: high, role: "img", "aria-label":
      `${plural(total, "memory call")}, ${plural(data.summary.host_calls, "host call")}, ${grouped(data.summary.redundant)} redundant, in bins of ${positionWidth(bins.step)}. The same is in the table below.`});
    const changed = bins.calls.map((calls, bin) => calls - bins.redundant[bin]);
    const mostCalls = roundUp(Math.max(...bins.calls, 1)), mostCost = roundUp(Math.max(...bins.cost, 1));
    lane(image, first, mostCalls, `Calls in ${positionWidth(bins.step)}`, (value) => count(value), [["b-h", changed], ["b-r", bins.redundant, changed]], bins.step, "calls");
    lane(image, second, mostCost, `Cost in ${positionWidth(bins.step)}, Gramine today`, (value) => cycles(value, value, unitOf(mostCost)), [["b-c", bins.cost]], bins.step, "cost");
    for (const at of ticks(axisStart, axisEnd, wide() / 130)) {
      const text = positionText(at);
      image.append(svg("text", {x: x(at), y: high - 8, "text-anchor": x(at) > wide() - 50 ? "end" : x(at) < left + 20 ? "start" : "middle", text}));
    }
    if (view.span) {
      const [low, end] = windowOf();
      image.append(svg("rect", {class: "sel", x: x(Math.max(low, axisStart)), width: Math.max(x(end) - x(Math.max(low, axisStart)), 2), y: 18, height: second - 16}));
    }
    picture.replaceChildren(image);
    tell();
  }

  const positionWidth = (step) => (timed ? duration(step) : plural(step, "call"));

  function tell() {
    const cost = (sumOf(TODAY) + sumOf(TODAY + 1)) / 2, every = data.sites.reduce((sum, site) => sum + middle(site.slice(HEAD), TODAY), 0);
    const best = tallies.reduce((most, each, row) => (middle(each, TODAY) > middle(tallies[most], TODAY) ? row : most), 0);
    const title = view.span ? windowOf().map(positionText).join(" to ") : "All";
    const most = cost ? ` The costliest: ${siteText(best)}, ${share(middle(tallies[best], TODAY), cost)}.` : "";
    told.replaceChildren(el("b", {text: title}),
      `: ${plural(sumOf(CALLS), "call")}, ${count(sumOf(REDUNDANT))} redundant, ${cycles(cost, cost)} cycles, ${share(cost, every)} of the cost of all calls.${most}`);
    more.replaceChildren(tableOfBins());
  }

  function tableOfBins() {
    const group = Math.ceil(bins.calls.length / 20), rows = [];
    const sum = (series, low, size) => series.slice(low, low + size).reduce((all, one) => all + one, 0);
    for (let low = Math.floor(axisStart / bins.step / group) * group; low < bins.calls.length; low += group) {
      const cost = sum(bins.cost, low, group);
      rows.push([positionText(low * bins.step), grouped(sum(bins.calls, low, group)), grouped(sum(bins.hostCalls, low, group)),
        grouped(sum(bins.redundant, low, group)), cycles(cost, cost)]);
    }
    return asTable("The same as text", "Calls, from each moment on", ["from", "calls", "host calls", "redundant", "cycles, Gramine today"], rows);
  }

  // A span has whole cells, at least one: what is shown of it is exact.
  function spanOf(one, other) {
    const low = Math.floor(Math.min(one, other) / CELL), high = Math.ceil(Math.max(one, other) / CELL);
    return [Math.max(low, 0), Math.max(high, low + 1)];
  }

  function select(span) {
    const cells = Math.max(Math.ceil(axisEnd / CELL), 1);
    show({span: span && (span[0] > 0 || span[1] < cells) ? span : null});
  }

  const across = (event) => event.clientX - picture.getBoundingClientRect().left - 1;

  function point(event) {
    const at = placeAtX(across(event)), bin = Math.min(Math.floor(at / bins.step), bins.calls.length - 1), cost = bins.cost[bin];
    say(event.clientX, event.clientY, `${positionText(bin * bins.step)} to ${positionText((bin + 1) * bins.step)}`, [
      `${plural(bins.calls[bin], "call")}, ${count(bins.redundant[bin])} redundant`, `${plural(bins.hostCalls[bin], "host call")}`,
      `${cycles(cost, cost)} cycles under Gramine today`]);
  }

  picture.addEventListener("pointerdown", (event) => {
    from = placeAtX(across(event));
    picture.setPointerCapture(event.pointerId);
  });
  picture.addEventListener("pointermove", (event) => {
    if (from === null) {
      point(event);
      return;
    }
    hush();
    const to = placeAtX(across(event));
    if (Math.abs(x(to) - x(from)) < 4) return;
    view.span = spanOf(from, to);
    draw();
  });
  picture.addEventListener("pointerup", (event) => {
    const to = placeAtX(across(event)), moved = from !== null && Math.abs(x(to) - x(from)) >= 4;
    if (moved) select(spanOf(from, to));
    from = null;
  });
  picture.addEventListener("pointercancel", () => {
    from = null;
    show({});
  });
  picture.addEventListener("pointerleave", hush);
  picture.addEventListener("dblclick", () => select(null));
  picture.addEventListener("keydown", (event) => {
    const cells = Math.max(Math.ceil(axisEnd / CELL), 1), step = Math.max(Math.round(cells / 40), 1), way = {ArrowLeft: -step, ArrowRight: step}[event.key];
    if (event.key === "Escape") select(null);
    else if (way) {
      const first = Math.floor(axisStart / CELL), [low, high] = view.span || [first, first + 4 * step];
      if (!view.span) select([low, Math.min(high, cells)]);
      else if (event.shiftKey) select([low, Math.min(Math.max(high + way, low + 1), cells)]);
      else {
        const moved = Math.min(Math.max(way, -low), cells - high);
        select([low + moved, high + moved]);
      }
    } else return;
    event.preventDefault();
  });
  drawn.push(draw);
  follow(draw);
  draw();
}
