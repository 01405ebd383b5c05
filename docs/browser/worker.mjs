// Runs the exported model. It receives {image, height, width, rows, cols} and answers with bands of the picture:
// {top, rows, band} for each, then {encode, render, threads} in milliseconds. Problems are answered by {error}.
import * as ort from "./files/ort.wasm.min.mjs";

const BAND = 32768; // output pixels per call of the renderer; bounds the memory

ort.env.wasm.wasmPaths = new URL("./files/", import.meta.url).href;
// Browsers allow threads only on pages served with the headers COOP and COEP.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const load = (name) => ort.InferenceSession.create(new URL(`./files/model.${name}.onnx`, import.meta.url).href);
let models; // [latent, render]
const int64 = (...values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);

async function enlarge({ image, height, width, rows, cols }) {
  models ??= await Promise.all([load("latent"), load("render")]);
  const [first, second] = models;
  const scale = new ort.Tensor("float64", Float64Array.of(rows / height, cols / width), [2]);
  const start = performance.now();
  const latent = await first.run({ image: new ort.Tensor("float32", image, [1, 3, height, width]), scale });
  const encoded = performance.now();
  const step = Math.max(1, Math.floor(BAND / cols));
  for (let top = 0; top < rows; top += step) {
    const count = Math.min(step, rows - top);
    const inputs = { ...latent, scale, origin: int64(top, 0), size: int64(count, cols) };
    const { picture } = await second.run(inputs);
    postMessage({ top, rows: count, band: picture.data });
  }
  const done = performance.now();
  postMessage({ encode: encoded - start, render: done - encoded, threads: ort.env.wasm.numThreads });
}

onmessage = ({ data }) => enlarge(data).catch((error) => postMessage({ error: String(error.message ?? error) }));
