// The table: a row for each source line, module or stack; and the calls one by one where they are few.
const SHOWN = 15, MORE = 200;
const STACK_TOP = 24, STACK_END = 8;
const ROWS_BY = {site: "Site", module: "Module", stack: "Stack", call: "Call"};

const table = {by: "site", sorted: 7, down: true, wanted: "", open: new Set(), limit: SHOWN};

// A text of all names of a site's stack, to be searched.
const searched = data.sites.map((site, row) => {
  const frames = framesOf(site).flatMap((number) => placeAt(number).slice(0, 3).map(name));
  const {call, title, module} = words[row];
  return [call, title, module, name(site[2]), ...frames].join("\n").toLowerCase();
});

function keyOf(row) {
  const {call, full, module, line} = words[row];
  if (table.by === "stack") return `stack ${row}`;
  if (table.by === "module") return `module ${module}`;
  return `site ${JSON.stringify(module === "suppressed" ? [full, module] : [call, full, module, line])}`;
}

function groupRows() {
  const groups = new Map(), wanted = table.wanted.split(/\s+/).filter(Boolean);
  data.sites.forEach((site, row) => {
    if (!tallies[row][CALLS] && !tallies[row][TODAY + 1]) return;
    if (!wanted.every((word) => searched[row].includes(word))) return;
    const key = keyOf(row);
    let group = groups.get(key);
    if (!group) groups.set(key, group = {key, rows: [], calls: new Set(), sums: new Array(TALLIED).fill(0)});
    group.rows.push(row);
    group.calls.add(words[row].call);
    tallies[row].forEach((number, at) => { group.sums[at] += number; });
  });
  return [...groups.values()];
}

const COLUMNS = [
  (group) => `${words[group.rows[0]][table.by === "module" ? "module" : "title"]} ${words[group.rows[0]].line}`,
  (group) => [...group.calls].join(),
  (group) => group.sums[CALLS],
  (group) => group.sums[REDUNDANT],
  (group) => group.sums[HOST_CALLS],
  (group) => group.sums[PAGES],
  (group) => group.sums[TOUCHED],
  (group) => middle(group.sums, TODAY),
  (group) => middle(group.sums, LACONIC),
];

function inOrder(groups) {
  const key = COLUMNS[table.sorted], way = table.down ? -1 : 1;
  return groups.sort((one, other) => {
    const first = key(one), second = key(other);
    const order = first < second ? -1 : first > second ? 1 : 0;
    return order ? order * way : middle(other.sums, TODAY) - middle(one.sums, TODAY);
  });
}

function bars(sums, most) {
  const wide = (value) => `${(100 * value / most).toFixed(2)}%`;
  const bar = (kind, y, height, value) => svg("rect", {class: kind, x: 0, y, height, rx: 2, width: wide(value)});
  return svg("svg", {class: "bar", height: 18, width: "100%", "aria-hidden": "true", focusable: "false"},
    bar("t2", 1, 10, sums[TODAY + 1]), bar("t1", 1, 10, sums[TODAY]), bar("l2", 13, 4, sums[LACONIC + 1]), bar("l1", 13, 4, sums[LACONIC]));
}

function frameItem(number) {
  const [title, module, where, inlined] = placeAt(number);
  const notes = [inlined ? "inlined" : "", number < 0 ? "guessed" : ""].filter(Boolean).join(", ");
  const about = [name(module), name(where), notes].filter(Boolean).join(" · ");
  return el("li", {}, named(name(title), "fn"), named(about, "wh"));
}

function stackList(site) {
  const frames = site[1] < 0 ? [] : stacks[site[1]], list = el("ol", {class: "stack"});
  const cut = frames.length > STACK_TOP + STACK_END + 4;
  const fill = (whole) => {
    const gap = el("button", {type: "button", class: "lk", text: `${frames.length - STACK_TOP - STACK_END} frames more`, onclick: () => fill(true)});
    list.replaceChildren(...(whole || !cut ? frames.map(frameItem) : [
      ...frames.slice(0, STACK_TOP).map(frameItem), el("li", {}, gap), ...frames.slice(-STACK_END).map(frameItem)]));
  };
  fill(false);
  return list;
}

function details(group) {
  const {sums} = group, facts = el("dl", {class: "facts"});
  const fact = (title, text) => facts.append(el("div", {}, el("dt", {text: title}), el("dd", {text})));
  fact("Gramine today", `${cycles(sums[TODAY], sums[TODAY + 1])} cycles, ${share(middle(sums, TODAY), wholeCost())} of all`);
  fact("Under laconic", sums[LACONIC + 1] ? `${cycles(sums[LACONIC], sums[LACONIC + 1])} cycles` : "nothing");
  fact("Calls", `${grouped(sums[CALLS])}, ${grouped(sums[REDUNDANT])} redundant, ${grouped(sums[FAILED])} failed`);
  if (sums[PAGES]) fact("Size", `${bytes(sums[PAGES])}, ${plural(sums[PAGES], "page")}`);
  if (sums[TOUCHED]) fact("Touched", `${bytes(sums[TOUCHED])}, ${plural(sums[TOUCHED], "page")}`);
  const programs = [...new Set(group.rows.map((row) => name(data.sites[row][2])).filter(Boolean))];
  if (data.summary.programs.length > 1 && programs.length) fact("Program", programs.slice(0, 3).join(", ") + (programs.length > 3 ? ", …" : ""));
  const best = [...group.rows].sort((one, other) => middle(tallies[other], TODAY) - middle(tallies[one], TODAY))[0];
  const site = data.sites[best];
  let about = "No stack was recorded.";
  if (site[1] === SUPPRESSED) about = "Suppressed: these sites are not shown one by one.";
  else if (site[1] === AROUND) about = "What Gramine does around the calls: no call of the program is its cause.";
  else if (site[1] === OTHERS) about = "Sites that cost least, too many for a row each.";
  else if (site[1] >= 0) {
    about = "Innermost first.";
    if (group.rows.length > 1) about = `The costliest of ${count(group.rows.length)} stacks: ${share(middle(tallies[best], TODAY), middle(sums, TODAY))} of this row. ${about}`;
  }
  return el("tr", {class: "more"}, el("td", {colspan: "9"}, facts, el("p", {class: "wh", text: about}), stackList(site)));
}

function numberCell(text, exact, label) {
  return el("td", {class: text === "0" ? "zero" : "", "data-label": label, title: exact === text ? undefined : exact, text});
}

const exactCell = (number, label) => numberCell(count(number), grouped(number), label);

function rowWords(group) {
  const about = words[group.rows[0]];
  if (table.by === "module") return [about.module || about.title, plural(group.rows.length, "stack"), about.module];
  const where = [about.module, about.line].filter(Boolean).join(" · ");
  return [about.title, where, about.full];
}

function showSites() {
  const section = part("sites");
  if (!data.sites.length) {
    part("tab").closest(".scroll").replaceWith(el("p", {text: "There is no call to list."}));
    return;
  }
  const box = part("tab"), body = box.tBodies[0], heads = all("thead th", box), unit = [Number(box.dataset.scale), ""];
  const letter = box.dataset.letter;
  const told = el("span", {id: "site-count", class: "wh", role: "status"});
  const kinds = Object.entries(ROWS_BY).filter(([kind]) => kind !== "call" || data.calls);
  const by = segments("One row for each", kinds, table.by, (value) => {
    Object.assign(table, {by: value, limit: SHOWN});
    draw();
  });
  const search = searchField("filter", "Filter sites", "Filter: function, module, source line, call", (wanted) => {
    Object.assign(table, {wanted, limit: SHOWN});
    draw();
  });
  const single = showCalls(told);
  part("site-tools").append(search, by, told);
  box.closest(".scroll").after(single.box);
  for (const each of all(".nojs", section)) each.remove();
  heads.forEach((head, at) => {
    head.replaceChildren(el("button", {type: "button", onclick: () => {
      if (table.sorted === at) table.down = !table.down;
      else Object.assign(table, {sorted: at, down: at > 1});
      draw();
    }}, head.textContent, el("span", {"aria-hidden": "true"})));
  });

  function toggle(key) {
    if (table.open.has(key)) table.open.delete(key);
    else table.open.add(key);
    draw();
    const button = all(".tog", body).find((each) => each.closest("tr").dataset.key === key);
    if (button) button.focus({preventScroll: true});
  }

  function rowOf(group, most) {
    const {key, sums} = group, open = table.open.has(key), [title, where, full] = rowWords(group);
    const today = cycles(sums[TODAY], sums[TODAY + 1], unit), kinds = [...group.calls];
    const button = el("button", {type: "button", class: "tog", "aria-expanded": String(open)}, named(title, "fn"), " ", named(where, "wh"));
    const row = el("tr", {class: `row${open ? " open" : ""}`},
      el("th", {scope: "row", title: full}, button),
      el("td", {"data-label": "Call", title: kinds.join(", "), text: kinds.length > 1 ? `${kinds.length} kinds` : kinds[0] || "–"}),
      exactCell(sums[CALLS], "Calls"), exactCell(sums[REDUNDANT], "Redundant"), exactCell(sums[HOST_CALLS], "Host calls"),
      numberCell(bytes(sums[PAGES]), plural(sums[PAGES], "page"), "Size"),
      numberCell(bytes(sums[TOUCHED]), plural(sums[TOUCHED], "page"), "Touched"),
      el("td", {"data-label": "Today"}, el("span", {class: "cell"}, bars(sums, most), el("span", {text: today}))),
      numberCell(cycles(sums[LACONIC], sums[LACONIC + 1], unit), `${cycles(sums[LACONIC], sums[LACONIC + 1])} cycles`, "Laconic"));
    row.dataset.key = key;
    row.addEventListener("click", () => { if (!getSelection().toString()) toggle(key); });
    return row;
  }

  function more(groups) {
    const left = groups.length - table.limit;
    if (left <= 0) return [];
    const text = left <= MORE ? `Show all ${count(groups.length)}` : `Show ${MORE} more of ${count(groups.length)}`;
    const button = el("button", {type: "button", id: "site-more", text, onclick: () => {
      table.limit += MORE;
      draw();
    }});
    return [el("tr", {class: "more end"}, el("td", {colspan: "9"}, button))];
  }

  function draw() {
    single.box.hidden = table.by !== "call";
    box.closest(".scroll").hidden = table.by === "call";
    if (table.by === "call") {
      single.draw();
      return;
    }
    const groups = inOrder(groupRows()), most = Math.max(...groups.map((group) => group.sums[TODAY + 1]), 1);
    const rows = groups.slice(0, table.limit).flatMap((group) => [rowOf(group, most), ...(table.open.has(group.key) ? [details(group)] : [])]);
    if (!groups.length) rows.push(el("tr", {class: "more end"}, el("td", {colspan: "9", text: table.wanted ? "No site has this in its name or its stack." : "No call is in view."})));
    body.replaceChildren(...rows, ...more(groups));
    const sum = groups.reduce((cost, group) => cost + middle(group.sums, TODAY), 0);
    told.textContent = `${plural(groups.length, "row")}, ${share(sum, wholeCost())} of the cost`;
    heads.forEach((head, at) => {
      if (at === table.sorted) head.setAttribute("aria-sort", table.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.querySelector("span").textContent = at === table.sorted ? (table.down ? " ↓" : " ↑") : "";
    });
  }

  // A row of the first screen opens its row here.
  for (const link of all(".five a")) link.addEventListener("click", () => table.show(...data.first[Number(link.dataset.rank)]));
  table.show = (kind, row) => {
    search.querySelector("input").value = "";
    Object.assign(table, {wanted: "", sorted: 7, down: true, by: kind});
    by.press(kind);
    table.open = new Set([keyOf(row)]);
    draw();
  };

  follow(draw);
  draw();
}

// The calls one by one, for a trace of few.
function showCalls(told) {
  const body = el("tbody", {}), heads = ["Call", ...(timed ? ["Time"] : []), "Result", "Host calls", "Redundant", "Site", "Program"];
  const box = el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Calls one by one", hidden: true},
    el("table", {class: "plain", id: "calls-table"}, el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", {scope: "col", text})))), body));

  function draw() {
    const [low, high] = windowOf(), wanted = table.wanted.split(/\s+/).filter(Boolean);
    const rows = (data.calls || []).map((call, number) => ({call, number})).filter(({call, number}) => {
      const at = timed ? call[1] : number;
      if (!inView(call[2]) || (view.span && (at < low || at >= high))) return false;
      return wanted.every((word) => searched[call[7]].includes(word));
    });
    body.replaceChildren(...rows.map(({call}) => {
      const [, time, process, title, args, result, hostCalls, row] = call;
      const owner = data.processes.find((each) => each.process === process);
      const redundant = !hostCalls && !result.startsWith("-");
      return el("tr", {}, el("th", {scope: "row"}, named(`${name(title)}(${args})`, "mono")),
        ...(timed ? [el("td", {text: duration(time)})] : []), el("td", {text: result}), el("td", {text: hostCalls}),
        el("td", {text: redundant ? "redundant" : ""}), el("td", {}, named(`${words[row].title} ${words[row].line}`)),
        el("td", {}, named(owner ? `${programName(owner)} ${owner.pid}` : "?")));
    }));
    told.textContent = `${plural(rows.length, "call")} of ${count(total)}`;
  }
  return {box, draw};
}
