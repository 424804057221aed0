// Zoom and search of a flame graph. Without scripts, the picture is complete and still.
(function () {
  "use strict";
  const svg = document.currentScript.ownerSVGElement || document.documentElement;
  const width = svg.viewBox.baseVal.width;
  const LETTER = 7.25;

  const boxes = Array.from(svg.querySelectorAll("g"), (group) => {
    const rect = group.querySelector("rect");
    const text = group.querySelector("text");
    const title = group.querySelector("title").textContent;
    return {
      group, rect, text, title,
      name: text ? text.textContent : "",
      whole: title.replace(/: [^:]*$/, ""),
      start: Number(rect.getAttribute("x")),
      end: Number(rect.getAttribute("x")) + Number(rect.getAttribute("width")),
      top: Number(rect.getAttribute("y")),
    };
  });

  function element(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key of Object.keys(attributes)) made.setAttribute(key, attributes[key]);
    return made;
  }

  function fitted(name, size) {
    const letters = Math.floor((size - 6) / LETTER);
    if (name.length <= letters) return name;
    return letters >= 4 ? name.slice(0, letters - 2) + ".." : "";
  }

  function place(box, x, size, name) {
    box.rect.setAttribute("x", x.toFixed(2));
    box.rect.setAttribute("width", size.toFixed(2));
    if (!box.text) {
      if (!name) return;
      box.text = element("text", { y: box.top + 13 });
      box.group.appendChild(box.text);
    }
    box.text.setAttribute("x", (x + 3).toFixed(1));
    box.text.textContent = name;
  }

  function zoom(target) {
    const scale = width / (target.end - target.start);
    for (const box of boxes) {
      const start = Math.max(box.start, target.start);
      const end = Math.min(box.end, target.end);
      // Positions are rounded to hundredths: neighbors may seem to overlap by that much.
      const shown = end - start > Math.min(0.02, (box.end - box.start) / 2);
      box.group.style.display = shown ? "" : "none";
      box.group.style.opacity = box.top < target.top ? "0.6" : "";
      if (shown) {
        const size = (end - start) * scale;
        place(box, (start - target.start) * scale, size, fitted(box.whole, size));
      }
    }
    reset.style.display = "";
  }

  function whole() {
    for (const box of boxes) {
      box.group.style.display = "";
      box.group.style.opacity = "";
      place(box, box.start, box.end - box.start, box.name);
    }
    reset.style.display = "none";
  }

  function find(words) {
    const wanted = words.toLowerCase();
    const hits = boxes.filter((box) => {
      const hit = wanted !== "" && box.whole.toLowerCase().includes(wanted);
      box.rect.classList.toggle("hit", hit);
      return hit;
    });
    // A hit on top of another hit is part of it.
    hits.sort((one, other) => one.start - other.start || one.top - other.top);
    let covered = 0;
    let reached = -1;
    for (const box of hits) {
      covered += Math.max(box.end - Math.max(box.start, reached), 0);
      reached = Math.max(reached, box.end);
    }
    const share = (100 * covered) / width;
    found.textContent = wanted === "" ? "" : hits.length + " found, " + share.toFixed(1) + " %";
  }

  function ask() {
    const words = window.prompt("Search for a function, module or file:", "");
    if (words !== null) find(words);
  }

  function button(label, x, anchor, act) {
    const made = element("text", { class: "button", x, y: 24, "text-anchor": anchor });
    made.setAttribute("tabindex", "0");
    made.setAttribute("role", "button");
    made.textContent = label;
    made.addEventListener("click", act);
    made.addEventListener("keydown", (event) => {
      if (event.key === "Enter") act();
    });
    svg.appendChild(made);
    return made;
  }

  const reset = button("Reset zoom", 8, "start", whole);
  reset.style.display = "none";
  const found = element("text", { class: "found", x: width - 70, y: 24, "text-anchor": "end" });
  found.setAttribute("role", "status");
  svg.appendChild(found);
  button("Search", width - 8, "end", ask);
  for (const box of boxes) {
    box.group.style.cursor = "pointer";
    box.group.addEventListener("click", () => zoom(box));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      whole();
      find("");
    } else if (event.key === "/") {
      event.preventDefault();
      ask();
    }
  });
  svg.dataset.ready = "yes";
})();
