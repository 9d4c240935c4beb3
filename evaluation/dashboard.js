"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const key = (picture) => `${picture.prompt}/${picture.seed}`;
const byFile = new Map(data.pictures.map((picture) => [picture.file, picture]));
const bases = new Map(data.pictures.filter((p) => p.arm === "base").map((p) => [key(p), p]));
const adapted = data.pictures.filter((p) => p.arm === "adapter" && p.strength === data.strength);
const source = (name) => data.images[name] || "";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  Object.assign(node, attributes);
  node.append(...children);
  return node;
}

function image(picture, extra = {}) {
  const alt = `${picture.arm} at strength ${picture.strength}: ${picture.text}`;
  return make("img", { src: source(picture.file), alt, ...extra });
}

// ---- Before and after

let shown = 0;

function show(place) {
  shown = (place + adapted.length) % adapted.length;
  const after = adapted[shown], before = bases.get(key(after));
  el("after").src = source(after.file);
  el("after").alt = `with the adapter: ${after.text}`;
  el("before").src = source(before.file);
  el("before").alt = `base model: ${after.text}`;
  el("heat-after").src = source(`${after.file}#heat`);
  el("heat-before").src = source(`${before.file}#heat`);
  el("caption").textContent = `“${after.text}”, seed ${after.seed}`;
  el("pair").value = String(shown);
  const facts = [
    ["Genre", after.genre], ["Index", `${before.index.toFixed(2)} → ${after.index.toFixed(2)} (${signed(after.gain)})`],
    ["Content kept", after.content.toFixed(2)], ["Strength", after.strength], ["File", after.file],
  ];
  el("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
  el("likest").replaceChildren(...nearest(after));
  history.replaceState(null, "", `#pair=${key(after)}`);
}

function nearest(picture) {
  if (!picture.nearest) return [];
  const alt = `training picture ${picture.nearest}`;
  const words = `Nearest training picture, likeness ${picture.likeness.toFixed(2)}`;
  return [make("img", { src: source(`training/${picture.nearest}`), alt }), make("figcaption", {}, words)];
}

function divide(percent) {
  el("slider").value = percent;
  el("frame").style.setProperty("--at", `${percent}%`);
}

function heat(on) {
  el("heat").checked = on;
  el("heat-after").hidden = el("heat-half").hidden = !on;
}

function open(picture) {
  const place = adapted.findIndex((one) => key(one) === key(picture));
  show(place < 0 ? 0 : place);
  el("compare").scrollIntoView();
}

adapted.forEach((p, place) => el("pair").append(make("option", { value: String(place) }, `${p.prompt}, ${p.seed}`)));
el("pair").addEventListener("change", () => show(Number(el("pair").value)));
el("previous").addEventListener("click", () => show(shown - 1));
el("next").addEventListener("click", () => show(shown + 1));
el("slider").addEventListener("input", () => divide(el("slider").value));
el("heat").addEventListener("change", () => heat(el("heat").checked));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /SELECT|TEXTAREA/.test(event.target.tagName)) return;
  const does = {
    ArrowLeft: () => show(shown - 1), ArrowRight: () => show(shown + 1),
    a: () => divide(0), b: () => divide(100), h: () => heat(!el("heat").checked),
  }[event.key];
  if (!does || (event.target.id === "slider" && event.key.startsWith("Arrow") && event.shiftKey)) return;
  event.preventDefault();
  does();
});

// ---- Best and worst, and what is nearest to training

function card(picture, ...images) {
  const pairing = make("span", { className: "pairing" }, ...images);
  return make("button", { type: "button", onclick: () => open(picture) }, pairing);
}

for (const side of ["best", "worst"]) {
  for (const file of data[side]) {
    const picture = byFile.get(file), base = bases.get(key(picture));
    const one = card(picture, image(base), image(picture));
    one.append(make("small", {}, `${signed(picture.gain)} · ${picture.prompt}`));
    el(side).append(one);
  }
}
for (const picture of [...adapted].filter((p) => p.nearest).sort((a, b) => b.likeness - a.likeness).slice(0, 12)) {
  const [theirs] = nearest(picture);
  const one = card(picture, image(picture), theirs);
  one.append(make("small", {}, `likeness ${picture.likeness.toFixed(2)} · ${picture.prompt}`));
  el("likest-all").append(one);
}

// ---- The grid

const column = (p) => (p.strength === 0 ? p.arm : `${p.arm} ${p.strength}`);
const order = { base: 0, "base-styled": 1, adapter: 2, "adapter-styled": 3 };
const columns = [...new Map([...data.pictures].sort((a, b) => order[a.arm] - order[b.arm] || a.strength - b.strength)
  .map((p) => [column(p), p])).keys()];
const unique = (name) => [...new Set(data.pictures.map((picture) => picture[name]))];
const form = el("filters");
unique("genre").forEach((genre) => form.genre.append(make("option", { value: genre }, genre)));
unique("seed").forEach((seed) => form.seed.append(make("option", { value: String(seed) }, String(seed))));
columns.forEach((name) => {
  const box = make("input", { type: "checkbox", name: "column", value: name, checked: true });
  el("columns").append(make("label", { className: "tick" }, box, ` ${name}`));
});
const ranks = {
  prompt: () => 0, least: (a, b) => a.gain - b.gain, most: (a, b) => b.gain - a.gain, lost: (a, b) => a.content - b.content,
};

function grid() {
  const wanted = [...form.querySelectorAll("[name=column]:checked")].map((box) => box.value);
  const rows = adapted.filter((p) => String(p.seed) === form.seed.value && (!form.genre.value || p.genre === form.genre.value))
    .sort(ranks[form.order.value]);
  const head = make("tr", {}, make("th"), ...wanted.map((name) => make("th", { scope: "col" }, name)));
  const body = rows.map((row) => {
    const own = new Map(data.pictures.filter((p) => key(p) === key(row)).map((p) => [column(p), p]));
    const cells = wanted.map((name) => {
      const picture = own.get(name);
      if (!picture) return make("td");
      const title = `index ${picture.index.toFixed(2)}, content ${picture.content.toFixed(2)}`;
      return make("td", {}, image(picture, { title, onclick: () => open(picture) }));
    });
    const label = make("th", { scope: "row" }, row.text, make("small", {}, `${row.genre} · ${signed(row.gain)}`));
    return make("tr", {}, label, ...cells);
  });
  el("pictures").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}
form.addEventListener("change", grid);

// ---- Begin where the address says, or with the pair in the middle

const asked = decodeURIComponent(location.hash).match(/^#pair=(.+)$/);
const found = asked ? adapted.findIndex((one) => key(one) === asked[1]) : -1;
const middle = [...adapted].sort((a, b) => a.gain - b.gain)[Math.floor(adapted.length / 2)];
const section = asked ? "" : location.hash;
show(found >= 0 ? found : adapted.indexOf(middle));
divide(50);
grid();
if (section) document.querySelector(section)?.scrollIntoView();
