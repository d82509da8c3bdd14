// The page of the studio. The server keeps the sounds; the page knows them by their keys.
import WaveSurfer from "./wavesurfer.esm.js";

const $ = (id) => document.getElementById(id);
const WAVE_S = 90; // longer sounds get a plain player: a waveform would need all of their samples
const state = { model: null, start: null, sounds: new Map(), seed: 1, files: new Map(), points: [] };
const players = new Set();

// Requests. ----------------------------------------------------------------------------------------------------------

let sayTimer = 0;
function say(text, { bad = false, busy = false } = {}) {
  clearTimeout(sayTimer);
  const line = $("message");
  line.textContent = text;
  line.classList.toggle("bad", bad);
  line.classList.toggle("busy", busy);
  if (text && !busy && !bad) sayTimer = setTimeout(() => say(""), 8000);
}

async function ask(path, { method = "GET", body } = {}) {
  let answer;
  try {
    answer = await fetch(path, { method, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Error("The studio does not answer. Is it still running in the terminal?");
  }
  const found = await answer.json().catch(() => ({ error: `The studio answered with ${answer.status}.` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Runs a task and shows its error.
let tasks = 0;
const run = (text, task) => runNewest(++tasks, text, task);

// Of tasks with one name, only the newest that waits is run, so a slider never lags.
const waiting = new Map();
async function runNewest(name, text, task) {
  const isBusy = waiting.has(name);
  waiting.set(name, task);
  if (isBusy) return;
  while (waiting.get(name)) {
    const next = waiting.get(name);
    waiting.set(name, null);
    say(text, { busy: true });
    try {
      const news = await next();
      if (news || !(waiting.get(name) || $("message").classList.contains("bad"))) say(news ?? "");
    } catch (error) {
      say(error.message, { bad: true });
    }
  }
  waiting.delete(name);
}

async function act(action, body) {
  const { sounds } = await ask(`/api/act/${action}`, { method: "POST", body });
  for (const sound of sounds) state.sounds.set(sound.key, sound);
  return sounds;
}

// Sounds. ------------------------------------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function stopOthers(player) {
  for (const other of players) if (other !== player) other.pause();
}

function playerOf(sound, autoplay) {
  const box = element("div", { className: "wave" });
  if (sound.seconds > WAVE_S) {
    const audio = element("audio", { src: `/sounds/${sound.key}.wav`, controls: true, preload: "none" });
    audio.addEventListener("play", () => stopOthers(audio));
    players.add(audio);
    box.append(audio);
    if (autoplay) audio.play().catch(() => say("Press play to hear it."));
    return [box, audio];
  }
  const style = getComputedStyle(document.documentElement);
  const wave = WaveSurfer.create({
    container: box, url: `/sounds/${sound.key}.wav`, height: 56, normalize: true,
    waveColor: style.getPropertyValue("--soft"), progressColor: style.getPropertyValue("--accent"),
  });
  wave.on("play", () => stopOthers(wave));
  wave.on("error", () => say(`${sound.title}: cannot be played here; download the wav.`, { bad: true }));
  if (autoplay) wave.once("ready", () => wave.play().catch(() => say("Press play to hear it.")));
  players.add(wave);
  return [box, wave];
}

function forget(place) {
  for (const card of place.querySelectorAll(".sound")) for (const player of card.players ?? []) {
    player.pause();
    players.delete(player);
    player.destroy?.();
  }
}

function buttonsOf(sound) {
  const keep = element("button", { type: "button", textContent: "Keep" });
  keep.addEventListener("click", () => run("Keeping it.", async () => {
    const { path } = await ask(`/api/sounds/${sound.key}/keep`, { method: "POST", body: {} });
    keep.textContent = "Kept";
    return `Kept as ${path}.`;
  }));
  const wav = element("a", { className: "button", textContent: "wav", href: `/sounds/${sound.key}.wav?download`, download: "" });
  const found = [keep, wav];
  if (sound.has_latent) {
    const use = element("button", { type: "button", textContent: "Use as start" });
    use.addEventListener("click", () => showStart(sound));
    found.unshift(use);
    found.push(element("a", { className: "button", textContent: "latent", href: `/sounds/${sound.key}.npz`, download: "" }));
  }
  return found;
}

function card(sound, { autoplay = false, original = null } = {}) {
  const box = element("article", { className: "sound" });
  box.dataset.key = sound.key;
  box.players = [];
  for (const one of original ? [original, sound] : [sound]) {
    const [wave, player] = playerOf(one, autoplay && one === sound);
    const play = element("button", { type: "button", textContent: "Play" });
    play.setAttribute("aria-label", `Play ${one.title}`);
    play.addEventListener("click", () => (player.playPause ? player.playPause() : player.paused ? player.play() : player.pause()));
    const picture = element("div");
    picture.innerHTML = one.picture;
    box.append(element("h3", { textContent: one.title }), wave, play, " ", ...buttonsOf(one), picture);
    box.players.push(player);
  }
  const { command, python } = sound.recipe;
  box.append(element("details", {}, element("summary", { textContent: "The same in a shell and in Python" }),
    element("pre", { textContent: command, tabIndex: 0 }), element("pre", { textContent: python, tabIndex: 0 })));
  return box;
}

function show(place, ...cards) {
  forget(place);
  place.replaceChildren(...cards);
}

const CHANGES_IN_PLACE = new Set(["move", "mix"]);
function list(sound, kind) {
  const made = $("made"), item = element("li");
  if (made.firstChild?.dataset.kind === kind && CHANGES_IN_PLACE.has(kind)) made.firstChild.remove();
  const play = element("button", { type: "button", textContent: "Play" });
  play.setAttribute("aria-label", `Play ${sound.title}`);
  play.addEventListener("click", () => showResult(sound, { autoplay: true }));
  item.dataset.kind = kind;
  item.dataset.key = sound.key;
  item.append(play, element("span", { textContent: sound.title }), ...buttonsOf(sound));
  made.prepend(item);
  while (made.children.length > 300) made.lastChild.remove();
  fillMix();
}

function showResult(sound, { autoplay = $("play-results").checked } = {}) {
  show($("result"), card(sound, { autoplay }));
  mark("result", sound);
}

function showStart(sound, original = null) {
  state.start = sound;
  show($("start"), card(sound, { original }));
  $("changes").hidden = false;
  for (const slider of $("sliders").querySelectorAll("input")) slider.value = 0;
  mark("from", sound);
}

function made(sounds, kind) {
  const sound = sounds.at(-1);
  list(sound, kind);
  showResult(sound);
  return sound;
}

// Draws. -------------------------------------------------------------------------------------------------------------

function draw() {
  const body = { label: $("draw-label").value || null, temperature: Number($("draw-temperature").value),
    seed: Math.trunc(Number($("draw-seed").value)) };
  run("Drawing.", async () => {
    const sound = made(await act("draw", body), "draw");
    if (!state.start) showStart(sound);
  });
}
$("draw").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
$("draw-next").addEventListener("click", () => { $("draw-seed").value = Number($("draw-seed").value) + 1; draw(); });

// Recordings. --------------------------------------------------------------------------------------------------------

async function send(blob, name) {
  say(`Sending ${name} (${(blob.size / 1e6).toFixed(1)} MB).`, { busy: true });
  const answer = await new Promise((done, failed) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much it has sent
    request.open("POST", `/api/files?name=${encodeURIComponent(name)}`);
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      if (loaded < total) say(`Sending ${name}: ${Math.round(100 * loaded / total)} %.`, { busy: true });
      else say(`Looking at ${name}.`, { busy: true });
    });
    request.addEventListener("load", () => done(request));
    request.addEventListener("error", () => failed(new Error("The studio does not answer. Is it still running?")));
    request.send(blob);
  });
  const found = JSON.parse(answer.responseText);
  if (answer.status !== 200) throw new Error(found.error);
  return found;
}

let sending = Promise.resolve(); // one file after another, so that the last one is the one that is shown
function addFile(blob, name) {
  sending = sending.then(() => run(`Sending ${name}.`, async () => {
    const found = await send(blob, name);
    state.files.set(found.file, found);
    const which = $("recording-which");
    which.append(element("option", { value: found.file, textContent: `${found.name} (${found.seconds.toFixed(1)} s)` }));
    which.value = found.file;
    $("recording").hidden = false;
    chooseFile();
    await takeWindow();
  }));
}

function chooseFile() {
  const { seconds } = state.files.get($("recording-which").value), last = Math.max(0, seconds - state.model.window_s);
  Object.assign($("recording-start"), { max: last, value: 0 });
  $("recording-start").dispatchEvent(new Event("input"));
}

async function takeWindow() {
  const sounds = await act("window", { file: $("recording-which").value, start_s: Number($("recording-start").value) });
  const [original, rebuilt] = sounds;
  list(rebuilt, "window");
  showStart(rebuilt, original);
}

$("recording-which").addEventListener("change", chooseFile);
$("recording-window").addEventListener("click", () => run("Encoding.", takeWindow));
$("file").addEventListener("change", ({ target }) => {
  for (const file of target.files) addFile(file, file.name);
  target.value = "";
});
for (const [name, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // else a file that misses the field would replace the page
    $("drop").classList.toggle("over", over);
    if (name === "drop") for (const file of event.dataTransfer.files) addFile(file, file.name);
  });
}

let recorder = null;
$("record").addEventListener("click", async () => {
  if (recorder) { recorder.stop(); return; }
  let stream;
  try {
    if (!navigator.mediaDevices) throw new Error("this browser lends no microphone to this page");
    stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, autoGainControl: false } });
  } catch (error) {
    say(`No recording: ${error.message}. Allow the microphone for this page, or choose a file.`, { bad: true });
    return;
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
  recorder.addEventListener("stop", () => {
    for (const track of stream.getTracks()) track.stop();
    const kind = recorder.mimeType.includes("mp4") ? "m4a" : recorder.mimeType.includes("ogg") ? "ogg" : "webm";
    recorder = null;
    Object.assign($("record"), { textContent: "Record", ariaPressed: "false" });
    addFile(new Blob(parts), `recording.${kind}`);
  });
  recorder.start();
  Object.assign($("record"), { textContent: "Stop", ariaPressed: "true" });
  say("Recording.", { busy: true });
});

// Whole recordings. --------------------------------------------------------------------------------------------------

let job = null;
async function follow() {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  while (true) {
    $("job").hidden = false;
    $("job-text").textContent = `${job.name}: ${job.state}, ${job.done} of ${job.total || "?"} windows `;
    Object.assign($("job-bar"), { max: job.total || 1, value: job.done });
    if (!["waiting", "running"].includes(job.state)) break;
    await pause(500);
    try {
      job = await ask(`/api/jobs/${job.job}`);
    } catch (error) {
      say(error.message, { bad: true }); // the studio may come back
      await pause(2000);
    }
  }
  $("job").hidden = true;
  if (job.state === "done") {
    state.sounds.set(job.sound.key, job.sound);
    made([job.sound], "whole");
    say(`${job.name} is rebuilt.`);
  } else say(job.state === "cancelled" ? `${job.name}: cancelled.` : job.error, { bad: job.state === "failed" });
  job = null;
}
$("recording-whole").addEventListener("click", async () => {
  if (job) { say("A recording is being rebuilt; wait for it, or cancel it.", { bad: true }); return; }
  try {
    job = await ask("/api/jobs", { method: "POST", body: { file: $("recording-which").value } });
  } catch (error) {
    say(error.message, { bad: true });
    return;
  }
  follow();
});
$("job-cancel").addEventListener("click", () => { if (job) ask(`/api/jobs/${job.job}`, { method: "DELETE" }).catch(() => {}); });

// Changes. -----------------------------------------------------------------------------------------------------------

function makeSliders(count, reach) {
  $("sliders").replaceChildren(...Array.from({ length: count }, (_, index) => {
    const slider = element("input", { type: "range", min: -reach, max: reach, step: 0.1, value: 0 });
    slider.addEventListener("input", move);
    return element("label", {}, `Direction ${index + 1}`, slider);
  }));
}

function move() {
  if (!state.start) return;
  const body = { sound: state.start.key, amounts: [...$("sliders").querySelectorAll("input")].map((one) => Number(one.value)) };
  runNewest("move", "Moving.", async () => { made(await act("move", body), "move"); });
}
$("sliders-zero").addEventListener("click", () => {
  for (const slider of $("sliders").querySelectorAll("input")) slider.value = 0;
  move();
});

$("vary").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = { sound: state.start.key, amount: Number($("vary-amount").value), seed: state.seed++ };
  run("Varying.", async () => { made(await act("vary", body), "vary"); });
});
$("continue").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = { sound: state.start.key, seconds: Number($("continue-seconds").value), seed: state.seed++ };
  run("Continuing; each window takes about a second.", async () => { made(await act("continue", body), "continue"); });
});

function fillMix() {
  for (const which of ["mix-first", "mix-second"]) {
    const before = $(which).value;
    const options = [...$("made").children].map((item) => state.sounds.get(item.dataset.key)).filter((sound) => sound.has_latent);
    $(which).replaceChildren(...options.map((sound) => element("option", { value: sound.key, textContent: sound.title })));
    if (options.some((sound) => sound.key === before)) $(which).value = before;
    const isSame = which === "mix-second" && $(which).value === $("mix-first").value;
    if (isSame && options.length > 1) $(which).selectedIndex = $("mix-first").selectedIndex ? 0 : 1;
    $("mix-share").disabled = options.length < 2;
  }
}
function mix() {
  const body = { first: $("mix-first").value, second: $("mix-second").value, share: Number($("mix-share").value) };
  runNewest("mix", "Mixing.", async () => { made(await act("mix", body), "mix"); });
}
$("mix-share").addEventListener("input", mix);

// The map. -----------------------------------------------------------------------------------------------------------

const SIZE = 320, EDGE = 22;
const svg = (tag, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const onMap = (share) => EDGE + share * (SIZE - 2 * EDGE);

function drawMap(points) {
  const labels = [...new Set(points.map((point) => point.label))].sort();
  const box = svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, role: "group", "aria-label": "map of sounds" });
  const circles = points.map((point, index) => {
    const circle = svg("circle", { cx: onMap(point.x), cy: onMap(1 - point.y), r: 6, tabindex: index ? -1 : 0, role: "button",
      "aria-label": `Play ${point.title}`, class: `k${labels.indexOf(point.label) % 8}` });
    circle.append(Object.assign(svg("title", {}), { textContent: point.title }));
    const play = () => run("Decoding.", async () => { made(await act("point", { index }), "point"); });
    circle.addEventListener("click", play);
    circle.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); play(); }
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = circles[(index + step + circles.length) % circles.length];
      circle.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
    return circle;
  });
  box.append(...circles);
  const legend = element("p", { className: "legend" });
  legend.append(...labels.map((label, index) => element("span", { className: `k${index % 8}`, textContent: label || "draws" })));
  $("map").replaceChildren(box, legend);
  $("map-text").textContent = "Sounds that lie near each other are alike to the model. Choose a point to hear it.";
}

function mark(kind, sound) {
  const box = $("map").querySelector("svg");
  box?.querySelector(`.${kind}`)?.remove();
  if (box && sound.place) box.append(svg("circle", { cx: onMap(sound.place[0]), cy: onMap(1 - sound.place[1]), r: 11, class: `here ${kind}` }));
}

// Start. -------------------------------------------------------------------------------------------------------------

for (const [id, unit, scale] of [["draw-temperature", "", 1], ["recording-start", " s", 1], ["vary-amount", "", 1],
  ["continue-seconds", " s", 1], ["mix-share", " %", 100]]) {
  $(id).addEventListener("input", () => { $(`${id}-value`).textContent = `${Number((scale * $(id).value).toFixed(2))}${unit}`; });
}

async function begin() {
  try {
    state.model = await ask("/api/model");
  } catch (error) {
    say(`${error.message} Trying again.`, { bad: true });
    setTimeout(begin, 2000);
    return;
  }
  say("");
  const { target, labels, has_prior: hasPrior, window_s: windowS, sample_rate: rate, keep } = state.model;
  $("model").textContent = `${target}: windows of ${windowS.toFixed(1)} s at ${rate} Hz` +
    (hasPrior ? "." : ". It has no learned prior, so it draws without labels and can neither vary nor continue.");
  $("keep-folder").textContent = keep;
  if (hasPrior) $("draw-label").append(...labels.map((label) => element("option", { textContent: label })));
  for (const id of ["draw-label", "vary-go", "vary-amount", "continue-go", "continue-seconds"]) $(id).disabled = !hasPrior;
  $("continue-seconds").min = Math.ceil(windowS);
  await findSpace();
}

async function findSpace() {
  try {
    const { directions, reach, points } = await ask("/api/space");
    makeSliders(directions, reach);
    drawMap(points);
    document.body.dataset.ready = "true";
  } catch (error) {
    $("map-text").textContent = `No map and no sliders yet: ${error.message}`;
    setTimeout(findSpace, 5000);
  }
}
begin();
