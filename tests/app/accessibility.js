// What somebody who does not see the page, or has no mouse, would miss: one line for each fault. () => string[]
() => {
  const faults = [];
  const seen = (e) => e.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) && e.getClientRects().length > 0;
  const say = (what, e) => faults.push(`${what}: ${e.outerHTML.replace(/data:[^"]*/g, "data:").slice(0, 160)}`);
  const named = (e) =>
    (e.getAttribute("aria-label") || "").trim() ||
    (e.getAttribute("aria-labelledby") || "").split(" ").some((id) => document.getElementById(id)?.textContent.trim()) ||
    [...(e.labels || [])].some((label) => label.textContent.trim()) ||
    (e.title || "").trim() ||
    (e.matches("button, a, summary, [role=tab]") && (e.textContent.trim() || e.querySelector("img[alt]:not([alt=''])")));
  for (const e of document.querySelectorAll("img")) if (seen(e) && !(e.alt || "").trim()) say("no words for a picture", e);
  for (const e of document.querySelectorAll("svg[role=img]")) if (!e.getAttribute("aria-label")) say("no words for a chart", e);
  for (const e of document.querySelectorAll("button, a[href], input:not([type=hidden]), select, textarea, summary, [role=tab], [role=slider]"))
    if (seen(e) && !named(e)) say("no name", e);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id).filter(Boolean);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) faults.push(`id used twice: ${id}`);
  if (!document.documentElement.lang) faults.push("no language");
  if (!document.title) faults.push("no title");
  if ([...document.querySelectorAll("h1")].filter(seen).length !== 1) faults.push("not one h1");
  return faults;
}
