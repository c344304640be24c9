// The gallery of a dataset's report: filter, sort, compare, enlarge. Without it every card is still there to read.
"use strict";
document.documentElement.classList.add("js");

const form = document.getElementById("filter");
const list = document.getElementById("cards");
const cards = [...list.children];
const status = document.getElementById("shown");
const nothing = document.getElementById("nothing");
const texts = new Map();
const numbers = (card, name) => (card.dataset[name] || "").split(" ").filter(Boolean).map(Number);
const words = (card, name) => (card.dataset[name] || "").split(" ");

function textOf(card) {
  if (!texts.has(card)) texts.set(card, card.textContent.toLowerCase());
  return texts.get(card);
}

function keeps(card, wanted) {
  const low = wanted.low === "" ? -Infinity : Number(wanted.low);
  const high = wanted.high === "" ? Infinity : Number(wanted.high);
  const ranged = low !== -Infinity || high !== Infinity;
  return (
    (!wanted.kind || card.dataset.kind === wanted.kind) &&
    (!wanted.split || card.dataset.split === wanted.split) &&
    (!wanted.editor || words(card, "editors").includes(wanted.editor)) &&
    (!wanted.category || words(card, "categories").includes(wanted.category)) &&
    (!wanted.orientation || words(card, "orientations").includes(wanted.orientation)) &&
    (!ranged || numbers(card, "deltas").some((delta) => delta >= low && delta <= high)) &&
    wanted.text.toLowerCase().split(/\s+/).every((word) => textOf(card).includes(word))
  );
}

// Cards without the number that is sorted by come last; equal ones stay as they were drawn.
const keys = {
  drawn: null,
  largest: (card) => -Math.max(...numbers(card, "deltas")),
  smallest: (card) => Math.min(...numbers(card, "deltas")),
  best: (card) => -(numbers(card, "score")[0] ?? NaN),
  worst: (card) => numbers(card, "score")[0] ?? NaN,
  disputed: (card) => -numbers(card, "spread")[0],
};

function sorted(key) {
  if (!key) return cards;
  const value = new Map(cards.map((card) => [card, key(card)]));
  const last = (card) => !Number.isFinite(value.get(card));
  return [...cards].sort((a, b) => last(a) - last(b) || (last(a) ? 0 : value.get(a) - value.get(b)));
}

function apply() {
  const wanted = Object.fromEntries(new FormData(form));
  let shown = 0;
  for (const card of sorted(keys[wanted.sort])) {
    card.hidden = !keeps(card, wanted);
    shown += card.hidden ? 0 : 1;
    list.append(card);
  }
  status.textContent = `${shown} of ${cards.length} shown`;
  nothing.hidden = shown > 0;
  return wanted;
}

// The choice is kept in the address, so that it can be bookmarked and sent.
function remember(wanted) {
  const given = Object.entries(wanted).filter(([name, value]) => value !== "" && value !== form.dataset[name]);
  history.replaceState(null, "", "#" + (given.length ? new URLSearchParams(given) : "gallery"));
}

function recall() {
  form.reset();
  if (!location.hash.includes("=")) return;
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    const control = form.elements.namedItem(name);
    if (control) control.value = value;
    if (control && control.selectedIndex === -1) control.selectedIndex = 0;
  }
}

function reset() {
  form.reset();
  remember(apply());
}

// --- before and after: a slider over the two pictures; a button shows the source as long as it is held ------------
function wire(compare) {
  const slider = compare.querySelector("input");
  const hold = compare.querySelector(".hold");
  const cut = (value) => compare.style.setProperty("--cut", `${value}%`);
  const press = () => { cut(100); hold.setAttribute("aria-pressed", "true"); };
  const release = () => { cut(slider.value); hold.setAttribute("aria-pressed", "false"); };
  slider.addEventListener("input", () => cut(slider.value));
  hold.addEventListener("pointerdown", press);
  for (const name of ["pointerup", "pointerleave", "pointercancel", "blur", "keyup"]) hold.addEventListener(name, release);
  hold.addEventListener("keydown", (event) => { if (event.key === " " || event.key === "Enter") press(); });
  compare.classList.add("ready");
}

const large = document.getElementById("large");
const stage = document.getElementById("stage");

// The pictures are copied into the page's template of a comparison.
function enlarge(before, after, caption) {
  const compare = document.getElementById("comparison").content.firstElementChild.cloneNode(true);
  const [one, two] = compare.querySelectorAll("img");
  one.src = before.src; one.alt = before.alt;
  two.src = after.src; two.alt = after.alt;
  stage.replaceChildren(compare);
  document.getElementById("caption").textContent = caption;
  wire(compare);
  large.showModal();
  compare.querySelector("input").focus();
}

for (const compare of document.querySelectorAll("#cards .compare")) {
  if (compare.querySelectorAll("img").length === 2) wire(compare);
}

list.addEventListener("click", (event) => {
  const button = event.target.closest(".enlarge");
  if (!button) return;
  const within = button.closest(".member") || button.closest(".item");
  const before = button.closest(".item").querySelector("img.source");
  const after = within.querySelector("img.edit");
  if (before && after) enlarge(before, after, within.querySelector(".ask")?.textContent ?? "");
});
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });

form.addEventListener("input", () => remember(apply()));
form.addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll(".reset")) button.addEventListener("click", reset);
window.addEventListener("hashchange", () => { recall(); apply(); });
recall();
apply();
