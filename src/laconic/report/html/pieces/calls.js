// Calls over time: how many the program made, and the host calls for them. A bin is two columns wide at least.
function wideEnough(bins, most) {
  if (bins.calls.length <= Math.max(most, 1)) return bins;
  const half = (series) => series.filter((_, at) => at % 2 === 0).map((one, at) => one + (series[2 * at + 1] || 0));
  return wideEnough({width: bins.width * 2, calls: half(bins.calls), host_calls: half(bins.host_calls), redundant: half(bins.redundant)}, most);
}

function showCalls() {
  const section = part("calls");
  if (!total) {
    section.append(el("p", {text: "There is no call to show."}));
    return;
  }
  let scale = timed ? "time" : "order";
  const picture = el("div", {class: "picture", id: "calls-picture"});
  const more = el("div", {});
  section.append(
    el("div", {class: "tools"}, timed ? choice("Over", [["time", "time"], ["order", "the order of calls"]], scale, (value) => {
      scale = value;
      draw();
    }) : null),
    picture,
    legend([["k-calls", "memory calls"], ["k-host-calls", "host calls"], ["k-redundant", "redundant: changed nothing"]]),
    more,
  );

  function draw() {
    const wide = width(picture), high = 220, left = 52, bottom = 26, top = 28;
    const bins = wideEnough(data[scale], (wide - left) / 2);
    const unit = scale === "time" ? bins.width / 1000 : bins.width, end = bins.calls.length * unit;
    const most = Math.max(...bins.calls, ...bins.host_calls, 1);
    const x = (at) => left + (wide - left - 10) * at / end;
    const y = (number) => high - bottom - (high - bottom - top) * number / most;
    const edge = (series) => series.map((number, bin) => `L${x(bin * unit).toFixed(1)} ${y(number).toFixed(1)}L${x((bin + 1) * unit).toFixed(1)} ${y(number).toFixed(1)}`).join("");
    const each = scale === "time" ? duration(unit) : plural(unit, "call");
    const image = svg("svg", {
      viewBox: `0 0 ${wide} ${high}`, height: high, role: "img",
      "aria-label": `Calls ${scale === "time" ? "over time" : "in their order"}: ${plural(total, "memory call")}, ${plural(data.summary.host_calls, "host call")}, `
        + `${count(data.summary.redundant)} redundant; in a bin of ${each} at most ${plural(Math.max(...bins.calls), "call")}. The same is in the table below.`,
    });
    image.append(svg("text", {x: 6, y: 15, text: `calls in ${each}`}));
    for (const at of ticks(0, most, 4).filter(Number.isInteger)) {
      image.append(svg("line", {class: "axis", x1: left, x2: wide - 10, y1: y(at), y2: y(at)}),
        svg("text", {x: left - 6, y: y(at) + 4, "text-anchor": "end", text: brief(at)}));
    }
    for (const at of ticks(0, end, wide / 130)) {
      image.append(svg("text", {x: Math.min(x(at), wide - 40), y: high - 8, "text-anchor": at ? "middle" : "start", text: scales[scale].text(at)}));
    }
    image.append(
      svg("path", {class: "f-calls", d: `M${x(0)} ${y(0)}${edge(bins.calls)}L${x(end)} ${y(0)}Z`}),
      svg("path", {class: "f-redundant", d: `M${x(0)} ${y(0)}${edge(bins.redundant)}L${x(end)} ${y(0)}Z`}),
      svg("path", {class: "f-host-calls", d: `M${x(0)} ${y(0)}${edge(bins.host_calls)}`}),
    );
    picture.replaceChildren(image);
    const group = Math.ceil(bins.calls.length / 20), rows = [];
    const sum = (series, from) => count(series.slice(from, from + group).reduce((all, one) => all + one, 0));
    for (let from = 0; from < bins.calls.length; from += group) {
      rows.push([scales[scale].text(from * unit), sum(bins.calls, from), sum(bins.host_calls, from), sum(bins.redundant, from)]);
    }
    more.replaceChildren(
      asTable("The same as a table", "Calls, from each moment on", ["from", "calls", "host calls", "redundant"], rows),
    );
  }
  draws(draw);
}
