"use strict";
// One sound at a time: a player that starts stops the others.
document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);

// The map: a click or Enter plays a window; arrow keys go to the next window in a direction.
const points = [...document.querySelectorAll("#map circle")];
if (points.length) {
  const windows = JSON.parse(document.getElementById("windows").textContent);
  const player = document.getElementById("map-player"), said = document.getElementById("map-name");
  const choose = (index) => {
    for (const point of points) { point.tabIndex = -1; }
    points[index].tabIndex = 0;
    said.textContent = windows[index].name;
  };
  const play = (index) => {
    choose(index);
    for (const point of points) point.classList.remove("playing");
    points[index].classList.add("playing");
    player.src = windows[index].sound;
    player.play().catch((error) => { said.textContent = windows[index].name + ": cannot be played (" + error.message + ")"; });
  };
  const nearest = (from, right, down) => {
    const at = (point) => [Number(point.getAttribute("cx")), Number(point.getAttribute("cy"))];
    const [x, y] = at(points[from]);
    let best = -1, least = Infinity;
    points.forEach((point, index) => {
      const [dx, dy] = [at(point)[0] - x, at(point)[1] - y];
      const ahead = dx * right + dy * down, aside = Math.abs(dx * down) + Math.abs(dy * right);
      if (index !== from && ahead > 0 && ahead + 2 * aside < least) { best = index; least = ahead + 2 * aside; }
    });
    return best;
  };
  const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  points.forEach((point, index) => {
    point.addEventListener("click", () => play(index));
    point.addEventListener("mouseenter", () => { said.textContent = windows[index].name; });
    point.addEventListener("focus", () => choose(index));
    point.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); play(index); }
      if (!ways[event.key]) return;
      event.preventDefault();
      const next = nearest(index, ...ways[event.key]);
      if (next >= 0) points[next].focus();
    });
  });
  choose(0);
}
