"use strict";
// The held-out photos of a fit: one of them large, photo and render on top of each other with a divider; the others are chosen below.

for (const root of document.querySelectorAll(".held-out")) {
  const $ = name => root.querySelector("." + name);
  const picks = [...root.querySelectorAll(".pick")];

  function show(pick) {
    for (const each of picks) each.setAttribute("aria-pressed", each === pick);
    for (const [image, source] of [["under", "photo"], ["over", "render"], ["error", "difference"]])
      $(image).src = pick.querySelector("." + source).src;
    $("name").textContent = pick.dataset.caption;
    pick.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // Arrow keys go to the photo beside.
  root.querySelector(".picks").addEventListener("keydown", event => {
    const to = picks[picks.indexOf(event.target.closest(".pick")) + { ArrowLeft: -1, ArrowRight: 1 }[event.key]];
    if (to === undefined) return;
    event.preventDefault();
    to.focus();
    show(to);
  });
  for (const pick of picks) pick.addEventListener("click", () => show(pick));
  $("wipe").addEventListener("input", event => $("stack").style.setProperty("--wipe", event.target.value));
  show(picks[0]);
}
