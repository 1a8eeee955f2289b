"use strict";
(() => {
  const filters = document.getElementById("filters");
  const [text, chapter, verdict, quirk, count] = ["text", "chapter", "verdict", "quirk", "count"].map((id) => document.getElementById(id));
  const scenarios = [...document.querySelectorAll(".scenario")].map((element) => ({
    element,
    chapter: element.parentElement.dataset.chapter,
    verdicts: element.dataset.verdicts.split(" "),
    quirks: element.dataset.quirks.split(" "),
    text: element.firstElementChild.textContent.toLowerCase(),
  }));

  const show = () => {
    const words = text.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const each of scenarios) {
      const fits = (!chapter.value || each.chapter === chapter.value)
        && (!verdict.value || each.verdicts.includes(verdict.value))
        && (!quirk.value || each.quirks.includes(quirk.value))
        && words.every((word) => each.text.includes(word));
      each.element.hidden = !fits;
      shown += fits;
    }
    for (const section of document.querySelectorAll(".chapter")) {
      section.hidden = !section.querySelector(".scenario:not([hidden])");
    }
    count.textContent = shown === scenarios.length ? `${shown} scenarios` : `${shown} of ${scenarios.length} scenarios`;
  };

  // "#quirk=Q01" shows the scenarios of a quirk, "#ID" opens a scenario.
  const follow = () => {
    const wanted = decodeURIComponent(location.hash.slice(1));
    if (wanted.startsWith("quirk=")) {
      filters.reset();
      quirk.value = wanted.slice("quirk=".length);
      show();
      filters.parentElement.scrollIntoView();
      return;
    }
    const scenario = document.getElementById(wanted);
    if (scenario && scenario.matches(".scenario")) {
      scenario.open = true;
      scenario.scrollIntoView();
    }
  };

  filters.addEventListener("input", show);
  filters.addEventListener("reset", () => setTimeout(show));
  filters.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", follow);
  filters.hidden = false;
  show();
  follow();
})();
