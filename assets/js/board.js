/* The Live tab: a canvas or the camera, whose newest frame goes to the studio whenever that has taken the one before. */
(() => {
  "use strict";
  const SENT = 256, LEAST = 40, HEARTBEAT = 5000, UNDO = 20;
  const boards = {};
  const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  /* "ground #fff; disc x y r #color; line x y x y width #color; shape x y x y ... #color", in parts of the side. */
  function paint(canvas, shapes) {
    const ink = canvas.getContext("2d", { willReadFrequently: true }), side = canvas.width;
    for (const words of shapes.split(";").map((one) => one.trim().split(/\s+/))) {
      const [kind, ...rest] = words, color = rest.pop(), at = rest.map((number) => Number(number) * side);
      ink.fillStyle = ink.strokeStyle = color;
      ink.lineCap = ink.lineJoin = "round";
      ink.beginPath();
      if (kind === "ground") ink.fillRect(0, 0, side, side);
      if (kind === "disc") { ink.arc(at[0], at[1], at[2], 0, 2 * Math.PI); ink.fill(); }
      if (kind === "line") { ink.lineWidth = at[4]; ink.moveTo(at[0], at[1]); ink.lineTo(at[2], at[3]); ink.stroke(); }
      if (kind === "shape") { for (let i = 0; i < at.length; i += 2) ink.lineTo(at[i], at[i + 1]); ink.fill(); }
    }
  }

  function board(tab, prefix) {
    const canvas = document.getElementById(`${prefix}-canvas`), root = document.getElementById(prefix);
    if (!canvas || canvas.dataset.ready) return;
    canvas.dataset.ready = "yes";
    const one = boards[prefix] = { tab, prefix, canvas, video: document.getElementById(`${prefix}-camera`), past: [], color: "#d22828", changed: true };
    paint(canvas, canvas.dataset.shapes);
    wireDrawing(one);
    root.querySelector(".sw-board-tools").addEventListener("click", (event) => {
      const color = event.target.closest("[data-color]"), tool = event.target.closest("[data-do]");
      if (color) {
        one.color = color.dataset.color;
        for (const other of root.querySelectorAll("[data-color]")) other.setAttribute("aria-pressed", String(other === color));
      }
      if (tool) act(one, tool);
    });
    // A click may shuffle the seed or take an example, which the page shows a little later.
    for (const kind of ["input", "change", "click"]) root.addEventListener(kind, () => {
      clearTimeout(one.due);
      one.due = setTimeout(() => { tellChanges(one); setTimeout(() => tellChanges(one), 400); }, 120);
    });
    new MutationObserver(() => { if (root.hasAttribute("data-running")) pump(one); }).observe(root, { attributeFilter: ["data-running"] });
    if (root.hasAttribute("data-running")) pump(one);
  }

  function keep(one) {
    one.past.push(one.canvas.getContext("2d").getImageData(0, 0, one.canvas.width, one.canvas.height));
    if (one.past.length > UNDO) one.past.shift();
  }

  function act(one, tool) {
    const kind = tool.dataset.do, ink = one.canvas.getContext("2d");
    if (kind === "undo" && one.past.length) ink.putImageData(one.past.pop(), 0, 0);
    if (kind === "ground" || kind === "clear") { keep(one); paint(one.canvas, `ground ${kind === "clear" ? "#ffffff" : one.color}`); }
    if (kind === "camera") toggleCamera(one, tool);
    one.changed = true;
  }

  function wireDrawing(one) {
    const { canvas } = one, ink = canvas.getContext("2d");
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
    };
    let last = null;
    const stroke = (to) => {
      ink.strokeStyle = one.color;
      ink.lineCap = "round";
      ink.lineWidth = Number(document.getElementById(`${one.prefix}-brush`).value) * canvas.width / 128;
      ink.beginPath(); ink.moveTo(...last); ink.lineTo(to[0] + .01, to[1]); ink.stroke();
      last = to;
      one.changed = true;
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      keep(one);
      last = place(event);
      stroke(last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (last) for (const part of event.getCoalescedEvents?.() ?? [event]) stroke(place(part));
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { last = null; });
    canvas.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); act(one, { dataset: { do: "undo" } }); }
    });
  }

  async function toggleCamera(one, tool) {
    if (one.stream) return stopCamera(one);
    try {
      one.stream = await navigator.mediaDevices.getUserMedia({ video: { width: 512, height: 512 } });
    } catch {
      one.stream = null;
      say(one, navigator.mediaDevices ? "The browser has no camera, or may not use it." : "A browser gives its camera to pages of this computer and of https addresses only.");
      return;
    }
    one.video.srcObject = one.stream;
    await one.video.play();
    one.video.hidden = false;
    tool.setAttribute("aria-pressed", "true");
  }

  function stopCamera(one) {
    for (const track of one.stream?.getTracks() ?? []) track.stop();
    one.stream = null;
    one.video.hidden = true;
    document.querySelector(`#${one.prefix} [data-do="camera"]`)?.removeAttribute("aria-pressed");
    one.changed = true;
  }

  function say(one, text) {
    const line = document.getElementById(`${one.prefix}-progress`);
    line.replaceChildren(Object.assign(document.createElement("p"), { textContent: text }));
  }

  /* The frame as a file of 256 pixels a side; the middle of a camera's picture, mirrored. */
  function shoot(one) {
    const small = one.small ??= Object.assign(document.createElement("canvas"), { width: SENT, height: SENT }), ink = small.getContext("2d");
    if (one.stream) {
      const { videoWidth: width, videoHeight: height } = one.video, side = Math.min(width, height);
      ink.setTransform(-1, 0, 0, 1, SENT, 0);
      if (side) ink.drawImage(one.video, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SENT, SENT);
      ink.setTransform(1, 0, 0, 1, 0, 0);
    } else {
      ink.drawImage(one.canvas, 0, 0, SENT, SENT);
    }
    return new Promise((done) => small.toBlob(done, one.stream ? "image/jpeg" : "image/png", .9));
  }

  const isShown = (one) => one.canvas.isConnected && one.canvas.parentElement.getClientRects().length > 0;

  /* One frame is on its way at a time, and its answer asks for the next: nothing queues up. */
  async function pump(one) {
    if (one.pumping) return;
    one.pumping = one.changed = true;
    one.told = read(one);
    let heard = 0, ended = false;
    const root = document.getElementById(one.prefix);
    while (!ended && root.hasAttribute("data-running")) {
      const job = window.stepwise.jobOf(one.tab);
      if (!job) { await wait(50); continue; }
      if (!isShown(one)) { window.stepwise.stop(one.tab); break; }  // another tab of the page was opened
      if (document.hidden) { await wait(500); continue; }  // the studio ends what says nothing for long
      const begun = performance.now();
      try {
        if (one.changed || one.stream) {
          one.changed = false;
          const answer = await window.stepwise.ask(one.tab, `jobs/${encodeURIComponent(job)}/frame`, { method: "POST", headers: { "content-type": "application/octet-stream" }, body: await shoot(one) });
          heard = begun;
          ended = !answer.ok || answer.content.final;
          if (!answer.ok && answer.content.detail) say(one, answer.content.detail);
        } else if (begun - heard > HEARTBEAT) {
          ended = (await tell(one.tab, {})).content.final;
          heard = begun;
        }
      } catch { await wait(1000); }
      await wait(Math.max(0, LEAST - (performance.now() - begun)));
    }
    one.pumping = false;
    if (one.stream) stopCamera(one);
  }

  const tell = (tab, values) => window.stepwise.ask(tab, `jobs/${encodeURIComponent(window.stepwise.jobOf(tab))}/say`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ values }),
  });
  const isRunning = (tab) => Object.values(boards).some((one) => one.tab === tab && one.pumping);

  /* Settings count at once: what the fields show is compared with what was told last. A refused one says why. */
  const FIELDS = { prompt: "textarea", strength: "input[type=number]", seed: "input, textarea", guidance_scale: "input[type=number]", similarity: "input[type=number]" };
  function read(one) {
    const values = {};
    for (const [name, selector] of Object.entries(FIELDS)) {
      const field = document.querySelector(`#${one.prefix}-${name.replace("_scale", "")} :is(${selector})`);
      if (field) values[name] = field.type === "number" ? Number(field.value) : field.value;
    }
    return values;
  }

  async function tellChanges(one) {
    if (!one.pumping || !one.told) return;
    const values = read(one), changed = Object.fromEntries(Object.entries(values).filter(([name, value]) => one.told[name] !== value));
    if (!Object.keys(changed).length) return;
    one.told = values;
    const { ok, content } = await tell(one.tab, changed);
    if (!ok && content.detail) say(one, content.detail);
  }

  async function saveLive(tab) {
    if (isRunning(tab)) await tell(tab, { save: true });
  }

  function drawLive(prefix, shapes) {
    const one = boards[prefix];
    if (!one) return;
    if (one.stream) stopCamera(one);
    keep(one);
    paint(one.canvas, shapes);
    one.changed = true;
  }

  addEventListener("pagehide", () => {
    for (const { tab } of Object.values(boards)) {
      if (isRunning(tab)) navigator.sendBeacon(`${window.gradio_config?.root ?? ""}/stepwise/${tab}/jobs/${encodeURIComponent(window.stepwise.jobOf(tab))}/stop`);
    }
  });

  window.stepwise = { ...window.stepwise, board, saveLive, drawLive };
})();
