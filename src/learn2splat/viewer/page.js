// The page: unpacks the splat, sorts it in a worker, and lets the viewer fly around it. `scene` (page.py) and the other scripts come before it.
"use strict";

const $ = (name) => document.querySelector(name);
const canvas = $("canvas");
const add = (a, b, t = 1) => [a[0] + t * b[0], a[1] + t * b[1], a[2] + t * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((x) => x / (Math.hypot(...a) || 1));
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

const up = unit(scene.up);
const north = unit(add(scene.north, up, -dot(scene.north, up)));
const east = cross(north, up);
const STEEP = 1.5; // radians of pitch, just short of straight down

// Where the camera is: it looks at `target` from `distance`; yaw turns around `up`, pitch > 0 looks down.
let view = null;
const speed = { yaw: 0, pitch: 0, zoom: 0 };
let flight = null; // from one view to another
let turning = !matchMedia("(prefers-reduced-motion: reduce)").matches && !location.hash;

function viewFrom(position, forward, distance) {
  const f = unit(forward);
  return {
    target: add(position, f, distance),
    distance,
    yaw: Math.atan2(dot(f, east), dot(f, north)),
    pitch: clamp(Math.asin(clamp(-dot(f, up), -1, 1)), -STEEP, STEEP),
  };
}

function camera() {
  const c = Math.cos(view.pitch);
  const level = add(north.map((x) => x * Math.cos(view.yaw)), east, Math.sin(view.yaw));
  const forward = add(level.map((x) => x * c), up, -Math.sin(view.pitch));
  const right = unit(cross(forward, up));
  const focal = (0.5 * Math.min(canvas.height, canvas.width / scene.aspect)) / Math.tan(scene.fov / 2);
  const position = add(view.target, forward, -view.distance);
  return { forward, right, down: cross(forward, right), position, focal, near: scene.near * Math.min(1, view.distance) };
}

// Links: #position;forward;distance opens the page at a view.
function viewOfHash() {
  const numbers = location.hash.slice(1).split(/[;,]/).map(Number);
  return numbers.length === 7 && numbers.every(Number.isFinite) ? viewFrom(numbers.slice(0, 3), numbers.slice(3, 6), numbers[6]) : null;
}

function linkTo() {
  const { position, forward } = camera();
  return "#" + [position, forward].map((v) => v.map((x) => +x.toFixed(5)).join()).join(";") + ";" + +view.distance.toFixed(5);
}

let renderer;
let dirty = true;
let slow = 0; // frames in a row that took too long
let coarse = false; // half the pixels while moving, on slow machines
let lastFrame = 0;
let ask = () => {};

function resize() {
  const ratio = Math.min(devicePixelRatio || 1, 2) * (coarse ? 0.5 : 1);
  const [width, height] = [Math.max(1, Math.round(canvas.clientWidth * ratio)), Math.max(1, Math.round(canvas.clientHeight * ratio))];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    dirty = true;
  }
}

function frame(now) {
  const dt = Math.min(0.1, (now - lastFrame) / 1000 || 0.016);
  lastFrame = now;
  const moving = step(dt);
  slow = moving ? (dt > 0.045 ? slow + 1 : Math.max(0, slow - 1)) : 0;
  coarse = moving && (coarse || slow > 6);
  resize();
  if (moving || dirty) {
    dirty = false;
    const now = camera();
    ask(now);
    renderer.draw(now);
  }
  requestAnimationFrame(frame);
}

// One moment of what is going on by itself; whether anything moves.
function step(dt) {
  if (flight) {
    flight.t = Math.min(1, flight.t + dt / 0.7);
    const t = flight.t * flight.t * (3 - 2 * flight.t);
    const mix = (a, b) => a + (b - a) * t;
    const turn = ((flight.to.yaw - flight.from.yaw + 3 * Math.PI) % (2 * Math.PI)) - Math.PI;
    view = {
      target: flight.from.target.map((x, k) => mix(x, flight.to.target[k])),
      distance: mix(flight.from.distance, flight.to.distance),
      yaw: flight.from.yaw + turn * t,
      pitch: mix(flight.from.pitch, flight.to.pitch),
    };
    if (flight.t === 1) flight = null;
    return true;
  }
  if (turning) {
    view.yaw += scene.turn * Math.cos(now() * 0.35) * dt;
    return true;
  }
  const fade = Math.exp(-dt * 6);
  const lively = Math.abs(speed.yaw) + Math.abs(speed.pitch) + Math.abs(speed.zoom) > 1e-3;
  if (!lively) return false;
  if (!pointers.size) rotate(speed.yaw * dt, speed.pitch * dt);
  zoom(Math.exp(speed.zoom * dt));
  for (const key of Object.keys(speed)) speed[key] *= fade;
  return true;
}

const started = performance.now();
const now = () => (performance.now() - started) / 1000;

function rotate(yaw, pitch) {
  view.yaw += yaw;
  view.pitch = clamp(view.pitch + pitch, -STEEP, STEEP);
  dirty = true;
}

function zoom(factor) {
  view.distance = clamp(view.distance * factor, 0.02, 20);
  dirty = true;
}

function pan(dx, dy) {
  const c = camera();
  const scale = (view.distance / c.focal) * (canvas.height / canvas.clientHeight);
  view.target = add(add(view.target, c.right, -dx * scale), c.down, -dy * scale);
  dirty = true;
}

function rest() {
  turning = false;
  flight = null;
  speed.yaw = speed.pitch = speed.zoom = 0;
}

function fly(to) {
  rest();
  flight = { from: view, to, t: 0 };
}

// Fingers and mice: one turns, two (or the right button, or shift) move, pinch and wheel zoom.
const pointers = new Map();
let pinch = 0;
let lastMove = 0;

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  rest();
  pinch = 0;
  document.body.classList.add("used");
});
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  if (pointers.size === 2) {
    const [a, b] = [...pointers.values()];
    const gap = Math.hypot(a[0] - b[0], a[1] - b[1]);
    if (pinch) zoom(pinch / Math.max(gap, 1));
    pinch = gap;
    pan(dx / 2, dy / 2);
  } else if (event.buttons & 2 || event.shiftKey) pan(dx, dy);
  else {
    const scale = 4 / Math.min(canvas.clientWidth, canvas.clientHeight);
    rotate(-dx * scale, dy * scale); // what is grabbed follows the hand
    const dt = Math.max(0.008, (event.timeStamp - lastMove) / 1000);
    lastMove = event.timeStamp;
    speed.yaw = 0.5 * speed.yaw + (0.5 * -dx * scale) / dt;
    speed.pitch = 0.5 * speed.pitch + (0.5 * dy * scale) / dt;
  }
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    pointers.delete(event.pointerId);
    pinch = 0;
    if (event.timeStamp - lastMove > 60) speed.yaw = speed.pitch = 0; // held still before it was let go
    keep();
  });
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  turning = false;
  flight = null;
  speed.zoom = clamp(speed.zoom + event.deltaY * (event.deltaMode ? 0.16 : 0.006), -6, 6);
  keep();
}, { passive: false });
canvas.addEventListener("contextmenu", (event) => event.preventDefault());

// A double click looks at what is there: the nearest solid splat under the pointer.
canvas.addEventListener("dblclick", (event) => {
  const c = camera();
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const [x, y] = [(event.clientX - box.left) * scale - canvas.width / 2, (event.clientY - box.top) * scale - canvas.height / 2];
  let best = Infinity;
  for (let i = 0; i < splats.count; i++) {
    if (splats.texels[16 * i + 3] < 0.3) continue;
    const away = add(splats.positions.subarray(3 * i, 3 * i + 3), c.position, -1);
    const depth = dot(away, c.forward);
    if (depth < c.near || depth >= best) continue;
    const size = 6 * scale + (c.focal / depth) * Math.sqrt(Math.max(splats.texels[16 * i + 4], splats.texels[16 * i + 7], splats.texels[16 * i + 9]));
    if (Math.hypot((dot(away, c.right) / depth) * c.focal - x, (dot(away, c.down) / depth) * c.focal - y) < size) best = depth;
  }
  if (best < Infinity) fly({ ...view, target: add(add(add(c.position, c.forward, best), c.right, (x * best) / c.focal), c.down, (y * best) / c.focal), distance: best });
});

addEventListener("keydown", (event) => {
  const kick = 1.2;
  const keys = {
    ArrowLeft: () => (speed.yaw = -kick), ArrowRight: () => (speed.yaw = kick), ArrowUp: () => (speed.pitch = kick), ArrowDown: () => (speed.pitch = -kick),
    "+": () => (speed.zoom = -2), "-": () => (speed.zoom = 2), r: home, f: full, n: () => visit(1), p: () => visit(-1),
  };
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  turning = false;
  keys[event.key]();
  keep();
});

let keeping = 0;
function keep() {
  clearTimeout(keeping);
  keeping = setTimeout(() => history.replaceState(null, "", linkTo()), 900);
}

const views = scene.views.map((each) => ({ name: each.name, ...viewFrom(each.position, each.forward, each.distance) }));
let visited = 0;
function visit(by) {
  visited = (visited + by + views.length) % views.length;
  fly(views[visited]);
  label();
  keep();
}
function home() {
  visited = 0;
  fly(views[0]);
  label();
  keep();
}
function label() {
  $(".where").textContent = views.length > 1 ? `${views[visited].name}  ${visited + 1}/${views.length}` : "";
}
function full() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.();
}
$(".home").onclick = home;
$(".full").onclick = full;
$(".next").onclick = () => visit(1);
$(".previous").onclick = () => visit(-1);
$(".views").hidden = views.length < 2;
$(".help").onclick = () => $(".keys").toggleAttribute("hidden");

let splats;
async function start() {
  const bytes = await (await fetch(`data:application/octet-stream;base64,${$("#splats").textContent.trim()}`)).blob();
  const raw = await new Response(bytes.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  splats = unpack(raw, scene.count, scene.coefficients, scene.shScale);
  renderer = makeRenderer(canvas, splats, scene.background);
  view = viewOfHash() || { ...views[0] };
  addEventListener("hashchange", () => {
    const there = viewOfHash();
    if (there) (rest(), (view = there), (dirty = true));
  });
  renderer.onLost(() => fail("The graphics driver gave up: reload the page."));
  ask = sorting();
  new ResizeObserver(() => (dirty = true)).observe(canvas);
  label();
  requestAnimationFrame(frame);
}

// A function that is told of every camera, and gives the renderer a new order when it is there.
function sorting() {
  let busy = false;
  let wanted = null;
  let last = null;
  const shown = (order) => {
    renderer.setOrder(order);
    dirty = true;
    document.body.classList.add("ready");
  };
  const changed = (c) => !last || dot(c.forward, last.forward) < 0.9999 || Math.hypot(...add(c.position, last.position, -1)) > 0.003;
  let send;
  try {
    const worker = new Worker(URL.createObjectURL(new Blob([$("#sorter").textContent, $("#worker").textContent], { type: "text/javascript" })));
    worker.postMessage({ positions: splats.positions });
    worker.onmessage = (event) => {
      busy = false;
      shown(event.data);
      if (wanted) send(wanted);
    };
    send = (c) => {
      busy = true;
      wanted = null;
      last = c;
      worker.postMessage({ forward: c.forward, position: c.position, near: c.near });
    };
  } catch {
    const sort = makeSorter(splats.positions);
    send = (c) => {
      last = c;
      shown(sort(c.forward, c.position, c.near));
    };
  }
  return (c) => {
    if (!changed(c)) return;
    if (busy) wanted = c;
    else send(c);
  };
}

function fail(text) {
  document.body.classList.add("ready", "failed");
  $(".trouble").textContent = text;
}

start().catch((error) => fail(error.message));
