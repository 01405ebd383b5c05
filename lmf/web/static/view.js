// Where the picture is on the canvas, and how it is drawn. Lengths are device pixels; (x, y) is the point of the
// picture, in its own pixels, at the centre of the canvas.

export const COLOURS = ["#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00", "#cc79a7", "#ffffff"];

export class View {
  constructor(limits) {
    this.limits = limits; // [smallest, largest] scale
    this.width = this.height = 1;
    this.picture = null;
    this.scale = 1;
    this.x = this.y = 0;
  }

  show(picture) {
    this.picture = picture;
    this.fit();
  }

  fit() {
    const scale = Math.min(this.width / this.picture.width, this.height / this.picture.height);
    this.scale = this.limited(scale);
    this.x = this.picture.width / 2;
    this.y = this.picture.height / 2;
    this.settle();
  }

  limited(scale) {
    return Math.min(this.limits[1], Math.max(this.limits[0], scale));
  }

  // Zoom to a scale; the point at (left, top) of the canvas stays where it is.
  zoom(scale, left = this.width / 2, top = this.height / 2) {
    const to = this.limited(scale);
    const shift = 1 / this.scale - 1 / to;
    this.x += (left - this.width / 2) * shift;
    this.y += (top - this.height / 2) * shift;
    this.scale = to;
    this.settle();
  }

  move(right, down) {
    this.x -= right / this.scale;
    this.y -= down / this.scale;
    this.settle();
  }

  // Keep the picture on the canvas.
  settle() {
    const keep = (centre, length, visible) =>
      length * this.scale <= visible
        ? length / 2
        : Math.min(length - visible / 2 / this.scale, Math.max(visible / 2 / this.scale, centre));
    this.x = keep(this.x, this.picture.width, this.width);
    this.y = keep(this.y, this.picture.height, this.height);
  }

  // The output pixel at the top left of the canvas.
  get origin() {
    return {
      left: Math.round(this.x * this.scale - this.width / 2),
      top: Math.round(this.y * this.scale - this.height / 2),
    };
  }

  // What is asked of the server: output pixels of the picture on the canvas.
  get box() {
    const { left, top } = this.origin;
    return { scale: this.scale, top, bottom: top + this.height, left, right: left + this.width };
  }
}

export class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { colorSpace: "srgb", desynchronized: false });
    this.preview = null;
  }

  clear() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  // Draw the picture at once from the preview, then the last frame over it, from column `from` to column `to`.
  layer(view, frame, smooth, from, to) {
    const context = this.context;
    const { left, top } = view.origin;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, view.height);
    context.clip();
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    if (!frame || !covers(frame, view)) {
      if (this.preview) {
        context.drawImage(this.preview, -left, -top, view.picture.width * view.scale, view.picture.height * view.scale);
      }
    }
    if (frame) {
      const factor = view.scale / frame.state.scale;
      const x = frame.left * factor - left;
      const y = frame.top * factor - top;
      context.clearRect(x, y, frame.columns * factor, frame.rows * factor);
      if (factor === 1) context.drawImage(frame.bitmap, x, y);
      else context.drawImage(frame.bitmap, x, y, frame.columns * factor, frame.rows * factor);
    }
    context.restore();
  }

  // Draw the levels of a frame as colours over it.
  levels(view, frame, from, to) {
    const context = this.context;
    const { left, top } = view.origin;
    const { map } = frame;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, view.height);
    context.clip();
    context.imageSmoothingEnabled = false;
    context.globalAlpha = 0.45;
    const scale = view.scale;
    context.drawImage(map.canvas, map.left * scale - left, map.top * scale - top, map.canvas.width * scale, map.canvas.height * scale);
    context.restore();
  }
}

// Whether a frame shows everything of the picture that is on the canvas.
function covers(frame, view) {
  if (frame.state.scale !== view.scale) return false;
  const { left, top } = view.origin;
  return (
    frame.left <= Math.max(0, left) &&
    frame.top <= Math.max(0, top) &&
    frame.left + frame.columns >= Math.min(frame.width, left + view.width) &&
    frame.top + frame.rows >= Math.min(frame.height, top + view.height)
  );
}

// A frame with its pixels as something that a canvas draws, and its level map. They are those of `frame.before`, if the
// server was told of it, and those of the parts in the body.
export async function decoded({ before, ...frame }, body, raw) {
  const bitmap = new OffscreenCanvas(frame.columns, frame.rows);
  const context = bitmap.getContext("2d");
  if (before) context.drawImage(before.bitmap, before.left - frame.left, before.top - frame.top);
  let at = 0;
  for (const { top, left, rows, columns, bytes } of frame.parts) {
    const place = [left - frame.left, top - frame.top];
    if (raw) {
      context.putImageData(new ImageData(new Uint8ClampedArray(body, at, bytes), columns, rows), ...place);
    } else {
      const blob = new Blob([new Uint8Array(body, at, bytes)]);
      context.drawImage(await createImageBitmap(blob, { colorSpaceConversion: "none" }), ...place);
    }
    at += bytes;
  }
  let map = null;
  if (frame.levels) {
    const { top, left, rows, columns, scales } = frame.levels;
    const index = new Uint8Array(body, at);
    const canvas = new OffscreenCanvas(columns, rows);
    const image = new ImageData(columns, rows);
    const colours = scales.map((_, i) => rgb(colourOf(i, scales.length)));
    for (let i = 0; i < index.length; i++) image.data.set([...colours[index[i]], 255], 4 * i);
    canvas.getContext("2d").putImageData(image, 0, 0);
    map = { canvas, top, left };
  }
  return { ...frame, bitmap, map };
}

// The finest level always has the same colour.
export function colourOf(index, count) {
  return COLOURS[Math.max(0, COLOURS.length - count) + index];
}

function rgb(colour) {
  return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
}
