// Run by tests/serve/test_page.py: node --test tests/web/parts.test.mjs
import assert from "node:assert/strict";
import test from "node:test";
import zlib from "node:zlib";

import { base64, encodePng, toBytes } from "../../src/minusface/serve/web/png.js";
import { complaint, sharpness } from "../../src/minusface/serve/web/quality.js";
import { below, drawOrder, entropy } from "../../src/minusface/serve/web/secret.js";

test("a permutation holds each channel once, in every copy, and no two are equal", () => {
  const order = drawOrder(3, 189);
  const rows = [0, 1, 2].map((copy) => Array.from(order.subarray(copy * 189, copy * 189 + 189), Number));
  for (const row of rows) {
    assert.deepEqual([...row].sort((a, b) => a - b), Array.from({ length: 189 }, (_, i) => i));
  }
  assert.notDeepEqual(rows[0], rows[1]);
});

test("every order of three comes equally often", () => {
  const counts = new Map();
  for (let i = 0; i < 12000; i++) {
    const name = drawOrder(1, 3).join();
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  assert.equal(counts.size, 6);
  // Chi-squared, 5 degrees of freedom: beyond 30 less often than once in 60,000 runs.
  let chi = 0;
  for (const n of counts.values()) chi += (n - 2000) ** 2 / 2000;
  assert.ok(chi < 30, `chi squared ${chi}`);
});

test("words past the last full multiple are drawn again", () => {
  const words = [2 ** 32 - 1, 2 ** 32 - 1, 7];
  assert.equal(below(3, () => words.shift()), 1);
  assert.equal(words.length, 0);
});

test("entropy comes in blocks from the given source", () => {
  let calls = 0;
  const words = entropy({ getRandomValues: (block) => block.fill(++calls) });
  const got = Array.from({ length: 1025 }, words);
  assert.deepEqual([got[0], got[1023], got[1024], calls], [1, 1, 2, 2]);
});

test("a PNG unpacks to its pixels and holds nothing else", async () => {
  const pixels = Uint8Array.from({ length: 5 * 4 * 3 }, (_, i) => (i * 37) % 256);
  const png = Buffer.from(await encodePng(pixels, 5, 4));
  const kinds = [];
  let rows;
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    const kind = png.toString("latin1", at + 4, at + 8);
    if (kind === "IDAT") rows = zlib.inflateSync(png.subarray(at + 8, at + 8 + length));
    kinds.push(kind);
    at += length + 12;
  }
  assert.deepEqual(kinds, ["IHDR", "IDAT", "IEND"]);
  const back = [0, 1, 2, 3].flatMap((y) => [...rows.subarray(y * 16 + 1, y * 16 + 16)]);
  assert.deepEqual(back, [...pixels]);
  assert.equal(base64(png), png.toString("base64"));
  process.stdout.write(`\nPNG ${base64(png)}\n`);
  await assert.rejects(encodePng(pixels, 5, 5), /another size/);
});

test("planes become pixels, images one below the other, clipped and rounded", () => {
  const planes = Float32Array.from([0, 1, -1, 2, 0.5, 0.25]);
  assert.deepEqual([...toBytes(planes, 2, 1)], [0, 255, 0, 255, 128, 64]);
});

test("dark, bright and blurred crops are refused with a sentence", () => {
  const size = 112;
  const flat = (value) => new Uint8Array(size * size * 3).fill(value);
  assert.match(complaint(flat(10), size), /too dark/);
  assert.match(complaint(flat(250), size), /too bright/);
  assert.match(complaint(flat(128), size), /blurred/);
  const board = Uint8Array.from({ length: size * size * 3 }, (_, i) => {
    const p = Math.floor(i / 3);
    return (Math.floor((p % size) / 4) + Math.floor(p / size / 4)) % 2 ? 200 : 60;
  });
  assert.equal(complaint(board, size), null);
  process.stdout.write(`\nSHARPNESS ${sharpness(board, size)}\n`);
});
