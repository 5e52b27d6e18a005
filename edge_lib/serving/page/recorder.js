// The microphone: one recording at a time.

/** Start recording. onLevel gets the loudness, 0 to 1, some times a second. Resolves to a function
 * that stops and resolves to the recording. Throws Error if there is no microphone to be had.
 */
export async function startRecording(onLevel) {
  const stream = await microphone();
  const recorder = new MediaRecorder(stream);
  const chunks = [];
  recorder.ondataavailable = (event) => chunks.push(event.data);
  const stopped = new Promise((resolve) => (recorder.onstop = resolve));
  const meter = startMeter(stream, onLevel);
  recorder.start();
  return async () => {
    recorder.stop();
    await stopped;
    meter.close();
    stream.getTracks().forEach((track) => track.stop());
    return new Blob(chunks, { type: recorder.mimeType });
  };
}

async function microphone() {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers record on https:// and localhost only. Choose a sound file instead.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    throw new Error(refused ? "The browser refused the microphone." : "No microphone was found.");
  }
}

function startMeter(stream, onLevel) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const energy = samples.reduce((sum, value) => sum + value * value, 0) / samples.length;
    onLevel(Math.min(1, 4 * Math.sqrt(energy)));
  }, 100);
  return { close: () => (clearInterval(timer), context.close()) };
}
