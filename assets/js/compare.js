/* A comparison's tiles: a click enlarges a picture; a second one lies over it behind a slider. */
(() => {
  "use strict";
  let dialog = null, grid = null, timer = 0;

  const tiles = () => grid ? [...grid.querySelectorAll("button.sw-tile")] : [];
  const tileOf = (index) => tiles().find((tile) => tile.dataset.cell === index);

  function source(tile) {
    if (!tile.dataset.file) return tile.querySelector("img").src;
    return `${window.gradio_config?.root ?? ""}/${tile.dataset.file}`;
  }

  function made(name, parent, attributes = {}) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return parent.appendChild(element);
  }

  function choice(parent, words) {
    const label = made("label", parent);
    made("span", label).textContent = words;
    return made("select", label);
  }

  function build() {
    dialog = made("dialog", document.body, { class: "sw-viewer", "aria-label": "A picture of the comparison, enlarged" });
    const header = made("header", dialog);
    dialog.first = choice(header, "Picture");
    dialog.second = choice(header, "Compare with");
    const close = made("button", header, { type: "button" });
    close.textContent = "Close";
    dialog.lens = made("div", dialog, { class: "sw-lens" });
    dialog.pictures = [made("img", dialog.lens), made("img", dialog.lens)];
    dialog.slider = made("input", dialog.lens, { type: "range", min: "0", max: "100", step: "0.5", "aria-label": "How much of the first picture shows" });
    dialog.footer = made("footer", dialog);
    dialog.captions = [made("span", dialog.footer), made("span", dialog.footer)];
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => clearInterval(timer));
    dialog.slider.addEventListener("input", () => dialog.lens.style.setProperty("--cut", `${dialog.slider.value}%`));
    for (const select of [dialog.first, dialog.second]) select.addEventListener("change", show);
  }

  function fill(select, chosen, none) {
    select.replaceChildren();
    if (none) select.add(new Option(none, ""));
    for (const tile of tiles()) select.add(new Option(tile.dataset.label, tile.dataset.cell));
    select.value = chosen;
  }

  function set(image, caption, tile) {
    const url = tile ? source(tile) : "";
    if (tile && image.getAttribute("src") !== url) image.src = url;
    if (!tile) image.removeAttribute("src");
    image.alt = tile ? tile.querySelector("img").alt : "";
    caption.textContent = tile ? tile.dataset.label : "";
  }

  function show() {
    if (tiles().length !== dialog.first.options.length) {  // another cell has its first picture
      fill(dialog.first, dialog.first.value, "");
      fill(dialog.second, dialog.second.value, "nothing");
    }
    const second = tileOf(dialog.second.value);
    set(dialog.pictures[0], dialog.captions[0], tileOf(dialog.first.value));
    set(dialog.pictures[1], dialog.captions[1], second);
    dialog.lens.toggleAttribute("data-two", Boolean(second));
  }

  function open(tile) {
    grid = tile.closest("#cmp-grid, #qz-grid");
    if (!dialog) build();
    fill(dialog.first, tile.dataset.cell, "");
    fill(dialog.second, "", "nothing");
    dialog.slider.value = 50;
    dialog.lens.style.setProperty("--cut", "50%");
    show();
    dialog.showModal();
    timer = setInterval(show, 250); // a running cell goes on in the viewer
  }

  document.addEventListener("click", (event) => {
    const tile = event.target.closest?.("button.sw-tile");
    if (tile) open(tile);
  });

  // Before the page's own shortcuts: Escape closes the viewer and stops nothing, Ctrl+Enter starts nothing behind it.
  window.addEventListener("keydown", (event) => {
    if (!dialog?.open) return;
    if (event.key === "Escape") { event.preventDefault(); dialog.close(); }
    if (event.key === "Escape" || event.key === "Enter") event.stopPropagation();
  }, true);
})();
