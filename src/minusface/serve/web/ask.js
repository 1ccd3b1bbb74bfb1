// Questions to the server this page came from. Protected images and names go out, nothing else.

import { base64 } from "./png.js";

async function ask(path, key, body, extra = {}) {
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
    throw new Error("The server does not answer. Try again in a moment.");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.message ?? `The server answered with status ${answer.status}.`);
  return said;
}

/** 128 random bits; crypto.randomUUID is there for secure connections only. */
function drawn() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Keeps a protected image of a person; a sentence on it. */
export async function enroll(key, person, png) {
  const once = { "idempotency-key": drawn() };
  await ask("/v1/enroll", key, { person, images: [base64(png)] }, once);
  return `${person} is enrolled.`;
}

/** Is it this person? */
export async function verify(key, person, png) {
  const found = await ask("/v1/verify", key, { person, image: base64(png) });
  const numbers = `${found.score.toFixed(3)}, needed ${found.threshold.toFixed(3)}`;
  return found.same
    ? `Yes: this looks like ${person} (similarity ${numbers}).`
    : `No: this does not look enough like ${person} (similarity ${numbers}).`;
}

/** Who is it? */
export async function identify(key, _person, png) {
  const { matches } = await ask("/v1/identify", key, { image: base64(png) });
  if (!matches.length) return "Nobody who is enrolled looks enough like this.";
  return `This looks like ${matches.map((m) => `${m.person} (${m.score.toFixed(3)})`).join(", ")}.`;
}
