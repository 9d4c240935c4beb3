// Groups of words or prompts; a click is told to the page.
const groups = Object.entries(props.value ?? {}).map(([label, texts], group) => {
  const row = Object.assign(document.createElement("p"), { ariaLabel: label });
  row.setAttribute("role", "group");
  row.append(Object.assign(document.createElement("span"), { textContent: label }));
  texts.forEach((text, index) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    chip.addEventListener("click", () => trigger("select", { group, index }));
    row.append(chip);
  });
  return row;
});
element.querySelector(".chips").append(...groups);
