/* The page: drawing, the slider, and what follows from them. */

const named = (digit) => `${digit === 8 ? "an" : "a"} ${digit}`;

const SAMPLES = 20; // networks drawn from the posterior
const DOUBTS = 6; // test digits that are shown as the least sure
const ASKED = 100; // test digits among which they are looked for
const SLICE = 20; // digits between two pauses, in which the page stays alive
const CURVE_POINTS = 16;
const LAYER_TIME = 350; // milliseconds until the next layer lights up
const KEY_STEP = 1 / 32; // of the pad

/** All that changes. */
const state = { strokes: [], pen: null, pixels: null, shown: -1, threshold: 0, round: 0, curve: new Map() };

/** Errors among the test digits; null if the slider has moved on meanwhile. */
async function countWrong(net, round) {
  let count = 0;
  for (let n = 0; n < net.digits.length; n += SLICE) {
    if (round !== state.round) return null;
    count += wrong({ ...net, digits: net.digits.slice(n, n + SLICE), labels: net.labels.slice(n, n + SLICE) });
    await pause();
  }
  return count;
}

/** Show another digit: what it is taken for, and the network at work on it. */
function look(pixels, animated) {
  state.pixels = pixels;
  const shares = probabilities(state.net, pixels);
  const best = largest(shares);
  element("verdict").textContent = pixels.some((pixel) => pixel)
    ? `It reads ${named(best)} (${percent(shares[best], 0)}).${state.shown >= 0 ? ` It is ${named(state.net.labels[state.shown])}.` : ""}`
    : "Nothing is drawn yet.";
  document.querySelectorAll("#bars .bar").forEach((bar, n) => {
    bar.querySelector("i > i").style.width = `${100 * shares[n]}%`;
    bar.lastElementChild.textContent = percent(shares[n], 0);
  });
  light(animated && !still.matches);
  say();
}

/** Draw the network, at once or layer by layer. */
function light(animated) {
  const found = activations(state.net, state.pixels);
  const layers = state.net.layers.filter((layer) => layer.value).length;
  const best = largest(found[found.length - 1]);
  element("inside").setAttribute(
    "aria-label",
    `The network: ${groupsOf(state.net).map((group) => `${group.units.length} live ${group.image ? "filters" : "units"}`).join(", ")}; ` +
      `the brightest output is ${best}`,
  );
  cancelAnimationFrame(state.frame);
  const begun = performance.now();
  const frame = (now) => {
    const progress = animated ? Math.min(layers, (now - begun) / LAYER_TIME) : layers;
    drawNetwork(element("inside"), state.net, found, Math.max(0, progress));
    if (progress < layers) state.frame = requestAnimationFrame(frame);
  };
  state.frame = requestAnimationFrame(frame);
}

/** Say what the network is unsure of. */
function say() {
  const noisy = state.net.layers.some((layer) => layer.noise);
  const { mean, votes, total, disagreement } = opinion(state.posterior, state.pixels);
  const most = Math.log(mean.length);
  const counted = votes
    .map((count, digit) => [count, digit])
    .filter(([count]) => count)
    .sort((a, b) => b[0] - a[0])
    .map(([count, digit]) => `${count} say ${digit}`);
  element("opinion").textContent = noisy
    ? `Of ${SAMPLES} networks drawn from the posterior, ${counted.join(", ")}. Its uncertainty is ${total.toFixed(2)} of at ` +
      `most ${most.toFixed(2)} nats, and ${disagreement.toFixed(2)} of that is disagreement among them.`
    : `This network was fine-tuned and has no noise left from which to draw others. Its own uncertainty is ` +
      `${total.toFixed(2)} of at most ${most.toFixed(2)} nats.`;
}

/** Cut at a threshold, and show what that costs. */
async function setThreshold(threshold) {
  const round = ++state.round;
  state.threshold = threshold;
  element("threshold-now").textContent = threshold.toFixed(3).replace(/0+$/, "").replace(/\.$/, "");
  element("threshold").setAttribute("aria-valuetext", `log alpha at most ${threshold}`);
  const net = (state.net = cutByAlpha(state.whole, threshold));
  const other = cutBySize(state.whole, state.order, net.weights);
  state.posterior = net.layers.some((layer) => layer.noise) ? sampled(net, SAMPLES, 1) : [net];
  element("weights").textContent = element("weights-size").textContent = thousands(net.weights);
  element("bytes").textContent = thousands(net.bytes);
  element("bytes-size").textContent = thousands(other.bytes);
  look(state.pixels, false);
  for (const [name, cutOne] of [["", net], ["-size", other]]) {
    const count = await countWrong(cutOne, round);
    if (count === null) return;
    element(`wrong${name}`).textContent = count;
    element(`error${name}`).textContent = percent(count / net.digits.length, 1);
  }
  document.body.dataset.ready = threshold; // for those who drive this page
  await showDoubts(round);
  await fillCurve(round);
}

/** The test digits that leave the network least sure. */
async function showDoubts(round) {
  const doubts = [];
  for (let n = 0; n < Math.min(ASKED, state.net.digits.length); n++) {
    doubts.push({ n, ...opinion(state.posterior, state.net.digits[n]) });
    if (n % SLICE === 0) await pause();
    if (round !== state.round) return;
  }
  doubts.sort((a, b) => b.total - a.total);
  element("doubts").replaceChildren(
    ...doubts.slice(0, DOUBTS).map(({ n, mean, total }) => {
      const button = document.createElement("button");
      const picture = document.createElement("canvas");
      const best = largest(mean);
      const second = largest(mean.map((share, digit) => (digit === best ? -1 : share)));
      button.type = "button";
      button.setAttribute("aria-label", `${named(state.net.labels[n])}; it hesitates between ${best} and ${second}`);
      drawDigit(picture, state.net.digits[n]);
      button.append(picture, `${best} or ${second}?`);
      button.title = `${total.toFixed(2)} nats`;
      button.addEventListener("click", () => showDigit(n));
      return button;
    }),
  );
}

/** Draw the curve as far as it is known, and return its points. */
function drawCurveNow() {
  const points = [...state.curve.values()].sort((a, b) => a.threshold - b.threshold);
  drawCurve(element("curve"), points, state.threshold, state.low, state.high);
  return points;
}

/** Errors at thresholds all along the slider, one after the other. */
async function fillCurve(round) {
  const { low, high } = state;
  const draw = () => {
    const points = drawCurveNow();
    const last = points[points.length - 1];
    element("curve").setAttribute(
      "aria-label",
      `Errors at ${points.length} thresholds from ${low} to ${high}` +
        (last ? `; at ${last.threshold}, ${percent(last.byAlpha, 1)} by log alpha, ${percent(last.bySize, 1)} by size` : ""),
    );
  };
  draw();
  for (let n = CURVE_POINTS; n >= 0; n--) {
    const threshold = low + Math.round((8 * (high - low) * n) / CURVE_POINTS) / 8;
    if (state.curve.has(threshold)) continue;
    const net = cutByAlpha(state.whole, threshold);
    const counts = [];
    for (const one of [net, cutBySize(state.whole, state.order, net.weights)]) {
      const count = await countWrong(one, round);
      if (count === null) return;
      counts.push(count / net.digits.length);
    }
    state.curve.set(threshold, { threshold, byAlpha: counts[0], bySize: counts[1] });
    draw();
  }
}

/** Show one of the test digits. */
function showDigit(n, animated = true) {
  [state.strokes, state.pen, state.shown] = [[], null, n];
  drawPad(element("pad"), [], null);
  const [context, width] = [element("pad").getContext("2d"), element("pad").clientWidth];
  drawSquares(context, Array.from(state.net.digits[n], (pixel) => pixel / 255), 28, 0, 0, width, colour("ink"));
  look(state.net.digits[n], animated);
}

/** Show what has been drawn. */
function showStrokes(animated) {
  state.shown = -1;
  drawPad(element("pad"), state.strokes, state.pen);
  look(pixelsOf(state.strokes), animated);
}

function clearPad() {
  [state.strokes, state.pen] = [[], null];
  showStrokes(false);
}

/** Mouse, pen and finger. */
function listenToPointers(pad) {
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  let drawing = false;
  pad.addEventListener("pointerdown", (event) => {
    if (drawing || event.button > 0) return;
    event.preventDefault();
    pad.focus({ preventScroll: true });
    pad.setPointerCapture(event.pointerId);
    [drawing, state.pen] = [true, null];
    state.strokes.push([at(event)]);
    showStrokes(false);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    event.preventDefault();
    state.strokes[state.strokes.length - 1].push(at(event));
    showStrokes(false);
  });
  const end = () => {
    if (drawing) showStrokes(true);
    drawing = false;
  };
  pad.addEventListener("pointerup", end);
  pad.addEventListener("pointercancel", end);
}

/** Arrow keys, space bar and Delete. */
function listenToKeys(pad) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") {
      clearPad();
    } else if (event.key === " " || event.key in moves) {
      const pen = (state.pen ??= { x: 0.5, y: 0.25, down: false });
      if (event.key === " ") {
        pen.down = !pen.down;
        if (pen.down) state.strokes.push([[pen.x, pen.y]]);
      } else {
        const [x, y] = moves[event.key];
        [pen.x, pen.y] = [pen.x + x * KEY_STEP, pen.y + y * KEY_STEP].map((place) => Math.min(1, Math.max(0, place)));
        if (pen.down) state.strokes[state.strokes.length - 1].push([pen.x, pen.y]);
      }
      showStrokes(event.key === " " && !pen.down);
    } else {
      return;
    }
    event.preventDefault();
  });
}

/** One row for each class. */
function makeBars(count) {
  for (let n = 0; n < count; n++) {
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.setAttribute("role", "listitem");
    bar.innerHTML = `<span>${n}</span><i aria-hidden="true"><i></i></i><span></span>`;
    element("bars").append(bar);
  }
}

async function begin() {
  const description = JSON.parse(element("description").textContent);
  state.whole = readNetwork(description, await unpack(element("numbers").textContent));
  state.order = bySize(state.whole);
  const steps = description.alpha_steps;
  const alphas = state.whole.layers.flatMap((layer) => (layer.logAlpha ? [...layer.logAlpha] : [])).sort((a, b) => a - b);
  const start = description.start / steps;
  state.high = description.most / steps;
  state.low = Math.min(start, Math.ceil(Math.max(alphas[Math.floor(alphas.length / 50)] ?? start, state.high - 16)));
  const slider = element("threshold");
  [slider.min, slider.max, slider.value] = [state.low, state.high, start];
  element("count").textContent = state.whole.digits.length;
  const at = cutByAlpha(state.whole, start);
  element("intro").textContent =
    `It began with ${thousands(description.total)} weights. Sparse Variational Dropout left ${thousands(at.weights)}, ` +
    `1 in ${Math.round(description.total / Math.max(1, at.weights))}, and all of them are on this page.`;
  makeBars(state.whole.layers[state.whole.layers.length - 1].out_shape[0]);
  state.pixels = new Uint8Array(28 * 28);
  slider.addEventListener("input", () => setThreshold(Number(slider.value)));
  element("clear").addEventListener("click", clearPad);
  element("show").addEventListener("click", () => showDigit((state.shown + 1) % state.whole.digits.length));
  listenToPointers(element("pad"));
  listenToKeys(element("pad"));
  const redraw = () => {
    if (state.shown >= 0) showDigit(state.shown, false);
    else showStrokes(false);
    drawCurveNow();
  };
  window.addEventListener("resize", redraw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  const done = setThreshold(start);
  showDigit(0);
  await done;
}

begin().catch((error) => {
  element("intro").textContent = `This browser could not read the network (${error.message}); a newer one can.`;
  throw error;
});
