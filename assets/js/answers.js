/* What was chosen last wins: an answer changes nothing that was set after its request had been sent. */
(() => {
  "use strict";
  const turns = new Map();  // component id -> {property: turn in which it was last set}
  let turn = 0, byElement = null;

  function turnsOf(component) {
    if (!turns.has(component)) turns.set(component, {});
    return turns.get(component);
  }

  function listComponents() {
    byElement ??= new Map((window.gradio_config?.components ?? []).map(({ id, props }) => [props.elem_id || `component-${id}`, id]));
    return byElement;
  }

  /* A person's hand on a component: its value is theirs, and so is the line that describes it. */
  function hold(element) {
    const components = window.gradio_config ? listComponents() : new Map();
    for (let one = element; one; one = one.parentElement) {
      if (!components.has(one.id)) continue;
      const own = turnsOf(components.get(one.id));
      own.value = own.info = turn += 1;
      return;
    }
  }
  for (const kind of ["input", "change"]) document.addEventListener(kind, (event) => {
    if (event.target instanceof Element) hold(event.target);
  }, true);
  document.addEventListener("mousedown", (event) => {
    if (event.target.closest?.("[role=option], .token-remove, .remove-all")) hold(event.target);
  }, true);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches?.("input[role=listbox]") && (event.key === "Enter" || event.key === "Backspace")) hold(event.target);
  }, true);

  function findOutputs(input, init) {
    if (!/\/gradio_api\/run\b/.test(String(input?.url ?? input)) || typeof init?.body !== "string") return null;
    try {
      const { fn_index: index } = JSON.parse(init.body);
      return window.gradio_config.dependencies.find((one) => one.id === index)?.outputs ?? null;
    } catch { return null; }  // no request of the page's own events
  }

  /* The values without what was set since; the same object where that is nothing. */
  function keepNewest(value, own, asked) {
    const update = value?.__type__ === "update" ? value : { __type__: "update", value };
    const names = Object.keys(update).filter((name) => name !== "__type__");
    const late = names.filter((name) => own[name] > asked);
    for (const name of names) if (!late.includes(name)) own[name] = asked;
    return late.length ? Object.fromEntries(Object.entries(update).filter(([name]) => !late.includes(name))) : value;
  }

  const fetched = window.fetch;
  window.fetch = async function (input, init) {
    const outputs = findOutputs(input, init), asked = turn += 1;
    const response = await fetched.call(this, input, init);
    if (!outputs || !response.ok) return response;
    const { status, statusText } = response, text = await response.text();
    const answer = (body) => new Response(body, { status, statusText, headers: { "content-type": "application/json" } });
    const content = JSON.parse(text);
    if (!Array.isArray(content.data)) return answer(text);
    const data = content.data.map((value, place) => keepNewest(value, turnsOf(outputs[place]), asked));
    return answer(data.some((value, place) => value !== content.data[place]) ? JSON.stringify({ ...content, data }) : text);
  };

  window.stepwise = { ...window.stepwise, hold: (...ids) => ids.forEach((id) => hold(document.getElementById(id))) };
})();
