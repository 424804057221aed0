// Strategies side by side: counts in one picture, estimated cycles in another, the bound as a line in both.
function showStrategies() {
  const section = part("strategies"), compared = data.strategies;
  if (!compared) {
    section.append(el("p", {text: "There is no call to compare strategies by."}));
    return;
  }
  const {profile} = compared, names = Object.keys(compared.strategies).filter((each) => each !== "bound");
  const calls = (each) => [(each.counts_low || each.counts).host_calls, each.counts.host_calls];
  const cycles = (each) => [each.cycles.low, each.cycles.high];
  section.append(
    el("p", {text: "Each program in an SGX2 enclave. The bound is what no strict strategy can go below."}),
    bars("Host calls", "host-calls", "counted", calls),
    el("h3", {text: "Estimated cycles"}),
    el("p", {}, "By the cost profile ", named(profile.name, "code"), " (", named(profile.machine), "): an estimate, from the least to the most that its sources allow."),
    profile.no_source.length ? el("p", {class: "soft"}, "The profile has no source for ", named(profile.no_source.join(", ")), ".") : "",
    bars("", "cycles", "estimated cycles", cycles),
    legend([["k-low", "the least"], ["k-calls", "up to the most"], ["k-bound", "the bound"], ["k-bound-area", "the bound, up to its most"]]),
    el("ul", {}, ...compared.notes.map((note) => el("li", {}, named(note)))),
    asTable("The same as a table", "Strategies: host calls are counted, cycles are estimated",
      ["strategy", "host calls", `cycles (${profile.name})`, "÷ every-call"],
      Object.entries(compared.strategies).map(([each, figures]) => [each, between(...calls(figures)), between(...cycles(figures)), ratio(figures)])),
  );

  function ratio(figures) {
    const low = figures.ratio_low.every_call, high = figures.ratio.every_call;
    if (high === null || high === undefined) return "–";
    return low.toFixed(2) === high.toFixed(2) ? high.toFixed(2) : `${low.toFixed(2)} – ${high.toFixed(2)}`;
  }

  function bars(title, id, what, figures) {
    const picture = el("div", {class: "picture bars", id: `bars-${id}`});
    const bound = compared.strategies.bound && figures(compared.strategies.bound);
    const rows = names.map((each) => [each, ...figures(compared.strategies[each])]);
    const most = Math.max(...rows.map((row) => row[2]), bound ? bound[1] : 0, 1);
    drawn.push(draw);
    return el("div", {}, title ? el("h3", {text: title}) : "", picture);

    function draw() {
      const wide = width(picture), right = wide - 10, narrow = wide < 480, bar = narrow ? 42 : 23, step = bar + 27;
      const high = rows.length * step + (bound ? (narrow ? 48 : 30) : 0);
      const x = (value) => (right - 4) * value / most + 4;
      const values = rows.map(([each, low, top]) => `${each} ${between(low, top)}`).join(", ");
      const image = svg("svg", {
        viewBox: `0 0 ${wide} ${high}`, height: high, role: "img",
        "aria-label": `${what} by strategy: ${values}${bound ? `; the bound ${between(...bound)}` : ""}`,
      });
      rows.forEach(([each, low, top], place) => {
        const y = place * step;
        image.append(
          svg("text", {class: "label", x: 4, y: y + 17, text: each}),
          svg("text", {class: "label", x: narrow ? 4 : right, y: narrow ? y + 35 : y + 17, "text-anchor": narrow ? "start" : "end", text: between(low, top)}),
          svg("rect", {class: "f-calls", x: 4, y: y + bar, width: Math.max(x(top) - 4, 1), height: 20}),
          svg("rect", {class: "f-low", x: 4, y: y + bar, width: Math.max(x(low) - 4, 1), height: 20}),
        );
        // The bound's line is left out where the words are.
        if (bound) image.append(
          svg("rect", {class: "f-bound-area", x: x(bound[0]), y: y + bar - 3, width: Math.max(x(bound[1]) - x(bound[0]), 0), height: 26}),
          svg("line", {class: "f-bound", x1: x(bound[0]), x2: x(bound[0]), y1: y + bar - 3, y2: y + bar + 23}),
        );
      });
      const lines = !bound ? [] : narrow ? ["bound", between(...bound)] : [`bound ${between(...bound)}`];
      const words = lines.map((text, line) => svg("text", {class: "label", y: rows.length * step + 14 + 18 * line, text}));
      image.append(...words);
      picture.replaceChildren(image);
      // Below its line, and all of it in the picture.
      for (const each of words) each.setAttribute("x", Math.max(Math.min(x(bound[0]), right - each.getComputedTextLength()), 4));
    }
  }
}
