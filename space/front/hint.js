// What the page has to say about the prompt, with one thing to do about it.
const [said, button] = element.querySelectorAll("span, button");
function show() {
  const { text = "", action } = props.value ?? {};
  said.textContent = text;
  button.hidden = !action;
  button.textContent = action ?? "";
}
button.addEventListener("click", () => trigger("submit"));
watch("value", show);
show();
