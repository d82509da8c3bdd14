// The page of `tfpipe browse`: it asks for tracks, then for the examples of one track, and plays one sound at a time.
const $ = (id) => document.getElementById(id);
const player = new Audio();
const state = { tracks: 0, asked: 0, track: null, examples: [], playing: null };

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    throw new Error("The program does not answer. Is it still running in the terminal?");
  }
  const found = await answer.json().catch(() => ({ error: `The program answered with ${answer.status}.` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Runs a task and shows its error.
async function run(task) {
  try {
    await task();
    $("message").textContent = "";
  } catch (error) {
    $("message").textContent = error.message;
  }
}

// Tracks. ------------------------------------------------------------------------------------------------------------

async function findTracks(first) {
  const number = ++state.asked;
  const query = new URLSearchParams({ text: $("text").value, split: $("split").value, label: $("label").value, first });
  const { total, tracks } = await ask(`/api/tracks?${query}`);
  if (number !== state.asked) return; // a newer search has begun
  if (!first) { $("tracks").replaceChildren(); state.tracks = 0; }
  for (const track of tracks) {
    const button = element("button", { type: "button", ariaPressed: String(track.key === state.track) });
    const what = [track.label, track.split, `${track.seconds.toFixed(1)} s`, `${track.windows} windows`, track.group];
    button.append(track.path, element("small", { textContent: what.filter(Boolean).join(", ") }));
    button.addEventListener("click", () => run(() => showTrack(track, button)));
    $("tracks").append(element("li", {}, button));
  }
  state.tracks += tracks.length;
  $("count").textContent = total ? `${state.tracks} of ${total} tracks` : "No track matches.";
  $("more").hidden = state.tracks >= total;
}

let typing = 0;
$("text").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => run(() => findTracks(0)), 200); });
for (const id of ["split", "label"]) $(id).addEventListener("change", () => run(() => findTracks(0)));
$("search").addEventListener("submit", (event) => { event.preventDefault(); run(() => findTracks(0)); });
$("more").addEventListener("click", () => run(() => findTracks(state.tracks)));

// Examples. ----------------------------------------------------------------------------------------------------------

async function showTrack(track, button) {
  state.track = track.key;
  for (const other of $("tracks").querySelectorAll("button")) other.ariaPressed = String(other === button);
  $("examples-text").textContent = `Reading ${track.path}.`;
  const { examples, is_cut: isCut } = await ask(`/api/tracks/${track.key}`);
  if (state.track !== track.key) return;
  state.examples = examples;
  const variants = [...new Set(examples.map((example) => example.variant))];
  const before = $("variant").value;
  $("variant").replaceChildren(element("option", { value: "", textContent: "all" }),
    ...variants.map((name) => element("option", { textContent: name })));
  if (variants.includes(before)) $("variant").value = before;
  $("examples-text").textContent = `${track.path}: ${isCut ? "the first " : ""}${examples.length} examples. ` +
    "“Play” turns the spectrogram back into sound, which is the best that a model can reach; “Play the recording” plays the file.";
  showExamples();
}

function showExamples() {
  const wanted = $("variant").value;
  $("examples").replaceChildren(...state.examples.filter(({ variant }) => !wanted || variant === wanted).map(card));
}
$("variant").addEventListener("change", showExamples);

function card(example) {
  const box = element("article");
  const picture = element("div");
  picture.innerHTML = example.picture;
  box.append(element("h3", { textContent: `${example.start_s} s, ${example.variant}` }), picture,
    playButton("Play", `Play ${example.name}, ${example.variant}`, `/sounds/inverted/${example.key}.wav`));
  if (example.variant === "original")
    box.append(" ", playButton("Play the recording", `Play the recording ${example.name}`, `/sounds/recorded/${example.key}.wav`));
  return box;
}

function playButton(text, name, path) {
  const button = element("button", { type: "button", textContent: text, ariaLabel: name });
  button.addEventListener("click", () => run(async () => {
    const isPlaying = state.playing === button;
    stop();
    if (isPlaying) return;
    Object.assign(button, { textContent: "Stop", ariaPressed: "true" });
    state.playing = button;
    button.usual = text;
    // fetch, and not the player's own request, because it tells what is wrong.
    const answer = await fetch(path);
    if (!answer.ok) { stop(); throw new Error((await answer.json()).error); }
    const sound = URL.createObjectURL(await answer.blob());
    if (state.playing !== button) return;
    URL.revokeObjectURL(player.src);
    player.src = sound;
    await player.play();
  }));
  return button;
}

function stop() {
  player.pause();
  if (state.playing) Object.assign(state.playing, { textContent: state.playing.usual, ariaPressed: "false" });
  state.playing = null;
}
player.addEventListener("ended", stop);

// Start. -------------------------------------------------------------------------------------------------------------

run(async () => {
  const { data, labels, splits } = await ask("/api/dataset");
  document.title = `${data} - tfpipe browse`;
  const counts = Object.entries(splits).map(([split, count]) => `${split} ${count}`).join(", ");
  $("facts").textContent = `${data}: examples: ${counts}.`;
  $("split").append(...Object.keys(splits).map((split) => element("option", { textContent: split })));
  $("label").append(...labels.map((label) => element("option", { textContent: label })));
  await findTracks(0);
  document.body.dataset.ready = "true";
});
