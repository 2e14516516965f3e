"use strict";
// Theme first, before the page is painted; everything else once it is there. Works from file://, asks nobody.
(() => {
  const root = document.documentElement;
  const remembered = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;

  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;

  function themeButton() {
    const button = document.querySelector("[data-theme-toggle]");
    const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.hidden = false;
    name();
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* private mode: for this page only */ }
      name();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  }

  function grid() {
    const list = document.querySelector("[data-grid]");
    const form = document.querySelector("[data-tools]");
    if (!list || !form) return;
    const cards = [...list.children].map((item) => ({
      item,
      number: item.dataset.n,
      measures: item.dataset.m.split(" ").map((text) => (text === "" || text === "-" ? NaN : Number(text))),
      category: item.dataset.c,
      part: item.dataset.p,
      silent: "s" in item.dataset,
    }));
    const fields = form.elements;
    const shown = form.querySelector("[data-shown]");
    const none = document.querySelector("[data-none]");

    function key(card) {
      const index = Number(fields.sort.value);
      return index < 0 ? Number(card.number) : card.measures[index];
    }

    function apply() {
      const order = Number(fields.order.value);
      const low = fields.low.value === "" ? -Infinity : Number(fields.low.value);
      const high = fields.high.value === "" ? Infinity : Number(fields.high.value);
      const bounded = low > -Infinity || high < Infinity;
      const unit = fields.unit.value.trim();
      const category = fields.category ? fields.category.value : "";
      const part = fields.part ? fields.part.value : "";
      // Filters without a value come last in either order.
      const sorted = cards.slice().sort((a, b) => {
        const x = key(a), y = key(b);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return (x - y) * order || Number(a.number) - Number(b.number);
      });
      let count = 0;
      for (const card of sorted) {
        const value = key(card);
        const fits = (!bounded || (value >= low && value <= high))
          && (unit === "" || card.number === unit)
          && (category === "" || card.category === category)
          && (part === "" || card.part === part)
          && !(fields.silent.checked && card.silent);
        card.item.hidden = !fits;
        count += fits;
      }
      list.append(...sorted.map((card) => card.item));
      const what = form.dataset.what || "filters";
      shown.textContent = count === cards.length ? `${count} ${what}` : `${count} of ${cards.length} ${what}`;
      none.hidden = count > 0;
      const state = new URLSearchParams();
      for (const field of fields) {
        if (!field.name) continue;
        const value = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value;
        const first = field.options && ([...field.options].find((it) => it.defaultSelected) || field.options[0]);
        const initial = first ? first.value : "";
        if (value !== initial) state.set(field.name, value);
      }
      const text = state.toString();
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    }

    function restore() {
      const state = new URLSearchParams(location.hash.slice(1));
      for (const [name, value] of state) {
        const field = fields[name];
        if (!field) continue;
        if (field.type === "checkbox") field.checked = value === "1"; else field.value = value;
      }
    }

    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      if (event.target.name === "sort") {
        const better = event.target.selectedOptions[0].dataset.better;
        fields.order.value = better === "higher" ? "-1" : "1";
        fields.low.value = fields.high.value = "";
      }
      apply();
    });
    form.addEventListener("reset", () => setTimeout(apply));
    none.querySelector("[data-reset]").addEventListener("click", () => form.reset());
    addEventListener("hashchange", () => { restore(); apply(); });
    restore();
    apply();
  }

  function copyButtons() {
    for (const button of document.querySelectorAll("[data-copy]")) {
      if (!navigator.clipboard) continue;
      button.hidden = false;
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(button.previousElementSibling.textContent);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(button.previousElementSibling);
        }
      });
    }
  }

  // Maps of several networks: one scale for all of them, or each its own.
  function scaleButtons() {
    const found = document.querySelectorAll("[data-scales]");
    for (const place of document.querySelector(".on-own") ? found : []) {
      const button = place.firstElementChild;
      place.hidden = false;
      button.addEventListener("click", () => {
        const own = root.dataset.scale !== "own";
        if (own) root.dataset.scale = "own"; else delete root.dataset.scale;
        button.setAttribute("aria-pressed", String(own));
        for (const scale of document.querySelectorAll(".legend .scale")) scale.hidden = own;
      });
    }
  }

  // A link to something inside closed details opens them.
  function openTarget() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const details = target && target.closest("details");
    if (details && !details.open) { details.open = true; target.scrollIntoView({ block: "center" }); }
  }

  // Left and right arrows walk through filters and images, unless someone is typing.
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, .scroll")) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = rel && document.querySelector(`a[rel=${rel}]`);
    if (link) link.click();
  });
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
    for (const image of document.querySelectorAll("img[loading=lazy]")) image.loading = "eager";
  });
  addEventListener("hashchange", openTarget);
  document.addEventListener("DOMContentLoaded", () => { themeButton(); grid(); copyButtons(); scaleButtons(); openTarget(); });
})();
