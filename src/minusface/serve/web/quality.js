// Is a crop good enough? The same rules and numbers as minusface's client on a computer.

const DARKEST = 35;
const BRIGHTEST = 220;
const LEAST_SHARPNESS = 0.09;

/** Brightness of the middle of a crop (N, N, 3): eyes to mouth, without the background. */
function middle(crop, size) {
  const [top, bottom] = [Math.floor((size * 5) / 28), Math.floor((size * 25) / 28)];
  const [left, right] = [Math.floor((size * 6) / 28), Math.floor((size * 22) / 28)];
  const width = right - left;
  const height = bottom - top;
  const grey = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const p = ((y + top) * size + x + left) * 3;
      grey[y * width + x] = Math.round(0.299 * crop[p] + 0.587 * crop[p + 1] + 0.114 * crop[p + 2]);
    }
  }
  return { grey, width, height };
}

function filtered({ grey, width, height }, kernel) {
  const mirror = (i, n) => (i < 0 ? -i : i >= n ? 2 * n - 2 - i : i);
  const out = new Float32Array(grey.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let k = 0; k < 9; k++) {
        const row = mirror(y + Math.floor(k / 3) - 1, height);
        sum += kernel[k] * grey[row * width + mirror(x + (k % 3) - 1, width)];
      }
      out[y * width + x] = sum;
    }
  }
  return { grey: out, width, height };
}

function moments(values) {
  let sum = 0;
  for (const v of values) sum += v;
  const mean = sum / values.length;
  let spread = 0;
  for (const v of values) spread += (v - mean) ** 2;
  return { mean, deviation: Math.sqrt(spread / values.length) };
}

/** Fine contrast over all contrast. */
export function sharpness(crop, size) {
  const part = middle(crop, size);
  const smooth = filtered(part, [1, 2, 1, 2, 4, 2, 1, 2, 1].map((w) => w / 16));
  const fine = filtered(smooth, [0, 1, 0, 1, -4, 1, 0, 1, 0]);
  return moments(fine.grey).deviation / (moments(part.grey).deviation + 5);
}

/** A sentence on what is wrong with a crop (N, N, 3), or null. */
export function complaint(crop, size) {
  const { mean } = moments(middle(crop, size).grey);
  if (mean < DARKEST) return "The face is too dark: more light, please.";
  if (mean > BRIGHTEST) return "The face is too bright: less light, please.";
  if (sharpness(crop, size) < LEAST_SHARPNESS) {
    return "The face is blurred: hold still, and wipe the lens.";
  }
  return null;
}
