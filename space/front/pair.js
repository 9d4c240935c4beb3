// Two pictures, one over the other. A range input lies over them as the handle: mouse, finger and arrow keys move it.
const find = (selector) => element.querySelector(selector);
const pair = find(".pair"), canvas = find(".canvas"), handle = find(".handle"), difference = find(".difference");

function hang(name, image) {
  const img = find(`img.${name}`), a = find(`a.${name}`);
  img.hidden = !image;
  img.alt = image?.alt ?? "";
  if (image && img.getAttribute("src") !== image.url) img.src = image.url;
  a.hidden = !image?.caption;
  a.textContent = image?.caption ?? "";
  a.href = image?.url ?? "";
  a.download = image?.name ?? "";
}

function show() {
  if (late()) return;
  const { items = [], words, done = 0, steps = 1, preview } = props.value ?? {};
  const [base, adapted] = items.map(({ caption, images: [{ file, alt }] }) => ({
    caption, alt, url: file.url, name: file.path.split("/").pop(),
  }));
  const rough = preview && { url: preview, alt: "A rough preview of the picture that is being painted" };
  hang("base", base ?? rough);
  hang("adapted", adapted ?? (base && rough));
  const two = Boolean(base && (adapted ?? rough));
  pair.classList.toggle("two", two);
  pair.classList.toggle("rough", Boolean(rough));
  pair.classList.toggle("empty", !base && !words);
  handle.hidden = !two;
  find("figcaption").hidden = !base;
  find(".looks").hidden = !two || Boolean(rough);
  tell(find(".now"), { words, done, steps });
}

// The canvas takes the shape of the picture; a preview is smaller, and has the same shape.
find("img.base").addEventListener("load", ({ target }) => {
  canvas.style.setProperty("--ratio", target.naturalWidth / target.naturalHeight);
});
const cut = () => canvas.style.setProperty("--cut", `${handle.value}%`);
handle.addEventListener("input", cut);
difference.addEventListener("click", () => {
  difference.setAttribute("aria-pressed", pair.classList.toggle("differing"));
});
find(".full").hidden = !pair.requestFullscreen; // as on a phone of Apple's
find(".full").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : pair.requestFullscreen()));
document.addEventListener("fullscreenchange", () => {
  find(".full").textContent = document.fullscreenElement === pair ? "Leave full screen" : "Full screen";
});
watch("value", show);
show();
cut();
