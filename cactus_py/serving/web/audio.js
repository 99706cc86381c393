// Sound: from a file or the microphone to what every speech model reads, 16 kHz mono as a 16-bit WAV file.

import { Failure } from "./api.js";

const RATE = 16000; // samples per second
const MAX_SECONDS = 1800;

export const canRecord = () => Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder);

/** Any sound that the browser can read -> {wav: Blob, seconds}. */
export async function toWav(blob) {
  const context = new OfflineAudioContext(1, RATE, RATE);
  let sound;
  try {
    sound = await context.decodeAudioData(await blob.arrayBuffer()); // at the context's rate
  } catch {
    throw new Failure("This file holds no sound that the browser can read.");
  }
  if (sound.duration > MAX_SECONDS) throw new Failure(`A sound may last ${MAX_SECONDS / 60} minutes at most.`);
  const mixed = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel += 1) {
    const samples = sound.getChannelData(channel);
    for (let i = 0; i < samples.length; i += 1) mixed[i] += samples[i] / sound.numberOfChannels;
  }
  return { wav: encodeWav(mixed, RATE), seconds: sound.duration };
}

/** Samples from -1 to 1 as a WAV file: a header of 44 bytes, then 16-bit little-endian samples. */
export function encodeWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, value) => [...value].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // size of what describes the format
  view.setUint16(20, 1, true); // integers
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes per second
  view.setUint16(32, 2, true); // bytes per sample of all channels
  view.setUint16(34, 16, true); // bits per sample
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 0x7fff, true));
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** Starts the microphone. Resolves to a function that stops it and gives the recorded Blob. */
export async function record() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    throw new Failure("The microphone cannot be used; the browser or the system does not allow it.");
  }
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  const ended = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
  recorder.start();
  return async () => {
    recorder.stop();
    await ended;
    stream.getTracks().forEach((track) => track.stop());
    return new Blob(pieces, { type: recorder.mimeType });
  };
}

/** A Blob as base64. */
export async function base64(blob) {
  const url = await dataUrl(blob);
  return url.slice(url.indexOf(",") + 1);
}

/** A Blob as a data: URL. */
export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Failure("This file cannot be read.")));
    reader.readAsDataURL(blob);
  });
}
