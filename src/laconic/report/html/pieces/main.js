// All parts in their order.

document.documentElement.classList.add("on");
showWords();
showTheme();
showContents();
showChooser();
showSites();
showSummary();
showStrategies();
showGraph();
showTime();
showMap();
recall();
// A link within the page keeps the view; a link with a view shows that one.
addEventListener("hashchange", () => (location.hash.includes("?") ? recall() : remember()));
const target = part(location.hash.slice(1).split("?")[0]);
if (target && location.hash.includes("?")) target.scrollIntoView();
matchMedia("print").addEventListener("change", redraw);
addEventListener("beforeprint", () => {
  hush();
  for (const details of all("#notes details")) details.open = true;
  redraw();
});
let waiting = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redraw);
});
document.documentElement.dataset.ready = "yes";
