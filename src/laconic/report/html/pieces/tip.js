// The readout beside the pointer, or beside what has the focus

const tip = part("tip");
function say(x, y, title, lines) {
  tip.replaceChildren(el("b", {text: title}), ...(lines || []).filter(Boolean).map((text) => el("div", {text})));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth - 8 ? x - 16 - box.width : x + 16;
  const top = y + 18 + box.height > innerHeight - 8 ? y - 12 - box.height : y + 18;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}
const hush = () => { tip.hidden = true; };

function showWords() {
  const meanings = new Map(all(".gl dt").map((each) => [each.textContent, each.nextElementSibling.textContent]));
  for (const button of all(".term")) {
    const tell = () => {
      const box = button.getBoundingClientRect();
      say(box.left - 10, box.bottom - 8, button.dataset.term, [meanings.get(button.dataset.term)]);
    };
    for (const event of ["pointerenter", "focus", "click"]) button.addEventListener(event, tell);
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, hush);
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });
  addEventListener("scroll", hush, {passive: true});
}
