/* Ctrl+Up and Ctrl+Down weigh the selected words of a prompt, or the word, the list, the embedding or the LoRA at the
   cursor: (word:1.1), <lora:name:0.9>. */
(() => {
  "use strict";
  const STEP = 0.1, LEAST = 0, MOST = 3;

  const TAG = /<lora:([^:<>]+)((?::-?\d+(?:\.\d+)?)*)>/gi, NUMBER = /(\([^()]*):(\d+(?:\.\d+)?)\)/g;
  const WORD = /(?<![\w-])embedding:[\w-]+(?:\.[\w-]+)*|__[^\s_]+(?:_[^\s_]+)*__|[\p{L}\p{N}'-]+/gu;
  const find = (pattern, text, at) => [...text.matchAll(pattern)].find((one) => one.index <= at && at <= one.index + one[0].length);

  /* What the cursor stands at, as a span; null where it is no word: AND, BREAK, the number of a switch, another tag. */
  function spanAt(text, at) {
    const weighed = find(NUMBER, text, at);
    if (weighed && at > weighed.index + weighed[1].length) return [weighed.index + 1, weighed.index + weighed[1].length];
    const word = find(WORD, text, at), end = word && word.index + word[0].length;
    if (!word || ["AND", "BREAK"].includes(word[0]) || find(/<[^<>]*>/g, text, at)) return null;
    return /^\d/.test(word[0]) && /[:.]$/.test(text.slice(0, word.index)) ? null : [word.index, end];
  }

  function weighTag(text, { 0: tag, 1: name, 2: numbers, index }, sign) {
    const weight = Math.round(((numbers ? Number(numbers.split(":").pop()) : 1) + sign * STEP) * 100) / 100;
    const changed = `<lora:${name}:${Math.min(MOST, Math.max(-MOST, weight))}>`;
    return { text: text.slice(0, index) + changed + text.slice(index + tag.length), start: index + 1, end: index + changed.length - 1 };
  }

  /* The text with the span weighed, and where the span then is. */
  function weigh(text, start, end, sign) {
    const tag = find(TAG, text, start);
    if (tag && start > tag.index && start < tag.index + tag[0].length && end < tag.index + tag[0].length) return weighTag(text, tag, sign);
    if (start === end) {
      const span = spanAt(text, start);
      if (!span) return null;
      [start, end] = span;
    }
    while (start < end && text[start] === " ") start++;
    while (end > start && text[end - 1] === " ") end--;
    if (start === end) return null;
    const behind = /^:(\d+(?:\.\d+)?)\)/.exec(text.slice(end)), isWeighed = text[start - 1] === "(" && behind;
    const weight = Math.min(MOST, Math.max(LEAST, Math.round(((isWeighed ? Number(behind[1]) : 1) + sign * STEP) * 100) / 100));
    const before = text.slice(0, isWeighed ? start - 1 : start), after = text.slice(isWeighed ? end + behind[0].length : end);
    const words = text.slice(start, end);
    if (weight === 1) return { text: before + words + after, start: before.length, end: before.length + words.length };
    return { text: `${before}(${words}:${weight})${after}`, start: before.length + 1, end: before.length + 1 + words.length };
  }

  document.addEventListener("keydown", (event) => {
    const box = event.target;
    if (!(event.ctrlKey || event.metaKey) || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
    if (!box.matches?.("[id$='prompt'] textarea") || event.isComposing) return;
    const weighed = weigh(box.value, box.selectionStart, box.selectionEnd, event.key === "ArrowUp" ? 1 : -1);
    if (!weighed) return;
    event.preventDefault();
    box.value = weighed.text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    box.setSelectionRange(weighed.start, weighed.end);
  });

  /* "Until stopped": a run that is done begins the next one. One that was stopped or failed is the last. */
  function again(root) {
    const more = several[root] && document.querySelector(`#${root} #${root}-next`);
    delete several[root];
    if (more) { setTimeout(() => more.click(), 100); return; }
    const box = document.querySelector(`#${root} .sw-forever input`);
    const run = box?.checked && document.querySelector(`#${root} button.sw-run`);
    if (!run) return;
    const next = setTimeout(() => window.stepwise.press(run), 300);
    window.stepwise.intend(run, () => clearTimeout(next));
  }

  /* Several pictures, one after the other: this one runs, and its end asks for the next; 0 where there is none. */
  const several = {};
  function runSeveral(root, place) {
    several[root] = place > 0;
    if (place > 0) document.querySelector(`#${root} button.sw-run`)?.click();
  }
  document.addEventListener("click", (event) => {
    const stop = event.target.closest?.("button.sw-stop");
    if (stop) for (const root of Object.keys(several)) if (stop.closest(`#${root}`)) delete several[root];
  }, true);

  /* A button in a section that has just been opened: pressed once it is on the page, which its section then shows. */
  function pressWhenShown(id, root, tries = 40) {
    const button = document.getElementById(id);
    if (button) { button.click(); document.getElementById(root)?.scrollIntoView({ behavior: "smooth", block: "nearest" }); }
    else if (tries) setTimeout(() => pressWhenShown(id, root, tries - 1), 50);
  }

  window.stepwise = { ...window.stepwise, again, runSeveral, pressWhenShown };
})();
