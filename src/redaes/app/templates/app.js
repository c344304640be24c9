// Before and after: where the slider stands is where one picture ends and the other begins.
document.addEventListener("input", ({ target }) => {
  if (target.matches(".redaes .cut")) target.parentElement.style.setProperty("--cut", `${target.value}%`);
});

// Gradio takes in none of the files that were chosen together if one of them is too large. So of such a file only the
// beginning is sent, enough for the server to see that it is too large and to say so beside the others' scores.
const large = (files) => [...files].some((file) => file.size > TOO_MANY_BYTES);

function shortened(files) {
  const kept = new DataTransfer();
  for (const file of files) {
    kept.items.add(large([file]) ? new File([file.slice(0, TOO_MANY_BYTES)], file.name, { type: file.type }) : file);
  }
  return kept;
}

document.addEventListener(
  "change",
  ({ target }) => {
    if (target.matches("input[type=file]") && large(target.files)) target.files = shortened(target.files).files;
  },
  true,
);
document.addEventListener(
  "drop",
  (event) => {
    if (!event.dataTransfer || !large(event.dataTransfer.files)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const dataTransfer = shortened(event.dataTransfer.files);
    event.target.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
  },
  true,
);
