/* A word under a picture: pointing at it, reaching it by keyboard or pressing it lays its map over the picture. */
(() => {
  "use strict";
  function show(event) {
    const word = event.target.closest?.("button[data-map]"), image = word && document.getElementById(word.dataset.over);
    if (!image) return;
    image.src = word.dataset.map;
    image.alt = `Where ${word.textContent} is seen`;
    for (const other of word.parentElement.querySelectorAll("[data-map]")) other.setAttribute("aria-pressed", String(other === word));
  }
  for (const kind of ["pointerover", "focusin", "click"]) document.addEventListener(kind, show);
})();
