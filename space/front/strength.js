// A slider from 0 to 1.5 with a mark at what the chosen adapter is recommended at; the field beside it takes more, up
// to the limit.
const [number, range] = element.querySelectorAll("input"), mark = element.querySelector(".mark");
let beyond = false; // whether a number outside the limits was typed
Object.assign(number, { min: props.least, max: props.most });

function show() {
  const value = Number(props.value), { recommended } = props;
  mark.style.setProperty("--at", recommended / 1.5);
  mark.textContent = `${recommended}`;
  if (document.activeElement !== number) number.value = String(value);
  range.value = value;
  range.style.setProperty("--fill", `${100 * Math.min(1, Math.max(0, value / 1.5))}%`);
  element.querySelector("p").textContent = beyond
    ? `The strength can be ${props.least} to ${props.most}.`
    : value === 0
    ? "At 0 the adapter is off: only the base model paints."
    : `0 is the base model; ${recommended} is recommended for this adapter.`;
}

function set(value) {
  props.value = Math.min(props.most, Math.max(props.least, value));
  beyond = value !== props.value;
  show();
  trigger("change");
}
range.addEventListener("input", () => set(Number(range.value)));
number.addEventListener("change", () => set(Number(number.value)));
number.addEventListener("blur", show);
watch(["value", "recommended"], show);
show();
