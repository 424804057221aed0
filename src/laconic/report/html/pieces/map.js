// The map: memory calls from left to right, addresses from below to above.
const FOOT_MAP = 24;
const GUTTER = () => (innerWidth < 600 ? 86 : 168);
// Where there are more marks, they are ticks.
const CROWD = 300;
// How the share of touched pages is shown; pages that cannot be accessed are not committed.
const TONES = [["no access, or unknown", "--nil"], ["under 20 % of its pages touched", "--hot"], ["20–50 %", "--mid"], ["50–90 %", "--x3"], ["90 % or more", "--cool"]];
const PERMISSION_TONES = ["--p0", "--p1", "--p2", "--p3", "--p2", "--p5", "--p2", "--p7"];

function touchedTone(area) {
  if (area.tenths < 0 || !area.prot) return 0;
  return area.tenths < 2 ? 1 : area.tenths < 5 ? 2 : area.tenths < 9 ? 3 : 4;
}

function mapLegend(colours) {
  const entries = colours === "touched" ? [1, 2, 3, 4, 0].map((tone) => [`x${tone}`, TONES[tone][0]])
    : [["p3", "read, write"], ["p1", "read"], ["p5", "read, execute"], ["p7", "read, write, execute"], ["p2", "other"], ["p0", "no access"]];
  return el("ul", {class: "legend"}, ...[...entries, ["kr", "redundant call"]].map(([key, text]) => el("li", {}, el("i", {class: `k ${key}`, "aria-hidden": "true"}), text)));
}
const KEYS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};

function showMap() {
  const section = part("memory"), {processes} = data.spaces;
  if (total < 3 || !processes.length) {
    section.append(el("p", {text: total >= 3 ? "There is no address space to show." : total ? "There are too few calls to draw." : "There is no address space to show."}));
    return;
  }
  const touches = processes.some((each) => each.areas.some((value, at) => at % 8 === 7 && value >= 0));
  let shown = space(busiest()), colours = touches ? "touched" : "permissions", frameOf, chosen = -1;
  const canvas = el("canvas", {id: "map-canvas", role: "img"});
  const frame = el("div", {class: "pic map", id: "map-frame", tabindex: "0", role: "application", "aria-describedby": "map-keys"}, canvas);
  const readout = el("p", {class: "say", id: "map-readout", role: "status"});
  const legendPlace = el("div", {}), more = el("div", {});
  const button = (text, label, then, id) => el("button", {type: "button", "aria-label": label, title: label, id, text, onclick: then});
  const picker = el("select", {id: "map-process", "aria-label": "Process", onchange: () => {
    shown = space(processes[Number(picker.value)]);
    reset();
  }});
  const colourBy = segments("Colour by", [["touched", "Touched"], ["permissions", "Permissions"]], colours, (value) => {
    colours = value;
    legendPlace.replaceChildren(mapLegend(colours));
    draw();
  });
  if (!touches) colourBy.firstChild.disabled = true;
  const redundant = [button("‹ Redundant", "Previous redundant call", () => step(-1), "map-previous"), button("Redundant ›", "Next redundant call", () => step(1), "map-next")];
  const counted = el("span", {class: "wh", id: "map-count"});
  section.append(
    el("div", {class: "tools"}, processes.length > 1 ? picker : "", colourBy, touches ? "" : soft("the trace does not record touched pages"),
      ...redundant, counted,
      el("span", {class: "seg", role: "group", "aria-label": "Zoom"},
        button("+", "Zoom in", () => zoom(0.5)), button("−", "Zoom out", () => zoom(2)),
        button("←", "Earlier", () => pan(-0.25, 0)), button("→", "Later", () => pan(0.25, 0)),
        button("↑", "Higher addresses", () => pan(0, 0.25)), button("↓", "Lower addresses", () => pan(0, -0.25)),
        button("All", "Show all", reset, "map-all"))),
    legendPlace, frame, readout,
    el("p", {class: "wh", id: "map-keys", text: "Keys, with the map focused: + and − zoom, arrows move, 0 shows all, n and p go to the next and the previous "
      + "redundant call. The wheel zooms with Ctrl held, or while the map is focused; so do a double click and two fingers. Dragging moves. "
      + "Unused addresses are left out."}),
    more,
  );
  legendPlace.append(mapLegend(colours));

  const at = positionOf;

  // The process with most calls of those in view.
  function busiest() {
    const some = processes.filter((each) => inView(each.process));
    return (some.length ? some : processes).reduce((best, one) => (one.calls > best.calls ? one : best));
  }

  function choices() {
    const some = processes.map((one, number) => [one, number]).filter(([one]) => inView(one.process));
    picker.replaceChildren(...some.map(([one, number]) => el("option", {value: String(number), selected: one.process === shown.process, text: `${processName(one)} (${plural(one.calls, "call")})`})));
  }

  function followView() {
    if (!inView(shown.process)) shown = space(busiest());
    choices();
    reset();
  }

  function reset() {
    // The window of the page; if there is none, all until soon after the last change, after which there is nothing to see.
    let [low, high] = windowOf();
    if (!view.span) {
      const until = at(shown.until), quiet = at(Math.min(shown.changed + 1, shown.until));
      low = at(shown.since);
      high = Math.max(Math.min(quiet + (quiet - low) * 0.08, until), low + (timed ? 1 : 2));
    }
    frameOf = {left: low, right: high, low: 0, high: 1, whole: [low, high]};
    chosen = -1;
    const marks = shown.marks.length;
    for (const each of redundant) each.disabled = !marks;
    counted.textContent = marks ? "" : "none is redundant";
    more.replaceChildren(spaceTable(shown));
    draw();
    describe();
  }

  function zoom(factor, x = 0.5, y = 0.5) {
    const {wide, high} = size(frameOf, factor);
    move(frameOf.left + (frameOf.right - frameOf.left - wide) * x, frameOf.low + (frameOf.high - frameOf.low - high) * y, wide, high);
    describe();
  }

  function size(from, factor) {
    const [first, last] = frameOf.whole;
    return {
      wide: Math.min(Math.max((from.right - from.left) * factor, (last - first) * 1e-5), last - first),
      high: Math.min(Math.max((from.high - from.low) * factor, 1e-4), 1),
    };
  }

  function pan(x, y) {
    const wide = frameOf.right - frameOf.left, high = frameOf.high - frameOf.low;
    move(frameOf.left + wide * x, frameOf.low + high * y, wide, high);
    describe();
  }

  function move(left, low, wide, high) {
    const [first, last] = frameOf.whole;
    frameOf.left = Math.min(Math.max(left, first), last - wide);
    frameOf.right = frameOf.left + wide;
    frameOf.low = Math.min(Math.max(low, 0), 1 - high);
    frameOf.high = frameOf.low + high;
    draw();
  }

  // Redundant calls one by one: the picture comes into view, and the readout stands beside the mark.
  function step(way) {
    if (!shown.marks.length) {
      readout.textContent = "No redundant call is marked in this process.";
      return;
    }
    const inside = shown.marks.filter((mark) => at(mark.call) >= frameOf.whole[0] && at(mark.call) <= frameOf.whole[1]);
    const marks = inside.length ? inside : shown.marks;
    const before = marks.indexOf(shown.marks[chosen]);
    const next = before < 0 ? (way > 0 ? 0 : marks.length - 1) : (before + way + marks.length) % marks.length;
    const mark = marks[next], wide = frameOf.right - frameOf.left, high = frameOf.high - frameOf.low;
    chosen = shown.marks.indexOf(mark);
    move(at(mark.call) - wide / 2, placeOf(shown, mark.start) - high / 2, wide, high);
    const box = frame.getBoundingClientRect(), down = y(placeOf(shown, mark.start));
    if (box.top + down < 100 || box.top + down > innerHeight - 120) {
      frame.scrollIntoView({block: box.height < innerHeight ? "center" : "start", behavior: "instant"});
    }
    counted.textContent = `${count(next + 1)} of ${count(marks.length)}`;
    readout.replaceChildren(`Redundant call ${count(next + 1)} of ${count(marks.length)}: `, named(markText(mark)));
    requestAnimationFrame(() => requestAnimationFrame(() => besideMark(mark)));
  }

  function besideMark(mark) {
    const box = canvas.getBoundingClientRect();
    const down = mark.pages ? y(placeOf(shown, mark.start)) : box.height / 2;
    say(box.left + x(at(mark.call)), box.top + down, `Redundant: ${words[mark.site].call}${mark.pages ? `, ${bytes(mark.pages)}` : ""}`, [markText(mark)]);
  }

  function markText(mark) {
    const range = mark.pages ? `, of ${hex(mark.start)}, ${plural(mark.pages, "page")}` : "";
    return `call ${count(mark.call)}${timed ? ` at ${duration(timeOf(mark.call))}` : ""}, ${siteText(mark.site)}${range}`;
  }

  function describe(aloud = true) {
    const span = `${positionText(frameOf.left)} to ${positionText(frameOf.right)}, ${hex(pageAt(shown, frameOf.low))} to ${hex(pageAt(shown, frameOf.high))}`;
    frame.setAttribute("aria-label", `Map of the address space of process ${processName(shown)}`);
    canvas.setAttribute("aria-label", `Address space of process ${processName(shown)}: ${plural(shown.areas.length, "area")}, ${plural(shown.marks.length, "redundant call")} marked. Shown: ${span}.`);
    frame.dataset.view = [frameOf.left, frameOf.right, frameOf.low, frameOf.high].join(" ");
    if (aloud) readout.textContent = `Shown: ${span}.`;
  }

  // Drawing

  function draw() {
    const wide = width(frame) - 2, high = Math.min(Math.max(Math.round(window.innerHeight * 0.6), 320), 640);
    const ratio = window.devicePixelRatio || 1;
    canvas.width = wide * ratio;
    canvas.height = high * ratio;
    canvas.style.height = `${high}px`;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const colour = (key) => style.getPropertyValue(key).trim();
    const tones = colours === "touched" ? TONES.map(([, key]) => colour(key)) : PERMISSION_TONES.map(colour);
    const toneOf = (area) => tones[colours === "touched" ? touchedTone(area) : area.prot];
    pen.scale(ratio, ratio);
    pen.fillStyle = colour("--paper");
    pen.fillRect(0, 0, wide, high);
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER(), 0, wide - GUTTER(), high - FOOT_MAP);
    pen.clip();
    const labels = [], sharp = (value) => Math.round(value * ratio) / ratio;
    for (const area of shown.areas) {
      const left = sharp(Math.max(x(at(area.since)), GUTTER())), right = sharp(Math.min(x(at(area.until)), wide));
      const top = y(shown.places[area.high]), bottom = y(shown.places[area.low]);
      if (right < GUTTER() || left > wide || bottom < 0 || top > high - FOOT_MAP) continue;
      const tall = bottom - top;
      pen.fillStyle = toneOf(area);
      pen.fillRect(left, top, Math.max(right - left, 1), Math.max(tall - (tall > 4 ? 1 : 0), 0.5));
      labels.push([area, top, bottom, right - left]);
    }
    dash(pen, colour);
    pen.restore();
    write(pen, labels, colour, high);
    axes(pen, wide, high, colour("--soft"));
  }

  function x(value) {
    return GUTTER() + (canvas.clientWidth - GUTTER()) * (value - frameOf.left) / (frameOf.right - frameOf.left);
  }

  function y(place) {
    const high = parseInt(canvas.style.height, 10) - FOOT_MAP;
    return high - high * (place - frameOf.low) / (frameOf.high - frameOf.low);
  }

  // Names stand left of the rows: one for each run of rows with the same name, the largest first, where there is room.
  function write(pen, labels, colour, high) {
    const runs = new Map();
    for (const [area, top, bottom, long] of labels) {
      const title = areaName(area), own = runs.get(title) || [], weight = long * (bottom - top);
      const beside = own.find((run) => top <= run.bottom + 2 && bottom >= run.top - 2);
      if (beside) {
        beside.top = Math.min(beside.top, top);
        beside.bottom = Math.max(beside.bottom, bottom);
        beside.weight += weight;
      } else {
        own.push({title, top, bottom, weight, isFunction: name(area.file) === "anonymous"});
      }
      runs.set(title, own);
    }
    const sorted = [...runs.values()].flat().sort((one, other) => other.weight - one.weight), taken = [];
    pen.textAlign = "right";
    for (const run of sorted) {
      const middle = (Math.max(run.top, 0) + Math.min(run.bottom, high - FOOT_MAP)) / 2;
      if (middle < 6 || middle > high - FOOT_MAP - 4 || taken.some((each) => Math.abs(each - middle) < 13)) continue;
      taken.push(middle);
      pen.font = run.isFunction ? "11px ui-monospace, 'Liberation Mono', monospace" : "12px 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif";
      pen.fillStyle = run.isFunction ? colour("--soft") : colour("--ink");
      pen.fillText(fitting(pen, run.title), GUTTER() - 8, middle + 4);
      if (taken.length > 60) break;
    }
    pen.textAlign = "left";
  }

  function fitting(pen, text) {
    const room = GUTTER() - 14;
    if (pen.measureText(text).width <= room) return text;
    let short = text;
    while (short.length > 2 && pen.measureText(`${short}…`).width > room) short = short.slice(0, -1);
    return `${short}…`;
  }

  // Marks are triangles; where they are many, ticks.
  function dash(pen, colour) {
    const many = shown.marks.length > CROWD;
    shown.marks.forEach((mark, number) => {
      if (!mark.pages || number === chosen) return;
      const left = x(at(mark.call)), middle = (y(placeOf(shown, mark.start)) + y(placeOf(shown, mark.start + mark.pages))) / 2;
      pen.fillStyle = colour("--red");
      if (many) {
        pen.fillRect(left - 0.75, middle - 3, 1.5, 6);
        return;
      }
      pen.strokeStyle = colour("--paper");
      pen.beginPath();
      pen.moveTo(left - 8, middle - 5);
      pen.lineTo(left, middle);
      pen.lineTo(left - 8, middle + 5);
      pen.closePath();
      pen.fill();
      pen.stroke();
    });
    if (chosen < 0) return;
    if (!shown.marks[chosen].pages) {
      // A call without a range, such as brk: only when it was made is known.
      pen.fillStyle = colour("--red");
      pen.fillRect(x(at(shown.marks[chosen].call)) - 1, 0, 2, parseInt(canvas.style.height, 10) - FOOT_MAP);
      return;
    }
    const mark = shown.marks[chosen], left = x(at(mark.call)), middle = (y(placeOf(shown, mark.start)) + y(placeOf(shown, mark.start + mark.pages))) / 2;
    pen.strokeStyle = colour("--paper");
    pen.lineWidth = 5;
    pen.beginPath();
    pen.arc(left, middle, 9, 0, 2 * Math.PI);
    pen.stroke();
    pen.strokeStyle = colour("--red");
    pen.lineWidth = 2.5;
    pen.stroke();
    pen.fillStyle = colour("--red");
    pen.beginPath();
    pen.arc(left, middle, 3, 0, 2 * Math.PI);
    pen.fill();
    pen.lineWidth = 1;
  }

  function axes(pen, wide, high, ink) {
    pen.fillStyle = ink;
    pen.font = "12px 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif";
    for (const value of ticks(frameOf.left, frameOf.right, (wide - GUTTER()) / 120)) {
      const left = x(value), text = positionText(value);
      pen.fillRect(left, high - FOOT_MAP, 1, 5);
      pen.fillText(text, Math.min(left + 3, wide - pen.measureText(text).width - 2), high - 7);
    }
  }

  // Pointer, wheel, keys

  function spot(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left - GUTTER()) / (box.width - GUTTER()), 1 - (event.clientY - box.top) / (box.height - FOOT_MAP)];
  }

  const under = (event) => spot(event).map((part) => Math.min(Math.max(part, 0), 1));

  function look(event) {
    const [across, up] = under(event), value = frameOf.left + (frameOf.right - frameOf.left) * across, place = frameOf.low + (frameOf.high - frameOf.low) * up;
    const near = shown.marks.find((mark) => mark.pages && Math.abs(x(at(mark.call)) - 4 - x(value)) < 7
      && y(placeOf(shown, mark.start)) >= y(place) - 6 && y(placeOf(shown, mark.start + mark.pages)) <= y(place) + 6);
    if (near) {
      say(event.clientX, event.clientY, `Redundant: ${words[near.site].call}, ${bytes(near.pages)}`, [markText(near)]);
      return;
    }
    const area = shown.areas.find((each) => at(each.since) <= value && value < at(each.until) && shown.places[each.low] <= place && place < shown.places[each.high]);
    if (!area) {
      say(event.clientX, event.clientY, "nothing is mapped", [`${positionText(value)}, ${hex(pageAt(shown, place))}`]);
      return;
    }
    say(event.clientX, event.clientY, areaName(area), areaLines(area));
  }

  function areaLines(area) {
    const low = shown.edges[area.low], high = shown.edges[area.high], file = name(area.file);
    return [
      `${bytes(high - low)} at ${hex(low)}, ${PERMISSIONS[area.prot]}`,
      touchedText(area),
      area.site < 0 ? "there before the first call" : `mapped by ${siteText(area.site)}`,
      `${positionText(at(area.since))} to ${positionText(at(area.until))}`,
      file.includes("/") ? file : ""];
  }

  // What is held stays under the fingers: one moves the map, two zoom it as well.
  const fingers = new Map();
  let held = null;

  function hand() {
    const [one, other = one] = fingers.values();
    const middle = {clientX: (one.clientX + other.clientX) / 2, clientY: (one.clientY + other.clientY) / 2};
    return {at: spot(middle), spread: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY)};
  }

  function hold() {
    held = fingers.size ? {...frameOf, ...hand()} : null;
  }

  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    hold();
    canvas.setPointerCapture(event.pointerId);
    look(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) {
      look(event);
      return;
    }
    fingers.set(event.pointerId, event);
    const {at: [across, up], spread} = hand();
    const {wide, high} = size(held, held.spread && spread ? held.spread / spread : 1);
    move(held.left + (held.right - held.left) * held.at[0] - wide * across,
      held.low + (held.high - held.low) * held.at[1] - high * up, wide, high);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => {
    fingers.delete(event.pointerId);
    hold();
    describe(false);
  });
  // One finger scrolls the page up and down; two are the map's alone.
  for (const kind of ["touchstart", "touchmove"]) canvas.addEventListener(kind, (event) => {
    if (event.touches.length > 1) event.preventDefault();
  }, {passive: false});
  canvas.addEventListener("pointerleave", hush);
  canvas.addEventListener("dblclick", (event) => zoom(event.shiftKey ? 2 : 0.5, ...under(event)));
  frame.addEventListener("wheel", (event) => {
    const whole = frameOf.right - frameOf.left === frameOf.whole[1] - frameOf.whole[0] && frameOf.low === 0 && frameOf.high === 1;
    // What cannot be made smaller does not keep the page from being scrolled.
    if (!event.ctrlKey && (document.activeElement !== frame || (whole && event.deltaY > 0))) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, ...under(event));
  }, {passive: false});
  frame.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (KEYS[event.key]) pan(...KEYS[event.key].map((way) => way / 4));
    else if (event.key === "+" || event.key === "=") zoom(0.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "0") reset();
    else if (event.key === "n") step(1);
    else if (event.key === "p") step(-1);
    else return;
    event.preventDefault();
  });
  drawn.push(draw);
  follow(followView);
  choices();
  reset();
}
