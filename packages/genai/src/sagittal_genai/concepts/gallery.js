(() => {
  "use strict";
  const main = document.querySelector("main");
  const cards = [...main.querySelectorAll("article")];
  const query = document.getElementById("query");
  const order = document.getElementById("order");
  const named = document.getElementById("named");
  const count = document.getElementById("count");
  const none = document.querySelector(".none");

  // The rule of sagittal_genai.concepts.words, and words that begin like one that is being typed.
  const words = (text) => (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) || [])
    .map((w) => (w.length > 3 && w.endsWith("s") && !w.endsWith("ss") ? w.slice(0, -1) : w));
  const bags = cards.map((card) => {
    const bag = new Map();
    for (const w of words(card.dataset.words)) bag.set(w, (bag.get(w) || 0) + 1);
    return bag;
  });
  const frequency = new Map();
  for (const bag of bags) for (const w of bag.keys()) frequency.set(w, (frequency.get(w) || 0) + 1);
  const rare = (w) => Math.log(1 + cards.length / frequency.get(w));
  const rows = bags.map((bag) => {
    const row = new Map([...bag].map(([w, n]) => [w, (1 + Math.log(n)) * rare(w)]));
    const norm = Math.hypot(...row.values()) || 1;
    for (const [w, v] of row) row.set(w, v / norm);
    return row;
  });

  const scores = (text) => {
    const wanted = new Map();
    for (const w of words(text)) {
      if (frequency.has(w)) wanted.set(w, rare(w));
      else for (const known of frequency.keys()) {
        if (known.startsWith(w)) wanted.set(known, Math.max(wanted.get(known) || 0, 0.5 * rare(known)));
      }
    }
    return rows.map((row) => [...wanted].reduce((sum, [w, v]) => sum + v * (row.get(w) || 0), 0));
  };

  const value = (card) => Number(card.dataset[order.value] || "NaN");
  const show = () => {
    const text = query.value.trim();
    const found = text ? scores(text) : null;
    const ranked = cards.map((card, i) => ({ card, i, score: found ? found[i] : value(card) }));
    ranked.sort((a, b) => (Number.isNaN(a.score) - Number.isNaN(b.score)) || b.score - a.score || a.i - b.i);
    let shown = 0;
    for (const { card, score } of ranked) {
      card.hidden = (found && !(score > 0)) || (named.checked && card.classList.contains("unnamed"));
      shown += card.hidden ? 0 : 1;
      main.append(card);
    }
    none.hidden = shown > 0;
    main.append(none);
    count.textContent = `${shown} of ${cards.length} features`;
  };
  query.addEventListener("input", show);
  for (const control of [order, named]) control.addEventListener("change", show);
  document.querySelector("nav form").addEventListener("submit", (event) => event.preventDefault());
  show();
})();
