/* "Try it" on a tab's finished example: its chip fills the form, and the run begins when the form stands still. */
(() => {
  "use strict";
  document.addEventListener("click", (event) => {
    const wish = event.target.closest?.("button[data-try]");
    if (!wish) return;
    if (wish.dataset.try) document.getElementById(wish.dataset.try)?.click();
    setTimeout(() => wish.closest(".sw-live")?.querySelector("button.sw-run")?.click(), 0);
  });
})();
