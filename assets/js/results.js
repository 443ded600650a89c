/* What a finished picture leads to: its seed, the picture itself, and runs that another tab begins at once. */
(() => {
  "use strict";
  let wanted = "";

  const hero = (element) => (element?.closest(".sw-live") ?? document).querySelector(".sw-hero img[data-result], .sw-slider img[data-result]");

  function say(button, words) {
    const before = button.dataset.words ??= button.textContent;
    button.textContent = words;
    setTimeout(() => { button.textContent = before; }, 1500);
  }

  async function copyImage(image) {
    const picture = fetch(image.src).then((answer) => answer.blob());
    await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
  }

  /* A search may find a picture that no seed alone makes. */
  const copySeed = (image) => image.dataset.seed ? navigator.clipboard.writeText(image.dataset.seed) : "No seed alone";

  const save = (button) => button.closest(".sw-live").querySelector(".sw-tools a[download]").click();

  /* Whether the button was one that only copies or saves; then it has. */
  function copied(button) {
    const image = hero(button), copies = { "copy-seed": () => copySeed(image), "copy-image": () => copyImage(image), download: () => save(button) };
    const copy = copies[button.dataset.act];
    if (!copy) { wanted = { variations: "#cmp-run", upscale: "#t2i-upscale-run" }[button.dataset.act] ?? ""; return false; }
    if (image) Promise.resolve().then(copy).then((words) => say(button, words ?? (button.dataset.act === "download" ? "Saved" : "Copied")), () => say(button, "Not allowed here"));
    return true;
  }

  /* A fold or a tab that was not opened yet builds its content now. */
  function runWanted() {
    const selector = wanted;
    wanted = "";
    let tries = selector ? 100 : 0;
    const again = setInterval(() => {
      const button = tries-- > 0 ? document.querySelector(selector) : null;
      if (!button && tries > 0) return;
      clearInterval(again);
      button?.click();
      button?.closest(".sw-acts-block")?.scrollIntoView({ block: "nearest" });
    }, 100);
  }

  /* The chosen picture of a batch is marked, and is the one that the buttons and the link mean. */
  document.addEventListener("click", (event) => {
    const small = event.target.closest?.("button[data-shows]");
    if (!small) return;
    const image = document.querySelector(`#${small.dataset.shows} img`);
    for (const other of small.parentElement.children) other.setAttribute("aria-pressed", String(other === small));
    for (const name of ["result", "seed"]) if (small.dataset[name] && image) image.dataset[name] = small.dataset[name];
  });

  /* A person's pattern of file names goes with what is downloaded; the server fills it in. */
  const NAMES = "stepwise-names";
  function nameFiles(pattern) {
    try {
      if (pattern === undefined) return localStorage.getItem(NAMES) ?? "";
      localStorage.setItem(NAMES, pattern);
    } catch { return ""; /* private window */ }
    return pattern;
  }
  document.addEventListener("input", (event) => {
    if (event.target.closest?.("#gal-names")) nameFiles(event.target.value);
  }, true);
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[download]"), pattern = link ? nameFiles() : "";
    if (!link || !/\/stepwise\/(results|trash)\/[^/]+$/.test(new URL(link.href).pathname)) return;
    const address = new URL(link.href);
    if (pattern) address.searchParams.set("name", pattern); else address.searchParams.delete("name");
    link.href = address;
  }, true);

  const shownResult = (element) => hero(element)?.dataset.result ?? "";
  const shownSeed = (root) => document.querySelector(`#${root} .sw-hero img[data-seed]`)?.dataset.seed;

  window.stepwise = { ...window.stepwise, copied, nameFiles, runWanted, shownResult, shownSeed };
})();
