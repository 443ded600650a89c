/* The settings of a method: described once for the page, drawn here for the method that is chosen. */
(() => {
  "use strict";
  const drawn = new Map();  // id of a panel on the page -> {draw, isHere}
  const shown = new Map();  // id of a panel -> key of the method that its list shows, once that has changed
  const altered = new Map();  // id of a panel -> what is otherwise than described, once that has changed
  const find = (id) => window.gradio_config.components.find(({ props }) => props.elem_id === id)?.props.value;
  let described = null;
  const describe = () => (described ??= find("sw-method-settings"));

  const copy = (value) => (value && typeof value === "object" ? JSON.parse(JSON.stringify(value)) : null);
  const make = (name, properties = {}, children = []) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) key in element ? (element[key] = value) : element.setAttribute(key, value);
    element.append(...children.filter(Boolean));
    return element;
  };
  const round = (number, step) => Number(number.toFixed(Math.min(12, Math.max(0, Math.ceil(-Math.log10(step)) + 2))));
  const clamp = (number, { low, high }) => Math.min(Math.max(number, low ?? -Infinity), high ?? Infinity);

  /* Each control gives its parts, whose first is the one that the label names, and takes a value. */
  const CONTROLS = {
    number(field, id, set) {
      const limits = { ...(field.low === null ? {} : { min: field.from ?? field.low }), ...(field.high === null ? {} : { max: field.high }) };
      const box = make("input", { type: "number", id, className: "sw-field-box", ...limits, step: field.slides || field.whole ? field.step : "any" });
      const range = field.slides ? make("input", { type: "range", id: `${id}-range`, min: field.from, max: field.high, step: field.step, "aria-label": field.label }) : null;
      const paint = (number) => {
        if (!range) return;
        range.value = number;
        range.style.setProperty("--range_progress", `${(100 * (number - field.from)) / (field.high - field.from)}%`);
      };
      const read = () => (box.value === "" ? field.value : Number(box.value));
      box.addEventListener("input", () => { paint(read()); set(read()); });
      box.addEventListener("change", () => {  // left, or Enter: within its limits, and never empty
        const number = clamp(field.whole ? Math.round(read()) : read(), field);
        box.value = number;
        paint(number);
        set(number);
      });
      range?.addEventListener("input", () => {
        const number = clamp(round(Number(range.value), field.step), field);
        box.value = number;
        paint(number);
        set(number);
      });
      return { box, range, show: (value) => { if (read() !== value || box.value === "") box.value = value; paint(value); } };
    },
    check(field, id, set) {
      const box = make("input", { type: "checkbox", id });
      box.addEventListener("change", () => set(box.checked));
      return { box, show: (value) => { box.checked = value === true; } };
    },
    choice(field, id, set, trigger) {
      const box = make("select", { id, className: "sw-field-box" });
      let choices = [], labels = "";
      box.addEventListener("change", () => { set(choices[box.selectedIndex][1]); trigger("select"); });
      const show = (value, offered) => {
        const isHere = offered.some(([, one]) => one === value);
        choices = isHere ? offered : [...offered, [`${value} (not here)`, value]];  // the run says so
        const texts = choices.map(([label]) => label);
        if (labels !== (labels = JSON.stringify(texts))) box.replaceChildren(...texts.map((text) => make("option", { textContent: text })));
        box.selectedIndex = choices.findIndex(([, one]) => one === value);
      };
      return { box, show };
    },
    text(field, id, set) {
      const box = make("textarea", { id, className: "sw-field-box", rows: field.lines, spellcheck: false });
      box.addEventListener("input", () => set(box.value));
      return { box, show: (value) => { if (box.value !== value) box.value = value; } };
    },
  };

  function drawField(field, id, set, trigger) {
    const { box, range, show } = CONTROLS[field.type](field, `${id}-input`, set, trigger);
    const help = field.help ? make("p", { id: `${id}-help`, className: "sw-field-help", textContent: field.help }) : null;
    if (help) for (const one of [box, range]) one?.setAttribute("aria-describedby", help.id);
    const label = make("label", { htmlFor: box.id, textContent: field.label });
    const head = (...parts) => make("div", { className: "sw-field-head" }, parts);
    const ends = (end) => make("span", { textContent: end });
    let parts = [label, help, box];
    if (field.type === "check") parts = [head(box, label), help];
    if (range) parts = [head(make("div", {}, [label, help]), box), make("div", { className: "sw-field-range" }, [ends(field.low), range, ends(field.high)])];
    return { element: make("div", { id, className: `sw-field sw-field-${field.type}` }, parts), show };
  }

  /* Called where a panel comes onto the page, by the component itself. */
  function drawSettings(element, props, trigger, watch) {
    const { id } = element.closest(".block"), place = element.querySelector(".sw-fields");
    const { kind, shown: first } = describe().panels[id], { fields } = describe().kinds[kind];
    const root = id.replace(/-settings$/, "");
    let names = "", controls = [];

    const idOf = (key, name) => [root, key, name].filter(Boolean).join("-").replace(/[_ ]/g, "-").toLowerCase();

    function set(key, field, value) {
      if (Number.isNaN(value)) return;
      const values = copy(props.value) ?? {}, { [field.name]: _, ...others } = values[key] ?? {};
      props.value = { ...values, [key]: value === field.value ? others : { ...others, [field.name]: value } };
    }

    function listFields(key) {
      const other = (altered.get(id) ?? find(`${id}-altered`))?.[key] ?? {};
      const list = (fields[key] ?? []).filter(({ name }) => !other[name]?.hidden);
      return list.map((field) => (other[field.name]?.choices ? { ...field, type: "choice", choices: other[field.name].choices } : field));
    }

    function draw() {
      const values = copy(props.value), key = shown.has(id) ? shown.get(id) : first, list = values && key !== null ? listFields(key) : [];
      const now = [key, ...list.map(({ name }) => name)].join(" ");
      if (now !== names) {
        names = now;
        controls = list.map((field) => drawField(field, idOf(key, field.name), (value) => set(key, field, value), trigger));
        place.replaceChildren(...controls.map(({ element: one }) => one));
      }
      list.forEach(({ name, value, choices }, at) => controls[at].show(values[key]?.[name] ?? value, choices));
    }

    drawn.set(id, { draw, isHere: () => element.isConnected });
    watch("value", draw);
    draw();
  }

  function redraw(id) {
    const panel = drawn.get(id);
    if (panel?.isHere()) panel.draw();
  }

  /* A list of methods shows another one: its settings are drawn, and its sentence stands beside the list. */
  function showMethod(id, key) {
    shown.set(id, key);
    redraw(id);
    const { kind } = describe().panels[id];
    return { __type__: "update", info: describe().kinds[kind].helps[key] || " " };
  }

  /* Files came or went, or a setting is of no use to the chosen model. */
  function alterSettings(id, other) {
    altered.set(id, other);
    redraw(id);
  }

  window.stepwise = { ...window.stepwise, drawSettings, showMethod, alterSettings };
})();
