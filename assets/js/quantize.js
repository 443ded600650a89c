/* Which one is quantized? Two pictures in random order, a guess, and the score, kept by this browser. */
(() => {
  "use strict";
  const KEY = "stepwise-quantize-score";
  const read = () => { try { return JSON.parse(localStorage.getItem(KEY)) ?? [0, 0]; } catch { return [0, 0]; } };
  const write = (score) => { try { localStorage.setItem(KEY, JSON.stringify(score)); } catch { /* private window */ } };
  const tell = (game, words) => {
    const [right, asked] = read();
    game.querySelector(".qz-score").textContent = `${words} ${right} of ${asked} right so far.`;
  };

  function round(game) {
    const pairs = [...game.querySelectorAll("template[data-pair]")];
    const pair = pairs[Math.floor(Math.random() * pairs.length)], second = Math.random() < 0.5;
    const sources = [game.dataset.full, pair.dataset.picture];
    if (second) sources.reverse();
    const box = game.querySelector(".qz-round");
    box.replaceChildren(...sources.map((source, place) => {
      const button = document.createElement("button"), image = button.appendChild(document.createElement("img"));
      const words = button.appendChild(document.createElement("span"));
      button.type = "button";
      button.className = "qz-guess";
      image.src = source;
      image.alt = place ? "The right picture" : "The left picture";
      words.textContent = "This one is quantized";
      button.addEventListener("click", () => guessed(game, box, button, place === (second ? 0 : 1), pair.dataset.pair, second ? 0 : 1));
      return button;
    }));
    game.querySelector(".qz-start").hidden = true;
    game.querySelector(".qz-score").textContent = "";
  }

  function guessed(game, box, chosen, right, label, place) {
    const [good, asked] = read();
    write([good + Number(right), asked + 1]);
    [...box.children].forEach((button, index) => {
      button.disabled = true;
      button.toggleAttribute("data-quantized", index === place);
      button.querySelector("span").textContent = index === place ? label : "Full precision";
    });
    chosen.dataset.chosen = right ? "right" : "wrong";
    const again = game.querySelector(".qz-start");
    again.textContent = "Next pair";
    again.hidden = false;
    again.focus();
    tell(game, right ? "Right." : "No: it was the other one.");
  }

  document.addEventListener("click", (event) => {
    const start = event.target.closest?.(".qz-start");
    if (start) round(start.closest(".qz-game"));
  });
})();
