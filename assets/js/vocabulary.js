/* What a model with a small vocabulary can draw: chips, suggestions for the word at the cursor, and unknown words. */
(() => {
  "use strict";
  const MOST = 6;  // suggestions
  const known = new WeakMap();

  function vocabulary(box) {
    const element = box.querySelector("[data-vocabulary]");
    if (!element) return null;
    if (known.get(element)?.text !== element.dataset.vocabulary) {
      const content = JSON.parse(element.dataset.vocabulary);
      known.set(element, { text: element.dataset.vocabulary, element, ...content, words: new Set(content.words) });
    }
    return known.get(element);
  }

  const prompt = (box) => box.querySelector("[id$='-prompt']:not([id$='-source-prompt']) textarea");

  /* Where a prompt says its background: "on a blue background", whatever stands for the color ("(blue:1.2)", "{red|teal}",
     "light blue"), "blue background", and at its end "on a blue". */
  const ADDED = /<[^<>]*>|\(embedding:[\w.-]+:[\d.]+\)|(?<![\w-])embedding:[\w-]+(?:\.[\w-]+)*/g;
  function backgrounds(text, colors) {
    const color = `\\(?(?:${colors.join("|")})(?::[\\d.]+\\))?`, end = `(?=(?:[\\s,]|${ADDED.source})*$)`;
    const said = new RegExp(`\\bon\\s+an?\\s+(?:(?!\\bon\\s+an?\\b)[^<>,\\n]){1,60}?\\bbackground\\b|(?:\\bon\\s+)?(?:\\ban?\\s+)?${color}\\s+background\\b`
      + `|\\bon\\s+(?:an?\\s+)?${color}${end}`, "gi");
    return [...text.matchAll(said)].map(({ 0: words, index }) => {
      const open = words.split("(").length - words.split(")").length;
      const closing = open > 0 && /^[^()]*\)/.exec(text.slice(index + words.length));
      return [index, index + words.length + (closing ? closing[0].length : 0)];
    });
  }

  /* The prompt with this background in the place of its own, or before the LoRAs and embeddings that end it. */
  function putBackground(text, ground, colors) {
    const said = `on ${/^[aeiou]/.test(ground) ? "an" : "a"} ${ground} background`, places = backgrounds(text, colors);
    if (!places.length) {
      const end = new RegExp(`[\\s,.]*((?:[\\s,]|${ADDED.source})*)$`).exec(text);
      return `${text.slice(0, end.index)} ${said} ${end[1].trim()}`.trim();
    }
    return places.reduceRight((changed, [from, to]) =>
      changed.slice(0, from).replace(/\s*,\s*$/, " ") + said + changed.slice(to), text);
  }

  /* The prompt with other words, its background, LoRAs and embeddings kept. */
  function putSubject(text, words, colors) {
    const places = backgrounds(text, colors), [from, to] = places.at(-1) ?? [0, 0];
    const rest = places.reduceRight((left, [start, end]) => left.slice(0, start) + left.slice(end), text);
    return [words, text.slice(from, to), ...(rest.match(ADDED) ?? [])].filter(Boolean).join(" ");
  }

  function write(area, text) {
    area.value = text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.focus();
    area.setSelectionRange(text.length, text.length);
  }

  /* The person's words, without what the prompt's syntax adds: <lora:name:1>, embedding:name, __list__, weights, AND and
     BREAK. */
  function words(text) {
    const plain = text.replace(/<[^>]*>|(?<![\w-])embedding:[\w.-]+|__[^\s_]+(?:_[^\s_]+)*__|\b(AND|BREAK)\b|\d+(\.\d+)?|\$\$/g, " ");
    return plain.toLowerCase().match(/[\p{L}][\p{L}'-]*/gu) ?? [];
  }

  function show(box) {
    const all = vocabulary(box), area = prompt(box);
    if (!all || !area) return;
    const line = box.querySelector(".sw-unknown"), offers = box.querySelector(".sw-offers");
    const typing = document.activeElement === area && /[\p{L}]$/u.test(area.value.slice(0, area.selectionStart));
    const said = words(area.value), last = typing ? words(area.value.slice(0, area.selectionStart)).pop() ?? "" : "";
    const offered = last.length < 2 ? [] : Object.keys(all.subjects)
      .filter((name) => name !== last && name.split(" ").some((part) => part.startsWith(last))).slice(0, MOST);
    offers.replaceChildren(...offered.map((name) => chip("offer", name, name)));
    const unknown = [...new Set(said)].filter((word) => !all.words.has(word) && !(offered.length && word === last));
    const quoted = unknown.slice(0, 3).map((word) => `“${word}”`).join(", ");
    const text = unknown.length ? `${all.model} has not learned ${quoted}${unknown.length > 3 ? " and more" : ""}.` : "";
    if (line.firstChild.textContent !== text) line.firstChild.textContent = text;
    line.hidden = !text;
  }

  function chip(kind, value, words) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "sw-word", textContent: words });
    button.dataset[kind] = value;
    return button;
  }

  /* The list of chips is made when it is opened: it would only weigh on the page. */
  document.addEventListener("toggle", (event) => {
    const details = event.target;
    if (!details.matches?.(".sw-vocabulary") || !details.open) return;
    const all = vocabulary(details.closest(".sw-compose"));
    const fill = (name, kind, items) => {
      const row = details.querySelector(name);
      if (row && row.childElementCount !== items.length) row.replaceChildren(...items.map((one) => chip(kind, one, one)));
    };
    fill(".sw-subjects", "subject", Object.keys(all.subjects));
    fill(".sw-grounds", "ground", all.backgrounds);
  }, true);

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button.sw-word"), box = button?.closest(".sw-compose");
    if (!box) return;
    const all = vocabulary(box), area = prompt(box), { subject, ground, offer } = button.dataset;
    if (subject) write(area, putSubject(area.value, all.subjects[subject], all.backgrounds));
    if (ground) write(area, putBackground(area.value, ground, all.backgrounds));
    if (offer) {
      const end = area.selectionStart, before = area.value.slice(0, end).replace(/[\p{L}'-]+$/u, "");
      write(area, before + offer + area.value.slice(end));
      area.setSelectionRange(before.length + offer.length, before.length + offer.length);
      show(box);
    }
  });

  document.addEventListener("input", (event) => {
    const box = event.target.matches?.("[id$='-prompt'] textarea") && event.target.closest(".sw-compose");
    if (box) requestAnimationFrame(() => show(box));
  });

  /* An example, a link or another model changes the prompt or the vocabulary without an input. */
  document.addEventListener("stepwise-form", () => setTimeout(() => document.querySelectorAll(".sw-compose").forEach(show), 150));
})();
