// Shared by the boards. How far the painting is; that it has ended is seen anyhow, and said to those who do not see it.
function tell(now, { words, done, steps }) {
  const status = now.querySelector("[role=status]"), progress = now.querySelector("progress");
  const begins = words && progress.hidden;
  if (words || !progress.hidden) status.textContent = words ?? "Painting has ended.";
  progress.hidden = !words;
  now.classList.toggle("over", !words);
  Object.assign(progress, { max: steps, value: done });
  if (begins) now.scrollIntoView({ block: "nearest" }); // on a phone the easel stands below the settings
}

// Of a painting that was cancelled, news may still come that was on its way: what hangs stays.
let over, kept;
function late() {
  const view = props.value ?? {};
  if (view.job && view.job === over) {
    props.value = kept;
    return true;
  }
  over = view.over || over;
  kept = props.value;
  return false;
}

