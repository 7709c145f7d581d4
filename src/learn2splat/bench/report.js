"use strict";
// The comparison of renders: two of them (or the photo) on top of each other with a divider, at a common time or step.

const EASE = 600; // ms between two moments while playing

function setUp(root, scenes) {
  const $ = name => root.querySelector("." + name);
  const seconds = value => (value < 10 ? value.toFixed(1) : value.toFixed(0)) + " s";
  let timer = null;

  const fill = (select, options, chosen) => {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    if (options.some(([value]) => value === chosen)) select.value = chosen;
  };
  const scene = () => scenes[Number($("scene").value)];
  const lane = label => scene().lanes.find(each => each.label === label);

  // Where a frame is on the slider, in steps or seconds. A frame may have a mark: the moment at which it was to be made, which the step under
  // way overshot a little.
  const place = frame => Number(($("axis").value === "step" ? frame.step : frame.mark ?? frame.seconds).toPrecision(2));
  // The moments of the slider: all that any optimizer has.
  const moments = () => [...new Set(scene().lanes.flatMap(each => each.frames.map(place)))].sort((a, b) => a - b);
  // The last frame at or before the moment; the first if there is none.
  const frameAt = (label, moment) => {
    const frames = lane(label).frames;
    return frames.filter(frame => place(frame) <= moment).pop() ?? frames[0];
  };

  function show() {
    const all = moments(), when = $("when");
    when.max = all.length - 1;
    const moment = all[Math.min(Number(when.value), all.length - 1)];
    $("now").textContent = $("axis").value === "step" ? `step ${moment}` : seconds(moment);
    $("photo").src = scene().photo;
    for (const [side, image] of [["left", "under"], ["right", "over"]]) {
      const label = $(side).value;
      const frame = label === "photo" ? null : frameAt(label, moment);
      $(image).src = frame ? frame.src : scene().photo;
      $("caption-" + side).textContent = frame
        ? `${label}: step ${frame.step}, ${seconds(frame.seconds)}` + (frame.psnr === null ? "" : `, ${frame.psnr.toFixed(2)} dB`)
        : "photo";
    }
  }

  function newScene() {
    const labels = scene().lanes.map(each => each.label);
    const options = [...labels, "photo"].map(label => [label, label]);
    const last = label => lane(label).frames.at(-1).psnr ?? -Infinity;
    const best = labels.reduce((a, b) => (last(b) > last(a) ? b : a));
    const left = $("left").value || labels.find(label => label !== best) || "photo";
    fill($("left"), options, left);
    fill($("right"), options, $("right").value || best);
    newAxis();
  }

  function newAxis() {
    const all = moments();
    $("when").max = all.length - 1;
    $("when").value = all.length - 1;
    show();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "\u25b6";
  }

  function play() {
    if (timer !== null) return stop();
    if (Number($("when").value) === moments().length - 1) $("when").value = 0;
    $("play").textContent = "\u275a\u275a";
    show();
    timer = setInterval(() => {
      $("when").value = Number($("when").value) + 1;
      show();
      if (Number($("when").value) === moments().length - 1) stop();
    }, EASE);
  }

  fill($("scene"), scenes.map((each, i) => [String(i), each.name]));
  $("scene").addEventListener("change", () => { stop(); newScene(); });
  $("axis").addEventListener("change", () => { stop(); newAxis(); });
  for (const name of ["left", "right"]) $(name).addEventListener("change", show);
  $("when").addEventListener("input", () => { stop(); show(); });
  $("wipe").addEventListener("input", event => $("stack").style.setProperty("--wipe", event.target.value));
  $("play").addEventListener("click", play);
  newScene();
}

for (const root of document.querySelectorAll(".compare")) setUp(root, COMPARISONS[Number(root.dataset.comparison)]);
