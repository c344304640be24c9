// A slider between before and after. Without it the two pictures stand one below the other.
"use strict";
for (const box of document.querySelectorAll(".slider")) {
  box.classList.add("live");
  const range = box.querySelector("input");
  const show = () => box.style.setProperty("--cut", `${range.value}%`);
  range.addEventListener("input", show);
  show();
}
