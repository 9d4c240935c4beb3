// Pictures side by side. Each is a link to its own file, or, where `choose` is set, a button that is told to the page.
const wall = element.querySelector(".wall"), now = element.querySelector(".now");
let hung = "";

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function figure({ caption, images }, index) {
  const shown = images.map(({ file, alt, width, height }) => make("img", { alt, width, height, loading: "lazy", src: file.url }));
  if (props.choose) {
    const button = make("button", { type: "button", className: "pictures" }, ...shown);
    button.addEventListener("click", () => trigger("select", { index }));
    return make("figure", {}, button, make("figcaption", { textContent: caption }));
  }
  const { url, path } = images[0].file;
  const link = make("a", { href: url, download: path.split("/").pop(), textContent: caption });
  return make("figure", {}, make("div", { className: "pictures" }, ...shown), make("figcaption", {}, link));
}

function show() {
  if (late()) return;
  const { items = [], words, done = 0, steps = 1, preview } = props.value ?? {};
  if (JSON.stringify(items) !== hung) {
    wall.replaceChildren(...items.map(figure));
    hung = JSON.stringify(items);
  }
  wall.querySelector(".rough")?.remove();
  if (preview) {
    const rough = make("img", { src: preview, alt: "A rough preview of the picture that is being painted" });
    wall.append(make("figure", { className: "rough" }, make("div", { className: "pictures" }, rough)));
  }
  wall.classList.toggle("empty", !items.length && !preview);
  tell(now, { words, done, steps });
}

watch("value", show);
show();
