// The page of two traces: its table can be sorted and searched. All else is drawn without a script.

function showRows() {
  const table = part("rows");
  if (!table || !table.rows[1]) return;
  const body = table.querySelector("tbody"), rows = all("tr", body), heads = all("thead th", table);
  const value = (row, place) => {
    const cell = row.children[place];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const compare = (one, other) => (typeof one === "number" ? other - one : one.localeCompare(other));
  let last = -1, reversed = false;

  function sort(place) {
    reversed = place === last && !reversed;
    last = place;
    rows.sort((one, other) => compare(value(one, place), value(other, place)) * (reversed ? -1 : 1));
    body.replaceChildren(...rows);
    const descends = (typeof value(rows[0], place) === "number") !== reversed;
    heads.forEach((head, at) => {
      if (at === place) head.setAttribute("aria-sort", descends ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  heads.forEach((head, place) => {
    const button = el("button", {type: "button", onclick: () => sort(place)});
    button.append(...head.childNodes);
    head.replaceChildren(button);
  });
  const shown = el("span", {class: "wh", role: "status"});
  part("site-tools").append(searchField("filter", "Filter the sites", "Filter: function, module, line or call", (text) => {
    let found = 0;
    for (const row of rows) {
      row.hidden = !`${row.textContent} ${row.firstChild.title}`.toLowerCase().includes(text);
      if (!row.hidden) found += 1;
    }
    shown.textContent = text ? `${found} of ${rows.length} rows` : "";
  }), shown);
}

document.documentElement.classList.add("on");
showWords();
showTheme();
showContents();
showRows();
addEventListener("beforeprint", () => {
  hush();
  for (const details of all("#notes details")) details.open = true;
});
document.documentElement.dataset.ready = "yes";
