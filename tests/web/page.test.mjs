// Run by tests/serve/test_page.py: the page's script with stand-ins for the browser and the model.
import assert from "node:assert/strict";
import { register } from "node:module";
import { beforeEach, test } from "node:test";

const elements = new Map();

/** An element, or a drawing: whatever is asked of it is there. */
function element(id) {
  const own = {
    id, files: [], hidden: true, value: "", textContent: "", width: 0, height: 0, heard: {},
    classList: { toggle() {} },
    addEventListener(kind, what) { own.heard[kind] = what; },
    removeAttribute(name) { delete own[name]; },
    getContext: () => new Proxy({}, {
      get: (_, name) => name === "getImageData"
        ? () => ({ data: new Uint8ClampedArray(SIZE * SIZE * 4).map((_, i) => board(i >> 2)) })
        : () => {},
      set: () => true,
    }),
    play: async () => {},
    srcObject: null,
  };
  return own;
}

const SIZE = 112;
const board = (p) => ((Math.floor((p % SIZE) / 4) + Math.floor(p / SIZE / 4)) % 2 ? 200 : 60);
const at = (id) => elements.get(id) ?? elements.set(id, element(id)).get(id);
const buttons = ["camera", "snap", "protect", "enroll"];

globalThis.document = {
  getElementById: at,
  createElement: element,
  querySelectorAll: () => buttons.map(at),
};
globalThis.ImageData = class { constructor() { this.data = new Uint8ClampedArray(SIZE * SIZE * 4); } };
URL.createObjectURL = () => "blob:1";
URL.revokeObjectURL = () => {};

/** What waits until it is let go. */
function later() {
  const kept = {};
  kept.promise = new Promise((resolve, reject) => Object.assign(kept, { resolve, reject }));
  return kept;
}

let opening = [];
globalThis.createImageBitmap = () => (opening.push(later()), opening.at(-1).promise);
const asked = [];
const usual = { same: true, score: 1, threshold: 0.5, templates: ["a"], matches: [] };
let answers = [];
globalThis.fetch = async (path, how) => {
  asked.push([path, how]);
  const [status, body] = answers.shift() ?? [200, usual];
  if (!status) throw new TypeError("Failed to fetch");
  return { ok: status === 200, status, json: async () => (body === null ? JSON.parse("<") : body) };
};
const settled = () => new Promise((resolve) => setTimeout(resolve, 5));

let work = [];
globalThis.loadShield = async () => ({
  card: { size: SIZE, copies: 1, model: "m1" },
  protect: () => (work.push(later()), work.at(-1).promise),
});
const standIn = "data:text/javascript,export const loadShield = () => globalThis.loadShield();";
const hooks = `export const resolve = (name, from, next) =>
  name === "./protect.js" ? { url: ${JSON.stringify(standIn)}, shortCircuit: true } : next(name, from);`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
await import("../../src/minusface/serve/web/app.js");

const choose = (name) => {
  at("file").files = [name];
  at("file").heard.change();
};
const picture = (width) => ({ width, height: width, close() {} });
const made = (byte) => ({ pixels: new Uint8Array(SIZE * SIZE * 3), png: Uint8Array.of(byte) });

beforeEach(() => {
  opening = [];
  work = [];
  answers = [];
  asked.length = 0;
  at("key").value = "mf_1_2";
  at("person").value = "Ann";
});

async function open(width) {
  choose("file");
  opening.at(-1).resolve(picture(width));
  await settled();
}

test("what was protected of an older picture is not offered", async () => {
  await open(40);
  at("protect").heard.click();
  await settled();
  await open(50);
  assert.ok(at("protect").disabled, "the buttons wait while anything runs");
  work[0].resolve(made(1));
  await settled();
  assert.ok(!at("protect").disabled);
  assert.ok(at("result").hidden);
  assert.match(at("said").textContent, /has changed since/);
  at("enroll").heard.click();
  await settled();
  assert.match(at("said").textContent, /Protect a picture first/);
  assert.equal(asked.length, 0);
});

test("nor of a square that was moved meanwhile", async () => {
  await open(40);
  at("protect").heard.click();
  await settled();
  at("x").value = "5";
  at("x").heard.input();
  work[0].resolve(made(1));
  await settled();
  assert.ok(at("result").hidden);
});

test("what is shown is sent", async () => {
  await open(40);
  at("protect").heard.click();
  await settled();
  work[0].resolve(made(7));
  await settled();
  assert.ok(!at("result").hidden);
  const submit = (submitter) => at("form").heard.submit({ preventDefault() {}, submitter });
  submit({ value: "verify" });
  await settled();
  assert.equal(asked[0][0], "/v1/verify");
  assert.equal(JSON.parse(asked[0][1].body).image, "Bw==");
  for (let turn = 0; turn < 2; turn++) {
    at("enroll").heard.click();
    await settled();
  }
  const keys = asked.slice(1).map(([path, how]) => [path, how.headers["idempotency-key"]]);
  assert.deepEqual(keys.map(([path]) => path), ["/v1/enroll", "/v1/enroll"]);
  assert.notEqual(keys[0][1], keys[1][1]);
  assert.match(keys[0][1], /^[0-9a-f]{32}$/);
});

async function protectOne(byte) {
  await open(40);
  at("protect").heard.click();
  await settled();
  work.at(-1).resolve(made(byte));
  await settled();
}

async function enrollOnce() {
  at("enroll").heard.click();
  await settled();
  return asked.at(-1)[1].headers["idempotency-key"];
}

test("an enrolment whose answer was lost is asked for again, not twice", async () => {
  await protectOne(9);
  answers = [[0], [503, { error: "storage", message: "It may have been done." }], [200, null]];
  const first = await enrollOnce();
  assert.match(at("said").textContent, /does not answer/);
  assert.equal(await enrollOnce(), first);
  assert.match(at("said").textContent, /may have been done/);
  assert.equal(await enrollOnce(), first);
  assert.match(at("said").textContent, /no minusface service/);
  assert.equal(await enrollOnce(), first);
  assert.match(at("said").textContent, /Ann is enrolled/);
  const next = await enrollOnce();
  assert.notEqual(next, first);
  // Refused, nothing was done; another name, or another picture, is another enrolment.
  answers = [
    [0], [429, { error: "too_many_requests", message: "Later." }], [401, null],
    [409, { error: "conflict", message: "Erased." }],
  ];
  const lost = await enrollOnce();
  for (let tries = 0; tries < 3; tries++) assert.equal(await enrollOnce(), lost);
  answers = [[0], [0], [0]];
  const renewed = await enrollOnce();
  assert.notEqual(renewed, lost);
  at("person").value = "Bob";
  const other = await enrollOnce();
  assert.notEqual(other, renewed);
  await protectOne(9);
  assert.notEqual(await enrollOnce(), other);
});

test("what is no answer of the service is told in words", async () => {
  await protectOne(3);
  const submit = (submitter) => at("form").heard.submit({ preventDefault() {}, submitter });
  for (const value of ["verify", "identify"]) {
    for (const said of [null, {}, [], "x"]) {
      answers = [[200, said]];
      submit({ value });
      await settled();
      assert.match(at("said").textContent, /no minusface service/);
    }
    assert.equal(JSON.parse(asked.at(-1)[1].body).model, "m1");
  }
  answers = [[409, { error: "other_model", message: "Another." }]];
  submit({ value: "verify" });
  await settled();
  assert.match(at("said").textContent, /Load the page again/);
});

test("a tall photo's square follows the pointer", async () => {
  await open(100);
  Object.assign(at("photo"), { clientWidth: 100, clientHeight: 25 });
  const before = Number(at("y").value);
  at("photo").heard.pointermove({ buttons: 1, movementX: 0, movementY: 2 });
  assert.equal(Number(at("y").value) - before, 8);
});

test("of two pictures the one that was chosen last is shown", async () => {
  choose("slow");
  choose("fast");
  opening[1].resolve(picture(30));
  await settled();
  opening[0].resolve(picture(90));
  await settled();
  assert.equal(at("x").max, 30);
});

test("the camera asked for twice films once", async () => {
  const streams = [];
  const getUserMedia = async () => {
    const stream = { live: true, getTracks: () => [{ stop() { stream.live = false; } }] };
    streams.push(stream);
    return stream;
  };
  Object.defineProperty(globalThis, "navigator", {
    value: { mediaDevices: { getUserMedia } },
    configurable: true,
  });
  for (let turn = 0; turn < 2; turn++) {
    at("camera").heard.click();
    await settled();
  }
  assert.deepEqual(streams.map((stream) => stream.live), [false, true]);
  at("video").videoWidth = at("video").videoHeight = 40;
  at("snap").heard.click();
  await settled();
  assert.deepEqual(streams.map((stream) => stream.live), [false, false]);
});

test("a camera that is allowed too late is not left on", async () => {
  const allowed = later();
  Object.defineProperty(globalThis, "navigator", {
    value: { mediaDevices: { getUserMedia: () => allowed.promise } },
    configurable: true,
  });
  at("camera").heard.click();
  await open(30);
  const stream = { live: true, getTracks: () => [{ stop() { stream.live = false; } }] };
  allowed.resolve(stream);
  await settled();
  assert.equal(stream.live, false);
  assert.equal(at("video").srcObject, null);
});

test("a square that is moved meanwhile keeps the camera", async () => {
  await open(40);
  const allowed = later();
  Object.defineProperty(globalThis, "navigator", {
    value: { mediaDevices: { getUserMedia: () => allowed.promise } },
    configurable: true,
  });
  at("camera").heard.click();
  at("x").value = "7";
  at("x").heard.input();
  const stream = { live: true, getTracks: () => [{ stop() { stream.live = false; } }] };
  allowed.resolve(stream);
  await settled();
  assert.equal(stream.live, true);
  // Stopped while it begins, by a file, it says nothing of it.
  const play = at("video").play;
  const begun = later();
  at("video").play = () => begun.promise;
  at("camera").heard.click();
  await settled();
  opening = [];
  choose("instead");
  opening[0].resolve(picture(30));
  await settled();
  begun.reject(new Error("interrupted"));
  await settled();
  assert.match(at("said").textContent, /The picture is open/);
  at("video").play = play;
});

test("a picture chosen in the place of the camera's ends the film", async () => {
  const stream = { live: true, getTracks: () => [{ stop() { stream.live = false; } }] };
  const getUserMedia = async () => stream;
  Object.defineProperty(globalThis, "navigator", {
    value: { mediaDevices: { getUserMedia } },
    configurable: true,
  });
  at("camera").heard.click();
  await settled();
  assert.equal(at("snap").hidden, false);
  opening = [];
  choose("instead");
  opening[0].resolve(picture(30));
  await settled();
  assert.equal(stream.live, false);
  assert.equal(at("video").hidden && at("snap").hidden, true);
});
