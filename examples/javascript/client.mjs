// A client in JavaScript of a model that `tfpipe serve` (or TensorFlow Serving) serves: it speaks REST and writes a WAV
// file. It needs Node 18.3 or newer and no packages.
//
// Start the server, then draw a new sound, or send a recording (16-bit PCM WAV) through the model and back:
//
//   tfpipe serve --model_base_path work/models/vae --rest_api_port 8501
//
//   node examples/javascript/client.mjs --label Piano --seed 1 --out piano.wav
//   node examples/javascript/client.mjs --recording song.wav --out rebuilt.wav
//
// The same requests work in a browser if the server has --rest_api_enable_cors_support; docs/SERVING.md lists the
// signatures.
import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";

// Level of the loudest point of a drawn sound, in dB: the median of 5 s of piano and voice.
const REF_DB = 9;

const { values: options } = parseArgs({
  options: {
    server: { type: "string", default: "http://localhost:8501" },
    model: { type: "string", default: "vae" },
    recording: { type: "string" }, // without it, a sound is drawn
    label: { type: "string" }, // any, if it is not given
    seed: { type: "string", default: "1" }, // the same seed gives the same sound
    out: { type: "string", default: "out.wav" },
  },
});

// Runs a signature on one row and returns the row of the answer.
async function predict(signature, instance) {
  const url = `${options.server}/v1/models/${options.model}:predict`;
  const body = JSON.stringify({ signature_name: signature, instances: [instance] });
  const response = await fetch(url, { method: "POST", body }).catch((error) => {
    throw new Error(`${url}: no answer (${error.cause?.message}); start \`tfpipe serve\`, or give its --server`);
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${url}: signature ${signature}: ${answer.error}`);
  return answer.predictions[0];
}

// Makes a new window of sound.
async function draw() {
  const { labels, prior } = JSON.parse(await predict("spec", 0));
  const label = labels.indexOf(options.label); // -1 is any
  if (options.label !== undefined && (label < 0 || !prior)) {
    throw new Error(
      `the model cannot draw the label ${options.label}; leave --label out, or use one of ${labels} ` +
        "with a model that has a learned prior",
    );
  }
  const instance = { seed: Number(options.seed), temperature: 1, ref_db: REF_DB };
  return predict("generate_wav", prior ? { ...instance, label } : instance);
}

// Encodes and decodes the first window of a WAV file.
async function reconstruct(path) {
  return predict("reconstruct_wav", { b64: (await readFile(path)).toString("base64") });
}

try {
  const { b64 } = await (options.recording ? reconstruct(options.recording) : draw());
  const wav = Buffer.from(b64, "base64");
  await writeFile(options.out, wav);
  console.log(`wrote ${options.out} (${wav.length} bytes)`);
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
