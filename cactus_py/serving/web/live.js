// What the server does now: asked for once a second while the page can be seen.

import * as api from "./api.js";
import { byId } from "./dom.js";

const POINTS = 60; // seconds shown
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

const rates = [];
let before = null;
let timer = 0;

/** Begins, and goes on whenever the page is visible. Ends where the server tells no statistics. */
export function start() {
  document.addEventListener("visibilitychange", next);
  next();
}

function next() {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(poll, before ? 1000 : 0);
}

async function poll() {
  try {
    show(await api.stats());
  } catch (failure) {
    before = null;
    byId("live").hidden = true;
    byId("live-mini").textContent = "";
    if (failure.status === 404) return; // a server without it
    clearTimeout(timer);
    timer = setTimeout(poll, 5000);
    return;
  }
  next();
}

function show(stats) {
  const engines = Object.values(stats.engines ?? {});
  const sum = (field) => engines.reduce((total, engine) => total + engine[field], 0);
  const made = engines.length ? sum("generated_tokens") : stats.tokens.generated;
  const now = { at: performance.now(), made };
  const since = before && made >= before.made ? before : null; // a model that was unloaded begins at 0 again
  const rate = since ? (1000 * (made - since.made)) / (now.at - since.at) : 0;
  before = now;
  if (since) rates.push(rate);
  if (rates.length > POINTS) rates.shift();

  byId("live").hidden = false;
  byId("live-rate").textContent = number.format(rate >= 100 ? Math.round(rate) : rate);
  const highest = Math.max(1, ...rates);
  const x = (i) => 120 - (rates.length - 1 - i) * (120 / (POINTS - 1));
  const first = x(0).toFixed(1);
  const points = rates.map((value, i) => `${x(i).toFixed(1)},${(31 - 29 * (value / highest)).toFixed(1)}`);
  byId("live-line").setAttribute("points", points.join(" "));
  byId("live-area").setAttribute("points", rates.length ? `${first},32 ${points.join(" ")} 120,32` : "");

  const [pages, used, cached] = ["kv_pages", "kv_pages_used", "kv_pages_cached"].map(sum);
  const share = (part) => (pages ? Math.min(100, (100 * part) / pages) : 0);
  byId("live-used").style.width = `${share(used)}%`;
  byId("live-cached").style.width = `${share(cached)}%`;
  const meter = byId("live-kv");
  meter.setAttribute("aria-valuenow", Math.round(share(used)));
  meter.title = `${used} of ${pages} pages in use, ${cached} kept for prefixes`;
  byId("live-kv-text").textContent = pages ? `${number.format(share(used))} %` : "none yet";
  const running = sum("running");
  const waiting = sum("waiting");
  byId("live-queue").textContent = waiting ? `${running} running + ${waiting}` : `${running} running`;
  byId("live-queue").title = `${running} running, ${waiting} waiting`;
  byId("live-mini").textContent = `${number.format(Math.round(rate))} tok/s`;
}
