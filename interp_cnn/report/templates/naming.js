"use strict";
// One question after the other; the key is read when all are answered. Works from file://, asks nobody.
(() => {
  const at = (id) => document.getElementById(id);
  const { questions, networks } = JSON.parse(at("data").textContent);
  let answers = [], started = 0;

  const show = (name) => {
    for (const id of ["intro", "question", "result"]) at(id).hidden = id !== name;
    at("naming").dataset.state = name;
  };

  function ask() {
    const number = answers.length;
    if (number === questions.length) { finish(); return; }
    at("progress").textContent = `Question ${number + 1} of ${questions.length}`;
    at("shown").src = questions[number].shown;
    at("candidates").replaceChildren(...questions[number].candidates.map((source, place) => {
      const button = document.createElement("button");
      button.type = "button";
      const picture = document.createElement("img");
      picture.src = source;
      picture.alt = `Candidate ${place + 1}`;
      button.append(picture, String(place + 1));
      button.addEventListener("click", () => answer(place));
      return button;
    }));
    started = performance.now();
    show("question");
  }

  function answer(place) {
    answers.push({ chosen: place, seconds: Math.round((performance.now() - started) / 100) / 10 });
    ask();
  }

  function wilson(right, count) {
    const z = 1.96, share = right / count, middle = share + z * z / (2 * count);
    const half = z * Math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)), below = 1 + z * z / count;
    return [(middle - half) / below, (middle + half) / below];
  }

  const percent = (value) => `${Math.round(100 * value)} %`;

  function results() {
    const key = JSON.parse(atob(at("key").textContent));
    return answers.map((it, number) => ({ question: number + 1, ...key[number], ...it, right: it.chosen === key[number].answer }));
  }

  function finish() {
    const all = results();
    const said = [];
    at("rows").replaceChildren(...networks.map((network) => {
      const mine = all.filter((it) => it.network === network.name), right = mine.filter((it) => it.right).length;
      const [low, high] = wilson(right, mine.length);
      said.push(`${network.name}: ${right} of ${mine.length}`);
      const row = document.createElement("tr");
      for (const text of [network.name, `${right} of ${mine.length}, ${percent(right / mine.length)}`, `${percent(low)} to ${percent(high)}`, `${network.simulated} of ${network.images}`]) {
        const cell = document.createElement(row.children.length ? "td" : "th");
        cell.textContent = text;
        row.append(cell);
      }
      return row;
    }));
    at("verdict").textContent = `You found the filter's own patch: ${said.join("; ")}.`;
    at("list").replaceChildren(...all.map((it) => {
      const line = document.createElement("li");
      line.className = it.right ? "right" : "wrong";
      line.textContent = `${it.network}, filter ${it.filter}: ${it.right ? "right" : it.chosen === null ? "not answered" : "wrong"}`;
      return line;
    }));
    show("result");
  }

  at("begin").addEventListener("click", ask);
  at("again").addEventListener("click", () => { answers = []; ask(); });
  at("save").addEventListener("click", () => {
    const link = document.createElement("a");
    const record = { page: document.title, day: new Date().toISOString().slice(0, 10), answers: results() };
    link.href = URL.createObjectURL(new Blob([JSON.stringify(record, null, 1)], { type: "application/json" }));
    link.download = "naming-answers.json";
    link.click();
  });
  document.addEventListener("keydown", (event) => {
    if (at("naming").dataset.state !== "question" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (["1", "2", "3"].includes(event.key)) answer(Number(event.key) - 1);
    else if (event.key === "0") answer(null);
  });
})();
