/* What stands on the page is what runs, and what was typed survives a reload. */
(() => {
  "use strict";
  const QUIET = 60;  // milliseconds without a touch or an answer, after which the form stands still
  const RUNS = "button.sw-run, button.sw-measure";
  const COMES = 3000;  // milliseconds within which an example's chip asks the server
  let open = 0, touched = 0, held = null, expected = 0;

  /* An example's chip, a chosen model, a dropped picture change the form by way of the server. */
  const fetched = window.fetch;
  window.fetch = function (input, init) {
    const answer = fetched.call(this, input, init), address = String(input?.url ?? input);
    if (!/\/gradio_api\/(run|upload)\b/.test(address)) return answer;
    open += 1;
    expected = 0;
    const done = () => { open -= 1; touched = performance.now(); look(); };
    answer.then((response) => response.clone().arrayBuffer()).then(done, done);
    return answer;
  };

  const moving = () => open > 0 || performance.now() < expected || performance.now() - touched < QUIET;
  /* From the click on a chip to its request Gradio takes a third of a second where the machine is busy. */
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("button[id*='-example-']")) expected = performance.now() + COMES;
  }, true);
  for (const kind of ["input", "change", "click"]) document.addEventListener(kind, (event) => {
    if (event.target.closest?.(".sw-live") && !event.target.closest("button.sw-stop, button.sw-unseen")) touched = performance.now();
  }, true);

  /* A hand on the page or an answer may have changed a form: its tab's hidden button hands its values to `remember`. */
  let looking = null;
  function look() {
    looking ??= setTimeout(() => {
      looking = null;
      for (const button of document.querySelectorAll("button.sw-remember")) if (button.parentElement.offsetParent) button.click();
    }, 30);
  }
  for (const kind of ["input", "change", "click", "mouseup", "keyup"]) document.addEventListener(kind, (event) => {
    if (!event.target.closest?.("button.sw-unseen")) look();
  }, true);

  /* A run that is about to begin: Stop stands there from now on, and takes it back. */
  const coming = new Map();  // id of the run's place on the page -> {wanted, takeBack}
  const placeOf = (button) => button.closest(".sw-measuring, .sw-live");
  function intend(button, takeBack) {
    const place = placeOf(button);
    coming.set(place.id, { wanted: true, takeBack });
    place.toggleAttribute("data-running", true);
  }
  function press(button) {
    const { id } = placeOf(button), one = coming.get(id);
    button.click();
    setTimeout(() => { if (one && coming.get(id) === one) takeBack(id); }, 10000);  // nothing came of it
  }
  function takeBack(id) {
    coming.get(id).takeBack();
    coming.delete(id);
    document.getElementById(id).toggleAttribute("data-running", false);
  }
  window.addEventListener("click", (event) => {
    const stop = event.target.closest?.("button.sw-stop"), id = stop && placeOf(stop)?.id, one = coming.get(id);
    if (!one) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    takeBack(id);
    coming.set(id, { ...one, wanted: false });  // it may have been pressed already
    setTimeout(() => { if (coming.get(id)?.wanted === false) coming.delete(id); }, 1000);
  }, true);
  /* Whether a run that begins now is still wanted. */
  function begin(id) {
    const wanted = coming.get(id)?.wanted ?? true;
    coming.delete(id);
    return wanted;
  }

  /* A run that is asked for while the form moves begins when it stands still. */
  window.addEventListener("click", (event) => {
    const button = event.target.closest?.(RUNS);
    if (!button || !moving()) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    if (held) return;
    let still = 0;  // looks in a row: one alone may be the first after a long task, before its answer is on the page
    held = setInterval(() => {
      still = moving() ? 0 : still + 1;
      if (still < 4) return;
      clearInterval(held);
      held = null;
      press(button);
    }, 20);
    intend(button, () => { clearInterval(held); held = null; });
  }, true);

  /* Whoever types or pastes a seed wants it: the script's own changes of the box send no such event. */
  document.addEventListener("input", (event) => {
    const box = event.target.closest?.(".sw-seed [id$='-seed']");
    if (box) document.getElementById(`${box.id}-mode`)?.querySelector("input[value='fixed']:not(:checked)")?.click();
  }, true);

  /* The typed values of each tab, by a signature of its fields: another version of the page has others. */
  const waiting = {}, last = {};
  function remember(tab, signature, values) {
    const text = JSON.stringify(values);
    if (text === last[tab]) return;
    last[tab] = text;
    document.dispatchEvent(new Event("stepwise-form"));
    for (const button of document.querySelectorAll("button.sw-follows")) if (button.parentElement.offsetParent) button.click();
    clearTimeout(waiting[tab]?.timer);
    const write = () => {
      delete waiting[tab];
      try { localStorage.setItem(`stepwise-typed-${tab}`, JSON.stringify({ signature, values })); } catch { /* private, or full */ }
    };
    waiting[tab] = { write, timer: setTimeout(write, 250) };
  }
  addEventListener("pagehide", () => Object.values(waiting).forEach(({ timer, write }) => { clearTimeout(timer); write(); }));

  function recall(tab, signature) {
    try {
      const known = JSON.parse(localStorage.getItem(`stepwise-typed-${tab}`));
      return known?.signature === signature ? JSON.stringify(known.values) : "";
    } catch { return ""; }
  }

  /* A link was opened once, and what was typed since is remembered: a reload keeps that, and of the link its tab. */
  function forgetLink() {
    if (performance.getEntriesByType("navigation")[0]?.type !== "reload") return;
    const url = new URL(location.href);
    for (const name of [...url.searchParams.keys()]) if (!name.startsWith("__") && name !== "tab" && name !== "view") url.searchParams.delete(name);
    history.replaceState(history.state, "", url);
  }

  /* When the page is loaded: has each tab that a link or the browser's memory may fill ask for it, and names the others,
     for which the lists alone are asked. */
  function bringBack() {
    forgetLink();
    const isLinked = [...new URLSearchParams(location.search).keys()].some((name) => name !== "__theme");
    const knows = (key) => {
      try { return localStorage.getItem(`stepwise-typed-${key}`) !== null || localStorage.getItem(`stepwise-${key}`) !== null; }
      catch { return false; }
    };
    const others = [];
    for (const button of document.querySelectorAll("button.sw-recall")) {
      const key = button.id.replace("recall-", "");
      if (isLinked || knows(key)) button.click();
      else others.push(key);
    }
    return others.join(" ");
  }

  /* A list of files is opened: what came into the models folder since is offered, in every list. */
  document.addEventListener("focusin", (event) => {
    if (event.target.matches("input, select") && event.target.closest(".sw-files")) document.getElementById("look-into-folder")?.click();
  });

  /* What a list had when it was entered, and what is chosen there: null where that is the same. */
  const entered = new Map();  // id of a list -> its value
  function enterList(id, key) { entered.set(id, key); }
  function chooseAnother(id, key) {
    const isSame = entered.get(id) === key;
    entered.set(id, key);
    return isSame ? null : key;
  }

  window.stepwise = { ...window.stepwise, enterList, chooseAnother, remember, recall, bringBack, intend, press, begin };
})();
