() => {
  // Runs once, when the page has loaded.
  // A file dropped anywhere is loaded, except where a component takes files itself.
  const dropped = (event) => event.dataTransfer?.types.includes("Files") && !event.target.closest("#photograph, .gradio-file");
  document.addEventListener("dragover", (event) => { if (dropped(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!dropped(event)) return;
    event.preventDefault();
    const input = document.querySelector("input[type=file]:has(+ #load)");
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // Enter paints, Shift and Enter begin a line; with Gradio it would be the other way round.
  const enter = (event) => {
    if (event.key !== "Enter" || event.isComposing || !event.target.closest("#prompt")) return;
    event.stopPropagation();
    if (event.shiftKey) return;
    event.preventDefault();
    if (!event.repeat) [...document.querySelectorAll("button.start.primary")].find((start) => start.offsetParent)?.click();
  };
  document.addEventListener("keydown", enter, true);
  document.addEventListener("keypress", enter, true); // where Gradio listens; a prevented keydown brings none

  // A double click is one, and a held key, too: Cancel comes to where Compare was.
  const again = (event) => {
    if (!event.target.closest(".start") || !(event.repeat || event.detail > 1)) return;
    event.preventDefault();
    event.stopPropagation();
  };
  document.addEventListener("keydown", again, true);
  document.addEventListener("click", again, true);
}
