/* A refusal that appears out of sight is said at the bottom of the screen, too: a click leads to it. */
(() => {
  "use strict";
  const REFUSAL = '.sw-notice[data-kind="problem"]';
  const SEEN = 4000;  // milliseconds for which it stays once it could be read in its own place
  let toast = null, watching = null;

  function clear() {
    toast?.remove();
    watching?.disconnect();
    toast = watching = null;
  }

  function show(refusal) {
    clear();
    const words = refusal.querySelector("p")?.textContent ?? refusal.textContent;
    toast = Object.assign(document.createElement("button"), { type: "button", className: "sw-toast", textContent: words });
    toast.append(Object.assign(document.createElement("span"), { textContent: "Show" }));
    const own = toast;
    toast.addEventListener("click", () => { refusal.scrollIntoView({ block: "center" }); clear(); });
    (document.querySelector(".gradio-container") ?? document.body).append(toast);
    watching = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) setTimeout(() => { if (toast === own) clear(); }, SEEN);
    }, { threshold: 0.6 });
    watching.observe(refusal);
  }

  function isSeen(refusal) {
    const { top, bottom } = refusal.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  }

  function look(changes) {
    const added = changes.flatMap(({ addedNodes }) => [...addedNodes]).filter((node) => node.nodeType === 1);
    const refusal = added.map((node) => (node.matches(REFUSAL) ? node : node.querySelector(REFUSAL))).find(Boolean);
    if (refusal) requestAnimationFrame(() => { if (refusal.isConnected && refusal.offsetParent && !isSeen(refusal)) show(refusal); });
    else if (toast && !document.querySelector(REFUSAL)) clear();
  }
  const start = () => new MutationObserver(look).observe(document.body, { subtree: true, childList: true });
  if (document.body) start();
  else document.addEventListener("DOMContentLoaded", start);
})();
