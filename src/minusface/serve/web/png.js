// A PNG of three colours of eight bits, with nothing in it but pixels: no canvas writes what is sent.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

function crc(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = TABLE[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

function chunk(kind, body) {
  const out = new Uint8Array(body.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) out[4 + i] = kind.charCodeAt(i);
  out.set(body, 8);
  view.setUint32(body.length + 8, crc(out.subarray(4, body.length + 8)));
  return out;
}

async function deflate(bytes) {
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(packed).arrayBuffer());
}

/** `pixels` (height, width, 3) as the bytes of a PNG. */
export async function encodePng(pixels, width, height) {
  if (pixels.length !== width * height * 3) throw new Error("The image has another size.");
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 2, 0, 0, 0], 8);
  const rows = new Uint8Array(height * (width * 3 + 1));
  for (let y = 0; y < height; y++) {
    rows.set(pixels.subarray(y * width * 3, (y + 1) * width * 3), y * (width * 3 + 1) + 1);
  }
  const parts = [
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10),
    chunk("IHDR", header),
    chunk("IDAT", await deflate(rows)),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** X_p (3n, N, N) in [0, 1] to (n*N, N, 3) bytes, the n images one below the other. */
export function toBytes(protectedImage, copies, size) {
  const area = size * size;
  const out = new Uint8Array(copies * area * 3);
  for (let copy = 0; copy < copies; copy++) {
    for (let colour = 0; colour < 3; colour++) {
      const plane = (copy * 3 + colour) * area;
      for (let p = 0; p < area; p++) {
        const value = Math.min(1, Math.max(0, protectedImage[plane + p]));
        out[(copy * area + p) * 3 + colour] = Math.round(value * 255);
      }
    }
  }
  return out;
}

/** Bytes in base64. */
export function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  }
  return btoa(text);
}
