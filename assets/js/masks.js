/* The Edit tab: the mask, drawn over the source with brush, eraser and box. It is a PNG in a hidden text of the form. */
(() => {
  "use strict";
  const LEAST = 512, MOST = 1024, UNDO = 30, INK = "#ff2d6f";
  const boards = {};

  const textOf = (one) => document.querySelector(`#${one.tab}-mask :is(textarea, input)`);
  const ink = (one) => one.canvas.getContext("2d", { willReadFrequently: true });

  /* Called when the board stands on the page. */
  function mask(tab) {
    const root = document.getElementById(`${tab}-pointing`), canvas = root?.querySelector("canvas"), image = root?.querySelector("img");
    if (!canvas) return;
    const one = boards[tab] = { tab, root, canvas, image, past: [], told: null };
    image.addEventListener("load", () => fit(one));
    if (image.naturalWidth) fit(one);
    wire(one);
  }

  /* The canvas has the picture's proportions, and enough pixels for a fine brush on a small picture. */
  function fit(one) {
    const { naturalWidth: width, naturalHeight: height } = one.image, longest = Math.max(width, height);
    const scale = Math.min(MOST, Math.max(LEAST, longest)) / longest;
    one.canvas.width = Math.max(1, Math.round(width * scale));
    one.canvas.height = Math.max(1, Math.round(height * scale));
    one.canvas.parentElement.style.setProperty("--ratio", width / height);
    one.past = [];
    show(one, textOf(one)?.value ?? "");
  }

  /* What the form's text says; it comes from an example, a new source or an undo too. */
  async function show(one, text) {
    one.told = text;
    const drawing = ink(one), { width, height } = one.canvas;
    let picture = null;
    if (text) {
      picture = new Image();
      picture.src = text;
      try { await picture.decode(); } catch { return; }
      if (one.told !== text) return;  // a newer one came in the meantime
    }
    drawing.globalCompositeOperation = "source-over";
    drawing.clearRect(0, 0, width, height);
    if (picture) {
      drawing.imageSmoothingEnabled = false;
      drawing.drawImage(picture, 0, 0, width, height);
    }
    mark(one);
  }
  function showMask(tab, text) {
    const one = boards[tab];
    if (!one || text === one.told) return;
    one.past = [];
    show(one, text ?? "");
  }

  /* A change of ours: the form learns of it, and it can be undone. */
  function tell(one, text) {
    one.told = text;
    const box = textOf(one);
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    mark(one);
  }
  function keep(one) {
    one.past.push(textOf(one).value);
    if (one.past.length > UNDO) one.past.shift();
  }
  const isEmpty = (one) => !ink(one).getImageData(0, 0, one.canvas.width, one.canvas.height).data.some((value, i) => i % 4 === 3 && value);
  const finish = (one) => tell(one, isEmpty(one) ? "" : one.canvas.toDataURL("image/png"));
  function mark(one) {
    for (const [name, usable] of [["undo", one.past.length], ["clear", one.told]]) {
      one.root.querySelector(`[data-mask="${name}"]`).disabled = !usable;
    }
  }

  function act(one, kind) {
    const drawing = ink(one), { width, height } = one.canvas;
    if (kind === "undo") {
      if (!one.past.length) return;
      const text = one.past.pop();
      tell(one, text);
      show(one, text);
      return;
    }
    keep(one);
    drawing.globalCompositeOperation = kind === "invert" ? "xor" : "destination-out";
    drawing.fillStyle = INK;
    drawing.fillRect(0, 0, width, height);
    finish(one);
  }

  function maskBox(tab, [x, y], [toX, toY]) {
    const one = boards[tab], drawing = ink(one), { width, height } = one.canvas;
    keep(one);
    drawing.globalCompositeOperation = "source-over";
    drawing.fillStyle = INK;
    const left = Math.min(x, toX) * width, top = Math.min(y, toY) * height;
    drawing.fillRect(left, top, Math.max(1, Math.abs(toX - x) * width), Math.max(1, Math.abs(toY - y) * height));
    finish(one);
  }

  function wire(one) {
    const { root, canvas } = one, board = canvas.parentElement, ring = board.querySelector(".sw-ring");
    const tool = () => root.querySelector("[data-tool][aria-pressed=true]")?.dataset.tool;
    const strokes = () => ["brush", "erase"].includes(tool());
    const share = () => Number(root.querySelector(".sw-brush input").value) / 100;  // of the shorter side
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
    };
    let last = null, pointer = null;  // the one that draws: a second finger does not
    const stroke = (to) => {
      const drawing = ink(one);
      drawing.globalCompositeOperation = tool() === "erase" ? "destination-out" : "source-over";
      drawing.strokeStyle = INK;
      drawing.lineCap = drawing.lineJoin = "round";
      drawing.lineWidth = share() * Math.min(canvas.width, canvas.height);
      drawing.beginPath(); drawing.moveTo(...last); drawing.lineTo(to[0] + .01, to[1]); drawing.stroke();
      last = to;
    };
    const follow = (event) => {
      const box = board.getBoundingClientRect(), side = share() * Math.min(box.width, box.height);
      ring.hidden = !strokes() || event.pointerType === "touch";
      ring.style.cssText = `width: ${side}px; height: ${side}px; left: ${event.clientX - box.left}px; top: ${event.clientY - box.top}px`;
    };
    board.addEventListener("pointerdown", (event) => {
      if (event.button || last || !strokes() || !one.image.naturalWidth) return;
      event.preventDefault();
      board.focus({ preventScroll: true });
      board.setPointerCapture(event.pointerId);
      keep(one);
      pointer = event.pointerId;
      last = place(event);
      stroke(last);
    });
    board.addEventListener("pointermove", (event) => {
      follow(event);
      if (last && event.pointerId === pointer) for (const part of event.getCoalescedEvents?.() ?? [event]) stroke(place(part));
    });
    for (const kind of ["pointerup", "pointercancel"]) board.addEventListener(kind, (event) => {
      if (last && event.pointerId === pointer) { last = null; finish(one); }
    });
    board.addEventListener("pointerleave", () => { ring.hidden = true; });
    board.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); act(one, "undo"); }
    });
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-mask]");
      if (button && one.image.naturalWidth) act(one, button.dataset.mask);
    });
  }

  window.stepwise = { ...window.stepwise, mask, showMask, maskBox };
})();
