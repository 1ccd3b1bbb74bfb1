// The permutation: drawn from the system's entropy, every order equally likely, used once.

/** A whole number in [0, bound), unbiased: what lies past the last full multiple is drawn again. */
export function below(bound, words) {
  const limit = 2 ** 32 - (2 ** 32 % bound);
  for (;;) {
    const word = words();
    if (word < limit) return word % bound;
  }
}

/** 32-bit words from crypto.getRandomValues, drawn in blocks that are wiped once used. */
export function entropy(source = globalThis.crypto) {
  const block = new Uint32Array(1024);
  let next = block.length;
  return () => {
    if (next === block.length) {
      source.getRandomValues(block);
      next = 0;
    }
    const word = block[next];
    block[next++] = 0;
    return word;
  };
}

/** `copies` permutations of 0..channels-1, one after the other, as client.onnx takes them (Fisher-Yates). */
export function drawOrder(copies, channels, words = entropy()) {
  const order = new BigInt64Array(copies * channels);
  for (let copy = 0; copy < copies; copy++) {
    const row = order.subarray(copy * channels, (copy + 1) * channels);
    for (let i = 0; i < channels; i++) row[i] = BigInt(i);
    for (let i = channels - 1; i > 0; i--) {
      const j = below(i + 1, words);
      [row[i], row[j]] = [row[j], row[i]];
    }
  }
  return order;
}
