// The page: reads a picture, sends it to the worker, and draws the bands that come back.
const LARGEST = 160 * 160; // input pixels; larger pictures are reduced first
const element = (id) => document.getElementById(id);
const status = element("status");
let worker;
let source; // the canvas to enlarge

function say(text, failed = false) {
  status.textContent = text;
  status.dataset.state = failed ? "error" : "ok";
}

async function show(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    say("This file is not a picture that the browser can read.", true);
    return;
  }
  const factor = Math.min(1, Math.sqrt(LARGEST / (bitmap.width * bitmap.height)));
  const canvas = element("before");
  canvas.width = Math.max(1, Math.floor(bitmap.width * factor));
  canvas.height = Math.max(1, Math.floor(bitmap.height * factor));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  source = canvas;
  element("go").disabled = false;
  const reduced = factor < 1 ? `, reduced from ${bitmap.width}x${bitmap.height}` : "";
  say(`${canvas.width}x${canvas.height} pixels${reduced}`);
}

function planes({ data, width, height }) {
  const image = new Float32Array(3 * width * height);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) image[c * width * height + i] = data[4 * i + c] / 255;
  return image;
}

function pixels(band, rows, cols) {
  const out = new ImageData(cols, rows);
  for (let i = 0; i < rows * cols; i++) {
    for (let c = 0; c < 3; c++) out.data[4 * i + c] = Math.round(band[c * rows * cols + i] * 255);
    out.data[4 * i + 3] = 255;
  }
  return out;
}

function enlarge() {
  const scale = Number(element("scale").value);
  if (!(scale >= 1 && scale <= 8)) {
    say("The factor must be a number from 1 to 8.", true);
    return;
  }
  const { width, height } = source;
  const [rows, cols] = [Math.round(height * scale), Math.round(width * scale)];
  const canvas = element("after");
  [canvas.width, canvas.height] = [cols, rows];
  source.style.width = `${cols}px`; // as wide as the result, for comparison
  const context = canvas.getContext("2d");
  element("go").disabled = true;
  say("Loading the model …");
  worker ??= new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
  worker.onerror = () => finish("The runtime is missing or does not start in this browser; see docs/browser/build.py.", true);
  worker.onmessage = ({ data }) => {
    if (data.error) finish(data.error, true);
    else if (data.band) {
      context.putImageData(pixels(data.band, data.rows, cols), 0, data.top);
      say(`${Math.round((100 * (data.top + data.rows)) / rows)} %`);
    } else {
      const threads = data.threads === 1 ? "1 thread" : `${data.threads} threads`;
      const ms = (time) => `${Math.round(time)} ms`;
      finish(`${cols}x${rows}: encoder and latent ${ms(data.encode)}, rendering ${ms(data.render)}, ${threads}`);
    }
  };
  const image = planes(source.getContext("2d").getImageData(0, 0, width, height));
  worker.postMessage({ image, height, width, rows, cols }, [image.buffer]);
}

function finish(text, failed = false) {
  element("go").disabled = false;
  say(text, failed);
  status.dataset.done = "true";
}

element("go").addEventListener("click", () => {
  delete status.dataset.done;
  enlarge();
});
element("file").addEventListener("change", ({ target }) => target.files[0] && show(target.files[0]));
fetch(new URL("./files/example.png", import.meta.url))
  .then((response) => (response.ok ? response.blob() : Promise.reject()))
  .then(show)
  .catch(() => say("Choose a picture."));
