/* Runs of a tab: one request starts one, one event stream shows it. See studio/ui/live_routes.py. */
(() => {
  "use strict";
  const tabs = {};  // tab key -> {root, job, parts, source}: what was last said of each element, for one that appears later
  const state = (tab) => (tabs[tab] ??= { root: "", job: null, parts: {}, source: null });
  const base = () => window.gradio_config?.root ?? "";
  const address = (file) => `${base()}/${file}`;
  const owner = (() => {
    const key = "stepwise-owner", drawn = Math.random().toString(36).slice(2) + Date.now().toString(36);
    try { return sessionStorage.getItem(key) ?? (sessionStorage.setItem(key, drawn), drawn); } catch { return drawn; }
  })();

  async function ask(tab, path, options) {
    const answer = await fetch(`${base()}/stepwise/${tab}/${path}`, options);
    const content = await answer.json().catch(() => ({}));
    return { ok: answer.ok, content };
  }

  function notice(text) {
    const box = document.createElement("div"), line = box.appendChild(document.createElement("p"));
    box.className = "sw-notice"; box.dataset.kind = "problem"; box.setAttribute("role", "alert"); line.textContent = text;
    return box.outerHTML;
  }

  /* Make `old` look like `fresh` and keep what is the same: a picture that stays does not blink, a focus is not lost. */
  function morph(old, fresh) {
    const before = [...old.childNodes], after = [...fresh.childNodes];
    after.forEach((node, place) => {
      const there = before[place];
      if (!there) { old.append(node); return; }
      if (there.nodeType !== node.nodeType || there.nodeName !== node.nodeName) { there.replaceWith(node); return; }
      if (node.nodeType !== Node.ELEMENT_NODE) { if (there.data !== node.data) there.data = node.data; return; }
      for (const { name } of [...there.attributes]) if (!node.hasAttribute(name)) there.removeAttribute(name);
      for (const { name, value } of node.attributes) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
      morph(there, node);
    });
    for (const extra of before.slice(after.length)) extra.remove();
  }

  function change(element, part) {
    for (const [name, value] of Object.entries(part)) {
      if (name === "html") {
        const fresh = document.createElement("template");
        fresh.innerHTML = value;
        for (const one of fresh.content.querySelectorAll("[data-file]")) {
          if (one.tagName === "IMG") one.setAttribute("src", address(one.dataset.file));
        }
        morph(element, fresh.content);
      } else if (name === "file" || name === "src") {
        const url = name === "file" ? address(value) : value, of = element.tagName === "A" ? "href" : "src";
        if (element.getAttribute(of) !== url) element.setAttribute(of, url);
      } else if (name === "value") {
        element.value = value;
      } else if (value === null) {
        element.removeAttribute(name);
      } else {
        element.setAttribute(name, value);
      }
    }
  }

  function apply(tab, parts) {
    const all = state(tab).parts;
    for (const [id, part] of Object.entries(parts)) {
      all[id] = part;
      const element = document.getElementById(id);
      if (element) change(element, part);
    }
  }

  function running(tab, on) {
    const one = state(tab);
    one.running = on;
    document.getElementById(one.root)?.toggleAttribute("data-running", on);
  }

  /* A tab's elements come onto the page when it is first opened: show what was said of them before. */
  function mounted(tab, root) {
    const one = state(tab);
    one.root = root;
    running(tab, Boolean(one.running));
    apply(tab, { ...one.parts });
  }

  /* The click: [what the browser remembers, the notice]. A refused request changes nothing. */
  async function run(tab, root, values) {
    const one = state(tab), before = values.pop();
    one.root = root;
    if (one.running && !one.read) return [before, ""];
    if (!window.stepwise.begin(root)) {  // taken back before it began
      one.refused = true;
      return [before, ""];
    }
    document.getElementById("link-notice")?.toggleAttribute("hidden", true);  // its settings have been seen
    one.refused = false;
    if (!one.read) one.unwanted = false;
    one.asking = true;
    one.read = false;
    running(tab, true);
    try {
      const { ok, content } = await ask(tab, "run", {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ values, owner }),
      });
      one.asking = false;
      if (ok) {
        one.seed = content.session.seed;
        watch(tab, content.session.job);
        if (one.unwanted) stop(tab, content.session);
        return [content.session, ""];
      }
      running(tab, false);
      one.refused = true;
      return [before, content.notice ?? notice(content.detail ?? "The studio refused the request.")];
    } catch {
      one.asking = false;
      running(tab, false);
      one.refused = true;
      return [before, notice("The studio does not answer. Is it still running?")];
    }
  }

  /* A form with pictures, which the server reads first: the button answers now, and Stop counts from now on. */
  function reading(tab, root, values) {
    const one = state(tab);
    one.root = root;
    one.read = one.asking = true;
    one.unwanted = !window.stepwise.begin(root);
    running(tab, true);
    return values;
  }

  /* Then it goes by a word, which is empty for a form that was refused. */
  async function runReady(tab, root, [word, session]) {
    const one = state(tab);
    if (word && !one.unwanted) return run(tab, root, [word, session]);
    one.refused = true;
    one.read = one.asking = false;
    running(tab, false);
    return [session, undefined];
  }

  /* Show a job until it is over; resolves with the notice to stand above it. */
  function watch(tab, job) {
    const one = state(tab);
    if (one.job === job && one.over) return one.over;
    one.source?.close();
    one.job = job;
    one.over = new Promise((resolve) => {
      const source = one.source = new EventSource(`${base()}/stepwise/${tab}/jobs/${encodeURIComponent(job)}/events`);
      source.onmessage = (event) => {
        const said = JSON.parse(event.data);
        running(tab, !said.final);
        apply(tab, said.parts);
        if (!said.final) return;
        source.close();
        resolve(said.notice);
        if (said.status === "done") window.stepwise.again?.(one.root);
      };
      source.onerror = () => {
        if (source.readyState !== EventSource.CLOSED) return;  // it asks again by itself
        const lost = one.running;
        running(tab, false);
        one.over = null;
        resolve(lost ? notice("The page lost the connection to the run; reload it to find the run again.") : "");
      };
    });
    return one.over;
  }

  /* Resolves with the notice of a run that failed; with nothing, which leaves what stands there, for any other. */
  async function follow(tab, root, session) {
    const one = state(tab);
    one.root = root;
    one.seed ??= session?.seed;
    if (state(tab).refused || !session?.job) return undefined;  // nothing new: the session still tells of the run before
    return (await watch(tab, session.job)) || undefined;
  }

  /* The seed of the picture that a tab shows, of a batch that of the chosen one. */
  function seedOf(tab) {
    const one = tabs[tab];
    return one && (window.stepwise.shownSeed(one.root) ?? one.seed);
  }

  const runSeedOf = (tab) => { const seed = tabs[tab]?.seed; return seed === undefined || seed === null ? undefined : String(seed); };

  async function stop(tab, session) {
    const one = state(tab), job = one.job ?? session?.job;
    if (one.asking) { one.unwanted = true; return; }  // the new job has no id yet, and the one before is over
    if (job) await ask(tab, `jobs/${encodeURIComponent(job)}/stop`, { method: "POST" });
  }

  /* The scrubber: the small pictures while it moves, the sharp ones when it rests; the latest wins. */
  const scrub = { busy: false, next: null };
  async function at(tab, step, sharp) {
    if (scrub.busy) { scrub.next = [tab, step, sharp]; return; }
    scrub.busy = true;
    try {
      const job = encodeURIComponent(state(tab).job);
      const { ok, content } = await ask(tab, `jobs/${job}/steps/${step}${sharp ? "?sharp=1" : ""}`);
      if (ok && !scrub.next) apply(tab, content.parts);
    } finally {
      scrub.busy = false;
      const next = scrub.next;
      scrub.next = null;
      if (next) at(...next);
    }
  }
  for (const kind of ["input", "change"]) document.addEventListener(kind, (event) => {
    const slider = event.target.closest?.("input[data-scrub]");
    if (slider) at(slider.dataset.scrub, Number(slider.value), kind === "change");
  });

  /* The steps played from the shown one, or from the first; and a click on the curve of noise levels. */
  const move = (slider, step, kind) => { slider.value = step; slider.dispatchEvent(new Event(kind, { bubbles: true })); };
  const STEP_TIME = 140, SLOW_STEP = 500;  // milliseconds
  let playing = null;
  document.addEventListener("click", (event) => {
    const play = event.target.closest?.("button[data-play]"), curve = event.target.closest?.("svg.sw-curve");
    if (!play && !curve) return;
    const was = playing;
    playing = null;
    const slider = play ? document.getElementById(play.dataset.play) : curve.closest(".sw-trajectory")?.querySelector("input[data-scrub]");
    if (!slider || slider.disabled) return;
    if (curve) {
      const box = curve.getBoundingClientRect(), margin = Number(curve.dataset.margin);
      const share = ((event.clientX - box.left) / box.width - margin) / (1 - 2 * margin);
      move(slider, Math.round(1 + share * (Number(curve.dataset.total) - 1)), "change");
      return;
    }
    if (was !== slider) playSteps(slider);
  });

  /* Each step as sharp as the scrubber at rest shows it, unless that is slow; a second press ends it. */
  async function playSteps(slider) {
    if (slider.value === slider.max) slider.value = 0;
    playing = slider;
    for (let sharp = true; playing === slider && !slider.disabled && slider.value !== slider.max;) {
      const began = performance.now();
      slider.value = Number(slider.value) + 1;
      await at(slider.dataset.scrub, Number(slider.value), sharp || slider.value === slider.max);
      const took = performance.now() - began;
      sharp &&= took < SLOW_STEP;
      await new Promise((go) => setTimeout(go, Math.max(0, STEP_TIME - took)));
    }
    if (playing === slider) playing = null;
  }

  document.addEventListener("input", (event) => {
    if (event.target.matches?.("input[data-lens]")) event.target.parentElement.style.setProperty("--cut", `${event.target.value}%`);
  });

  document.addEventListener("click", (event) => {
    const small = event.target.closest?.("button[data-shows]");
    if (small) {  // one picture of a batch
      const image = document.querySelector(`#${small.dataset.shows} img`), link = document.querySelector(`#${small.dataset.shows} a`);
      if (image) image.src = small.querySelector("img").src;
      if (link) link.href = image.src;
    }
    const large = event.target.closest?.("button[data-fullscreen]");
    if (large) (document.fullscreenElement ? document.exitFullscreen() : large.closest(".sw-frame").requestFullscreen?.());
  });

  /* Take a stored file away. */
  function download(file) {
    const link = document.createElement("a");
    link.href = address(file);
    link.download = "";
    document.body.append(link);
    link.click();
    link.remove();
  }

  const jobOf = (tab) => (state(tab).asking ? null : state(tab).job);

  window.stepwise = { ...window.stepwise, ask, jobOf, download, run, reading, runReady, follow, stop, mounted, seedOf, runSeedOf };
})();
