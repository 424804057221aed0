// A flame graph of the redundant calls: programs above, the functions that they called below, the call last.
const ROW = 22;

// A site in a line: its innermost functions with the line of the first, after those that only make the system call.
function siteName(site) {
  if (site[1] < 0) return site[1] === -2 ? "other sites" : "a place that is not known";
  return data.stacks[site[1]].slice(site[12], site[12] + 3).map((number, at) => {
    const [title, , where] = data.places[number < 0 ? ~number : number], line = at ? "" : name(where).split("/").pop();
    return `${name(title)}${line ? ` (${line})` : ""}`;
  }).join(" ← ");
}

// The site of a mark or of a call, in a line: ~n is the nth reason why it is suppressed.
const placeName = (number) => (number < 0 ? `a suppressed site: ${data.hidden[~number][0]}` : siteName(data.sites[number]));

function grow() {
  const make = (title, module, parent) => ({title, module, parent, value: 0, children: new Map(), depth: parent ? parent.depth + 1 : 0});
  const root = make("all redundant calls", "", null);
  for (const site of data.sites) {
    const [call, stack, program, , , redundant] = site;
    if (!redundant) continue;
    let node = root;
    node.value += redundant;
    const way = [[name(program) || "all programs", ""]];
    for (const number of stack < 0 ? [] : data.stacks[stack].slice(site[12]).reverse()) {
      const place = data.places[number < 0 ? ~number : number];
      way.push([name(place[0]), name(place[1])]);
    }
    way.push([name(call), "memory call"]);
    for (const [title, module] of way) {
      const key = JSON.stringify([title, module]);
      if (!node.children.has(key)) node.children.set(key, make(title, module, node));
      node = node.children.get(key);
      node.value += redundant;
    }
  }
  order(root);
  return root;
}

function order(root) {
  const left = [root];
  while (left.length) {
    const node = left.pop();
    node.children = [...node.children.values()].sort((one, other) => other.value - one.value || (one.title < other.title ? -1 : 1));
    left.push(...node.children);
  }
}

function showFlame() {
  const section = part("flame"), root = grow();
  if (!root.value) {
    section.append(el("p", {text: data.summary.redundant ? "Every redundant call is suppressed." : total ? "No call was redundant." : "There is no call to show."}), hiddenNote());
    return;
  }
  let zoomed = root, wanted = "", cells = [];
  const graph = el("div", {class: "flame", id: "flame-graph", role: "tree", "aria-label": "Redundant calls by stack"});
  const told = el("div", {class: "readout", role: "status", id: "flame-readout"});
  const search = el("input", {type: "search", id: "flame-search", oninput: () => {
    wanted = search.value.toLowerCase();
    draw();
    told.textContent = wanted ? `${count(matched(root))} redundant calls, ${share(matched(root), root.value)}, match.` : "";
  }});
  section.append(
    el("p", {class: "soft", text: "The wider a function, the more redundant calls came through it. Click, or press Enter, to zoom; Escape zooms out; arrows move."}),
    hiddenNote(),
    el("div", {class: "tools"}, el("label", {}, "Search ", search), el("button", {type: "button", text: "Show all", onclick: () => zoom(root)})),
    graph, told, heaviest(root));

  function matched(node) {
    if (matches(node)) return node.value;
    return node.children.reduce((sum, child) => sum + matched(child), 0);
  }

  function matches(node) {
    return wanted !== "" && node !== root && (node.title.toLowerCase().includes(wanted) || node.module.toLowerCase().includes(wanted));
  }

  function zoom(node) {
    zoomed = node;
    draw();
    const cell = cells.find((each) => each.node === node);
    if (cell) focus(cell);
    told.textContent = `${words(node)}.`;
  }

  const words = (node) => `${node.title}${node.module ? ` (${node.module})` : ""}: ${plural(node.value, "redundant call")}, ${share(node.value, root.value)}`;

  function draw() {
    const wide = width(graph) - 2;
    cells = [];
    const above = [];
    for (let node = zoomed.parent; node; node = node.parent) above.unshift(node);
    for (const node of above) cells.push(cell(node, 0, 1));
    place(zoomed, 0, 1, wide);
    const deepest = Math.max(...cells.map((each) => each.node.depth));
    graph.replaceChildren(...cells.map((each) => each.made), el("div", {role: "presentation"}));
    graph.lastChild.style.height = `${(deepest + 1) * ROW}px`;
    graph.dataset.zoomed = zoomed.title;
    (cells.find((each) => each.node === zoomed) || cells[0]).made.tabIndex = 0;
  }

  function place(node, left, part, wide) {
    if (part * wide < 2) return;
    cells.push(cell(node, left, part));
    for (const child of node.children) {
      const own = part * child.value / node.value;
      place(child, left, own, wide);
      left += own;
    }
  }

  function cell(node, left, part) {
    const made = el("div", {
      class: `cell${node.depth % 2 ? " odd" : ""}${matches(node) ? " found" : ""}`, role: "treeitem", tabindex: "-1",
      "aria-level": String(node.depth + 1), "aria-label": words(node), title: words(node), text: node.title,
      onclick: () => zoom(node), onmouseenter: () => { told.textContent = `${words(node)}.`; },
    });
    if (node.children.length) made.setAttribute("aria-expanded", "true");
    made.style.left = `${100 * left}%`;
    made.style.width = `${100 * part}%`;
    made.style.top = `${node.depth * ROW}px`;
    const found = {node, made};
    made.addEventListener("keydown", (event) => key(event, found));
    return found;
  }

  function focus(found) {
    for (const each of cells) each.made.tabIndex = -1;
    found.made.tabIndex = 0;
    found.made.focus();
  }

  function key(event, from) {
    const {node} = from, beside = node.parent ? node.parent.children : [node], own = beside.indexOf(node);
    const to = {ArrowUp: node.parent, ArrowDown: node.children[0], ArrowRight: beside[own + 1], ArrowLeft: beside[own - 1], Home: root}[event.key];
    if (event.key === "Enter" || event.key === " ") zoom(node);
    else if (event.key === "Escape") zoom(zoomed.parent || root);
    else if (to === undefined || to === null) return;
    else {
      const found = cells.find((each) => each.node === to);
      if (found) {
        focus(found);
        told.textContent = `${words(to)}.`;
      }
    }
    event.preventDefault();
  }
  draws(draw);
}

// The functions through which most redundant calls came, each counted once a stack.
function heaviest(root) {
  const sums = new Map(), left = [[root, new Set()]];
  while (left.length) {
    const [node, seen] = left.pop();
    const title = `${node.title}${node.module ? ` (${node.module})` : ""}`, inside = new Set(seen);
    if (node !== root && !seen.has(title)) {
      sums.set(title, (sums.get(title) || 0) + node.value);
      inside.add(title);
    }
    for (const child of node.children) left.push([child, inside]);
  }
  const rows = [...sums].sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1)).slice(0, 50);
  return asTable("The same as a table", "Functions by the redundant calls that came through them", ["function", "redundant", "share"],
    rows.map(([title, value]) => [title, count(value), share(value, root.value)]));
}
