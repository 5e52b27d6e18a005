// Files as the server reads them: pictures as JPEG, PNG or WebP, sound as mono WAV at 16 kHz.

const SENT_AS_THEY_ARE = ["image/jpeg", "image/png", "image/webp"];
const MAX_BYTES = 4e6; // larger pictures are scaled down before they are sent
const MAX_SIDE = 2048;
const RATE = 16000; // Hz: what the encoders take
const WAV_HEADER = 44; // bytes

export function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}

/** A picture file that the server takes. Throws Error if the browser cannot decode it. */
export async function pictureFor(blob) {
  if (blob.type === "image/tiff") return blob; // browsers do not show it, the server decodes it
  const image = await loaded(blob);
  const { naturalWidth: width, naturalHeight: height } = image;
  const small = blob.size <= MAX_BYTES && Math.max(width, height) <= 2 * MAX_SIDE;
  if (small && SENT_AS_THEY_ARE.includes(blob.type)) return blob;
  return redrawn(image, Math.min(1, MAX_SIDE / Math.max(width, height)));
}

/** A picture file as an <img>. Throws Error if the browser cannot decode it. */
export async function loaded(blob) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await image.decode();
  } catch {
    throw new Error(`${blob.name ?? "This file"} is not a picture that this browser can show.`);
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return image;
}

function redrawn(image, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // the server, too, makes transparent parts white
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
}

/** Any sound that the browser can decode -> a WAV file. The server decodes neither the WebM of
 * MediaRecorder nor the AAC of phones, so the browser does.
 */
export async function soundFor(blob) {
  const context = new OfflineAudioContext(1, 1, RATE); // decoding resamples to its rate
  try {
    return wav(mono(await context.decodeAudioData(await blob.arrayBuffer())));
  } catch {
    throw new Error(`${blob.name ?? "This recording"} is not a sound that this browser can play.`);
  }
}

function mono(buffer) {
  const mixed = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    buffer.getChannelData(channel).forEach((value, i) => {
      mixed[i] += value / buffer.numberOfChannels;
    });
  }
  return mixed;
}

function wav(samples) {
  const view = new DataView(new ArrayBuffer(WAV_HEADER + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((c, i) => view.setUint8(at + i, c.charCodeAt()));
  text(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a sample
  view.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => {
    const clipped = Math.max(-1, Math.min(1, value));
    view.setInt16(WAV_HEADER + 2 * i, Math.round(clipped * 32767), true);
  });
  return new Blob([view], { type: "audio/wav" });
}
