// The map: memory calls from left to right, addresses from below to above.
const GUTTER = 104, FOOT = 24;
// So many marks would hide the map by their rims.
const CROWD = 500;
const KEYS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};

function showMap() {
  const section = part("map"), {processes} = data.spaces;
  if (!processes.length) {
    section.append(el("p", {text: "There is no address space to show."}));
    return;
  }
  const most = processes.reduce((best, one, at) => (one.calls > processes[best].calls ? at : best), 0);
  let shown = space(processes[most]), scale = timed ? "time" : "order", view, chosen = -1;
  const canvas = el("canvas", {id: "map-canvas", role: "img"});
  const frame = el("div", {class: "picture map", id: "map-frame", tabindex: "0", role: "application", "aria-describedby": "map-keys"}, canvas);
  const readout = el("div", {class: "readout", id: "map-readout", role: "status"});
  const more = el("div", {});
  const button = (text, label, then) => el("button", {type: "button", "aria-label": label, title: label, text, onclick: then});
  section.append(
    el("div", {class: "tools"},
      choice("Process", processes.map((one, at) => [String(at), `${processName(one)} (${plural(one.calls, "call")})`]), String(most), (value) => {
        shown = space(processes[Number(value)]);
        reset();
      }),
      timed ? choice("From left to right", [["time", "time"], ["order", "the order of calls"]], scale, (value) => {
        scale = value;
        reset();
      }) : null,
      el("div", {class: "tools", role: "group", "aria-label": "Zoom"},
        button("+", "Zoom in", () => zoom(0.5)), button("−", "Zoom out", () => zoom(2)),
        button("←", "Earlier", () => pan(-0.25, 0)), button("→", "Later", () => pan(0.25, 0)),
        button("↑", "Higher addresses", () => pan(0, 0.25)), button("↓", "Lower addresses", () => pan(0, -0.25)),
        button("All", "Show all", reset), button("Next redundant", "Next redundant call", () => step(1)))),
    frame,
    legend([["k-p3", "rw-"], ["k-p1", "r--"], ["k-p5", "r-x"], ["k-p7", "rwx"], ["k-p2", "other"], ["k-p0", "--- (inaccessible)"], ["k-mark", "redundant call"]]),
    readout,
    el("p", {class: "soft", id: "map-keys", text: "Keys, with the map focused: + and − zoom, arrows move, 0 shows all, n and p go to the next and the previous "
      + "redundant call. The wheel zooms with Ctrl held, or while the map is focused; so do a double click and two fingers. Dragging moves. The map ends soon after the last change of the process. Unused addresses are left out, and each run of pages has room by the logarithm of its size."}),
    more,
  );

  const at = (call) => scales[scale].of(call);

  function reset() {
    // After the last change of a process there is nothing to see.
    const low = at(shown.since), until = at(shown.until), quiet = at(Math.min(shown.changed + 1, shown.until));
    const high = Math.max(Math.min(quiet + (quiet - low) * 0.08, until), low + 1);
    view = {left: low, right: high, low: 0, high: 1, whole: [low, high]};
    chosen = -1;
    more.replaceChildren(spaceTable(shown));
    draw();
    say();
  }

  function zoom(factor, x = 0.5, y = 0.5) {
    const {wide, high} = size(view, factor);
    move(view.left + (view.right - view.left - wide) * x, view.low + (view.high - view.low - high) * y, wide, high);
    say();
  }

  function size(from, factor) {
    const [first, last] = view.whole;
    return {
      wide: Math.min(Math.max((from.right - from.left) * factor, (last - first) * 1e-5), last - first),
      high: Math.min(Math.max((from.high - from.low) * factor, 1e-4), 1),
    };
  }

  function pan(x, y) {
    const wide = view.right - view.left, high = view.high - view.low;
    move(view.left + wide * x, view.low + high * y, wide, high);
    say();
  }

  function move(left, low, wide, high) {
    const [first, last] = view.whole;
    view.left = Math.min(Math.max(left, first), last - wide);
    view.right = view.left + wide;
    view.low = Math.min(Math.max(low, 0), 1 - high);
    view.high = view.low + high;
    draw();
  }

  // Redundant calls one by one, for who has no pointer.
  function step(way) {
    if (!shown.marks.length) {
      readout.textContent = "No redundant call is marked in this process.";
      return;
    }
    chosen = (chosen + way + shown.marks.length) % shown.marks.length;
    const mark = shown.marks[chosen], wide = view.right - view.left, high = view.high - view.low;
    move(at(mark.call) - wide / 2, placeOf(shown, mark.start) - high / 2, wide, high);
    readout.replaceChildren(`Redundant call ${count(chosen + 1)} of ${count(shown.marks.length)}: `, ...markWords(mark));
  }

  function markWords(mark) {
    const what = mark.pages ? `${hex(mark.start)}, ${plural(mark.pages, "page")}` : "no range";
    const call = mark.site < 0 ? "a call" : name(data.sites[mark.site][0]);
    return [`call ${count(mark.call)}${timed ? ` at ${duration(timeOf(mark.call))}` : ""}, `, named(call), ` of ${what}, from `, named(placeName(mark.site))];
  }

  function say(aloud = true) {
    const span = `${scales[scale].text(view.left)} to ${scales[scale].text(view.right)}, ${hex(pageAt(shown, view.low))} to ${hex(pageAt(shown, view.high))}`;
    frame.setAttribute("aria-label", `Map of the address space of process ${processName(shown)}`);
    canvas.setAttribute("aria-label", `Address space of process ${processName(shown)}: ${plural(shown.areas.length, "area")}, ${plural(shown.marks.length, "redundant call")} marked. Shown: ${span}.`);
    frame.dataset.view = [view.left, view.right, view.low, view.high].join(" ");
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
    const of = ["--p-none", "--p-r", "--p-other", "--p-rw", "--p-other", "--p-rx", "--p-other", "--p-rwx"].map(colour);
    pen.scale(ratio, ratio);
    pen.fillStyle = colour("--paper");
    pen.fillRect(0, 0, wide, high);
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER, 0, wide - GUTTER, high - FOOT);
    pen.clip();
    const labels = [], sharp = (value) => Math.round(value * ratio) / ratio;
    for (const area of shown.areas) {
      const left = sharp(Math.max(x(at(area.since)), GUTTER)), right = sharp(Math.min(x(at(area.until)), wide));
      const top = y(shown.places[area.high]), bottom = y(shown.places[area.low]);
      if (right < GUTTER || left > wide || bottom < 0 || top > high - FOOT) continue;
      const tall = bottom - top;
      pen.fillStyle = of[area.prot];
      pen.fillRect(left, top, Math.max(right - left, 1), Math.max(tall - (tall > 4 ? 1 : 0), 0.5));
      if (tall > 15 && right - left > 70) labels.push([area, left, top, bottom, right]);
    }
    write(pen, labels, colour, high);
    dash(pen, colour);
    pen.restore();
    axes(pen, wide, high, colour("--soft"));
  }

  function x(value) {
    return GUTTER + (canvas.clientWidth - GUTTER) * (value - view.left) / (view.right - view.left);
  }

  function y(place) {
    const high = parseInt(canvas.style.height, 10) - FOOT;
    return high - high * (place - view.low) / (view.high - view.low);
  }

  function write(pen, labels, colour, high) {
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("--ink");
    for (const [area, left, top, bottom, right] of labels.slice(0, 400)) {
      const middle = (Math.max(top, 0) + Math.min(bottom, high - FOOT)) / 2;
      pen.save();
      pen.beginPath();
      pen.rect(left, top, right - left - 2, bottom - top);
      pen.clip();
      pen.fillText(name(area.title).split("/").pop(), left + 4, middle + 4);
      pen.restore();
    }
  }

  function dash(pen, colour) {
    shown.marks.forEach((mark, number) => {
      if (!mark.pages) return;
      const left = x(at(mark.call)), bottom = y(placeOf(shown, mark.start)), top = y(placeOf(shown, mark.start + mark.pages));
      const tall = Math.max(bottom - top, 6), wide = number === chosen ? 5 : 2;
      if (shown.marks.length < CROWD || number === chosen) {
        pen.fillStyle = colour("--halo");
        pen.fillRect(left - wide / 2 - 1, bottom - tall - 1, wide + 2, tall + 2);
      }
      pen.fillStyle = number === chosen ? colour("--redundant") : colour("--mark");
      pen.fillRect(left - wide / 2, bottom - tall, wide, tall);
    });
  }

  function axes(pen, wide, high, ink) {
    pen.fillStyle = ink;
    pen.font = "12px system-ui, sans-serif";
    pen.fillText("address", 2, 11);
    pen.font = "11px ui-monospace, 'DejaVu Sans Mono', monospace";
    let last = Infinity;
    shown.edges.forEach((edge, number) => {
      const place = y(shown.places[number]);
      if (place < 25 || place > high - FOOT + 1 || last - place < 26) return;
      pen.fillText(hex(edge), 2, place);
      last = place;
    });
    pen.font = "12px system-ui, sans-serif";
    for (const value of ticks(view.left, view.right, (wide - GUTTER) / 120)) {
      const left = x(value), text = scales[scale].text(value);
      pen.fillRect(left, high - FOOT, 1, 5);
      pen.fillText(text, Math.min(left + 3, wide - pen.measureText(text).width - 2), high - 7);
    }
  }

  // Pointer, wheel, keys

  function spot(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left - GUTTER) / (box.width - GUTTER), 1 - (event.clientY - box.top) / (box.height - FOOT)];
  }

  const under = (event) => spot(event).map((part) => Math.min(Math.max(part, 0), 1));

  function look(event) {
    const [across, up] = under(event), value = view.left + (view.right - view.left) * across, place = view.low + (view.high - view.low) * up;
    const near = shown.marks.find((mark) => mark.pages && Math.abs(x(at(mark.call)) - x(value)) < 4
      && y(placeOf(shown, mark.start)) >= y(place) - 4 && y(placeOf(shown, mark.start + mark.pages)) <= y(place) + 4);
    if (near) {
      readout.replaceChildren("Redundant: ", ...markWords(near));
      return;
    }
    const area = shown.areas.find((each) => at(each.since) <= value && value < at(each.until) && shown.places[each.low] <= place && place < shown.places[each.high]);
    if (!area) {
      readout.textContent = `${scales[scale].text(value)}, ${hex(pageAt(shown, place))}: nothing is mapped.`;
      return;
    }
    const low = shown.edges[area.low], high = shown.edges[area.high];
    readout.replaceChildren(`${hex(low)} – ${hex(high)} (${bytes(high - low)}) ${PERMISSIONS[area.prot]} `, named(name(area.title)),
      `, from call ${count(area.since)} to call ${count(area.until)}`);
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
    held = fingers.size ? {...view, ...hand()} : null;
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
    say(false);
  });
  // One finger scrolls the page up and down; two are the map's alone.
  for (const kind of ["touchstart", "touchmove"]) canvas.addEventListener(kind, (event) => {
    if (event.touches.length > 1) event.preventDefault();
  }, {passive: false});
  canvas.addEventListener("dblclick", (event) => zoom(event.shiftKey ? 2 : 0.5, ...under(event)));
  frame.addEventListener("wheel", (event) => {
    const whole = view.right - view.left === view.whole[1] - view.whole[0] && view.low === 0 && view.high === 1;
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
  reset();
}
