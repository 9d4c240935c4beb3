// Shared by the boards. Only files of this page's own server are shown, whatever address the news names.
const root = new URL(window.gradio_config?.root ?? ".", location.href).pathname.replace(/\/$/, "");
const address = ({ file }) => `${root}/gradio_api/file=${file.path.split("/").map(encodeURIComponent).join("/")}`;
const nameOf = ({ file }) => file.path.split("/").pop();

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// What is painted stays on the board until the next picture is done. Of a painting that is over, late news is dropped.
let over, current = {}, painted = {};
const linked = new URLSearchParams(location.search).has("prompt"); // a link has a pair of its own
function news() {
  const view = props.value?.first && linked ? {} : props.value ?? {};
  if (view.over === true) { // cancelled, or failed
    over = current.job ?? over;
    current = painted;
  } else if (!view.job || view.job !== over) {
    current = view;
    over = view.over ?? over;
  }
  if (current.items?.length || current.empty) painted = { ...current, job: null, words: null, preview: null };
  const shows = current.items?.length || current.preview || current.empty;
  return shows ? current : { ...current, items: painted.items, old: Boolean(painted.items) };
}

// How far the painting is. That it has ended is seen anyhow, and said to those who do not see it.
function tell(now, { job, words, done = 0, steps = 1 }) {
  const status = now.querySelector("[role=status]"), progress = now.querySelector("progress");
  if (words || !progress.hidden) status.textContent = words ?? "Painting has ended.";
  progress.hidden = !words;
  now.classList.toggle("over", !words);
  Object.assign(progress, { max: steps, value: done });
  turn(Boolean(job));
}

// Cancel stands where Compare was, and the focus of a keyboard goes along.
function turn(painting) {
  const act = document.getElementById(`act-${props.tab}`), focused = act?.contains(document.activeElement);
  if (!act || act.hasAttribute("data-painting") === painting) return;
  act.toggleAttribute("data-painting", painting);
  if (focused) act.querySelector(painting ? ".cancel" : ".primary").focus({ preventScroll: true });
}
