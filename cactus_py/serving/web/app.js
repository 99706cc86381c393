// The chat page: conversations, the composer, answers as they stream in.

import * as api from "./api.js";
import { base64, canRecord, dataUrl, record, toWav } from "./audio.js";
import { byId, el, icon, iconButton } from "./dom.js";
import * as live from "./live.js";
import { show } from "./markdown.js";

const FORMAT = "cactus-py conversations";
const MAX_IMAGE_BYTES = 20e6;
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const IDEAS = ["Explain how a cactus stores water.", "Write a Python function that reverses a list.", "Three ideas for a rainy Sunday."];
const THEMES = { auto: "as the system", light: "light", dark: "dark" };

// A message: {role, text, attached: [{kind, name, url | data, seconds}], reasoning, calls: [{id, name, arguments}], about, failure}
const state = { models: [], conversations: [], current: null, attached: [], running: null, stopRecording: null, following: true };

// ---- models --------------------------------------------------------------------------------------------------------------

const abilities = (card) => (card?.capabilities?.length ? card.capabilities : ["chat"]); // none: not known
const can = (what, card = chosen()) => abilities(card).includes(what);
const chosen = () => state.models.find((card) => card.id === byId("model").value);
const speaks = (card) => abilities(card).some((what) => what === "chat" || what === "transcription");
/** The model that turns speech into the message's text, where the chosen one does not hear. */
const scribe = () => state.models.find((card) => can("transcription", card));

/** Which model to begin with: one that is in memory already, else the one that answers requests that name none. */
const rank = (card) => 2 * Boolean(card.loaded) + Boolean(card.aliases?.includes("default"));

async function loadModels() {
  const select = byId("model");
  try {
    const cards = await api.models();
    state.models = cards.filter(speaks);
    const before = select.value;
    select.replaceChildren(...state.models.map((card) => el("option", { value: card.id, text: card.id })));
    const kept = state.models.find((card) => card.id === before);
    const first = kept ?? state.models.filter((card) => can("chat", card)).sort((a, b) => rank(b) - rank(a))[0];
    if (first) select.value = first.id;
    select.disabled = !state.models.length;
    notice(state.models.length ? "" : "This server has no model to talk to.");
  } catch (failure) {
    notice(sentence(failure));
    if (failure.status === 401) openSettings("key");
  }
  showAbilities();
}

function showAbilities() {
  const hears = can("audio") || (can("transcription") && !can("chat"));
  byId("attach-image").hidden = !can("vision");
  byId("attach-audio").hidden = !hears;
  byId("attach-mic").hidden = !canRecord() || !(hears || scribe());
  byId("effort-field").hidden = !can("reasoning");
  byId("tools-field").hidden = !can("tools");
  const refused = (item) => (item.kind === "image" ? !can("vision") : !hears);
  if (state.attached.some(refused)) {
    state.attached = state.attached.filter((item) => !refused(item));
    showAttached();
  }
  const written = can("chat") || !chosen();
  byId("input").disabled = !written;
  byId("input").placeholder = written ? "Write a message" : "Attach or record what shall be written down";
  byId("welcome-text").textContent = chosen() ? `${chosen().id} answers on this server.` : "";
}

// ---- conversations -------------------------------------------------------------------------------------------------------

function begin() {
  const current = state.current;
  if (!current || current.messages.length) {
    stop();
    state.current = { title: "", messages: [] };
    state.conversations.unshift(state.current);
  }
  drawAll();
  closeSide();
  byId("input").focus();
}

function open(conversation) {
  if (conversation !== state.current) stop();
  state.current = conversation;
  drawAll();
  closeSide();
}

function remove(conversation) {
  if (conversation === state.current) stop();
  state.conversations = state.conversations.filter((one) => one !== conversation);
  if (conversation === state.current) state.current = state.conversations[0] ?? null;
  if (!state.current) begin();
  drawAll();
}

const titleOf = (conversation) => conversation.title || "New conversation";

function drawConversations() {
  byId("conversations").replaceChildren(
    ...state.conversations.map((one) =>
      el(
        "li",
        { class: one === state.current ? "current" : "" },
        el("button", { type: "button", class: "title", "aria-current": one === state.current ? "true" : null, text: titleOf(one), on: { click: () => open(one) } }),
        iconButton("trash", `Delete “${titleOf(one)}”`, () => remove(one)),
      ),
    ),
  );
}

function drawAll() {
  drawConversations();
  const messages = state.current.messages;
  byId("log").replaceChildren(...messages.map(drawMessage));
  markLast();
  byId("welcome").hidden = messages.length > 0;
  follow(true);
}

function exportAll() {
  const conversations = state.conversations.filter((one) => one.messages.length);
  const text = JSON.stringify({ format: FORMAT, version: 1, conversations }, (name, value) => (name === "node" ? undefined : value), 1);
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  el("a", { href: url, download: "conversations.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function importAll(file) {
  let read;
  try {
    read = JSON.parse(await file.text());
  } catch {
    return notice("This file is not JSON.");
  }
  if (read?.format !== FORMAT || !Array.isArray(read.conversations)) return notice("This file holds no exported conversations.");
  const known = read.conversations.map(checkedConversation).filter((one) => one.messages.length);
  if (!known.length) return notice("This file holds no conversation.");
  state.conversations = [...known, ...state.conversations.filter((one) => one.messages.length)];
  notice("");
  stop();
  open(known[0]);
}

/** What a file says, reduced to what this page understands: a stranger may have written it. */
function checkedConversation(given) {
  const string = (value) => (typeof value === "string" ? value : "");
  const list = (value) => (Array.isArray(value) ? value : []);
  const finite = (value) => (Number.isFinite(value) ? value : null);
  const attachment = (item) => ({ kind: item?.kind === "audio" ? "audio" : "image", name: string(item?.name), url: string(item?.url), seconds: finite(item?.seconds) });
  const isAllowed = (item) => (item.kind === "image" ? /^data:image\/(png|jpeg|webp|gif);base64,/ : /^data:audio\/wav;base64,/).test(item.url);
  const about = (told) => ({
    ...Object.fromEntries(["model", "route", "finish"].map((name) => [name, string(told?.[name])])),
    reasons: list(told?.reasons).map(string),
    ...Object.fromEntries(["confidence", "firstMs", "rate", "tokens", "thoughtMs"].map((name) => [name, finite(told?.[name])])),
  });
  const messages = list(given?.messages)
    .filter((one) => one?.role === "user" || one?.role === "assistant")
    .map((one) => ({
      role: one.role,
      text: string(one.text),
      reasoning: string(one.reasoning),
      attached: list(one.attached).map(attachment).filter(isAllowed),
      calls: list(one.calls).map((call) => ({ id: string(call?.id), name: string(call?.name), arguments: string(call?.arguments) })),
      about: about(one.about),
      failure: string(one.failure),
    }));
  return { title: string(given?.title).slice(0, 80), messages };
}

// ---- messages ------------------------------------------------------------------------------------------------------------

function drawMessage(message) {
  const user = message.role === "user";
  const node = el("article", { class: `message ${message.role}`, "aria-label": user ? "You" : "Answer" });
  message.node = node;
  if (message.attached?.length) node.append(el("ul", { class: "attached" }, ...message.attached.map((item) => drawAttached(item))));
  if (user) {
    if (message.text) node.append(el("div", { class: "text plain", text: message.text }));
    node.append(el("div", { class: "actions" }, iconButton("edit", "Edit and ask again", () => edit(message)), copyButton(message)));
    return node;
  }
  node.append(
    el("details", { class: "reasoning", hidden: true }, el("summary"), el("div", { class: "text" })),
    el("div", { class: "text answer" }),
    el("div", { class: "calls" }),
    el("p", { class: "failure", role: "alert", hidden: true }),
    el("details", { class: "why", hidden: true }, el("summary", { text: "Why there" }), el("ul")),
    el("div", { class: "foot" }, el("div", { class: "about" }), el("div", { class: "actions" }, copyButton(message), iconButton("again", "Answer again", () => again(message), { class: "icon-button again" }))),
  );
  fill(message);
  return node;
}

function copyButton(message) {
  const button = iconButton("copy", "Copy the text", async () => {
    await navigator.clipboard.writeText(message.text);
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  });
  return button;
}

function drawAttached(item, drop = null) {
  const name = el("span", { class: "name", text: item.seconds ? `${item.name} · ${item.seconds.toFixed(1)} s` : item.name });
  const player = drop ? icon("audio") : el("audio", { controls: true, src: item.url, "aria-label": item.name });
  const what = item.kind === "image" ? el("img", { src: item.url, alt: item.name }) : el("span", { class: "sound" }, player, name);
  return el("li", { class: item.kind }, what, drop && iconButton("close", `Remove ${item.name}`, drop));
}

/** Brings an answer on the page up to date with its message. */
function fill(message) {
  const { node } = message;
  const running = state.running?.message === message;
  node.classList.toggle("running", running);
  const waiting = running && !message.text && !message.reasoning && !message.calls.length;
  node.classList.toggle("waiting", waiting);

  const thoughts = node.querySelector(".reasoning");
  thoughts.hidden = !message.reasoning;
  if (message.reasoning) {
    const seconds = message.about.thoughtMs >= 100 ? ` for ${(message.about.thoughtMs / 1000).toFixed(1)} s` : "";
    thoughts.firstChild.textContent = running && !message.text ? "Thinking…" : `Thought${seconds}`;
    show(thoughts.lastChild, message.reasoning);
  }
  show(node.querySelector(".answer"), message.text);
  node.querySelector(".calls").replaceChildren(
    ...message.calls.map((call) => el("div", { class: "call" }, el("div", { class: "code-head" }, el("span", { text: `Tool call: ${call.name}` })), el("pre", { tabindex: "0" }, el("code", { text: pretty(call.arguments) })))),
  );
  const failure = node.querySelector(".failure");
  failure.hidden = !message.failure;
  failure.textContent = message.failure ?? "";
  const why = node.querySelector(".why");
  why.hidden = !message.about.reasons?.length;
  why.lastChild.replaceChildren(...(message.about.reasons ?? []).map((text) => el("li", { text })));
  node.querySelector(".about").replaceChildren(...facts(message).map(([text, kind, title]) => el("span", { class: kind, title, text })));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // still on its way, or not JSON
  }
}

/** What is told under an answer: [text, class, title]. */
function facts({ about }) {
  const found = [];
  if (about.model) found.push([about.model, "fact model-name", "The model that answered"]);
  if (about.route) found.push([about.route === "cloud" ? "cloud" : "local", `fact badge ${about.route === "cloud" ? "cloud" : "local"}`, ["Where the answer was made", ...(about.reasons ?? [])].join("\n")]);
  if (Number.isFinite(about.confidence)) {
    const level = about.confidence >= 0.8 ? "high" : about.confidence >= 0.5 ? "medium" : "low";
    found.push([`${Math.round(100 * about.confidence)} % sure`, `fact badge ${level}`, "Calibrated probability that the answer is right"]);
  }
  if (about.tokens) found.push([`${about.tokens} tokens`, "fact tokens", "Length of the answer"]);
  if (about.rate) found.push([`${about.rate.toFixed(1)} tokens/s`, "fact rate", "After the first token"]);
  if (about.firstMs) found.push([`first token ${about.firstMs < 1000 ? `${Math.round(about.firstMs)} ms` : `${(about.firstMs / 1000).toFixed(2)} s`}`, "fact first", "Time from sending to the first token"]);
  if (about.finish && about.finish !== "stop" && about.finish !== "tool_calls") {
    const words = { length: "cut off: token limit", stopped: "stopped", timeout: "cut off: out of time", content_filter: "filtered" };
    found.push([words[about.finish] ?? about.finish, "fact", "Why the answer ended"]);
  }
  return found;
}

function markLast() {
  for (const node of byId("log").children) node.classList.toggle("last", node === byId("log").lastElementChild);
}

// ---- asking --------------------------------------------------------------------------------------------------------------

function add(message) {
  const whole = { text: "", reasoning: "", attached: [], calls: [], about: {}, failure: "", ...message };
  state.current.messages.push(whole);
  byId("log").append(drawMessage(whole));
  markLast();
  byId("welcome").hidden = true;
  return whole;
}

function send() {
  const text = byId("input").value.trim();
  const attached = state.attached;
  if (state.running || state.stopRecording || !chosen() || (!text && !attached.length)) return;
  if (!can("chat") && !attached.length) return notice(`${chosen().id} writes down what is said: attach or record a sound.`);
  const current = state.current;
  if (!current.title) {
    current.title = (text || attached[0].name).slice(0, 60);
    drawConversations();
  }
  notice("");
  byId("input").value = "";
  state.attached = [];
  showAttached();
  grow();
  add({ role: "user", text, attached });
  answer();
}

/** The conversation as the API wants it. */
function wire(messages) {
  const content = ({ text, attached }) => {
    if (!attached?.length) return text;
    const parts = attached.map((item) =>
      item.kind === "image"
        ? { type: "image_url", image_url: { url: item.url } }
        : { type: "input_audio", input_audio: { data: item.url.slice(item.url.indexOf(",") + 1), format: "wav" } },
    );
    return text ? [...parts, { type: "text", text }] : parts;
  };
  const system = byId("system").value.trim();
  // A question whose answer failed is left out with it: templates want turns.
  const failed = (one) => one?.role === "assistant" && !one.text;
  const said = messages
    .filter((one, i) => !failed(one) && !(one.role === "user" && failed(messages[i + 1])))
    .map((one) => (one.role === "user" ? { role: "user", content: content(one) } : { role: "assistant", content: one.text }));
  return system ? [{ role: "system", content: system }, ...said] : said;
}

/** Sampling settings that were filled in. Throws a Failure about one that makes no sense. */
function options() {
  const found = {};
  for (const name of NUMBERS) {
    const field = byId(name);
    if (field.value === "" && !field.validity.badInput) continue;
    const rough = field.validity.badInput || field.validity.rangeUnderflow || field.validity.rangeOverflow;
    if (rough) throw new api.Failure(`${field.parentElement.firstChild.textContent}: ${field.validationMessage}`);
    found[name] = Number(field.value);
  }
  if (byId("route").value) found.route = byId("route").value;
  if (byId("local_only").checked) found.privacy = "local_only";
  if (byId("reasoning_effort").value && can("reasoning")) found.reasoning_effort = byId("reasoning_effort").value;
  if (byId("tools").value.trim() && can("tools")) {
    try {
      found.tools = JSON.parse(byId("tools").value);
    } catch {
      throw new api.Failure("The tools in the settings are not JSON.");
    }
  }
  return found;
}

async function answer() {
  const model = chosen();
  const messages = [...state.current.messages];
  const message = add({ role: "assistant", about: { model: model.id } });
  const run = { message, abort: new AbortController(), began: performance.now(), first: 0, pieces: 0, answered: 0, frame: 0 };
  state.running = run;
  message.node.setAttribute("aria-busy", "true");
  showRunning();
  follow(true);
  fill(message);
  speak("Answering.");
  try {
    if (can("chat", model)) await chat(run, model, messages);
    else await writeDown(run, model, messages);
  } catch (error) {
    if (error.name === "AbortError") message.about.finish = "stopped";
    else message.failure = sentence(error);
    if (error.status === 401) openSettings("key");
  } finally {
    cancelAnimationFrame(run.frame);
    if (state.running === run) state.running = null;
    if (!message.about.rate) liveRate(run);
    message.node.removeAttribute("aria-busy");
    fill(message);
    showRunning();
    follow();
    speak(message.failure || `Answer: ${message.text}`);
  }
}

async function chat(run, model, messages) {
  const { message } = run;
  const about = message.about;
  for await (const chunk of api.chat({ model: model.id, messages: wire(messages), ...options(), handoff: "restart" }, run.abort.signal)) {
    const choice = chunk.choices?.[0];
    const delta = choice?.delta ?? {};
    if (chunk.replaces) {
      // what was shown is void: the answer begins anew, elsewhere
      Object.assign(message, { text: "", reasoning: "", calls: [] });
      Object.assign(run, { answered: 0, pieces: 0, first: 0 });
      delete about.thoughtMs;
    }
    if (delta.content || delta.reasoning_content || delta.tool_calls) {
      run.first ||= performance.now();
      run.pieces += 1;
      about.firstMs ??= run.first - run.began;
    }
    if (delta.reasoning_content) message.reasoning += delta.reasoning_content;
    if (delta.content) {
      if (!run.answered && message.reasoning) about.thoughtMs = performance.now() - run.first;
      run.answered ||= performance.now();
      message.text += delta.content;
    }
    for (const piece of delta.tool_calls ?? []) {
      const call = (message.calls[piece.index ?? 0] ??= { id: "", name: "", arguments: "" });
      if (piece.id) call.id = piece.id;
      if (piece.function?.name) call.name = piece.function.name;
      call.arguments += piece.function?.arguments ?? "";
    }
    if (chunk.model) about.model = chunk.model;
    if (chunk.route) about.route = chunk.route;
    if (Number.isFinite(chunk.confidence)) about.confidence = chunk.confidence;
    if (Array.isArray(chunk.decision?.reasons)) about.reasons = chunk.decision.reasons.map(String);
    if (chunk.timings?.decode_tok_s) about.rate = chunk.timings.decode_tok_s;
    if (chunk.usage) about.tokens = chunk.usage.completion_tokens;
    if (choice?.finish_reason) about.finish = choice.finish_reason;
    draw(run);
  }
}

async function writeDown(run, model, messages) {
  const { message } = run;
  const sounds = messages.at(-1).attached.filter((item) => item.kind === "audio");
  for (const sound of sounds) {
    const wav = blobOf(sound.url);
    message.text += `${message.text ? "\n\n" : ""}${(await api.transcribe(model.id, wav, run.abort.signal)).trim()}`;
  }
}

/** The sound in one of our own data: URLs; fetch would need a policy that lets the page connect to data:. */
function blobOf(url) {
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "audio/wav" });
}

/** As long as the server said nothing better: pieces per second, which are tokens or a little less. */
function liveRate(run) {
  const seconds = (performance.now() - run.first) / 1000;
  const made = run.message.about.tokens ?? run.pieces;
  if (run.first && made > 1 && seconds > 0.05) run.message.about.rate = (made - 1) / seconds;
}

/** Shows what came, once per frame at most. */
function draw(run) {
  if (run.frame || state.running !== run) return;
  run.frame = requestAnimationFrame(() => {
    run.frame = 0;
    if (state.running !== run) return;
    const rate = run.message.about.rate;
    if (!rate) liveRate(run);
    fill(run.message);
    if (!rate) run.message.about.rate = 0; // a guess is not kept
    follow();
  });
}

function stop() {
  state.running?.abort.abort();
  state.running = null;
  showRunning();
}

function again(message) {
  const messages = state.current.messages;
  if (state.running || messages.at(-1) !== message) return;
  messages.pop();
  message.node.remove();
  answer();
}

function edit(message) {
  if (state.running) stop();
  const messages = state.current.messages;
  messages.splice(messages.indexOf(message));
  state.attached = message.attached ?? [];
  byId("input").value = message.text;
  drawAll();
  showAttached();
  showAbilities();
  grow();
  byId("input").focus();
}

function showRunning() {
  const running = Boolean(state.running);
  byId("send").hidden = running;
  byId("stop").hidden = !running;
  byId("log").classList.toggle("busy", running);
}

/** Keeps the end in view, unless the reader has scrolled away from it. */
function follow(anyway = false) {
  const scroll = byId("scroll");
  if (anyway) state.following = true;
  if (state.following) scroll.scrollTop = scroll.scrollHeight;
}

// ---- attachments ---------------------------------------------------------------------------------------------------------

function showAttached() {
  const drop = (item) => () => {
    state.attached = state.attached.filter((one) => one !== item);
    showAttached();
  };
  byId("attached").replaceChildren(...state.attached.map((item) => drawAttached(item, drop(item))));
  byId("attached").hidden = !state.attached.length;
}

async function attachImages(files) {
  for (const file of files) {
    if (!/^image\/(png|jpeg|webp|gif)$/.test(file.type)) notice(`${file.name} is no PNG, JPEG, WebP or GIF image.`);
    else if (file.size > MAX_IMAGE_BYTES) notice(`${file.name} is larger than ${MAX_IMAGE_BYTES / 1e6} MB.`);
    else state.attached.push({ kind: "image", name: file.name, url: await dataUrl(file) });
  }
  showAttached();
}

async function attachSound(blob, name) {
  const { wav, seconds } = await toWav(blob);
  state.attached.push({ kind: "audio", name, seconds, url: `data:audio/wav;base64,${await base64(wav)}` });
  showAttached();
}

async function microphone() {
  const button = byId("attach-mic");
  const label = (text) => {
    button.setAttribute("aria-pressed", String(Boolean(state.stopRecording)));
    byId("recording").textContent = text;
  };
  if (!state.stopRecording) {
    state.stopRecording = await record();
    return label("Recording…");
  }
  const finish = state.stopRecording;
  state.stopRecording = null;
  try {
    const sound = await finish();
    if (!byId("attach-audio").hidden) await attachSound(sound, "recording.wav");
    else {
      label("Writing it down…");
      const text = await api.transcribe(scribe().id, (await toWav(sound)).wav);
      byId("input").value = `${byId("input").value} ${text.trim()}`.trim();
      grow();
    }
  } finally {
    label("");
  }
}

// ---- the rest of the page ------------------------------------------------------------------------------------------------

const sentence = (error) => (error instanceof api.Failure ? error.message : `Something in this page went wrong: ${error.message}`);

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

function speak(text) {
  byId("spoken").textContent = text;
}

function grow() {
  const field = byId("input");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, 240)}px`;
}

function openSettings(field = null) {
  byId("key").value = api.key.get();
  if (!byId("settings").open) byId("settings").showModal();
  if (field) byId(field).focus();
}

function openSide() {
  document.body.classList.add("side-open");
  byId("side-open").setAttribute("aria-expanded", "true");
  byId("new").focus();
}

function closeSide() {
  document.body.classList.remove("side-open");
  byId("side-open").setAttribute("aria-expanded", "false");
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const label = `Colours: ${THEMES[theme]}`;
  byId("theme").title = label;
  byId("theme").setAttribute("aria-label", label);
  try {
    localStorage.setItem("cactus-py-theme", theme);
  } catch { /* then it holds until the page is left */ }
}

function lastTheme() {
  try {
    const theme = localStorage.getItem("cactus-py-theme");
    return THEMES[theme] ? theme : "auto";
  } catch {
    return "auto";
  }
}

/** A listener whose failures are told in a sentence. */
const told = (work) => async (event) => {
  try {
    await work(event);
  } catch (error) {
    notice(sentence(error));
  }
};

const on = (id, event, work) => byId(id).addEventListener(event, told(work));
const pick = (id, work) => on(id, "change", async ({ target }) => {
  const files = [...target.files];
  target.value = "";
  if (files.length) await work(files);
});

on("new", "click", begin);
on("side-open", "click", openSide);
on("side-close", "click", closeSide);
on("shade", "click", closeSide);
on("export", "click", exportAll);
on("import", "click", () => byId("import-file").click());
on("theme", "click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % names.length]);
});
on("model", "change", showAbilities);
on("settings-open", "click", () => openSettings());
on("settings", "close", () => {
  if (byId("key").value === api.key.get()) return;
  api.key.set(byId("key").value);
  loadModels();
});
on("settings", "click", ({ target }) => target === byId("settings") && byId("settings").close());
on("composer", "submit", (event) => {
  event.preventDefault();
  send();
});
on("stop", "click", stop);
on("scroll", "scroll", ({ target }) => {
  state.following = target.scrollHeight - target.scrollTop - target.clientHeight < 60;
});
on("input", "input", grow);
on("input", "keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
on("attach-image", "click", () => byId("image-file").click());
on("attach-audio", "click", () => byId("audio-file").click());
on("attach-mic", "click", microphone);
pick("import-file", ([file]) => importAll(file));
pick("image-file", attachImages);
pick("audio-file", ([file]) => attachSound(file, file.name));
on("input", "paste", async (event) => {
  const images = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  if (!images.length || !can("vision")) return;
  event.preventDefault();
  await attachImages(images);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || byId("settings").open) return;
  if (document.body.classList.contains("side-open")) closeSide();
  else stop();
});
window.addEventListener("beforeunload", (event) => {
  if (state.conversations.some((one) => one.messages.length)) event.preventDefault();
});

setTheme(lastTheme());
byId("ideas").append(...IDEAS.map((text) => el("button", { type: "button", class: "idea", text, on: { click: () => {
  byId("input").value = text;
  send();
} } })));
begin();
loadModels();
live.start();
