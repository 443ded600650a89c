/* The gallery's tiles: addresses for its pictures, what is chosen, and the slider between two. */
(() => {
  "use strict";
  const chosen = new Set();

  const address = (file) => `${window.gradio_config?.root ?? ""}/${file}`;

  function fill(element) {
    for (const one of element.querySelectorAll("[data-file]")) {
      const url = address(one.dataset.file);
      if (one.getAttribute("src") === url) continue;
      // A small picture may have been cleared away meanwhile: then the whole one stands in.
      one.onerror = one.dataset.whole ? () => { one.onerror = null; one.src = address(one.dataset.whole); } : null;
      one.src = url;
    }
    for (const link of element.querySelectorAll("a[data-href]")) link.href = address(link.dataset.href);
  }

  function tell() {
    const bar = document.querySelector("#gal-chosen");
    const root = document.querySelector("#gal");
    if (!bar || !root) return;
    const text = chosen.size ? `${chosen.size} selected` : "";
    const line = bar.querySelector(".sw-count") ?? bar;
    if (line.textContent !== text) line.textContent = text;
    root.toggleAttribute("data-chosen", chosen.size > 0);
    const compare = document.querySelector("#gal-compare");
    if (compare) compare.disabled = chosen.size !== 2;
  }

  function showList(element) {
    fill(element);
    const boxes = [...element.querySelectorAll(".sw-pick input")];
    const there = new Set(boxes.map((box) => box.value));
    for (const id of [...chosen]) if (!there.has(id)) chosen.delete(id);
    for (const box of boxes) box.checked = chosen.has(box.value);
    tell();
  }

  // A page that has come goes to the end of its list; one of a list that is no longer shown is left where it is.
  function more(element) {
    const page = element.querySelector("ul[data-list]");
    const list = document.querySelector("#gal-grid ul[data-list]");
    if (!page || !list || page.dataset.list !== list.dataset.list) return;
    const there = new Set([...list.children].map((piece) => piece.dataset.id));
    for (const piece of [...page.children]) if (!there.has(piece.dataset.id)) list.append(piece);
    showList(list);
  }

  const panel = { id: null };

  function shown(element) {
    fill(element);
    const id = element.querySelector(".sw-opened")?.dataset.id ?? (element.querySelector(".sw-opened") ? "pair" : null);
    for (const piece of document.querySelectorAll("#gal-grid .sw-piece")) piece.toggleAttribute("data-open", piece.dataset.id === id);
    const lens = element.querySelector(".sw-lens");
    if (lens) lens.style.setProperty("--cut", `${lens.querySelector("input").value}%`);
    const before = panel.id;
    panel.id = id;
    if (id && id !== before) setTimeout(() => {
      element.querySelector("h2")?.focus({ preventScroll: true });
      if (window.innerWidth <= 820) (element.closest("#gal-detail") ?? element).scrollIntoView({ block: "start" });
    }, 60);
    if (!id && before) document.querySelector(`#gal-grid [data-action="open"][data-id="${CSS.escape(before)}"]`)?.focus();
  }

  document.addEventListener("change", (event) => {
    const box = event.target.closest?.("#gal-grid .sw-pick input");
    if (!box) return;
    if (box.checked) chosen.add(box.value); else chosen.delete(box.value);
    tell();
  });

  document.addEventListener("input", (event) => {
    const slider = event.target.closest?.("#gal .sw-lens input");
    if (slider) slider.parentElement.style.setProperty("--cut", `${slider.value}%`);
  });

  function choose(all) {
    chosen.clear();
    if (all) for (const box of document.querySelectorAll("#gal-grid .sw-pick input")) chosen.add(box.value);
    for (const box of document.querySelectorAll("#gal-grid .sw-pick input")) box.checked = all;
    tell();
  }

  // The star turns at once, in the list and in the opened result; where the server refuses, it draws the list anew.
  function star(button) {
    const on = button.dataset.action === "star";
    for (const one of document.querySelectorAll(`#gal .sw-star[data-id="${CSS.escape(button.dataset.id)}"]`)) {
      one.dataset.action = on ? "unstar" : "star";
      one.setAttribute("aria-pressed", String(on));
    }
  }

  let archive = "";
  function notice(element) {
    fill(element);
    const link = element.querySelector("a.sw-archive");
    const href = link?.href ?? "";
    if (href && href !== archive) link.click();
    archive = href;
  }

  // Escape closes the opened result, the arrows go to its neighbors.
  document.addEventListener("keydown", (event) => {
    const close = document.querySelector("#gal-close");
    if (!close || close.offsetParent === null || event.target.closest("input, textarea, video, pre, [role=listbox]")) return;
    if (event.key === "Escape") { event.preventDefault(); close.click(); }
    if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
    const pieces = [...document.querySelectorAll("#gal-grid .sw-piece")];
    const here = pieces.findIndex((piece) => piece.dataset.id === panel.id);
    const next = here < 0 ? null : pieces[here + (event.key === "ArrowRight" ? 1 : -1)];
    if (next) { event.preventDefault(); next.querySelector(".sw-open").click(); }
  });

  window.stepwiseGallery = { showList, more, shown, notice, choose, star, chosen: () => [...chosen], tell };
})();
