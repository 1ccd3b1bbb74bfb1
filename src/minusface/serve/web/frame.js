// The square that is cut out of a photo: shown on it, moved by sliders, the mouse or a finger.

// Eyes, nose and corners of the mouth in a crop of side 112 that the models were trained on.
const MARKS = [[38.3, 51.7], [73.5, 51.5], [56, 71.7], [41.5, 92.4], [70.7, 92.2]];

/** Where the square lies: centre and side in photo pixels, tilt in degrees. */
export function startFrame(width, height) {
  const side = Math.min(width, height);
  return { x: width / 2, y: height / 2, side, tilt: 0 };
}

function half(source) {
  const small = document.createElement("canvas");
  small.width = Math.max(1, Math.round(source.width / 2));
  small.height = Math.max(1, Math.round(source.height / 2));
  small.getContext("2d").drawImage(source, 0, 0, small.width, small.height);
  return small;
}

/** The square, turned upright, as (size, size, 3) bytes; black outside the photo. */
export function cut(photo, frame, size) {
  let source = photo;
  let scale = 1;
  while ((frame.side * scale) / size > 2) {
    source = half(source);
    scale = source.width / photo.width;
  }
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const draw = canvas.getContext("2d", { willReadFrequently: true });
  draw.fillStyle = "#000";
  draw.fillRect(0, 0, size, size);
  draw.translate(size / 2, size / 2);
  draw.rotate((-frame.tilt * Math.PI) / 180);
  draw.scale(size / frame.side, size / frame.side);
  draw.translate(-frame.x, -frame.y);
  draw.drawImage(source, 0, 0, photo.width, photo.height);
  const { data } = draw.getImageData(0, 0, size, size);
  const crop = new Uint8Array(size * size * 3);
  for (let p = 0; p < size * size; p++) crop.set(data.subarray(p * 4, p * 4 + 3), p * 3);
  return crop;
}

/** The photo with the square and its marks on it. */
export function paint(canvas, photo, frame) {
  canvas.width = photo.width;
  canvas.height = photo.height;
  const draw = canvas.getContext("2d");
  draw.drawImage(photo, 0, 0);
  const line = Math.max(photo.width, photo.height) / 250;
  draw.translate(frame.x, frame.y);
  draw.rotate((frame.tilt * Math.PI) / 180);
  for (const [colour, width] of [["#000", 2.5 * line], ["#fff", line]]) {
    draw.strokeStyle = colour;
    draw.lineWidth = width;
    draw.strokeRect(-frame.side / 2, -frame.side / 2, frame.side, frame.side);
    for (const [x, y] of MARKS) {
      draw.beginPath();
      const place = [(x / 112 - 0.5) * frame.side, (y / 112 - 0.5) * frame.side];
      draw.arc(...place, frame.side / 40, 0, 7);
      draw.stroke();
    }
  }
}

/** (width*height, 3) bytes onto a canvas, for looking at. */
export function show(canvas, pixels, width, height) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let p = 0; p < width * height; p++) {
    image.data.set(pixels.subarray(p * 3, p * 3 + 3), p * 4);
    image.data[p * 4 + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
