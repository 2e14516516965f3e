"use strict";
// The live page. One question is on its way at a time; of those that come meanwhile the newest is asked next.
(() => {
  const at = (id) => document.getElementById(id);
  const [frame, image, paint, lit] = ["frame", "image", "paint", "lit"].map(at);
  const brush = paint.getContext("2d", { willReadFrequently: true });
  const COLOURS = [["black", "#000000"], ["grey", "#7f7f7f"], ["white", "#ffffff"], ["red", "#d03a2b"], ["blue", "#2b62d0"]];
  const state = { networks: [], image: null, network: null, target: null, off: {}, colour: "#000000", undo: [], sheet: null, most: null, rows: 8 };

  // words and numbers

  const text = (node, words) => { node.textContent = words; return node; };
  const make = (tag, attributes = {}, ...inside) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...inside.filter((it) => it !== null));
    return node;
  };
  const signed = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(2)}`;
  const percent = (value) => `${Math.round(100 * value)} %`;
  const words = (name) => (/^\d+$/.test(name) ? `class ${name}` : name);

  function trouble(sentence) {
    at("trouble").hidden = !sentence;
    at("trouble").textContent = sentence || "";
  }

  async function ask(address, options) {
    const reply = await fetch(address, options);
    const values = await reply.json();
    if (values.error) throw new Error(values.error);
    return values;
  }

  // questions

  function hasPaint() {
    const pixels = brush.getImageData(0, 0, paint.width, paint.height).data;
    for (let at = 3; at < pixels.length; at += 4) if (pixels[at] >= 128) return true;
    return false;
  }

  const question = () => ({
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      image: state.image,
      network: state.network,
      target: state.target,
      off: state.off,
      rows: state.rows,
      paint: hasPaint() ? paint.toDataURL("image/png").split(",")[1] : null,
    }),
  });

  let waiting = false, again = false, number = 0;

  async function renew() {
    if (!state.image) return;
    if (waiting) { again = true; return; }
    waiting = true;
    do {
      again = false;
      const started = performance.now();
      try {
        const answer = await ask("answer", question());
        trouble("");
        show(answer);
        document.body.dataset.answered = ++number;
        at("seconds").textContent = `Answered in ${Math.round(performance.now() - started)} ms.`;
      } catch (error) { trouble(error.message); }
    } while (again);
    waiting = false;
    hide();
  }

  let mapWanted = 0;

  async function hide() {
    const mine = ++mapWanted;
    at("hiding").classList.add("waiting");
    try {
      const map = await ask("hiding", question());
      if (map.outdated || mine !== mapWanted) return;
      at("hiding").src = map.picture;
      at("hiding").classList.remove("waiting");
      state.most = map.most;
      at("most").disabled = false;
      text(at("hiding-caption"), `Hiding a square there lowers the logit of ${words(map.target)} (green) or raises it (red), by ${map.largest.toFixed(2)} at most. ${map.windows} squares, ${map.seconds.toFixed(1)} s.`);
      document.body.dataset.hidden = number;
    } catch (error) {
      text(at("hiding-caption"), error.message);
    }
  }

  // answers

  function show(answer) {
    state.sheet = answer.sheet;
    const said = answer.networks.map((it) => {
      const changed = it.says !== it.said ? `, no longer ${words(it.said)}` : "";
      return `${it.name} says ${words(it.says)} (${percent(it.classes[0].probability)})${changed}`;
    });
    text(at("verdict"), said.join("; "));
    at("networks").replaceChildren(...answer.networks.map((it, place) => card(it, place)));
    sheet(answer.sheet);
  }

  function card(network, place) {
    const chosen = network.name === state.network;
    return make("section", { class: `network${chosen ? " chosen" : ""}`, style: `--k: var(--k${place % 4})` },
      make("h2", {}, network.name, make("button", { type: "button", onclick: () => choose(network.name) }, "why?")),
      ...network.classes.map((it) => make("button", {
        type: "button", class: "class", title: `Why ${words(it.name)}?`,
        "aria-pressed": String(chosen && it.number === state.sheet.target),
        onclick: () => { state.network = network.name; state.target = it.number; renew(); },
      },
        make("span", { class: "name" }, words(it.name)),
        make("span", {}, percent(it.probability)),
        make("span", { class: `change ${it.change > 0.005 ? "up" : it.change < -0.005 ? "down" : ""}`, title: "logit, and how far it has moved" },
          Math.abs(it.change) > 0.005 ? signed(it.change) : it.logit.toFixed(2)))));
  }

  function choose(name) {
    state.network = name;
    state.target = null;
    renew();
  }

  function sheet(it) {
    text(at("why"), `Why ${words(it.class)}? ${it.network}`);
    at("all-on").hidden = !(it.off || []).length;
    at("more").hidden = !(it.rows || []).length || it.rows.length < state.rows - 1;
    at("strongest").hidden = !(it.rows || []).some((row) => row.share > 0);
    if (it.refusal) {
      text(at("sums"), `No method shares this logit out among filters: ${it.refusal}`);
      at("rows").replaceChildren();
      text(at("note"), "");
      return;
    }
    text(at("sums"), `Its logit, ${it.score.toFixed(2)}, as a sum over the ${it.filters} filters of ${it.layer}. Take a tick away to switch a filter off.`);
    const lesser = [
      [`${it.others_for[0]} others for it`, it.others_for[1], it.others_for[0]],
      [`${it.others_against[0]} others against it`, it.others_against[1], it.others_against[0]],
      ["rest (no filter)", it.rest, 1],
    ].filter(([, , count]) => count);
    const parts = [...it.rows.map((row) => row.share), ...lesser.map(([, share]) => share)];
    let sum = 0, low = 0, high = 0;
    const starts = parts.map((share) => { const from = sum; sum += share; low = Math.min(low, sum); high = Math.max(high, sum); return from; });
    for (const row of it.off) { low = Math.min(low, row.share); high = Math.max(high, row.share); }
    const span = high - low || 1;
    const bar = (from, share, kind = "") => {
      const left = 100 * (Math.min(from, from + share) - low) / span, width = Math.max(100 * Math.abs(share) / span, 0.4);
      return make("span", { class: `sum ${kind}` },
        make("span", { class: "axis", style: `left:${(100 * -low / span).toFixed(2)}%` }),
        make("span", { class: `stretch ${share < 0 ? "against" : "for"}`, style: `left:${left.toFixed(2)}%;width:${width.toFixed(2)}%` }));
    };
    const cell = (inside, kind = "") => make("td", { class: kind }, inside);
    const filterRow = (row, from) => make("tr", { class: row.off ? "off" : "" },
      cell(make("label", { class: "switch" },
        make("input", { type: "checkbox", checked: !row.off, "data-filter": row.filter, onchange: () => turn(row.filter, !row.off) }),
        make("b", {}, String(row.filter)))),
      cell(make("button", { type: "button", class: "fires", title: "Show it large", onmouseenter: () => light(row), onmouseleave: () => light(null), onfocus: () => light(row), onblur: () => light(null) },
        make("img", { src: row.picture, alt: `Where filter ${row.filter} fires here`, class: "pixels" }))),
      cell(make("small", {}, row.label || "", row.off ? " (off; would bring)" : "")),
      cell(bar(row.off ? 0 : from, row.share)),
      cell(signed(row.share), "logit"));
    const lesserRow = ([name, share], place) => make("tr", { class: "lesser" },
      make("td", { colspan: 3 }, name), cell(bar(starts[it.rows.length + place], share)), cell(signed(share), "logit"));
    at("rows").replaceChildren(
      ...it.rows.map((row, place) => filterRow(row, starts[place])),
      ...lesser.map(lesserRow),
      make("tr", { class: "total" }, make("td", { colspan: 3 }, make("b", {}, "logit")), cell(bar(0, it.score, "whole")), cell(make("b", {}, it.score.toFixed(2)), "logit")),
      ...it.off.map((row) => filterRow(row, 0)));
    text(at("note"), it.note);
  }

  function turn(filter, off) {
    const others = (state.off[state.network] || []).filter((it) => it !== filter);
    state.off[state.network] = off ? [...others, filter] : others;
    renew();
  }

  const looks = new Map();

  async function light(row) {
    lit.hidden = row === null;
    state.lit = row;
    if (row === null) { text(at("caption"), "Paint here."); return; }
    lit.src = row.picture;
    text(at("caption"), `Where filter ${row.filter} fires here.`);
    const key = `${state.network}/${row.filter}`;
    if (!looks.has(key)) looks.set(key, (await ask(`looks?network=${encodeURIComponent(state.network)}&filter=${row.filter}`)).picture);
    if (state.lit === row && looks.get(key))
      at("caption").replaceChildren(`Where filter ${row.filter} fires here, and the images on which it fires most: `, make("img", { src: looks.get(key), alt: "Images on which it fires most", style: "height:44px;vertical-align:middle" }));
  }

  // paint

  function remember() {
    state.undo.push(brush.getImageData(0, 0, paint.width, paint.height));
    if (state.undo.length > 30) state.undo.shift();
    buttons();
  }

  function buttons() {
    at("undo").disabled = !state.undo.length;
    at("clear").disabled = !hasPaint();
  }

  function dot(x, y) {
    const radius = at("brush").value / 2;
    for (let row = Math.floor(y - radius); row <= y + radius; row++)
      for (let column = Math.floor(x - radius); column <= x + radius; column++)
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= Math.max(radius, 0.71)) {
          if (state.colour === null) brush.clearRect(column, row, 1, 1);
          else brush.fillRect(column, row, 1, 1);
        }
  }

  let last = null;
  const place = (event) => {
    const box = paint.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * paint.width, (event.clientY - box.top) / box.height * paint.height];
  };
  paint.addEventListener("pointerdown", (event) => {
    remember();
    paint.setPointerCapture(event.pointerId);
    brush.fillStyle = state.colour || "#000000";
    last = place(event);
    dot(...last);
  });
  paint.addEventListener("pointermove", (event) => {
    if (!last) return;
    const [x, y] = place(event);
    const steps = Math.max(1, Math.ceil(Math.hypot(x - last[0], y - last[1])));
    for (let step = 1; step <= steps; step++) dot(last[0] + (x - last[0]) * step / steps, last[1] + (y - last[1]) * step / steps);
    last = [x, y];
    renew();
  });
  for (const end of ["pointerup", "pointercancel"]) paint.addEventListener(end, () => { if (last) { last = null; buttons(); renew(); } });

  at("undo").addEventListener("click", () => { brush.putImageData(state.undo.pop(), 0, 0); buttons(); renew(); });
  at("clear").addEventListener("click", () => { remember(); brush.clearRect(0, 0, paint.width, paint.height); buttons(); renew(); });
  at("most").addEventListener("click", () => {
    remember();
    brush.fillStyle = state.colour || "#7f7f7f";
    brush.fillRect(...state.most);
    buttons();
    renew();
  });
  at("more").addEventListener("click", () => { state.rows += 12; renew(); });
  at("all-on").addEventListener("click", () => { state.off[state.network] = []; renew(); });
  at("strongest").addEventListener("click", () => turn(state.sheet.rows.reduce((best, row) => (row.share > best.share ? row : best)).filter, true));

  function swatches() {
    const button = (name, colour) => make("button", {
      type: "button", title: name, "aria-label": name, "aria-pressed": String(state.colour === colour), style: colour ? `background:${colour}` : "",
      onclick: () => { state.colour = colour; swatches(); },
    }, colour ? "" : "\u232b");
    at("swatches").replaceChildren(...COLOURS.map(([name, colour]) => button(name, colour)), button("take paint away", null));
  }

  // images

  async function take(name) {
    const { picture } = await ask(`image?name=${encodeURIComponent(name)}`);
    await new Promise((ready, failed) => { image.onload = ready; image.onerror = failed; image.src = picture; });
    state.image = name;
    state.target = null;
    state.undo = [];
    paint.width = image.naturalWidth;
    paint.height = image.naturalHeight;
    frame.style.aspectRatio = at("hiding").parentNode.style.aspectRatio = `${paint.width} / ${paint.height}`;
    for (const node of [image, paint]) node.classList.toggle("pixels", paint.width < 150);
    at("brush").max = Math.max(4, Math.round(Math.min(paint.width, paint.height) / 3));
    at("brush").value = Math.max(2, Math.round(Math.min(paint.width, paint.height) / 8));
    for (const button of at("shelf").children) button.setAttribute("aria-pressed", String(button.dataset.name === name));
    buttons();
    renew();
  }

  async function onShelf(name, label) {
    const button = make("button", { type: "button", "data-name": name, title: label ? `${name} (${label})` : name, "aria-label": name, "aria-pressed": "false", onclick: () => take(name).catch((error) => trouble(error.message)) });
    at("shelf").append(button);
    const { picture } = await ask(`image?name=${encodeURIComponent(name)}`);
    button.append(make("img", { src: picture, alt: "", class: "pixels" }));
  }

  async function add(file) {
    if (!file) return;
    try {
      const { name } = await ask(`add?name=${encodeURIComponent(file.name)}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
      await onShelf(name, "");
      await take(name);
    } catch (error) { trouble(error.message); }
  }

  at("file").addEventListener("change", (event) => add(event.target.files[0]));
  for (const [name, on] of [["dragover", true], ["dragleave", false], ["drop", false]])
    document.addEventListener(name, (event) => { event.preventDefault(); document.body.classList.toggle("dropping", on); });
  document.addEventListener("drop", (event) => add(event.dataTransfer.files[0]));

  async function start() {
    swatches();
    const { networks, images } = await ask("welcome");
    state.networks = networks;
    state.network = networks[0].name;
    await take(images[0].name);
    for (const it of images) await onShelf(it.name, it.label);
    for (const button of at("shelf").children) button.setAttribute("aria-pressed", String(button.dataset.name === state.image));
    document.body.dataset.ready = "yes";
  }
  start().catch((error) => trouble(error.message));
})();
