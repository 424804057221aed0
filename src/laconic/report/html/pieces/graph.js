// The call graph: programs above, the functions that they call below, the memory call last. The width is the weight.
const ROW = 22, LEAST = 1.5;
const TINTS = 7;
const WEIGHTS = {
  cycles: {every: (sums) => middle(sums, TODAY), redundant: (sums) => sums[REDUNDANT_CYCLES], text: (weight) => `${cycles(weight, weight)} cycles`},
  pages: {every: (sums) => sums[PAGES], redundant: (sums) => sums[REDUNDANT_PAGES], text: (weight) => `${bytes(weight)}, ${plural(weight, "page")}`},
  calls: {every: (sums) => sums[CALLS], redundant: (sums) => sums[REDUNDANT], text: (weight) => plural(weight, "call")},
};
const graph = {set: "every", weight: "cycles", folded: true, wanted: ""};

// Modules by the cost of the sites in whose stacks they are: the first seven have a tint of their own.
const moduleTints = (() => {
  const costs = new Map();
  data.sites.forEach((site) => {
    const cost = middle(site.slice(HEAD), TODAY);
    for (const module of new Set(framesOf(site).map((number) => name(placeAt(number)[5])))) costs.set(module, (costs.get(module) || 0) + cost);
  });
  return [...costs].sort((one, other) => other[1] - one[1]).map(([module]) => module).filter(Boolean);
})();
function tintOf(module) {
  const at = moduleTints.indexOf(module);
  return at < 0 || at >= TINTS ? TINTS : at;
}

// The boxes of a site's stack, from the outermost: title, module, line, how many frames it stands for.
function boxesOf(site, row) {
  const about = words[row];
  if (site[1] < 0) return [{title: about.title, module: about.module, line: "", frames: 1}];
  const frames = framesOf(site), boxes = [];
  for (let at = frames.length - 1; at >= 0; at -= 1) {
    const [full, , where, , short, module] = placeAt(frames[at]).map(name), last = boxes[boxes.length - 1];
    if (graph.folded && at > 0) {
      if (last && last.module === module) {
        last.frames += 1;
        last.to = short;
        continue;
      }
      boxes.push({title: module || short, module, line: "", frames: 1, folded: true, from: short, to: short});
    } else {
      boxes.push({title: short, full, module, line: at ? "" : where.split("/").pop(), frames: 1});
    }
  }
  return boxes;
}

function grow() {
  const make = (box, parent) => ({...box, parent, value: 0, least: box.frames, most: box.frames, children: new Map(), depth: parent ? parent.depth + 1 : 0});
  const root = make({title: "all", module: "", line: "", frames: 1}, null);
  const weight = WEIGHTS[graph.weight][graph.set], programs = data.summary.programs.length > 1;
  data.sites.forEach((site, row) => {
    const value = weight(tallies[row]);
    if (!(value > 0)) return;
    const way = boxesOf(site, row);
    if (programs && site[1] !== AROUND && name(site[2])) way.unshift({title: name(site[2]).split("/").pop(), full: name(site[2]), module: "", line: "", frames: 1});
    if (site[1] !== AROUND) way.push({title: name(site[0]), module: "", line: "", frames: 1, isCall: true});
    let node = root;
    node.value += value;
    for (const box of way) {
      const key = JSON.stringify([box.title, box.module, box.line]);
      if (!node.children.has(key)) node.children.set(key, make(box, node));
      node = node.children.get(key);
      node.value += value;
      node.least = Math.min(node.least, box.frames);
      node.most = Math.max(node.most, box.frames);
    }
  });
  const left = [root];
  while (left.length) {
    const node = left.pop();
    node.children = [...node.children.values()].sort((one, other) => other.value - one.value || (one.title < other.title ? -1 : 1));
    left.push(...node.children);
  }
  return root;
}

function showGraph() {
  const section = part("graph");
  if (!total) {
    section.append(el("p", {text: "There is no call to show."}));
    return;
  }
  let root = grow(), zoomed = root, boxes = [];
  const picture = el("div", {class: "pic flame", id: "flame-graph", role: "tree", "aria-label": "Call graph"});
  const told = el("p", {class: "wh", role: "status", id: "graph-readout"});
  const more = el("div", {});
  const rebuild = () => {
    root = grow();
    zoomed = root;
    draw();
    tell();
    more.replaceChildren(heaviest(root));
  };
  const redundant = data.summary.redundant > 0;
  const sets = segments("Calls", [["every", "All calls"], ["redundant", "Redundant"]], graph.set, (value) => {
    graph.set = value;
    rebuild();
  });
  if (!redundant) sets.lastChild.disabled = true;
  const weights = segments("Weight", [["cycles", "Cycles"], ["pages", "Pages"], ["calls", "Calls"]], graph.weight, (value) => {
    graph.weight = value;
    rebuild();
  });
  const frames = segments("Frames", [["fold", "Fold modules"], ["all", "All frames"]], "fold", (value) => {
    graph.folded = value === "fold";
    rebuild();
  });
  const search = searchField("graph-search", "Search the graph", "Search: function or module", (wanted) => {
    graph.wanted = wanted;
    draw();
    tell();
  });
  const reset = el("button", {type: "button", id: "graph-reset", text: "Reset zoom", onclick: () => zoom(root)});
  const stacks = data.sites.some((site) => site[1] >= 0);
  section.append(
    el("div", {class: "tools"}, sets, redundant ? "" : soft("none is redundant"), weights, stacks ? frames : "", search, reset),
    told, picture, legend(), el("p", {class: "wh", id: "graph-keys", text: `${stacks ? "" : "The trace has no stacks: record with --stacks all. "}Click or Enter zooms in; Escape zooms out; arrows move.`}), more);

  function legend() {
    const entries = moduleTints.slice(0, TINTS).map((module, at) => el("li", {}, el("button", {type: "button", onclick: () => {
      search.querySelector("input").value = module;
      graph.wanted = module.toLowerCase();
      draw();
      tell();
    }}, el("i", {class: `k m${at}`, "aria-hidden": "true"}), named(module))));
    const others = moduleTints.length - TINTS;
    entries.push(el("li", {}, el("i", {class: `k m${TINTS}`, "aria-hidden": "true"}), others > 0 ? `${plural(others, "other")}, and calls` : "programs and calls"));
    return el("ul", {class: "legend", "aria-label": "Colours: modules; a click searches one"}, ...entries);
  }

  const text = (node) => WEIGHTS[graph.weight].text(node.value);
  const matches = (node) => graph.wanted !== "" && node !== root && `${node.title} ${node.full || ""} ${node.module}`.toLowerCase().includes(graph.wanted);

  function matched(node) {
    if (matches(node)) return node.value;
    return node.children.reduce((sum, child) => sum + matched(child), 0);
  }

  const framesText = (node) => (node.folded && node.most > 1 ? `${node.least === node.most ? node.most : `${node.least}–${node.most}`} frames` : "");

  function about(node) {
    const module = node.module && node.module !== node.title ? ` (${node.module}${node.line ? `, ${node.line}` : ""})` : "";
    const frames = framesText(node);
    return `${node.full || node.title}${module}${frames ? `, ${frames}` : ""}: ${text(node)}, ${share(node.value, root.value)}`;
  }

  function tell() {
    if (!root.value) {
      told.textContent = graph.set === "redundant" ? "No redundant call has this weight." : "Nothing in view has this weight.";
      return;
    }
    if (graph.wanted) {
      told.textContent = `“${graph.wanted}” is in ${share(matched(root), root.value)} of ${text(root)}.`;
      return;
    }
    const what = graph.set === "redundant" ? " of redundant calls" : "";
    told.textContent = zoomed === root ? `${text(root)}${what} in all${graph.weight === "cycles" ? ", under Gramine today, the middle of the range" : ""}.` : `${about(zoomed)}.`;
  }

  function zoom(node) {
    zoomed = node;
    draw();
    const box = boxes.find((each) => each.node === node);
    if (box) focus(box);
    tell();
  }

  function draw() {
    const wide = width(picture) - 2, above = [];
    boxes = [];
    for (let node = zoomed.parent; node; node = node.parent) above.unshift(node);
    for (const node of above) boxes.push(boxOf(node, 0, 1));
    if (root.value) place(zoomed, 0, 1, wide);
    const deepest = boxes.reduce((most, each) => Math.max(most, each.node.depth), 0);
    picture.replaceChildren(...boxes.map((each) => each.made), el("div", {role: "presentation"}));
    picture.lastChild.style.height = `${(deepest + 1) * ROW}px`;
    picture.dataset.zoomed = zoomed.title;
    picture.hidden = !root.value;
    reset.disabled = zoomed === root;
    const first = boxes.find((each) => each.node === zoomed) || boxes[0];
    if (first) first.made.tabIndex = 0;
  }

  function place(node, left, part, wide) {
    if (part * wide < LEAST) return;
    boxes.push(boxOf(node, left, part));
    for (const child of node.children) {
      const own = part * child.value / node.value;
      place(child, left, own, wide);
      left += own;
    }
  }

  function boxOf(node, left, part) {
    const above = node.depth < zoomed.depth, tint = node.isCall || !node.module ? TINTS : tintOf(node.module);
    const frames = framesText(node);
    const made = el("div", {
      class: `box m${tint}${above ? " above" : ""}${matches(node) ? " found" : ""}`,
      role: "treeitem", tabindex: "-1", "aria-level": String(node.depth + 1), "aria-label": about(node),
      text: `${node.title}${node.line ? ` ${node.line}` : ""}${frames ? ` · ${frames}` : ""}`,
      onclick: () => zoom(node),
      onpointermove: (event) => point(node, event.clientX, event.clientY), onpointerleave: hush,
    });
    if (node.children.length) made.setAttribute("aria-expanded", "true");
    made.style.left = `${100 * left}%`;
    made.style.width = `${100 * part}%`;
    made.style.top = `${node.depth * ROW}px`;
    const box = {node, made};
    made.addEventListener("keydown", (event) => key(event, box));
    return box;
  }

  function point(node, x, y) {
    const frames = framesText(node);
    say(x, y, `${node.full || node.title}${frames ? ` (${frames})` : ""}`, [
      node.folded && node.from !== node.to ? `from ${node.from} to ${node.to}` : [node.module, node.line].filter((each) => each && each !== node.title).join(" · "),
      `${text(node)}, ${share(node.value, root.value)} of all`,
      node.parent && node.parent !== root ? `${share(node.value, node.parent.value)} of ${node.parent.title}` : ""]);
  }

  function focus(box) {
    for (const each of boxes) each.made.tabIndex = -1;
    box.made.tabIndex = 0;
    box.made.focus();
  }

  function key(event, from) {
    const {node} = from, beside = node.parent ? node.parent.children : [node], own = beside.indexOf(node);
    const to = {ArrowUp: node.parent, ArrowDown: node.children[0], ArrowRight: beside[own + 1], ArrowLeft: beside[own - 1], Home: root}[event.key];
    if (event.key === "Enter" || event.key === " ") zoom(node);
    else if (event.key === "Escape") zoom(zoomed.parent || root);
    else if (to === undefined || to === null) return;
    else {
      const box = boxes.find((each) => each.node === to);
      if (box) {
        focus(box);
        told.textContent = `${about(to)}.`;
        const {left, bottom} = box.made.getBoundingClientRect();
        point(to, left, bottom - 10);
      }
    }
    event.preventDefault();
  }

  drawn.push(draw);
  follow(rebuild);
  rebuild();
}

// The functions through which most weight came, each counted once a stack.
function heaviest(root) {
  const sums = new Map(), left = [[root, new Set()]];
  while (left.length) {
    const [node, seen] = left.pop();
    const title = `${node.title}${node.module && node.module !== node.title ? ` (${node.module})` : ""}`, inside = new Set(seen);
    if (node !== root && !seen.has(title)) {
      sums.set(title, (sums.get(title) || 0) + node.value);
      inside.add(title);
    }
    for (const child of node.children) left.push([child, inside]);
  }
  const rows = [...sums].sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1)).slice(0, 50);
  return asTable("The same as text", "Functions and modules by the weight that came through them", ["function or module", graph.weight, "share"],
    rows.map(([title, value]) => [title, WEIGHTS[graph.weight].text(value), share(value, root.value)]));
}
