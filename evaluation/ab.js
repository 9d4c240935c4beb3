// The blind page: a click or a key answers, once for each step; the time runs from when the pictures can be seen.
// Gradio hands in `element`, `trigger` and `watch`; the pictures are in a component of their own, beside this one.
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "tie", ArrowDown: "neither", Enter: "go on" };
let answered = null;
let shown = Infinity;

const step = () => element.querySelector("[data-step]")?.dataset.step;
const frame = () => new Promise(requestAnimationFrame);
const look = async () => {
  const now = step();
  await frame().then(frame);
  await Promise.allSettled([...document.querySelectorAll("#pictures img")].map((image) => image.decode()));
  if (now === step()) shown = performance.now();
};
const give = (answer) => {
  const offered = document.querySelector(`[data-answer="${answer}"]`);
  if (!offered || answered === step() || (answer !== "go on" && shown === Infinity)) return;
  answered = step();
  const milliseconds = answer === "go on" ? 0 : Math.round(performance.now() - shown);
  shown = Infinity;
  trigger("submit", { answer, step: answered, milliseconds });
  setTimeout(() => (answered = null), 8000); // the network may have lost it; the server takes a step only once
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-answer]");
  if (button) give(button.dataset.answer);
});
document.addEventListener("keydown", (event) => {
  const answer = KEYS[event.key];
  if (!answer || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" && event.target.closest("button, a")) return; // it presses what has the focus
  if (!document.querySelector(`[data-answer="${answer}"]`)) return;
  event.preventDefault();
  give(answer);
});
watch("value", () => {
  answered = null;
  look();
});
