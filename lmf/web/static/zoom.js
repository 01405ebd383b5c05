// The page: its controls, and what happens when they are used.

import { Frames, Server } from "./server.js";
import { Painter, View, colourOf } from "./view.js";

const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const server = new Server();
const painter = new Painter(canvas);
const raw = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname); // else PNG, which is smaller

let view = null;
let offer = null;
let divider = 0.5;
let encoded = 0;
let queued = false;
const loaders = {};

for (const part of ["a", "b"]) {
  loaders[part] = new Frames(server, part, raw, {
    frame: (frame) => {
      encoded = frame.encoded;
      redraw();
    },
    progress: (share) => {
      encoded = share;
      redraw();
    },
    error: complain,
  });
}

// ---- what is shown

function method() {
  return offer.methods.find((m) => m.name === $("model").value);
}

function redraw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    draw();
  });
}

function draw() {
  painter.clear();
  if (!view?.picture) return;
  const comparing = $("compare").value !== "";
  const levels = $("cmsr").checked && method().levels;
  const state = { ...view.box, method: $("model").value };
  loaders.a.want(levels ? { ...state, budget: $("budget").value / 100 } : state);
  loaders.b.want(comparing ? { ...view.box, method: $("compare").value } : null);

  const at = comparing ? Math.round(divider * view.width) : view.width;
  const a = usable(loaders.a.frame, $("model").value);
  painter.layer(view, a, $("model").value !== "nearest", 0, at);
  if (levels && a?.map) painter.levels(view, a, 0, at);
  if (comparing) painter.layer(view, usable(loaders.b.frame, $("compare").value), $("compare").value !== "nearest", at, view.width);

  const exact = isExact(loaders.a) && (!comparing || isExact(loaders.b));
  canvas.dataset.state = exact ? "exact" : "coarse";
  canvas.dataset.origin = `${view.origin.top} ${view.origin.left}`;
  describe(exact, comparing, levels);
}

function usable(frame, name) {
  return frame?.state.method === name ? frame : null;
}

function isExact(loader) {
  return loader.frame !== null && loader.frame.state === loader.state;
}

function describe(exact, comparing, levels) {
  if (document.activeElement !== $("scale")) $("scale").value = +view.scale.toFixed(3);
  const frame = loaders.a.frame;
  const scale = `x${+view.scale.toFixed(3)}`;
  const waits = !exact && encoded < 1;
  $("status").textContent = exact ? `${scale}, exact` : waits ? `${scale}, encoder at ${Math.round(100 * encoded)} %` : `${scale}, coarse`;
  if (exact) {
    const { encoder, latent, render } = frame.macs;
    const pixels = (frame.levels?.rendered ?? frame.parts.map((p) => p.rows * p.columns)).reduce((a, b) => a + b, 0);
    const share = frame.levels ? ` (${Math.round(100 * frame.levels.share)} %)` : "";
    $("figures").textContent = [
      `${frame.columns}×${frame.rows} of ${frame.width}×${frame.height}`,
      `${frame.ms.toPrecision(3)} ms`,
      `${pixels.toLocaleString("en")} pixels rendered${share}`,
      `${giga(render)} GMAC (once: latents ${giga(latent)}, encoder ${giga(encoder)})`,
      ...(levels && view.scale <= 4 ? ["levels begin above x4"] : []),
    ].join(" · ");
  }
  $("progress").hidden = !waits;
  $("progress").value = encoded;
  canvas.setAttribute("aria-label", `${view.picture.name}, ${view.picture.width} by ${view.picture.height} pixels, at x${+view.scale.toFixed(2)}`);

  $("divider").hidden = $("left-label").hidden = $("right-label").hidden = !comparing;
  $("divider").style.left = `${100 * divider}%`;
  $("divider").setAttribute("aria-valuenow", Math.round(100 * divider));
  $("left-label").textContent = $("model").value;
  $("right-label").textContent = $("compare").value;
  legend(levels && usable(frame, $("model").value)?.levels);
}

function giga(macs) {
  return (macs / 1e9).toPrecision(3);
}

function legend(levels) {
  $("legend").hidden = !levels;
  if (!levels) return;
  $("legend").replaceChildren(
    ...levels.scales.map((scale, i) => {
      const item = document.createElement("li");
      const colour = document.createElement("i");
      colour.style.background = colourOf(i, levels.scales.length);
      item.append(colour, `x${+scale.toFixed(2)}: ${levels.rendered[i].toLocaleString("en")} pixels`);
      return item;
    }),
  );
}

function complain(error) {
  $("alert").textContent = error.message;
  $("alert").hidden = false;
}

function forgive() {
  $("alert").hidden = true;
}

$("alert").addEventListener("click", forgive);

// ---- pictures and sessions

function forget() {
  for (const loader of Object.values(loaders)) loader.forget();
  encoded = 0;
}

async function show(picture) {
  forget();
  painter.preview = null;
  $("name").textContent = picture ? picture.name : "";
  $("name").title = $("name").textContent;
  $("drop").hidden = picture !== null;
  for (const id of ["scale", "in", "out", "fit", "download"]) $(id).disabled = picture === null;
  if (!picture) return;
  view.show(picture);
  redraw();
  const answer = await server.call("/api/preview");
  painter.preview = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
  redraw();
}

async function open(file) {
  if (!file) return;
  forgive();
  $("status").textContent = `Reading ${file.name}…`;
  try {
    if (file.size > offer.limits.bytes) {
      throw new Error(`${file.name}: the file is larger than the limit of ${+(offer.limits.bytes / 2 ** 20).toPrecision(3)} MiB`);
    }
    await show(await server.upload(file).catch(async (error) => {
      if (error.status !== 404) throw error;
      await server.reopen();
      return server.upload(file);
    }));
  } catch (error) {
    complain(error);
    redraw();
  }
}

server.addEventListener("lost", () => complain(new Error("The connection to the server is lost. Trying again…")));
server.addEventListener("back", () => {
  forgive();
  for (const loader of Object.values(loaders)) loader.again();
});
server.addEventListener("reopened", () => {
  forget();
  redraw();
});

// ---- controls

function zoomed(factor, left, top) {
  if (!view.picture) return;
  view.zoom(view.scale * factor, left, top);
  redraw();
}

$("file").addEventListener("change", () => {
  open($("file").files[0]);
  $("file").value = "";
});
$("in").addEventListener("click", () => zoomed(1.25));
$("out").addEventListener("click", () => zoomed(1 / 1.25));
$("fit").addEventListener("click", () => {
  view.fit();
  redraw();
});
$("scale").addEventListener("change", () => {
  const scale = $("scale").valueAsNumber;
  if (Number.isFinite(scale) && view.picture) view.zoom(scale);
  $("scale").value = +view.scale.toFixed(3);
  redraw();
});
for (const id of ["model", "compare", "cmsr"]) {
  $(id).addEventListener("change", () => {
    forgive();
    $("cmsr").disabled = $("budget").disabled = !method().levels;
    encoded = 0;
    redraw();
  });
}
$("budget").addEventListener("input", () => {
  $("budget-value").textContent = `${$("budget").value} %`;
  redraw();
});

// Lengths on the canvas in device pixels.
function place(event) {
  const ratio = view.width / canvas.clientWidth;
  const box = canvas.getBoundingClientRect();
  return { left: (event.clientX - box.left) * ratio, top: (event.clientY - box.top) * ratio };
}

const pointers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  if (!view?.picture || event.button > 0) return;
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  canvas.classList.add("dragging");
});
canvas.addEventListener("pointermove", (event) => {
  if (!pointers.has(event.pointerId)) return;
  const before = [...pointers.values()].slice(0, 2);
  pointers.set(event.pointerId, place(event));
  const after = [...pointers.values()].slice(0, 2);
  const middle = (points) => ({
    left: points.reduce((sum, p) => sum + p.left, 0) / points.length,
    top: points.reduce((sum, p) => sum + p.top, 0) / points.length,
  });
  const [from, to] = [middle(before), middle(after)];
  view.move(to.left - from.left, to.top - from.top);
  if (after.length === 2) {
    const spread = (points) => Math.hypot(points[0].left - points[1].left, points[0].top - points[1].top);
    if (spread(before) > 0) view.zoom((view.scale * spread(after)) / spread(before), to.left, to.top);
  }
  redraw();
});
for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
  canvas.addEventListener(type, (event) => {
    pointers.delete(event.pointerId);
    if (!pointers.size) canvas.classList.remove("dragging");
  });
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (!view?.picture) return;
  const { left, top } = place(event);
  const lines = event.deltaMode === 0 ? 1 : event.deltaMode === 1 ? 33 : 400;
  zoomed(Math.exp(-0.0015 * event.deltaY * lines * (event.ctrlKey ? 5 : 1)), left, top);
}, { passive: false });
canvas.addEventListener("dblclick", (event) => {
  const { left, top } = place(event);
  zoomed(event.shiftKey ? 0.5 : 2, left, top);
});
canvas.addEventListener("keydown", (event) => {
  if (!view?.picture || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = 0.1 * Math.min(view.width, view.height);
  const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  if (moves[event.key]) view.move(...moves[event.key]);
  else if (event.key === "+" || event.key === "=") view.zoom(view.scale * 1.25);
  else if (event.key === "-") view.zoom(view.scale / 1.25);
  else if (event.key === "0") view.fit();
  else return;
  event.preventDefault();
  redraw();
});

function divide(share) {
  divider = Math.min(1, Math.max(0, share));
  redraw();
}

$("divider").addEventListener("pointerdown", (event) => {
  $("divider").setPointerCapture(event.pointerId);
  event.preventDefault();
  $("divider").focus();
});
$("divider").addEventListener("pointermove", (event) => {
  if ($("divider").hasPointerCapture(event.pointerId)) divide(place(event).left / view.width);
});
$("divider").addEventListener("keydown", (event) => {
  const to = { ArrowLeft: divider - 0.05, ArrowRight: divider + 0.05, Home: 0, End: 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  divide(to);
});

// ---- dropping and pasting

addEventListener("dragover", (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("stage").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  open(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => open(event.clipboardData?.files[0]));

// ---- downloads

let running = false;

function what() {
  return document.querySelector("input[name=what]:checked").value;
}

// The sides in picture pixels of what would be downloaded.
function chosen() {
  const { left, top } = view.origin;
  const within = (start, length, whole) => [
    Math.max(0, start) / view.scale,
    Math.min(whole, (start + length) / view.scale),
  ];
  if (what() === "whole") return { cols: [0, view.picture.width], rows: [0, view.picture.height] };
  return { cols: within(left, view.width, view.picture.width), rows: within(top, view.height, view.picture.height) };
}

function suggest(changed) {
  const { cols } = chosen();
  const width = cols[1] - cols[0];
  if (changed === "width") $("order-scale").value = +($("order-width").valueAsNumber / width).toFixed(4);
  else $("order-width").value = Math.max(1, Math.round($("order-scale").valueAsNumber * width));
  $("quality-row").hidden = !offer.lossy.includes($("format").value);
}

$("download").addEventListener("click", () => {
  $("order-scale").value = +view.scale.toFixed(4);
  $("order-state").textContent = "";
  suggest("scale");
  $("dialog").showModal();
});
$("order-scale").addEventListener("input", () => suggest("scale"));
$("order-width").addEventListener("input", () => suggest("width"));
$("format").addEventListener("change", () => suggest("scale"));
for (const choice of document.querySelectorAll("input[name=what]")) choice.addEventListener("change", () => suggest("scale"));

$("order").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return;
  running = true;
  $("start").disabled = true;
  try {
    const order = { method: $("model").value, format: $("format").value, quality: $("quality").valueAsNumber || 95 };
    if (what() === "view") {
      const scale = $("order-scale").valueAsNumber;
      const { rows, cols } = chosen();
      const exact = Math.abs(scale - view.scale) < 1e-4; // what the view shows, to the pixel
      const pixels = ([a, b]) => [Math.round(a * scale), Math.round(b * scale)];
      const [top, bottom] = exact ? [view.box.top, view.box.bottom] : pixels(rows);
      const [left, right] = exact ? [view.box.left, view.box.right] : pixels(cols);
      Object.assign(order, { scale: exact ? view.scale : scale, top, bottom, left, right });
    } else {
      order.width = $("order-width").valueAsNumber;
    }
    await server.post("/api/download", order);
    let state = { progress: 0, file: null };
    while (!state.file && running) {
      $("order-state").textContent = `${Math.round(100 * state.progress)} %`;
      await new Promise((resolve) => setTimeout(resolve, 250));
      state = await (await server.call("/api/download", {}, false)).json();
    }
    if (state.file) {
      const link = document.createElement("a");
      link.href = state.file;
      link.download = "";
      link.click();
      $("order-state").textContent = "Done.";
    }
  } catch (error) {
    $("order-state").textContent = error.message;
  } finally {
    running = false;
    $("start").disabled = false;
  }
});
$("cancel").addEventListener("click", () => $("dialog").close());
$("dialog").addEventListener("close", () => {
  if (running) server.call("/api/download", { method: "DELETE" }, false).catch(() => {});
  running = false;
});

// ---- beginning

function resized(entries) {
  const entry = entries[0];
  const exact = entry.devicePixelContentBoxSize?.[0];
  const ratio = devicePixelRatio;
  canvas.width = exact ? exact.inlineSize : Math.round(entry.contentRect.width * ratio);
  canvas.height = exact ? exact.blockSize : Math.round(entry.contentRect.height * ratio);
  const fitted = view.picture && view.width === 1;
  view.width = Math.max(1, canvas.width);
  view.height = Math.max(1, canvas.height);
  if (fitted) view.fit();
  else if (view.picture) view.settle();
  draw();
}

async function begin() {
  offer = await server.open();
  view = new View(offer.scales);
  const option = (value, label = value) => new Option(label, value);
  $("model").replaceChildren(...offer.methods.map((m) => option(m.name)));
  $("compare").replaceChildren(option("", "nothing"), ...offer.methods.map((m) => option(m.name)));
  $("format").replaceChildren(...offer.formats.map((f) => option(f)));
  $("cmsr").disabled = $("budget").disabled = !method().levels;
  $("more").open = matchMedia("(min-width: 40rem)").matches;
  const observer = new ResizeObserver(resized);
  try {
    observer.observe(canvas, { box: "device-pixel-content-box" });
  } catch {
    observer.observe(canvas);
  }
  await show(offer.picture);
}

async function start() {
  try {
    await begin();
  } catch (error) {
    complain(error);
    if (error.status === 0) server.addEventListener("back", start, { once: true });
  }
}

start();
