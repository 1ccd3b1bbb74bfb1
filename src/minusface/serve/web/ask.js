// Questions to the server this page came from. Protected images and names go out, nothing else.

import { base64 } from "./png.js";

/** What went wrong, as a sentence; `spent`: the idempotency key serves no more. */
class Refusal extends Error {
  constructor(sentence, spent = false) {
    super(sentence);
    this.spent = spent;
  }
}

/** An answer that `whole` takes for one of this service's: a portal's or a proxy's page is none. */
async function ask(path, key, body, whole, extra = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: {
        authorization: `Bearer ${key}`,
        ...(body && { "content-type": "application/json" }),
        ...extra,
      },
      body: body && JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
    });
  } catch {
    throw new Refusal("The server does not answer. Try again in a moment.");
  }
  const said = (await answer.json().catch(() => null)) ?? {};
  if (said.error === "other_model") {
    throw new Refusal("The server has another model since this page was opened. Load the page again.");
  }
  if (!answer.ok) {
    const sentence = said.message ?? `The server answered with status ${answer.status}.`;
    throw new Refusal(sentence, said.error === "conflict");
  }
  if (!whole(said)) throw new Refusal("What answers here is no minusface service. Is the network asking you to log in?");
  return said;
}

/** 128 random bits; crypto.randomUUID is there for secure connections only. */
function drawn() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// An enrolment whose answer was lost: asked for again, it is done once.
let unsure = null;

/** Keeps a protected image (made for a model) of a person; a sentence on it. */
export async function enroll(key, person, png, model) {
  if (unsure?.key !== key || unsure.person !== person || unsure.png !== png) {
    unsure = { key, person, png, once: drawn() };
  }
  const body = { person, images: [base64(png)], model };
  const whole = (said) => Array.isArray(said.templates);
  try {
    await ask("/v1/enroll", key, body, whole, { "idempotency-key": unsure.once });
  } catch (error) {
    // Of any other refusal, also that too much is asked, nobody knows what became of the try before.
    if (error.spent) unsure = null;
    throw error;
  }
  unsure = null;
  return `${person} is enrolled.`;
}

/** Is it this person? */
export async function verify(key, person, png, model) {
  const whole = (said) => Number.isFinite(said.score) && Number.isFinite(said.threshold);
  const found = await ask("/v1/verify", key, { person, image: base64(png), model }, whole);
  const numbers = `${found.score.toFixed(3)}, needed ${found.threshold.toFixed(3)}`;
  return found.same
    ? `Yes: this looks like ${person} (similarity ${numbers}).`
    : `No: this does not look enough like ${person} (similarity ${numbers}).`;
}

/** Who is it? */
export async function identify(key, _person, png, model) {
  const whole = (said) => Array.isArray(said.matches);
  const { matches } = await ask("/v1/identify", key, { image: base64(png), model }, whole);
  if (!matches.length) return "Nobody who is enrolled looks enough like this.";
  return `This looks like ${matches.map((m) => `${m.person} (${m.score.toFixed(3)})`).join(", ")}.`;
}
