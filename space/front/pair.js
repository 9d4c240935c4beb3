// Two pictures of one size, compared in four ways; below them, in small, the pairs of this browser's session.
const find = (selector) => element.querySelector(selector);
const pair = find(".pair"), canvas = find(".canvas"), handle = find(".handle"), hold = find(".hold"), strip = find(".strip");
const ROUGH = "A rough preview of the picture that is being painted";

function put(name, item, preview) {
  const side = find(`.side.${name}`), img = side.querySelector("img"), a = find(`a.${name}`), image = item?.images[0];
  const source = image ? address(image) : preview;
  img.hidden = !source;
  img.alt = image?.alt ?? (preview ? ROUGH : "");
  if (source && img.getAttribute("src") !== source) img.src = source;
  side.querySelector(".label").textContent = item?.caption ?? "";
  a.style.visibility = item ? "" : "hidden"; // it keeps its place, so that nothing moves
  if (item) Object.assign(a, { textContent: item.caption, href: source, download: nameOf(image) });
}

function show() {
  const view = news(), { items = [], preview, old } = view;
  pair.shown = painted;
  const [base, adapted] = items, image = base?.images[0];
  const [width, height] = (!old && view.size) || (image ? [image.width, image.height] : props.size);
  canvas.style.setProperty("--ratio", width / height);
  canvas.style.setProperty("--pixels", Math.max(width, 128));
  put("base", base, preview);
  put("adapted", adapted, base && preview);
  pair.classList.toggle("two", Boolean(base && (adapted || preview)));
  pair.classList.toggle("single", Boolean(base && !adapted && !view.job));
  pair.classList.toggle("rough", Boolean(preview));
  pair.classList.toggle("empty", !base && !preview);
  find(".nothing span").textContent = view.empty ?? "";
  find(".nothing button").hidden = !view.empty;
  tell(find(".now"), view);
  if (props.strip) keep(view);
}

// ---- The ways to compare

function look(name) {
  pair.dataset.view = name;
  for (const button of element.querySelectorAll("button[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === name);
}
for (const button of element.querySelectorAll("button[data-view]")) button.addEventListener("click", () => look(button.dataset.view));
look(matchMedia("(min-width: 1000px)").matches ? "beside" : "slider");

const cut = () => canvas.style.setProperty("--cut", `${handle.value}%`);
handle.addEventListener("input", cut);
const held = (holding) => pair.classList.toggle("held", holding);
hold.addEventListener("pointerdown", (event) => { hold.setPointerCapture(event.pointerId); held(true); });
for (const ends of ["pointerup", "pointercancel", "keyup", "blur"]) hold.addEventListener(ends, () => held(false));
hold.addEventListener("keydown", ({ key }) => { if (key === " " || key === "Enter") held(true); });
hold.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press, to a phone

const full = find(".full");
full.hidden = !pair.requestFullscreen; // as on an iPhone
full.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : pair.requestFullscreen()));
document.addEventListener("fullscreenchange", () => {
  full.textContent = document.fullscreenElement === pair ? "Leave full screen" : "Full screen";
});
find(".nothing button").addEventListener("click", () => trigger("submit"));

// ---- The session's pairs, which only this browser remembers; the server deletes their files after an hour

let pairs = props.strip ? JSON.parse(sessionStorage.getItem(props.strip) ?? "[]") : [];

function keep({ done: _, finished = [], link }) {
  const fresh = finished.filter((one) => !pairs.some((known) => known.link === one.link));
  pairs = [...fresh.reverse(), ...pairs].slice(0, 24);
  sessionStorage.setItem(props.strip, JSON.stringify(pairs));
  strip.replaceChildren(...pairs.map((one) => {
    const image = one.items.at(-1).images[0], img = make("img", { src: address(image), alt: image.alt, loading: "lazy" });
    const button = make("button", { type: "button", title: image.alt }, img), entry = make("li", {}, button);
    button.setAttribute("aria-pressed", one.link === link);
    button.addEventListener("click", () => { props.value = one; show(); trigger("select", { link: one.link }); });
    img.addEventListener("error", () => entry.remove());
    return entry;
  }));
  strip.hidden = pairs.length < 2;
}

watch("value", show);
show();
cut();
