// Shared by the boards. How far the painting is; that it has ended is seen anyhow, and said to those who do not see it.
function tell(now, { words, done, steps, items }) {
  const status = now.querySelector("[role=status]"), progress = now.querySelector("progress");
  const begins = words && progress.hidden, ended = progress.hidden ? "" : items.length ? "Finished" : "Ended";
  status.textContent = words ?? ended;
  progress.hidden = !words;
  now.classList.toggle("over", !words);
  Object.assign(progress, { max: steps, value: done });
  if (begins) now.scrollIntoView({ block: "nearest" }); // on a phone the easel stands below the settings
}

