// The page: what the person does, and what it is answered with. The work is done in the modules beside.

import * as server from "./ask.js";
import { cut, paint, show, startFrame } from "./frame.js";
import { loadShield } from "./protect.js";
import { complaint } from "./quality.js";

const MOST_SIDE = 2048;
const at = (id) => document.getElementById(id);
const sliders = ["x", "y", "side", "tilt"];
let shield = null;
let photo = null;
let frame = null;
let ready = null;
// Counts what the person changes: work that was begun before is of another picture.
let turn = 0;
// Counts pictures alone.
let pictures = 0;
let running = 0;

function say(text, error = false) {
  at("said").textContent = text;
  at("said").classList.toggle("error", error);
}

function sentence(error) {
  const names = {
    NotAllowedError: "The browser was not allowed to use the camera.",
    NotFoundError: "There is no camera on this device.",
    NotReadableError: "The camera is in use by something else.",
  };
  return names[error.name] ?? error.message ?? "Something went wrong.";
}

/** Runs an action; while any runs the buttons wait, and an error becomes a sentence. */
async function attempt(action) {
  const buttons = document.querySelectorAll("button");
  running++;
  for (const button of buttons) button.disabled = true;
  try {
    await action();
  } catch (error) {
    say(sentence(error), true);
  } finally {
    running--;
    for (const button of buttons) button.disabled = running > 0;
  }
}

/** A picture, at most MOST_SIDE wide and high, ready to be framed. */
function take(picture, width, height) {
  const scale = Math.min(1, MOST_SIDE / Math.max(width, height));
  photo = document.createElement("canvas");
  photo.width = Math.max(1, Math.round(width * scale));
  photo.height = Math.max(1, Math.round(height * scale));
  photo.getContext("2d").drawImage(picture, 0, 0, photo.width, photo.height);
  frame = startFrame(photo.width, photo.height);
  for (const [id, most] of [["x", photo.width], ["y", photo.height]]) at(id).max = most;
  at("side").min = 20;
  at("side").max = 1.5 * Math.max(photo.width, photo.height);
  at("framing").hidden = false;
  redraw();
  say("The picture is open. It has not been sent anywhere.");
}

function redraw() {
  for (const id of sliders) at(id).value = frame[id];
  paint(at("photo"), photo, frame);
  forget();
}

/** What was protected no longer belongs to what is shown. */
function forget() {
  turn++;
  ready = null;
  at("result").hidden = true;
  if (at("save").href) URL.revokeObjectURL(at("save").href);
  at("save").removeAttribute("href");
}

async function openFile() {
  const [file] = at("file").files;
  if (!file) return;
  forget();
  const mine = turn;
  pictures++;
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error("This file is no picture that the browser can open.");
  }
  // Else another was chosen, or taken, while this one was being opened.
  if (mine === turn) {
    take(picture, picture.width, picture.height);
    // A picture that is shown needs no other: nobody is to be filmed for nothing.
    stopCamera();
  }
  picture.close();
}

function stopCamera() {
  const video = at("video");
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  video.hidden = at("snap").hidden = true;
}

async function startCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("The camera needs a secure connection (https) to this page.");
  }
  const video = at("video");
  // Asked again it would run on unseen, beside the new one.
  stopCamera();
  const mine = pictures;
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
  if (mine !== pictures) {
    // A file was chosen while the browser asked whether it may.
    for (const track of stream.getTracks()) track.stop();
    return;
  }
  video.srcObject = stream;
  video.hidden = at("snap").hidden = false;
  try {
    await video.play();
  } catch (error) {
    // Stopped meanwhile, by a file that was chosen, it is no failure.
    if (video.srcObject === stream) throw error;
  }
}

async function snap() {
  const video = at("video");
  if (!video.videoWidth) throw new Error("The camera shows nothing yet. Try again in a moment.");
  take(video, video.videoWidth, video.videoHeight);
  stopCamera();
}

async function protectIt() {
  say("Protecting it; the first time the model is loaded.");
  shield ??= await loadShield();
  const mine = turn;
  const { size, copies } = shield.card;
  const exact = photo.width === size && photo.height === size;
  const crop = cut(photo, exact ? startFrame(size, size) : frame, size);
  const wrong = complaint(crop, size);
  if (wrong) throw new Error(wrong);
  const made = await shield.protect(crop);
  if (mine !== turn) return say("The picture has changed since. Protect it again.");
  forget();
  ready = made.png;
  show(at("stays"), crop, size, size);
  show(at("sent"), made.pixels, size, size * copies);
  at("save").href = URL.createObjectURL(new Blob([ready], { type: "image/png" }));
  at("result").hidden = false;
  say("Done. Nothing has been sent yet.");
}

async function send(how) {
  const [key, person] = [at("key").value.trim(), at("person").value.trim()];
  if (!ready) throw new Error("Protect a picture first.");
  if (!key) throw new Error("Type an API key first; whoever runs the server gives you one.");
  if (!person && how !== "identify") throw new Error("Type a name first.");
  say("Asking the server.");
  say(await server[how](key, person, ready, shield.card.model));
}

/** Dragging moves the square; the sliders do the same from the keyboard. */
function drag(event) {
  if (!event.buttons || !photo) return;
  // A tall photo is fitted into its canvas by its height.
  const canvas = at("photo");
  const scale = Math.max(photo.width / canvas.clientWidth, photo.height / canvas.clientHeight);
  frame.x = Math.min(photo.width, Math.max(0, frame.x + event.movementX * scale));
  frame.y = Math.min(photo.height, Math.max(0, frame.y + event.movementY * scale));
  redraw();
}

at("file").addEventListener("change", () => attempt(openFile));
at("camera").addEventListener("click", () => attempt(startCamera));
at("snap").addEventListener("click", () => attempt(snap));
at("protect").addEventListener("click", () => attempt(protectIt));
at("photo").addEventListener("pointermove", drag);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => send(event.submitter?.value ?? "identify"));
});
// No submit button: Enter in a field presses the first of those, and shall enroll nobody.
at("enroll").addEventListener("click", () => attempt(() => send("enroll")));
for (const id of sliders) {
  at(id).addEventListener("input", () => {
    frame[id] = Number(at(id).value);
    redraw();
  });
}
