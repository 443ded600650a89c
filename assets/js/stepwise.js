/* Shortcuts, the switch between light and dark, and pictures dropped anywhere on a tab. */
(() => {
  "use strict";
  const THEME_KEY = "stepwise-theme";
  const visible = (selector) => [...document.querySelectorAll(selector)].find((element) => element.offsetParent !== null);

  function press(selector, event) {
    const button = visible(selector);
    if (!button || button.disabled) return;
    event.preventDefault();
    button.click();
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return;  // the key is an input method's
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) press("button.sw-run", event);
    else if (event.key === "Escape" && !document.querySelector("ul.options")) press("button.sw-stop", event);
  }, true);

  // On a phone the picture lies below the button: bring both onto the screen.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.sw-run");
    if (!button || window.innerWidth > 820) return;
    const top = button.getBoundingClientRect().top + window.scrollY - 12;
    window.scrollTo({ top, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  });

  const choice = {
    read() { try { return localStorage.getItem(THEME_KEY); } catch { return this.here; } },
    write(value) { this.here = value; try { localStorage.setItem(THEME_KEY, value); } catch { /* private window */ } },
    here: null,
  };

  // Gradio sets the class at some moment of its start; the person's own choice stands above it.
  function applyTheme() {
    const saved = choice.read();
    if (!saved || new URLSearchParams(location.search).has("__theme")) return;
    document.body.classList.toggle("dark", saved === "dark");
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest("button.sw-theme")) return;
    const dark = !document.body.classList.contains("dark");
    choice.write(dark ? "dark" : "light");
    document.body.classList.toggle("dark", dark);
  });

  // Simple hides what only experts set, and says so; the choice stays over reloads.
  const LEVEL_KEY = "stepwise-simple";
  function applyLevel(simple) {
    document.body.classList.toggle("sw-simple", simple);
    document.querySelector("button.sw-level")?.setAttribute("aria-pressed", String(simple));
  }
  const readLevel = () => { try { return localStorage.getItem(LEVEL_KEY) === "yes"; } catch { return false; } };
  document.addEventListener("click", (event) => {
    if (!event.target.closest("button.sw-level")) return;
    const simple = !document.body.classList.contains("sw-simple");
    try { localStorage.setItem(LEVEL_KEY, simple ? "yes" : "no"); } catch { /* private window */ }
    applyLevel(simple);
  });

  // The bar of tabs scrolls on a narrow screen: the open tab comes into it, however it was opened.
  function showTab(changes) {
    const tab = changes.map((change) => change.target).find((one) => one.matches('#tabs [role="tab"][aria-selected="true"]'));
    const bar = tab?.closest(".tab-wrapper");
    if (bar) bar.scrollLeft = tab.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2;
  }

  function start() {
    new MutationObserver(showTab).observe(document.body, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
    document.documentElement.lang = "en";
    applyTheme();
    applyLevel(readLevel());
    // The header comes later than the script.
    const waiting = setInterval(() => { if (document.querySelector("button.sw-level")) { clearInterval(waiting); applyLevel(readLevel()); } }, 100);
    new MutationObserver(applyTheme).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  }
  // Gradio may put this script in place after the document is ready.
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();

  const carriesFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");

  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event) || !visible(".sw-studio .sw-restore")) return;
    event.preventDefault();
    document.body.classList.add("sw-dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("sw-dragging");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("sw-dragging");
    const section = visible(".sw-studio .sw-restore");
    if (!carriesFiles(event) || !section || event.target.closest(".sw-drop")) return;
    event.preventDefault();
    const files = event.dataTransfer.files;
    const give = () => {
      const input = section.querySelector(".sw-drop input[type=file]");
      if (!input) return false;
      const carrier = new DataTransfer();
      carrier.items.add(files[0]);
      input.files = carrier.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
      return true;
    };
    if (!files.length || give()) return;
    section.querySelector("button")?.click();
    let tries = 50;  // the section builds its content when it is opened, on a busy machine after a while
    const again = setInterval(() => { if (give() || --tries === 0) clearInterval(again); }, 100);
  });
})();
