"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };

  // light and dark
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  $("theme").addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; });

  for (const button of document.querySelectorAll(".toggle")) {
    button.addEventListener("click", () => {
      const table = button.parentElement.previousElementSibling.querySelector("table");
      const all = table.classList.toggle("all");
      button.setAttribute("aria-expanded", all);
      button.textContent = button.textContent.replace(all ? "Show" : "Hide", all ? "Hide" : "Show");
    });
  }
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });

  const source = $("data");
  if (!source) return;
  const { models, metrics, items, pictures } = JSON.parse(source.textContent);
  const number = (v) => {
    if (v === "inf" || v === "-inf") return v === "inf" ? "∞" : "−∞";
    const x = Number(v);
    if (v === undefined || v === null || Number.isNaN(x)) return "–";
    return Math.abs(x) >= 1000 || Number.isInteger(x) ? String(Math.round(x * 100) / 100) : x.toPrecision(4);
  };
  const value = (v) => (v === "inf" ? Infinity : v === "-inf" ? -Infinity : Number(v));
  const show = (img, which) => { img.src = pictures[which]; };

  // ---- the cards, made as they come into view
  const STEP = 12;
  let order = [];
  let shown = 0;
  const sort = $("sort");
  const of = $("of");
  sort.append(make("option", { value: "", textContent: "id" }));
  for (const m of metrics) {
    const [worst, best] = m.better === false ? ["highest", "lowest"] : ["lowest", "highest"];
    const say = m.better === null ? ["lowest", "highest"] : [`worst (${worst})`, `best (${best})`];
    sort.append(make("option", { value: `${m.name}|${m.better === false ? -1 : 1}`, textContent: `${m.name}, ${say[0]}` }));
    sort.append(make("option", { value: `${m.name}|${m.better === false ? 1 : -1}`, textContent: `${m.name}, ${say[1]}` }));
  }
  models.forEach((m, i) => of.append(make("option", { value: i, textContent: m.name + (m.px ? ` · ${m.px} px` : "") })));

  const card = (item, place) => {
    const strip = make("div", { className: "strip" });
    const add = (which, name, model) => {
      const img = make("img", { loading: "lazy", decoding: "async", alt: `${name}, ${item.id}` });
      show(img, which);
      const open = make("button", { type: "button", title: "Open in full" }, img);
      open.addEventListener("click", () => view(place, model));
      const text = make("figcaption", {}, name);
      if (model !== null) {
        for (const m of metrics.slice(0, 4)) {
          const v = item.values[m.name]?.[model];
          if (v !== undefined) text.append(make("br"), `${m.name} `, make("b", { textContent: number(v) }));
        }
      }
      strip.append(make("figure", {}, open, text));
    };
    if (item.original !== null) add(item.original, "original", null);
    for (const i of Object.keys(item.pictures)) add(item.pictures[i], models[i].name, i);
    return make("article", { className: "card" }, make("h3", { textContent: item.id + (item.px ? ` · ${item.px} px` : "") }), ...(item.said ? [make("p", { className: "note", textContent: item.said })] : []), strip);
  };
  const more = () => {
    const cards = $("cards");
    for (const place of order.slice(shown, shown + STEP)) cards.append(card(items[place], place));
    shown = Math.min(shown + STEP, order.length);
    $("count").textContent = `${shown} of ${order.length}`;
    $("more").hidden = shown >= order.length;
  };
  const arrange = () => {
    const [name, way] = sort.value.split("|");
    const wanted = $("find").value.toLowerCase();
    order = items.map((_, i) => i).filter((i) => items[i].id.toLowerCase().includes(wanted));
    if (name) {
      const at = (i) => items[i].values[name]?.[of.value];
      order = order.filter((i) => at(i) !== undefined && !Number.isNaN(value(at(i))));
      order.sort((a, b) => { const [x, y] = [value(at(a)), value(at(b))]; return x === y ? a - b : (x < y ? -1 : 1) * Number(way); });
    }
    shown = 0;
    $("cards").replaceChildren();
    more();
  };
  for (const control of [sort, of]) control.addEventListener("change", arrange);
  $("find").addEventListener("input", arrange);
  $("more").addEventListener("click", more);

  // ---- one picture in full
  const viewer = $("viewer");
  const canvas = $("canvas");
  let place = 0;
  let zoom = 1;
  let [dx, dy] = [0, 0];
  const MODES = ["slide", "difference", "side"];
  const draw = () => {
    const bare = items[place].original === null; // a generator's: there is nothing to hold it against
    const mode = bare ? "slide" : $("vmode").value;
    for (const m of MODES) canvas.classList.toggle(m, m === mode);
    document.querySelector("label.slide").hidden = bare || mode !== "slide";
    $("vmode").parentElement.hidden = $("vline").hidden = bare;
    const cut = bare ? 0 : Number($("vslide").value);
    $("vb").style.clipPath = mode === "slide" ? `inset(0 0 0 ${cut}%)` : "none";
    $("vline").style.left = `${cut}%`;
    canvas.style.transform = `translate(${dx}px, ${dy}px) scale(${zoom})`;
    $("vzoom").textContent = `${Math.round(zoom * 10) / 10}×`;
  };
  const fill = () => {
    const item = items[place];
    const i = $("vmodel").value;
    $("vtitle").textContent = item.id;
    show($("va"), item.original ?? item.pictures[i]);
    show($("vb"), item.pictures[i]);
    $("va").alt = item.original === null ? "" : "original";
    $("vb").alt = `${item.original === null ? "image" : "reconstruction"} by ${models[i].name}`;
    const rows = [make("tr", {}, make("th", { className: "l", textContent: "model" }), ...metrics.map((m) => make("th", { textContent: m.name })))];
    for (const k of Object.keys(item.pictures)) {
      rows.push(make("tr", {}, make("th", { className: "l", textContent: models[k].name }), ...metrics.map((m) => make("td", { textContent: number(item.values[m.name]?.[k]) }))));
    }
    $("vvalues").replaceChildren(...rows);
    draw();
  };
  const choices = (keep) => {
    const known = Object.keys(items[place].pictures);
    $("vmodel").replaceChildren(...known.map((i) => make("option", { value: i, textContent: models[i].name })));
    $("vmodel").value = known.includes(String(keep)) ? keep : known[0];
    fill();
  };
  const view = (which, model) => {
    place = which;
    [zoom, dx, dy] = [1, 0, 0];
    choices(model);
    viewer.showModal();
    $("stage").focus();
  };
  const go = (by) => {
    const at = order.indexOf(place) + by;
    if (at >= 0 && at < order.length) { place = order[at]; choices($("vmodel").value); }
  };
  const turn = (by) => {
    const select = $("vmodel");
    select.selectedIndex = (select.selectedIndex + by + select.length) % select.length;
    fill();
  };
  const scale = (by) => { zoom = Math.min(32, Math.max(1, zoom * by)); if (zoom === 1) [dx, dy] = [0, 0]; draw(); };
  $("vmodel").addEventListener("change", fill);
  $("vmode").addEventListener("change", draw);
  $("vslide").addEventListener("input", draw);
  $("vin").addEventListener("click", () => scale(2));
  $("vout").addEventListener("click", () => scale(0.5));
  $("vnext").addEventListener("click", () => go(1));
  $("vprevious").addEventListener("click", () => go(-1));
  $("stage").addEventListener("wheel", (e) => { e.preventDefault(); scale(e.deltaY < 0 ? 1.25 : 0.8); }, { passive: false });
  let held = null;
  $("stage").addEventListener("pointerdown", (e) => { held = [e.clientX - dx, e.clientY - dy, zoom > 1 || $("vmode").value !== "slide"]; $("stage").setPointerCapture(e.pointerId); slide(e); });
  const slide = (e) => {
    if (!held) return;
    if (held[2]) { [dx, dy] = [e.clientX - held[0], e.clientY - held[1]]; } else {
      const box = $("va").getBoundingClientRect();
      $("vslide").value = Math.round(100 * Math.min(1, Math.max(0, (e.clientX - box.left) / box.width)));
    }
    draw();
  };
  $("stage").addEventListener("pointermove", slide);
  for (const kind of ["pointerup", "pointercancel"]) $("stage").addEventListener(kind, () => { held = null; });
  viewer.addEventListener("keydown", (e) => {
    if (["SELECT", "INPUT"].includes(e.target.tagName) || e.ctrlKey || e.metaKey || e.altKey) return;
    const acts = {
      ArrowRight: () => go(1), ArrowLeft: () => go(-1), ArrowDown: () => turn(1), ArrowUp: () => turn(-1),
      "+": () => scale(2), "=": () => scale(2), "-": () => scale(0.5), 0: () => scale(1e-3),
      s: () => { $("vmode").value = "slide"; draw(); }, d: () => { $("vmode").value = "difference"; draw(); }, b: () => { $("vmode").value = "side"; draw(); },
    };
    if (acts[e.key]) { e.preventDefault(); acts[e.key](); }
  });

  // ---- words and faces
  const SURE = 0.8;
  const all = items.flatMap((item, at) => item.words.map((word) => ({ ...word, item, at })));
  if (all.length) {
    $("words").hidden = false;
    document.querySelector('nav a[href="#words"]').hidden = false;
    const kind = $("wordkind");
    const made = (w) => w.made[$("wordof").value];
    const fair = (w) => !w.original || w.original === w.truth; // read rightly on the original, or not tried there
    const kinds = {
      "misread, confident": [(w) => w.kind === "word" && fair(w) && made(w).value === 0 && made(w).sure >= SURE, (a, b) => made(b).sure - made(a).sure],
      "all misread words": [(w) => w.kind === "word" && fair(w) && made(w).value === 0, (a, b) => a.at - b.at],
      "misread on the original too": [(w) => w.kind === "word" && !fair(w), (a, b) => a.at - b.at],
      "words read": [(w) => w.kind === "word" && made(w).value > 0, (a, b) => made(a).sure - made(b).sure],
      "faces, least similar": [(w) => w.kind === "face", (a, b) => made(a).value - made(b).value],
      "everything": [() => true, (a, b) => a.at - b.at],
    };
    const has = new Set(all.map((w) => w.kind));
    for (const name of Object.keys(kinds)) {
      if ((name.includes("face") && !has.has("face")) || (/word|misread/.test(name) && !has.has("word"))) continue;
      kind.append(make("option", { value: name, textContent: name }));
    }
    const known = new Set(all.flatMap((w) => Object.keys(w.made)));
    models.forEach((m, i) => { if (known.has(String(i))) $("wordof").append(make("option", { value: i, textContent: m.name })); });
    const loaded = new Map();
    const picture = (which) => {
      if (!loaded.has(which)) {
        loaded.set(which, new Promise((done) => { const img = new Image(); img.onload = () => done(img); img.onerror = () => done(null); img.src = pictures[which]; }));
      }
      return loaded.get(which);
    };
    const crop = async (target, which, part) => {
      const img = await picture(which);
      if (!img) return;
      const box = [part[0] * img.width, part[1] * img.height, part[2] * img.width, part[3] * img.height];
      const grow = 0.15 * Math.min(box[2] - box[0], box[3] - box[1]) + 1;
      const x = Math.max(0, Math.floor(box[0] - grow));
      const y = Math.max(0, Math.floor(box[1] - grow));
      const w = Math.max(1, Math.min(img.width, Math.ceil(box[2] + grow)) - x);
      const h = Math.max(1, Math.min(img.height, Math.ceil(box[3] + grow)) - y);
      const by = Math.max(1, Math.min(8, Math.floor(64 / h), Math.floor(280 / w)));
      [target.width, target.height] = [w * by, h * by];
      const pen = target.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(img, x, y, w, h, 0, 0, w * by, h * by);
    };
    const seen = new IntersectionObserver((found) => {
      for (const f of found) if (f.isIntersecting) { seen.unobserve(f.target); for (const draw of f.target.crops) draw(); f.target.crops = []; }
    }, { rootMargin: "400px" });
    const wordCard = (w) => {
      const list = make("dl");
      const node = make("article", { className: "word", crops: [] }, make("p", { textContent: w.item.id }), list);
      const line = (which, said, status, extra) => {
        const dd = make("dd");
        if (w.box && which !== null && which !== undefined) {
          const target = make("canvas", { width: 1, height: 1 });
          target.setAttribute("role", "img");
          target.setAttribute("aria-label", said);
          node.crops.push(() => crop(target, which, w.box));
          dd.append(target);
        }
        dd.append(make("span", { className: `read ${status}`, textContent: said }), ...extra);
        list.append(dd);
      };
      line(w.item.original, w.kind === "word" ? w.truth : "original", "", [make("small", { textContent: w.kind !== "word" ? "" : fair(w) ? " as annotated" : ` as annotated, read as ${w.original} on the original` })]);
      for (const i of w.kind === "word" || Object.keys(w.made).length < 2 ? [$("wordof").value] : Object.keys(w.made)) {
        const m = w.made[i];
        if (!m) continue;
        const wrong = w.kind === "word" && m.value === 0;
        const extra = [make("small", { textContent: ` ${models[i].name}${m.sure === null ? "" : `, confidence ${m.sure.toFixed(2)}`}` })];
        if (wrong && m.sure >= SURE) extra.unshift(" ", make("span", { className: "sure", textContent: "confidently wrong" }));
        line(w.item.pictures[i], w.kind === "word" ? m.read || "(nothing)" : `similarity ${m.value.toFixed(3)}`, wrong ? "wrong" : w.kind === "word" ? "right" : "", extra);
      }
      seen.observe(node);
      return node;
    };
    const WORDS = 60;
    let chosen = [];
    let done = 0;
    const moreWords = () => {
      for (const w of chosen.slice(done, done + WORDS)) $("wordcards").append(wordCard(w));
      done = Math.min(done + WORDS, chosen.length);
      $("wordcount").textContent = `${done} of ${chosen.length}`;
      $("morewords").hidden = done >= chosen.length;
    };
    const pick = () => {
      const [fits, before] = kinds[kind.value];
      chosen = all.filter((w) => made(w) && fits(w)).sort(before);
      done = 0;
      $("wordcards").replaceChildren();
      moreWords();
    };
    kind.addEventListener("change", pick);
    $("wordof").addEventListener("change", pick);
    $("morewords").addEventListener("click", moreWords);
    pick();
  }
  arrange();
})();
