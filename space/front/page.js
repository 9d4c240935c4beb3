() => {
  // Runs once, when the page has loaded.
  // A PNG dropped anywhere is a recipe, except where a component takes files itself.
  const dropped = (event) => event.dataTransfer?.types.includes("Files") && !event.target.closest("#photograph, .gradio-file");
  document.addEventListener("dragover", (event) => { if (dropped(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!dropped(event)) return;
    event.preventDefault();
    const input = document.querySelector("#settings input[type=file]");
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
