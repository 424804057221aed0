// A table that sorts and filters: the sites, or the calls one by one where they are few.
const SHOWN = 50;

function siteColumns() {
  const cycles = (site, at) => (site[at + 1] ? between(site[at], site[at + 1]) : "0");
  return [
    {title: "Site", wide: true, key: siteName, cell: siteCell},
    {title: "Call", key: (site) => name(site[0])},
    {title: "Program", key: (site) => name(site[2])},
    {title: "Asked", number: true, key: (site) => site[4]},
    {title: "Redundant", number: true, key: (site) => site[5]},
    {title: "Share", number: true, key: (site) => site[5] / site[4], cell: (site) => share(site[5], site[4])},
    {title: "Said", number: true, key: (site) => site[6]},
    {title: "Est. cycles, every-call", number: true, range: true, key: (site) => site[9], cell: (site) => cycles(site, 8)},
    {title: "Est. cycles, laconic", number: true, range: true, key: (site) => site[11], cell: (site) => cycles(site, 10)},
  ];
}

function callColumns() {
  const process = (call) => data.spaces.processes.find((one) => one.process === call[2]);
  return [
    {title: "Event", number: true, key: (call) => call[0]},
    ...(timed ? [{title: "Time", number: true, key: (call) => call[1], cell: (call) => duration(call[1])}] : []),
    {title: "Call", wide: true, key: (call) => `${name(call[3])}(${call[4]})`},
    {title: "Result", number: true, key: (call) => call[5]},
    {title: "Said", number: true, key: (call) => call[6]},
    {title: "Redundant", key: (call) => (call[6] || call[5].startsWith("-") ? "no" : "yes")},
    {title: "Process", key: (call) => (process(call) ? processName(process(call)) : "?")},
    {title: "Site", wide: true, key: (call) => placeName(call[7]), cell: (call) => (call[7] < 0 ? named(placeName(call[7])) : siteCell(data.sites[call[7]]))},
  ];
}

function siteCell(site) {
  if (site[1] < 0) return named(siteName(site));
  const list = el("ol", {class: "stack"});
  const made = el("details", {ontoggle: () => {
    if (!list.childElementCount) list.append(...data.stacks[site[1]].map(frameItem));
  }}, el("summary", {}, named(siteName(site))), list);
  return made;
}

function frameItem(number) {
  const [title, module, where, inlined] = data.places[number < 0 ? ~number : number];
  const notes = [inlined ? "inlined" : "", number < 0 ? "guessed" : ""].filter(Boolean).join(", ");
  return el("li", {}, named(name(title), "code"), " ", named(name(module), "soft"), " ", named(name(where), "soft"), notes ? ` (${notes})` : "");
}

function showTable() {
  const section = part("table");
  if (!total) {
    section.append(el("p", {text: "There is no call to list."}));
    return;
  }
  let kind = "sites", columns = siteColumns(), sorted = 4, down = true, most = SHOWN, texts = new Map();
  const body = el("tbody", {}), head = el("tr", {}), caption = el("caption", {});
  const told = el("p", {class: "soft", role: "status", id: "table-status"});
  const hidden = el("div", {}, hiddenNote(data.calls ? " The list of calls one by one has them." : ""));
  const filter = el("input", {type: "search", id: "table-filter", oninput: () => {
    most = SHOWN;
    fill();
  }});
  const only = el("input", {type: "checkbox", id: "table-redundant", onchange: () => fill()});
  const more = el("button", {type: "button", id: "table-more", text: "Show more", onclick: () => {
    most += SHOWN * 4;
    fill();
  }});
  section.append(
    el("div", {class: "tools"},
      data.calls ? choice("List", [["sites", "sites"], ["calls", "calls, one by one"]], kind, (value) => {
        kind = value;
        [columns, sorted, down, most, texts] = value === "sites" ? [siteColumns(), 4, true, SHOWN, new Map()] : [callColumns(), 0, false, SHOWN, new Map()];
        heads();
        fill();
      }) : null,
      el("label", {}, "Filter ", filter), el("label", {}, only, " only redundant")),
    told, hidden,
    el("div", {class: "scroll sites", tabindex: "0", role: "region", "aria-label": "Sites of memory calls"},
      el("table", {role: "table", id: "sites-table"}, caption, el("thead", {role: "rowgroup"}, head), put(body, {role: "rowgroup"}))),
    more);
  put(head, {role: "row"});

  function heads() {
    head.replaceChildren(...columns.map((column, place) => el("th", {
      scope: "col", role: "columnheader", class: column.range ? "number range" : column.number ? "number" : "",
      "aria-sort": place === sorted ? (down ? "descending" : "ascending") : undefined,
    }, el("button", {type: "button", onclick: () => {
      down = place === sorted ? !down : Boolean(column.number);
      sorted = place;
      heads();
      fill();
      head.children[place].firstChild.focus();
    }}, column.title, el("span", {"aria-hidden": "true", text: place === sorted ? (down ? " ▼" : " ▲") : ""})))));
  }

  function text(row) {
    if (!texts.has(row)) {
      const stack = kind === "sites" ? row[1] : row[7] < 0 ? -1 : data.sites[row[7]][1];
      const frames = stack < 0 ? [] : data.stacks[stack].map((number) => data.places[number < 0 ? ~number : number]);
      texts.set(row, [...columns.map((column) => String(column.key(row))), ...frames.map((place) => `${name(place[0])} ${name(place[1])}`)].join("\n").toLowerCase());
    }
    return texts.get(row);
  }

  function fill() {
    const wanted = filter.value.toLowerCase(), {key} = columns[sorted];
    const all = kind === "sites" ? data.sites : data.calls;
    const rows = all.filter((row) => (!only.checked || (kind === "sites" ? row[5] > 0 : row[6] === 0)) && (!wanted || text(row).includes(wanted)));
    const keys = new Map(rows.map((row) => [row, key(row)]));
    rows.sort((one, other) => {
      const first = keys.get(one), second = keys.get(other);
      return (first < second ? -1 : first > second ? 1 : 0) * (down ? -1 : 1);
    });
    body.replaceChildren(...rows.slice(0, most).map((row) => el("tr", {role: "row"}, ...columns.map((column) => {
      const value = column.cell ? column.cell(row) : column.number && typeof column.key(row) === "number" ? count(column.key(row)) : String(column.key(row));
      return el("td", {role: "cell", class: column.range ? "number range" : column.number ? "number" : column.wide ? "wide" : "", "data-label": column.title},
        typeof value === "string" ? named(value) : value);
    }))));
    hidden.hidden = kind !== "sites";
    caption.textContent = kind === "sites" ? "Sites: the calls of one name from one stack. Open a site to see its stack. Cycles are estimates." : "Memory calls, one by one.";
    told.textContent = `${count(Math.min(rows.length, most))} of ${count(rows.length)} shown${rows.length < all.length ? `, of ${count(all.length)} in all` : ""}.`;
    more.hidden = rows.length <= most;
  }
  heads();
  fill();
}
