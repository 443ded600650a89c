/* The Edit tab: arrows and boxes drawn on the source, with mouse, pen or touch; masks.js has brush and eraser. */
(() => {
  "use strict";
  const LEAST = .01;
  let count = 0;

  /* The canvas shows what the source shows. */
  function pointing(tab) {
    const root = document.getElementById(`${tab}-pointing`), source = document.getElementById(`${tab}-source`);
    const image = root?.querySelector("img");
    if (!image || !source) return;
    const show = () => {
      const shown = source.querySelector("img");
      if (image.src === (shown?.src ?? "")) return;
      if (shown) image.src = shown.src; else image.removeAttribute("src");
      root.querySelector("svg").replaceChildren();
    };
    new MutationObserver(show).observe(source, { subtree: true, childList: true, attributeFilter: ["src"] });
    show();
    fit(root);
  }

  /* Arrows are offered where the chosen edit takes them; else a drag draws the mask. */
  const readEdit = (tab) => document.querySelector(`#${tab} input[aria-label="Edit method"]`)?.value;
  function fit(root) {
    const takesArrows = ["Move or resize", "DragonDiffusion"].includes(readEdit(root.querySelector("[data-tab]").dataset.tab));
    if (root.hasAttribute("data-arrows") === takesArrows) return;
    root.toggleAttribute("data-arrows", takesArrows);
    press(root, takesArrows ? "arrow" : "brush");
  }
  function press(root, tool) {
    for (const one of root.querySelectorAll("[aria-pressed]")) one.setAttribute("aria-pressed", String(one.dataset.tool === tool));
  }
  document.addEventListener("stepwise-form", () => { for (const root of document.querySelectorAll(".sw-pointing")) fit(root); });

  function tell(tab, words) {
    const box = document.querySelector(`#${tab}-gesture textarea, #${tab}-gesture input`);
    if (!box) return;
    box.value = `${words} ${++count}`;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    setTimeout(() => document.getElementById(`${tab}-gesture-done`)?.click(), 50);
  }

  const readTool = (root) => root.querySelector("[aria-pressed=true]")?.dataset.tool;
  const isDragging = (tab) => readEdit(tab) === "DragonDiffusion";

  function add(svg, name, values) {
    const shape = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(values)) shape.setAttribute(key, value);
    svg.append(shape);
    return shape;
  }

  /* An arrow is a line and a disc at its end; strokes keep their width though the canvas is stretched. */
  function draw(canvas, tool, [x, y], [toX, toY]) {
    const svg = canvas.querySelector("svg"), box = canvas.getBoundingClientRect();
    const group = add(svg, "g", { class: `sw-drawn-${tool}` });
    if (tool === "box") add(group, "rect", { x: Math.min(x, toX), y: Math.min(y, toY), width: Math.abs(toX - x), height: Math.abs(toY - y) });
    else {
      add(group, "line", { x1: x, y1: y, x2: toX, y2: toY });
      add(group, "ellipse", { cx: toX, cy: toY, rx: 6 / box.width, ry: 6 / box.height });
    }
    return group;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".sw-pointing-tools [data-tool]"), root = button?.closest(".sw-pointing");
    if (!root) return;
    if (button.dataset.tool === "clear") {
      root.querySelector("svg").replaceChildren();
      tell(root.querySelector("[data-tab]").dataset.tab, "clear");
      return;
    }
    press(root, button.dataset.tool);
  });

  document.addEventListener("pointerdown", (event) => {
    const canvas = event.target.closest?.(".sw-pointing-canvas");
    if (!canvas || event.button || !canvas.querySelector("img[src]")) return;
    fit(canvas.closest(".sw-pointing"));
    if (!["arrow", "box"].includes(readTool(canvas.closest(".sw-pointing")))) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    const place = (at) => {
      const box = canvas.getBoundingClientRect(), within = (share) => Math.min(1, Math.max(0, share));
      return [within((at.clientX - box.left) / box.width), within((at.clientY - box.top) / box.height)];
    };
    const tool = readTool(canvas.closest(".sw-pointing")), { tab } = canvas.dataset, from = place(event);
    let shape = null, to = from;
    const move = (at) => { to = place(at); shape?.remove(); shape = draw(canvas, tool, from, to); };
    const end = (at) => {
      canvas.removeEventListener("pointermove", move);
      canvas.removeEventListener("pointerup", end);
      canvas.removeEventListener("pointercancel", end);
      if (at.type === "pointercancel" || Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])) < LEAST) { shape?.remove(); return; }
      if (tool === "box") { shape.remove(); window.stepwise.maskBox(tab, from, to); return; }
      // Of a moved object there is one arrow.
      if (!isDragging(tab)) for (const other of canvas.querySelectorAll(".sw-drawn-arrow")) if (other !== shape) other.remove();
      tell(tab, [tool, ...from, ...to].map((part) => typeof part === "number" ? part.toFixed(4) : part).join(" "));
    };
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
  });

  window.stepwise = { ...window.stepwise, pointing };
})();
