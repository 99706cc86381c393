// The server, as this page asks it. Every failure is a `Failure` with one sentence for the reader.

const KEY = "cactus-py-key";

export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

let held = null; // where the browser stores nothing

/** The API key: kept until the tab is closed. */
export const key = {
  get() {
    try {
      return held ?? sessionStorage.getItem(KEY) ?? "";
    } catch {
      return "";
    }
  },
  set(value) {
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch {
      held = value;
    }
  },
};

const HTTP = {
  401: "This server wants an API key; enter it in the settings.",
  403: "This API key may not do that.",
  413: "This is more than the server reads; send a smaller attachment.",
  429: "The server is busy; try again in a moment.",
  503: "The server is not ready; try again in a moment.",
};

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit", referrerPolicy: "no-referrer" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached; is it still running?");
  }
  if (answer.ok) return answer;
  let told = "";
  try {
    const body = await answer.json();
    told = body.error?.message ?? body.detail ?? "";
  } catch { /* not JSON: the status speaks */ }
  const wait = Number(answer.headers.get("Retry-After"));
  const later = answer.status === 429 && wait > 0 ? `The server is busy; try again in ${Math.ceil(wait)} s.` : "";
  const sentence = answer.status === 401 ? HTTP[401] : later || (typeof told === "string" && told) || HTTP[answer.status];
  throw new Failure(sentence || `The server answered with status ${answer.status}.`, answer.status);
}

const post = (body, signal) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

export const models = async () => (await (await ask("/v1/models")).json()).data;
export const stats = async () => (await ask("/stats")).json();

/** The text of a sound. wav: a Blob. */
export async function transcribe(model, wav, signal) {
  const form = new FormData();
  form.append("file", wav, "audio.wav");
  form.append("model", model);
  return (await (await ask("/v1/audio/transcriptions", { method: "POST", body: form, signal })).json()).text;
}

/** The chunks of a streamed chat completion, as they come. */
export async function* chat(body, signal) {
  const answer = await ask("/v1/chat/completions", post({ ...body, stream: true, stream_options: { include_usage: true } }, signal));
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Failure(chunk.error.message ?? "The answer broke off.");
    yield chunk;
  }
  throw new Failure("The connection ended before the answer did.");
}

/** The data of server-sent events. body: a ReadableStream of bytes, cut anywhere. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Failure("The connection broke off.");
      }
      rest += piece.done ? decoder.decode() : decoder.decode(piece.value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      }
      if (piece.done) {
        if (rest.startsWith("data:")) data.push(rest.slice(5).trimStart());
        if (data.length) yield data.join("\n");
        return;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
