// What every page has at its top: the theme, and the bar of contents.

function showTheme() {
  const button = part("theme"), themes = [["", "Auto"], ["light", "Light"], ["dark", "Dark"]];
  let chosen = 0;
  button.addEventListener("click", () => {
    chosen = (chosen + 1) % themes.length;
    const [theme, title] = themes[chosen];
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    part("theme-name").textContent = title;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

// The bar of contents marks the part in view.
function showContents() {
  const links = all(".toc a"), parts = links.map((link) => part(link.getAttribute("href").slice(1)));
  function mark() {
    const at = parts.reduce((found, each, place) => (each.getBoundingClientRect().top < innerHeight * 0.35 ? place : found), 0);
    const last = innerHeight + scrollY > document.body.scrollHeight - 4 && scrollY > 0 ? links.length - 1 : at;
    links.forEach((link, place) => {
      if (place === last) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  }
  addEventListener("scroll", mark, {passive: true});
  mark();
}
