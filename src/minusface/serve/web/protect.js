// client.onnx in this browser: a crop goes in, what may be sent comes out.

import { drawOrder } from "./secret.js";
import { encodePng, toBytes } from "./png.js";

async function fetched(address, what) {
  const answer = await fetch(address);
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.message ?? `${what} could not be loaded (status ${answer.status}).`);
  }
  return answer;
}

/** Loads the model; gives its card and `protect(crop)`. */
export async function loadShield() {
  const card = await (await fetched("/web/models/about.json", "The model's card")).json();
  const model = await (await fetched("/web/models/client.onnx", "The model")).arrayBuffer();
  await fetched("/web/ort/ort.wasm.min.mjs", "onnxruntime-web");
  const ort = await import("/web/ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = "/web/ort/";
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated
    ? Math.min(4, navigator.hardwareConcurrency || 1)
    : 1;
  const session = await ort.InferenceSession.create(new Uint8Array(model), {
    executionProviders: ["wasm"],
  });
  const { size, channels, copies, tries } = card;

  /** (N, N, 3) bytes to the pixels (n*N, N, 3) that may be sent, and their PNG. Of several tries the model
   * gives the one that shows least of the face's outlines. */
  async function protect(crop) {
    const order = drawOrder(copies * tries, channels);
    const feeds = {
      crop: new ort.Tensor("uint8", crop, [1, size, size, 3]),
      permutation: new ort.Tensor("int64", order, [1, copies * tries, channels]),
    };
    try {
      const { protected: image } = await session.run(feeds);
      const pixels = toBytes(image.data, copies, size);
      return { pixels, png: await encodePng(pixels, size, size * copies) };
    } finally {
      order.fill(0n);
    }
  }
  return { card, protect };
}
