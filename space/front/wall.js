// Pictures in rows. Each is a link to its own file, or, where `choose` is set, a button that is told to the page.
const wall = element.querySelector(".wall"), now = element.querySelector(".now");
let hung = "";

function figure({ caption, images }, index) {
  const pictures = images.map((image) => {
    const { alt, width, height } = image;
    return make("img", { alt, width, height, loading: "lazy", src: address(image) });
  });
  if (props.choose) {
    const button = make("button", { type: "button", className: "pictures" }, ...pictures);
    button.addEventListener("click", () => trigger("select", { index }));
    return make("figure", {}, button, make("figcaption", { textContent: caption }));
  }
  const link = make("a", { href: address(images[0]), download: nameOf(images[0]), textContent: caption });
  return make("figure", {}, make("div", { className: "pictures" }, ...pictures), make("figcaption", {}, link));
}

function show() {
  const view = news(), { items = [], preview, columns, table } = view;
  wall.shown = painted;
  if (JSON.stringify(items) !== hung) {
    wall.replaceChildren(...items.map(figure));
    hung = JSON.stringify(items);
  }
  wall.querySelector(".rough")?.remove();
  if (preview) {
    const rough = make("img", { src: preview, alt: "A rough preview of the picture that is being painted" });
    wall.append(make("figure", { className: "rough" }, make("div", { className: "pictures" }, rough)));
  }
  if (columns) wall.style.setProperty("--columns", columns);
  wall.classList.toggle("grid", Boolean(table));
  wall.classList.toggle("empty", !items.length && !preview);
  tell(now, view);
}

watch("value", show);
show();
