function showSummary() {
  const {summary} = data, section = part("summary");
  const title = summary.command.length ? summary.command.join(" ") : summary.programs.length ? summary.programs[0] : "an empty trace";
  part("title").replaceChildren("Memory calls of ", named(title));
  document.title = `Laconic: ${title.slice(0, 80)}`;
  const figure = (label, value) => el("div", {}, el("dt", {text: label}), el("dd", {text: value}));
  section.append(el("dl", {class: "figures"},
    figure("memory calls", count(summary.calls)), figure("host calls", count(summary.host_calls)),
    figure("redundant", `${count(summary.redundant)} (${share(summary.redundant, summary.calls)})`),
    figure("processes", count(summary.processes)), figure("events", count(summary.events))));
  if (summary.source !== "run") section.append(el("p", {}, "The trace was made of a log (", named(summary.source), "): the host calls are those that would have been made."));
  const machine = Object.values(summary.machine).join(" ");
  section.append(el("p", {class: "soft"},
    `${timed ? `The last call was ${duration(data.moments.last)} after the trace began. ` : ""}`,
    summary.exit_status === null || summary.exit_status === undefined ? "" : `Exit status ${summary.exit_status}. `,
    ...(machine ? ["Recorded on ", named(machine), "."] : [])));
  warn(section, "What is missing", "missing", [...data.missing, ...summary.notes]);
  if (data.modules.length) {
    section.append(el("div", {class: "note", id: "modules"}, el("h3", {text: "Modules without symbols"}),
      el("ul", {}, ...data.modules.map(([path, why]) => el("li", {}, named(path, "code"), ": ", named(why))))));
  }
  warn(section, "What is drawn more coarsely than it was", "binned", data.binned);
  if (data.hidden.length) {
    section.append(el("div", {class: "note", id: "hidden"}, el("h3", {text: "What is suppressed"}),
      el("p", {text: "These sites are in neither the flame graph nor the table of sites. All counts, the chart, the map and the strategies have their calls. With --no-suppressions nothing is left out."}),
      el("ul", {}, ...data.hidden.map(([reason, sites, calls, redundant]) => el("li", {}, named(reason), `: ${plural(redundant, "redundant call")} of ${count(calls)}, from ${plural(sites, "site")}`)))));
  }
  const programs = summary.programs;
  if (programs.length) section.append(el("details", {}, el("summary", {text: plural(programs.length, "program") + (programs.length === 20 ? " or more" : "")}),
    el("ul", {}, ...programs.map((path) => el("li", {}, named(path, "code"))))));
  const calls = Object.entries(summary.by_call).sort((one, other) => other[1][0] - one[1][0] || (one[0] < other[0] ? -1 : 1));
  if (calls.length) section.append(asTable("Calls by name", "Memory calls by name", ["memory call", "calls", "host calls", "elided", "narrowed", "failed"],
    calls.map(([title, numbers]) => [title, ...numbers.map(count)])));
}

function warn(section, title, id, sentences) {
  if (sentences.length) section.append(el("div", {class: "note", id}, el("h3", {text: title}), el("ul", {}, ...sentences.map((sentence) => el("li", {}, named(`${sentence}.`))))));
}

function chooseColours() {
  part("theme").addEventListener("change", (event) => {
    if (event.target.value) document.documentElement.dataset.theme = event.target.value;
    else delete document.documentElement.dataset.theme;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

showSummary();
showCalls();
showMap();
showStrategies();
showFlame();
showTable();
chooseColours();
matchMedia("print").addEventListener("change", redraw);
redraw();
let waiting = 0;
window.addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redraw);
});
document.documentElement.dataset.ready = "yes";
