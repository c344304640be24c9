// Before and after: where the slider stands is where one picture ends and the other begins.
document.addEventListener("input", ({ target }) => {
  if (target.matches(".redaes .cut")) target.parentElement.style.setProperty("--cut", `${target.value}%`);
});
