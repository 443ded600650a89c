/* "Copy link to these settings": the address is copied, and shown until the settings change. */
(() => {
  "use strict";
  const SETTLES = 2000;  // milliseconds in which the page may still tell of a change before the copy
  const shown = new Map();  // id of a box that shows a link -> since when

  /* The seed of the picture that is shown: where each run takes a new one, and of a batch where one was chosen. */
  function addShownSeed(asked) {
    const tab = asked.get("tab"), seed = stepwise.seedOf(tab), first = stepwise.runSeedOf(tab);
    if (!seed || (asked.has("seed") && asked.get("seed") !== first)) return;
    asked.set("seed", seed);
    if (seed !== first) asked.delete("batch_size");
  }

  /* The address of a query, or the sentence on what is wrong as it is. */
  function copyLink(query, box) {
    document.getElementById(box)?.classList.remove("sw-stale");
    shown.set(box, performance.now());
    if (!query.startsWith("?")) return query;
    const asked = new URLSearchParams(query.slice(1));
    addShownSeed(asked);
    const url = `${location.origin}${location.pathname}?${asked}`;
    navigator.clipboard?.writeText(url).catch(() => {});
    return url;
  }

  function hide(least = 0) {
    for (const [id, since] of shown) {
      if (performance.now() - since < least) continue;
      document.getElementById(id)?.classList.add("sw-stale");
      shown.delete(id);
    }
  }
  /* A form that changed by way of the server, such as by an example's chip, and a person's hand on a field. */
  document.addEventListener("stepwise-form", () => hide(SETTLES));
  for (const kind of ["input", "change", "mousedown"]) document.addEventListener(kind, (event) => {
    const field = event.target.closest?.(".sw-live, #gal") && !event.target.matches("[data-scrub], [data-lens]");
    if (field && (kind !== "mousedown" || event.target.closest("[role=option], .token-remove, .remove-all"))) hide();
  }, true);

  window.stepwise = { ...window.stepwise, copyLink };
})();
